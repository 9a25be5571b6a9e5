"""Weights on their way: types, buffers, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import nn

from flautim_lab.errors import TrainingError
from flautim_lab.training import weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(3, 3)
        self.decode = nn.Linear(3, 3)
        self.decode.weight = self.encode.weight
        self.norm = nn.BatchNorm1d(3)


def test_parameters_and_buffers_part_and_meet_again():
    model = Tied()
    model.norm.running_mean += 2
    record = weights.to_record(model)
    assert "decode.weight" not in record
    assert not any("running" in name for name in record)
    other = Tied()
    weights.load(other, weights.decode(record), weights.buffers_to_bytes(weights.buffers_of(model)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert other.decode.weight is other.encode.weight


@pytest.mark.parametrize(
    "numbers",
    [
        np.arange(6, dtype="float32").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f8"),
        np.array(2, dtype="int64"),
        np.zeros((0, 4), dtype="float16"),
        np.array([True, False]),
    ],
    ids=["floats", "by columns", "big-endian", "no dimension", "no rows", "flags"],
)
def test_an_array_is_read_without_pythons_parser(numbers, monkeypatch):
    array = Array(numbers)
    expected = array.numpy()
    if not numbers.flags.fnc:  # rare, and left to NumPy
        monkeypatch.setattr("ast.literal_eval", None)
    found = weights.values(array)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert found.flags.writeable


def test_an_array_shorter_than_its_shape_is_refused():
    array = Array(np.zeros(4, dtype="float32"))
    array.data = array.data[:-4]
    with pytest.raises(ValueError, match="cannot reshape array of size 3"):
        weights.values(array)


def test_an_answer_is_quick_to_read_and_can_be_sent_on(monkeypatch):
    record = weights.to_record(nn.Linear(2, 2))
    expected = {name: array.numpy() for name, array in record.items()}
    weights.quick_to_read(record)
    monkeypatch.setattr("ast.literal_eval", None)
    assert all(np.array_equal(record[name].numpy(), expected[name]) for name in expected)
    array = record["weight"]
    again = Array.inflate(array.deflate(), array.children)
    assert (again.dtype, again.shape, again.data) == (array.dtype, array.shape, array.data)


def test_bfloat16_travels_as_float32_and_comes_back_exactly():
    model = nn.Linear(4, 4).bfloat16()
    record = weights.to_record(model)
    assert record["weight"].dtype == "float32"
    other = nn.Linear(4, 4).bfloat16()
    weights.load(other, weights.decode(record), b"")
    assert torch.equal(model.weight, other.weight)


def test_a_parameter_without_dimensions_travels_with_one():
    class Scale(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(value))

    record = weights.to_record(Scale(3.5))
    assert tuple(record["scale"].shape) == (1,)
    other = Scale(0.0)
    weights.load(other, weights.decode(record), b"")
    assert other.scale.shape == ()
    assert other.scale.item() == 3.5
    assert weights.state_dict(other, record, b"")["scale"].shape == ()
    with pytest.raises(TrainingError, match=r"has shape \(2,\) and the model \(\)"):
        weights.load(other, {"scale": torch.zeros(2)}, b"")


def test_what_a_strategy_returns_gets_the_models_types_and_order():
    template = ArrayRecord({"a": Array(np.zeros(2, np.float32)), "b": Array(np.zeros(1))})
    new = ArrayRecord({"b": Array(np.ones(1)), "a": Array(np.full(2, 1 / 3))})
    result = weights.in_own_types(new, template)
    assert list(result) == ["a", "b"]
    assert result["a"].dtype == "float32"
    assert result["a"].numpy()[0] == np.float32(1 / 3)
    with pytest.raises(TrainingError, match="other names"):
        weights.in_own_types(ArrayRecord({"a": new["a"]}), template)
    with pytest.raises(TrainingError, match=r"returned 'a' with shape \(3,\) instead of \(2,\)"):
        weights.in_own_types(ArrayRecord({"a": Array(np.zeros(3)), "b": new["b"]}), template)


def test_weights_of_another_model_are_refused():
    with pytest.raises(TrainingError, match="their names differ"):
        weights.load(nn.Linear(2, 2), weights.decode(weights.to_record(Tied())), b"")
    with pytest.raises(TrainingError, match=r"'weight' has shape \(2, 3\) and the model \(2, 2\)"):
        weights.load(nn.Linear(2, 2), weights.decode(weights.to_record(nn.Linear(3, 2))), b"")


def test_buffers_are_averaged_by_rows():
    parts = [
        (1, {"mean": torch.tensor([0.0, 4.0]), "seen": torch.tensor(3)}),
        (3, {"mean": torch.tensor([4.0, 0.0]), "seen": torch.tensor(3)}),
    ]
    data = weights.average_buffers([(n, weights.buffers_to_bytes(b)) for n, b in parts])
    mean = weights.buffers_from_bytes(data)
    assert mean["mean"].tolist() == [3.0, 1.0]
    assert mean["mean"].dtype == torch.float32
    assert mean["seen"].item() == 3
    assert mean["seen"].dtype == torch.int64
    assert weights.average_buffers([(1, b""), (2, b"")]) == b""


def test_three_thirds_of_a_counter_are_the_counter():
    data = weights.buffers_to_bytes({"seen": torch.tensor(1)})
    mean = weights.buffers_from_bytes(weights.average_buffers([(1, data)] * 3))
    assert mean["seen"].item() == 1
