"""What a run leaves behind when it ends: its model, and the scale of the model's inputs."""

from __future__ import annotations

import json
from pathlib import Path

from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.records.artifacts import save_model, write_atomic
from flautim_lab.training.server_app import Server


def keep_model(folder: Path, experiment: Experiment, server: Server) -> None:
    """Write the model, and the scale of its inputs, to the run's folder."""
    save_model(folder, server.state_dict())
    dataset = experiment.dataset
    if isinstance(dataset, CSVDataset) and dataset.standardize:
        scale = server.state.scale
        kept = {
            "mean": [] if scale is None else scale.mean.tolist(),
            "std": [] if scale is None else scale.std.tolist(),
            "numeric": dataset.numeric.tolist(),
            "each_client_its_own": scale is None,
        }
        write_atomic(folder / "scale.json", json.dumps(kept).encode())
