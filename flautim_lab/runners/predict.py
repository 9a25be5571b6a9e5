"""What a trained model says about new rows: ``run.predict``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.client_data import Scale, scaled
from flautim_lab.experiment.csv_dataset import CSVDataset

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run


def predict(run: Run, features: Any) -> Tensor:
    """Return the outputs of a run's model for rows in the units of the dataset.

    Parameters and errors are those of :meth:`Run.predict`, which calls this.
    """
    model = run.model()
    rows = _rows(run, features, model)
    path = run.folder / "scale.json"
    if path.exists():
        scale = json.loads(path.read_text(encoding="utf-8"))
        if scale["each_client_its_own"]:
            raise TrainingError(
                f"in run {run.id} each client scaled its rows by itself, so there is no one "
                "scale for new rows; use standardize='federated', or scale them yourself and "
                "call run.model()"
            )
        wanted = len(scale["mean"])
        if rows.ndim != 2 or rows.shape[1] != wanted:
            raise TrainingError(
                f"the rows must have the shape (rows, {wanted}), not {tuple(rows.shape)}"
            )
        rows = scaled(
            rows,
            Scale(np.array(scale["mean"]), np.array(scale["std"])),
            torch.tensor(scale["numeric"]),
        )
    with torch.no_grad():
        try:
            outputs: Tensor = model(rows)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise TrainingError(
                f"the model fails on rows of shape {tuple(rows.shape)}: "
                f"{str(error).splitlines()[0]}"
            ) from error
    return outputs


def _rows(run: Run, features: Any, model: nn.Module) -> Tensor:
    """Return rows as a tensor of floats: a table's float32, else those of the model's weights.

    Whole numbers stay so for models without a table.
    """
    if hasattr(features, "columns") and hasattr(features, "iloc"):
        dataset = run.experiment.dataset
        if not isinstance(dataset, CSVDataset):
            raise TrainingError(
                f"run {run.id} was not trained on a table, so it takes no frame; "
                "give a tensor of the shape that the model takes"
            )
        return dataset.encode(features)
    try:
        rows = features if isinstance(features, Tensor) else torch.tensor(np.array(features))
    except (TypeError, ValueError) as error:
        raise TrainingError(
            "the rows are no numbers; give a frame with the table's columns, "
            "or numbers in the order of dataset.feature_names"
        ) from error
    if (run.folder / "scale.json").exists():
        return rows.float()
    weights = (p.dtype for p in model.parameters() if p.is_floating_point())
    return rows.to(next(weights, rows.dtype)) if rows.is_floating_point() else rows
