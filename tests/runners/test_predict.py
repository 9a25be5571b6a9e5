"""Rows in their own units go into the trained model."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

import flautim_lab as lab
from tests.federations import experiment, iris, iris_frame, tensors


def elsewhere(run):
    """The run as another kernel sees it."""
    return lab.Run(run._records, run.id)


def test_predictions_are_made_from_rows_in_their_own_units():
    run = lab.run(experiment(rounds=30, local_epochs=2)).wait()
    dataset = run.experiment.dataset
    right = run.predict(dataset.features).argmax(1) == dataset.targets
    assert right.float().mean() > 0.8
    raw = run.model()(dataset.features).argmax(1) == dataset.targets
    assert raw.float().mean() < right.float().mean()
    assert torch.equal(
        elsewhere(run).predict(dataset.features.numpy()), run.predict(dataset.features)
    )
    with pytest.raises(lab.TrainingError, match=r"must have the shape \(rows, 4\), not \(4,\)"):
        run.predict(dataset.features[0])


def test_whole_numbers_and_frames_are_predicted_like_their_floats():
    frame = iris_frame().assign(kind=["a", "b", "c"] * 50)
    dataset = lab.CSVDataset(frame, target="species")

    run = lab.run(experiment(lambda: torch.nn.Linear(7, 3), dataset)).wait()
    whole = torch.tensor([[5, 3, 1, 2, 1, 0, 0]])
    expected = run.predict(whole.float())
    assert torch.equal(run.predict(whole), expected)
    assert torch.equal(run.predict([[5, 3, 1, 2, 1, 0, 0]]), expected)
    rows = frame.iloc[[0, 70, 149]]
    assert torch.equal(run.predict(rows), run.predict(dataset.features[[0, 70, 149]]))
    assert torch.equal(run.predict(rows[rows.columns[::-1]]), run.predict(rows))
    for bad, sentence in [
        (rows.drop(columns="kind"), "no column named 'kind'; choose one of: "),
        (rows.assign(kind="z"), "no category of 'kind' named 'z'; choose one of: a, b, c"),
        (rows.assign(petal_width="wide"), "column 'petal_width' holds text, and numbers are"),
        (rows.assign(petal_width=float("nan")), "column 'petal_width' has missing values"),
    ]:
        with pytest.raises(lab.DatasetError, match=sentence):
            run.predict(bad)
    with pytest.raises(lab.TrainingError, match="the rows are no numbers"):
        run.predict([["a"] * 7])


def test_predictions_where_each_client_has_its_own_scale_are_refused():
    run = lab.run(experiment(dataset=iris(standardize="client"))).wait()
    with pytest.raises(lab.TrainingError, match="each client scaled its rows by itself"):
        run.predict([[1.0, 2.0, 3.0, 4.0]])


def test_predictions_of_tensors_need_no_scale():
    run = lab.run(experiment(dataset=tensors())).wait()
    assert run.predict(torch.ones(2, 4, dtype=torch.float64)).shape == (2, 3)
    with pytest.raises(lab.TrainingError, match=r"the model fails on rows of shape \(2, 5\)"):
        run.predict(torch.ones(2, 5))


def test_predictions_of_a_double_model_are_double():
    x, y = tensors().tensors
    dataset = TensorDataset(x.double(), y)
    run = lab.run(experiment(lambda: torch.nn.Linear(4, 3).double(), dataset)).wait()
    rows = x.double() + 1e-9  # lost in float32
    expected = run.model()(rows).detach()
    assert expected.dtype is torch.float64
    assert torch.equal(run.predict(rows), expected)
    assert torch.equal(run.predict(rows.numpy()), expected)
    assert run.predict(x).dtype is torch.float64
