"""The local runner, for real: same bits, faults of clients, stops, deaths."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg, FedXgbBagging
from torch import nn
from torch.utils.data import Dataset

import flautim_lab as lab
from flautim_lab.experiment.strategies import STRATEGIES
from tests.federations import (
    DropoutNet,
    Net,
    NormNet,
    experiment,
    final,
    hear_interrupts,
    iris,
    same,
    tensors,
)


def weights(run):
    return run.wait().model().state_dict()


# --- it learns ----------------------------------------------------------------------------------


def test_iris_is_learned_and_the_loss_falls():
    run = lab.run(experiment(clients=8, rounds=20, local_epochs=2)).wait()
    frame = run.metrics
    mean = frame[frame.client.isna() & (frame.metric == "loss")]
    train = mean[mean.split == "train"].value.to_numpy()
    assert len(train) == 20
    assert train[-1] < 0.6 * train[0]
    assert final(run, "accuracy") > 0.8
    assert str(run.status) == "finished"
    assert run.round == run.rounds == 20


def test_fedavg_in_one_round_is_the_mean_of_what_the_clients_learn_alone():
    """Against plain PyTorch: McMahan et al., arXiv:1602.05629, algorithm 1."""
    made = experiment(dataset=tensors(60), rounds=1, optimizer="SGD", lr=0.1, validation=0)
    run = lab.run(made)
    got = weights(run)
    from flautim_lab.experiment.streams import stream

    x, y = made.dataset.tensors
    total = {name: torch.zeros_like(t) for name, t in got.items()}
    for client, rows in enumerate(made.splits):
        model = made.build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        order = torch.randperm(len(rows.train), generator=stream(7, "batches", 1, client))
        index = torch.from_numpy(rows.train)[order]
        for part in index.split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        for name, tensor in model.state_dict().items():
            total[name] += tensor * (len(rows.train) / 60)
    for name in got:
        assert torch.allclose(got[name], total[name], atol=1e-6), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns_and_gives_the_same_bits_twice(strategy):
    args, data = {}, iris()
    if "DifferentialPrivacy" in strategy:
        args, data = {"noise_multiplier": 0.01}, iris(standardize="client")
        if "Fixed" in strategy:
            args["clipping_norm"] = 5.0
    made = experiment(
        dataset=data, strategy=strategy, strategy_args=args, clients=6, rounds=4, local_epochs=2
    )
    first = lab.run(made, workers=1)
    second = lab.run(made, workers=3)
    assert same(weights(first), weights(second))
    assert all(t.dtype == torch.float32 for t in weights(first).values())
    frame = first.metrics
    loss = frame[frame.client.isna() & (frame.split == "train") & (frame.metric == "loss")].value
    assert loss.iloc[-1] < loss.iloc[0]
    assert "kept the old weights" not in first.logs()


@pytest.mark.parametrize("model", [DropoutNet, NormNet])
def test_same_plan_same_bits_while_the_kernel_computes_something_else(model):
    made = experiment(model, clients=5, rounds=3, clients_per_round=3, strategy="FedAdam")
    stop = threading.Event()

    def elsewhere():
        while not stop.is_set():
            torch.rand(100)
            np.random.rand(100)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        runs = [lab.run(made, workers=w).wait() for w in (1, 2, 5)]
    finally:
        stop.set()
        thread.join()
    assert same(weights(runs[0]), weights(runs[1]))
    assert same(weights(runs[0]), weights(runs[2]))
    frames = [run.metrics for run in runs]
    assert frames[0].equals(frames[1])
    assert runs[0].plan == runs[1].plan
    other = lab.run(made.replace(seed=8))
    assert not same(weights(runs[0]), weights(other))


@pytest.mark.parametrize("model", [Net, DropoutNet])
def test_cohorts_give_the_same_bits_twice_and_learn_as_the_loop_does(model):
    made = experiment(model, tensors(900), clients=50, clients_per_round=44, local_epochs=2)
    runs = [lab.run(made, workers=w).wait() for w in (1, 3)]
    assert runs[0].plan["engine"] == "cohort"
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].metrics.equals(runs[1].metrics)
    loop = lab.run(made.replace(engine="loop")).wait()
    assert loop.plan["engine"] == "loop"
    keys = ["round", "client", "split", "metric"]
    ours, theirs = (run.metrics.sort_values(keys) for run in (runs[0], loop))
    assert ours[keys].reset_index(drop=True).equals(theirs[keys].reset_index(drop=True))
    loss = (ours.metric == "loss").to_numpy()
    assert np.allclose(ours.value[loss], theirs.value[loss], rtol=1e-4)
    for name, value in weights(loop).items():
        assert torch.allclose(value, weights(runs[0])[name], atol=1e-4)


class Augmented(Dataset):
    """Noise is added to a row each time it is read."""

    def __init__(self):
        self.rows = tensors(48)

    def __len__(self):
        return 48

    def __getitem__(self, i):
        x, y = self.rows[i]
        return x + 0.1 * torch.randn(4), y


def test_augmentation_by_the_dataset_is_private_too():
    made = experiment(dataset=Augmented)
    assert made.facts.draws
    torch.manual_seed(3)
    before = torch.get_rng_state()
    runs = [lab.run(made, workers=w).wait() for w in (1, 3)]
    assert torch.equal(before, torch.get_rng_state())
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].metrics.equals(runs[1].metrics)


def test_a_run_moves_no_global_stream():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    lab.run(experiment(DropoutNet, clients_per_round=2)).wait()
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_buffers_are_averaged_and_never_optimized():
    made = experiment(NormNet, strategy="FedAdam", strategy_args={"eta": 1.0}, rounds=5)
    state = weights(lab.run(made))
    assert (state["layers.1.running_var"] > 0).all()
    assert state["layers.1.num_batches_tracked"].dtype == torch.int64
    assert state["layers.1.num_batches_tracked"] > 0


def test_one_client_is_enough():
    run = lab.run(experiment(clients=1)).wait()
    assert run.round == 3


def test_a_centralized_baseline_sees_all_rows_and_the_same_validation_rows():
    made = experiment(clients=5, rounds=8, local_epochs=2)
    run = lab.run(made, centralized=True).wait()
    assert run.clients == 1
    assert final(run, "accuracy") > 0.8
    assert run.experiment.centralized
    # One long training: the optimizer's moments live on, so it is that of plain PyTorch.
    plain = made.replace(centralized=True)
    assert same(weights(run), weights(lab.run(plain)))


def test_federated_scaling_equals_that_of_all_training_rows_together():
    made = experiment(clients=7, partition=lab.by_label(alpha=0.3))
    dataset = made.dataset
    from flautim_lab.experiment.client_data import ClientData, pooled

    scale = pooled([ClientData(made, c).sums() for c in range(7)]).scale()
    rows = np.concatenate([r.train for r in made.splits])
    together = dataset.features[torch.from_numpy(rows)].double()
    assert np.allclose(scale.mean, together.mean(0))
    assert np.allclose(scale.std, together.std(0, unbiased=False))


@pytest.mark.parametrize("standardize", ["federated", "client", None])
def test_every_way_of_scaling_runs(standardize):
    run = lab.run(experiment(dataset=iris(standardize=standardize))).wait()
    assert np.isfinite(final(run))


def test_clients_per_round_are_drawn_by_seed_and_round():
    made = experiment(clients=10, clients_per_round=3, rounds=6, validation=0.1)
    frame = lab.run(made).wait().metrics
    rows = frame[(frame.split == "train") & frame.client.notna() & (frame.metric == "loss")]
    drawn = rows.groupby("round").client.apply(lambda c: tuple(sorted(c)))
    assert {len(c) for c in drawn} == {3}
    assert len(set(drawn)) > 1
    again = lab.run(made).wait().metrics
    assert again.equals(frame)


def test_validation_can_be_rare_or_off():
    frame = lab.run(experiment(rounds=5, evaluate_every=2)).wait().metrics
    assert sorted(frame[frame.split == "validation"]["round"].unique()) == [2, 4, 5]
    frame = lab.run(experiment(validation=0)).wait().metrics
    assert set(frame.split) == {"train"}


# --- the researcher's own -----------------------------------------------------------------------


class OwnLoops(lab.Experiment):
    """Flautim's own API: both loops."""

    def training_loop(self, model, loader):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        total = 0.0
        for _ in range(self.local_epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                total += loss.item()
        return {"loss": total / len(loader), "steps": len(loader)}

    def validation_loop(self, model, loader):
        model.eval()
        with torch.no_grad():
            losses = [nn.functional.cross_entropy(model(x), y).item() for x, y in loader]
        return sum(losses) / len(losses)


class OwnLoss(lab.Experiment):
    def loss(self, model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)

    def metrics(self, outputs, targets):
        right = outputs.argmax(1) == targets
        return {"accuracy": right.float().mean(), "wrong": (~right).sum()}


@pytest.mark.parametrize(
    ("cls", "names"), [(OwnLoops, {"loss", "steps"}), (OwnLoss, {"loss", "accuracy", "wrong"})]
)
def test_own_loss_loops_and_metrics(cls, names):
    made = experiment(cls=cls, rounds=4)
    run = lab.run(made).wait()
    assert set(run.metrics.metric) == names
    assert same(weights(run), weights(lab.run(made, workers=3)))


def test_a_strategy_object_is_copied_so_that_two_runs_agree():
    from flwr.serverapp.strategy import FedAdam

    mine = FedAdam(min_available_nodes=1, min_train_nodes=1, min_evaluate_nodes=1)
    made = experiment(strategy=mine)
    assert same(weights(lab.run(made)), weights(lab.run(made)))
    assert mine.m_t is None


def test_a_strategy_of_ones_own_sees_client_numbers():
    seen = []

    class Mine(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            seen.append(list(grid.get_node_ids()))
            return super().configure_train(server_round, arrays, config, grid)

        def __deepcopy__(self, memo):
            return self

    lab.run(experiment(strategy=Mine())).wait()
    assert seen == [[0, 1, 2, 3]] * 3
    made = experiment(strategy=lambda: Mine(fraction_train=0.5))
    lab.run(made).wait()


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (lambda: FedAvg(), "your FedAvg waits for min_available_nodes=2 and there are 1 clients"),
        (FedXgbBagging, "no strategy named"),
        (lambda: 3, "the strategy must be a flwr.serverapp.strategy.Strategy, not int"),
        (lambda: 1 / 0, "the function that makes the strategy failed: ZeroDivisionError"),
    ],
)
def test_a_strategy_that_cannot_run_is_refused_before_anything_is_recorded(strategy, sentence):
    with pytest.raises(lab.ExperimentError, match=sentence):
        lab.run(experiment(strategy=strategy, clients=1))
    assert lab.runs() == []


def test_a_strategy_that_runs_its_rounds_itself_is_refused():
    class Mine(FedAvg):
        def start(self, *args, **kwargs):
            return None

    with pytest.raises(
        lab.ExperimentError, match=r"Mine runs its rounds itself \(it overrides sta"
    ):
        lab.run(experiment(strategy=Mine()))


# --- faults ---------------------------------------------------------------------------------------


def test_a_clients_exception_is_its_own_failure_and_not_the_runs_end():
    class Breaks(lab.Experiment):
        def training_loop(self, model, loader):
            for x, _ in loader:
                if (x[:, 0] > 900).any():
                    raise ValueError("sensor 7 is broken")
            return super().training_loop(model, loader)

    dataset = tensors(40)
    dataset.tensors[0][:10, 0] = 1000.0
    dataset.institution = np.repeat(["a", "b", "c", "d"], 10)
    by = lab.by_column("institution")
    made = Breaks(dataset, Net, partition=by, rounds=3, batch_size=4)
    run = lab.run(made).wait()
    assert str(run.status) == "finished"
    assert run.message == "a failed in 3 rounds of 3: ValueError: sensor 7 is broken"
    progress = run.progress()
    assert progress.clients[0].name == "a"
    assert progress.clients[0].error == "ValueError: sensor 7 is broken"
    assert progress.clients[0].failures == 3
    assert progress.clients[1].error == ""
    assert progress.clients[1].loss is not None
    log = run.logs(client=0)
    assert "raise ValueError" in log
    assert log.count("sensor 7 is broken") >= 3
    assert run.logs(client=1) == ""
    frame = run.metrics
    assert set(frame[frame.split == "train"].client.dropna()) == {1, 2, 3}
    with pytest.raises(
        lab.TrainingError,
        match=re.escape(
            "failed: round 1: 3 of 4 clients answered and at least 4 must; "
            "client 0: ValueError: sensor 7 is broken"
        ),
    ):
        lab.run(made.replace(min_clients=4)).wait()


def test_a_loss_that_becomes_nan_fails_with_the_next_step():
    made = experiment(optimizer="SGD", lr=1e30, rounds=5)
    run = lab.run(made)
    with pytest.raises(lab.TrainingError, match=r"the loss became (nan|inf); lower lr"):
        run.wait()
    assert str(run.status) == "failed"
    assert "Traceback" in run.logs()
    assert "\n" not in run.message


def test_slow_clients_are_left_behind_and_said():
    class Slow(lab.Experiment):
        def loss(self, model, batch):
            if (batch[0][:, 0] > 900).any():
                time.sleep(0.3)
            return super().loss(model, batch)

    dataset = tensors(80)
    dataset.tensors[0][:20, 0] = 1000.0
    dataset.institution = np.repeat(np.arange(4), 20)
    made = Slow(
        dataset,
        Net,
        partition=lab.by_column("institution"),
        rounds=2,
        batch_size=4,
        min_clients=2,
        round_timeout_seconds=0.6,
        validation=0,
    )
    run = lab.run(made, workers=4).wait()
    assert "late after 0.6 s, their work is dropped: clients 0" in run.logs()
    frame = run.metrics
    assert set(frame.client.dropna()) == {1, 2, 3}


# --- stop, interrupt, die ---------------------------------------------------------------------


def long_experiment(**settings):
    return experiment(rounds=100_000, **settings)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_stop_ends_soon_and_keeps_the_last_whole_round():
    run = lab.run(long_experiment())
    wait_for(lambda: run.round >= 2)
    assert run.stop() is run
    run.wait(timeout_seconds=20)
    assert str(run.status) == "stopped"
    assert run.message == f"stopped after round {run.round}"
    assert run.model()
    assert run.stop().message == run.message  # once more changes nothing


def test_a_stop_from_elsewhere_is_heard():
    run = lab.run(long_experiment())
    wait_for(lambda: run.round >= 1)
    other = lab.Run(run._records, run.id)
    other.stop()
    run.wait(timeout_seconds=20)
    assert str(other.status) == "stopped"


def test_waiting_can_time_out_and_the_run_goes_on():
    run = lab.run(long_experiment())
    with pytest.raises(TimeoutError, match="it goes on, wait again or stop it with"):
        run.wait(timeout_seconds=0.2)
    assert not run.status.ended
    run.stop().wait()


SCRIPT = """
import sys
import flautim_lab as lab
from tests.federations import experiment
run = lab.run(experiment(rounds=100000))
while run.round < 2:
    pass
print(run.id, flush=True)
{then}
"""


def start_script(then: str) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.getcwd(),
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        preexec_fn=hear_interrupts,
    )
    return process, process.stdout.readline().strip()


def test_a_run_whose_process_was_killed_is_interrupted_and_never_running():
    process, run_id = start_script("run.wait()")
    assert str(lab.attach(run_id).status) == "running"
    process.kill()
    process.communicate()
    run = lab.attach(run_id)
    assert str(run.status) == "interrupted"
    assert "is gone" in run.message
    assert run.round >= 2
    assert len(run.metrics)  # what was recorded stays
    with pytest.raises(lab.TrainingError, match="interrupted"):
        run.wait()


def test_a_script_that_ends_before_its_run_records_it_as_interrupted():
    process, run_id = start_script("sys.exit()")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    run = lab.attach(run_id)
    assert str(run.status) == "interrupted"
    assert (
        run.message == "its process ended before it did; a script waits for its run with run.wait()"
    )


def test_ctrl_c_ends_the_waiting_and_not_the_run():
    then = (
        "try:\n    run.wait()\nexcept KeyboardInterrupt:\n"
        "    before = run.round\n    import time\n"
        "    while run.round == before: time.sleep(0.02)\n"
        "    print(run.status, flush=True)\n    run.stop().wait()"
    )
    process, run_id = start_script(then)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert out.strip() == "running", errors
    assert str(lab.attach(run_id).status) == "stopped"


def test_no_thread_is_left_when_a_run_has_ended():
    lab.run(experiment(), workers=3).wait()
    wait_for(
        lambda: not [t for t in threading.enumerate() if t.name.startswith(("flautim", "pulse"))]
    )


def test_records_that_cannot_be_written_end_the_run_and_its_kernel_is_told(monkeypatch):
    from flautim_lab.records.store import Records

    run = lab.run(long_experiment())
    wait_for(lambda: run.round >= 1)
    monkeypatch.setattr(Records, "append", _full)
    monkeypatch.setattr(Records, "set_status", _full)
    with pytest.raises(lab.TrainingError, match="failed: the disk is full"):
        run.wait(timeout_seconds=30)
    assert str(run.status) == "failed"


def _full(*_args, **_kwargs):
    raise lab.RecordsError("the disk is full; free some space")


# --- found by attack ---------------------------------------------------------------------------


class SeekAndRead(Dataset):
    """One file position for all: not to be read by two threads at once."""

    def __init__(self):
        self.position = 0
        self.targets = [row % 3 for row in range(200)]
        self.wrong = 0

    def __len__(self):
        return 200

    def __getitem__(self, i):
        self.position = i
        time.sleep(0.0002)
        self.wrong += self.position != i
        return torch.full((4,), float(self.position)) / 200, self.targets[i]


def test_a_dataset_is_read_by_one_thread_at_a_time():
    dataset = SeekAndRead()
    lab.run(experiment(dataset=dataset, rounds=1), workers=4).wait()
    assert dataset.wrong == 0


class SometimesNoisy(Net):
    def forward(self, x):
        if self.training and x.abs().max() > 2.2:
            x = x + 0.1 * torch.randn_like(x)
        return super().forward(x)


def test_a_model_that_draws_only_sometimes_gives_the_same_bits():
    made = experiment(SometimesNoisy, tensors(60))
    assert made.facts.draws
    assert same(weights(lab.run(made, workers=1)), weights(lab.run(made, workers=3)))


class Constants(Net):
    """Buffers and weights that nobody trains."""

    def __init__(self, turns=True):
        super().__init__()
        self.register_buffer("primes", torch.tensor([2654435761, 73856093]))
        if turns:  # differential privacy has no noise for a buffer that may come of rows
            self.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0)))
        self.frozen = nn.Parameter(torch.tensor([0.1, 7.7]), requires_grad=False)


@pytest.mark.parametrize("strategy", ["FedAvg", "DifferentialPrivacyServerSideFixedClipping"])
def test_what_nobody_trains_stays_as_it_is(strategy):
    private = strategy != "FedAvg"
    made = experiment(
        Constants,
        iris(standardize="client") if private else iris(),
        clients=7,
        strategy=strategy,
        strategy_args={"noise_multiplier": 1.0, "clipping_norm": 1.0} if private else {},
        model_args={"turns": not private},
    )
    state, before = weights(lab.run(made)), made.build_model().state_dict()
    for name in {"primes", "turns", "frozen"} & set(before):
        assert torch.equal(state[name], before[name]), name
    assert not torch.equal(state["layers.0.weight"], before["layers.0.weight"])


class RecallPerClass(lab.Experiment):
    def metrics(self, outputs, targets):
        right = (outputs.argmax(1) == targets).double()
        return {f"recall {int(c)}": right[targets == c].mean() for c in targets.unique()}


def test_metrics_that_only_some_clients_have():
    made = experiment(cls=RecallPerClass, clients=6, partition=lab.by_label(alpha=0.2))
    run = lab.run(made).wait()
    assert {"recall 0", "recall 1", "recall 2"} <= set(run.metrics.metric)


class Hangs(lab.Experiment):
    def loss(self, model, batch):
        if threading.current_thread().name.startswith("flautim-client-0"):
            threading.Event().wait(60)
        return super().loss(model, batch)


def test_a_client_that_hangs_does_not_hold_the_run():
    run = lab.run(experiment(cls=Hangs, rounds=100_000), workers=2)
    time.sleep(0.5)
    run.stop().wait(timeout_seconds=20)
    assert str(run.status) == "stopped"


class FailsToValidate(lab.Experiment):
    def validation_loop(self, model, loader):
        raise ValueError("no")


def test_a_validation_that_fails_does_not_take_the_model_away():
    run = lab.run(experiment(cls=FailsToValidate)).wait()
    assert run.round == 3
    assert run.model()
    assert "no validation: round 1: 0 of 4 clients answered" in run.logs()


class Exits(lab.Experiment):
    def loss(self, model, batch):
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit(3)
        return super().loss(model, batch)


def test_a_client_that_exits_is_a_failed_client():
    with pytest.raises(lab.TrainingError, match="SystemExit: 3"):
        lab.run(experiment(cls=Exits)).wait()


class WithArguments(Dataset):
    def __init__(self, rows=40):
        self.tensors = tensors(rows).tensors
        self.targets = self.tensors[1]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.tensors[0][i], self.targets[i]


def test_a_dataset_class_with_arguments_has_a_baseline_too():
    made = experiment(dataset=WithArguments, dataset_args={"rows": 50})
    run = lab.run(made, centralized=True).wait()
    assert run.experiment.dataset_class is WithArguments
    assert lab.Run(run._records, run.id).experiment.info.rows == 50
    assert made.replace(dataset_args={"rows": 30}).info.rows == 30


def test_arguments_that_json_would_change_stay_in_the_kernel():
    class Wide(Net):
        def __init__(self, widths=(4, 8)):
            super().__init__(widths[1])

    made = experiment(Wide, model_args={"widths": (4, 8)})
    run = lab.run(made).wait()
    with pytest.raises(lab.BundleError, match=r"model_args\['widths'\] is a tuple"):
        lab.Run(run._records, run.id).model()
    with pytest.raises(lab.BundleError, match="which cannot be kept; give a list"):
        lab.run(made, on="processes")
