"""A server that goes on from a checkpoint ends with the same bits."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from flautim_lab.errors import TrainingError
from flautim_lab.experiment.strategies import STRATEGIES
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.training import checkpoint
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.grid import Deadline, LocalGrid
from flautim_lab.training.server_app import Server, serve
from flautim_lab.training.strategies import client_mods, make_strategy
from tests.federations import Net, NormNet, experiment, iris, same


def server_of(made, strategy, run_id):
    records = Records.default()
    records.create_run(
        run_id, name="x", runner="local", rounds=made.rounds, clients=4, settings={}, plan={}
    )
    return Server(made, strategy, Recorder(records, run_id), lambda: False)


def grid_of(made, strategy):
    deadline = Deadline(lambda: False)
    host = ClientHost(made, torch.device("cpu"), deadline.check)
    app = make_client_app(host, client_mods(strategy))
    return LocalGrid(app, len(made.splits), deadline, workers=1)


def run(made, run_id, folder=None, after=None):
    """Run to the end; from a checkpoint in ``folder`` if it is given, as a fresh server would."""
    strategy = make_strategy(made)
    server = server_of(made, strategy, run_id)
    if after is not None:
        server.state = checkpoint.load(folder, strategy)
        assert server.state.round == after
    serve(server, grid_of(made, strategy))
    return server


ARGS = {
    "FedAvgM": {"server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
    "DifferentialPrivacyServerSideFixedClipping": {"noise_multiplier": 0.1, "clipping_norm": 1.0},
    "DifferentialPrivacyClientSideFixedClipping": {"noise_multiplier": 0.1, "clipping_norm": 1.0},
    "DifferentialPrivacyServerSideAdaptiveClipping": {"noise_multiplier": 0.1},
    "DifferentialPrivacyClientSideAdaptiveClipping": {
        "noise_multiplier": 0.1,
        "strategy": "FedProx",
    },
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_going_on_from_a_checkpoint_gives_the_same_bits(strategy, tmp_path):
    private = STRATEGIES[strategy].wraps  # neither buffers nor a common scale go with it
    made = experiment(
        Net if private else NormNet,
        iris(standardize="client") if private else iris(),
        strategy=strategy,
        strategy_args=ARGS.get(strategy, {}),
        rounds=3,
        clients=4,
    )
    whole = run(made, "whole")
    half = run(made.replace(rounds=1), "half")
    checkpoint.save(tmp_path, half.state, half.strategy)
    rest = run(made, "rest", tmp_path, after=1)
    assert same(whole.state_dict(), rest.state_dict())


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    folder = tmp_path / "checkpoints"
    made = experiment(strategy="FedAdam")
    server = run(made, "a")
    for number in (1, 2, 3):
        server.state.round = number
        checkpoint.save(folder, server.state, server.strategy)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["checkpoint-00000002.safetensors", "checkpoint-00000003.safetensors"]
    (folder / files[1]).write_bytes(b"half a file")
    assert checkpoint.load(folder, make_strategy(made)).round == 2
    (folder / files[0]).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* can be read"):
        checkpoint.load(folder, make_strategy(made))
    assert checkpoint.load(folder / "nowhere", make_strategy(made)) is None


def test_what_a_strategy_of_ones_own_holds_is_kept_exactly(tmp_path):
    held = {
        "none": None,
        "numbers": [1, 2.5, float("inf"), True],
        "text": "é",
        "bytes": b"\x00\xff",
        "scalar": np.float32(0.1),
        "array": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 3), np.float32),
        "tensor": torch.arange(3),
        "nested": {1: ({2, 3}, {"x": np.int64(4)})},
        "choices": random.Random(3),
        "noise": np.random.default_rng(3),
        "torch": torch.Generator().manual_seed(3),
    }

    class Mine(FedAvg):
        pass

    strategy, other = Mine(), Mine()
    for name, value in held.items():
        setattr(strategy, name, value)
    server = server_of(experiment(), strategy, "a")
    checkpoint.save(tmp_path, server.state, strategy)
    checkpoint.load(tmp_path, other)
    assert other.numbers == held["numbers"]
    assert (other.none, other.text, other.bytes) == (None, "é", b"\x00\xff")
    assert isinstance(other.scalar, np.float32)
    assert other.scalar == held["scalar"]
    assert np.array_equal(other.array, held["array"])
    assert other.empty.shape == (0, 3)
    assert torch.equal(other.tensor, held["tensor"])
    assert other.nested == held["nested"]
    assert other.choices.random() == held["choices"].random()
    assert other.noise.random() == held["noise"].random()
    assert torch.equal(torch.rand(2, generator=other.torch), torch.rand(2, generator=held["torch"]))


def test_what_cannot_be_kept_is_named(tmp_path):
    folder = tmp_path / "checkpoints"
    strategy = FedAvg()
    strategy.file = open(__file__)  # noqa: SIM115
    server = server_of(experiment(), strategy, "a")
    with pytest.raises(TrainingError, match=r"FedAvg.file holds a TextIOWrapper, which cannot be"):
        checkpoint.save(folder, server.state, strategy)
    strategy.file.close()
    assert not list(folder.glob("*"))
