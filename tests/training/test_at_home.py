"""Code that means harm, with the rows of an institution in its hands: what of it gets out."""

from __future__ import annotations

import re

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn

import flautim_lab as lab
from flautim_lab.records.store import Records
from flautim_lab.training import flower, weights
from flautim_lab.training.at_home import REFUSED, words_of
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.client_grid import ClientGrid
from flautim_lab.training.content import pack
from flautim_lab.training.server_app import Server, serve
from flautim_lab.training.strategies import make_strategy
from flautim_lab.training.worker import UNREADABLE, Worker, make_work, read_answers, read_resources
from tests.federations import Net, iris_frame

flower.prepare()
SECRET = "Maria-4.9"  # as code that has the rows would write one


@pytest.fixture
def volume(tmp_path, monkeypatch):
    iris_frame().to_csv(tmp_path / "iris.csv", index=False)
    monkeypatch.setenv("FLAUTIM_LAB_DATA", str(tmp_path))
    return tmp_path


def at_home(model=Net, cls=lab.Experiment, **settings):
    sample = iris_frame().groupby("species").head(4)
    data = lab.HomeDataset(sample, target="species", homes={"ufmg": "iris.csv"})
    return cls(data, model, rounds=1, **settings)


class WorkerHere(ClientGrid):
    """A grid whose one worker is in this process, and whose answers went over the wire."""

    def __init__(self, made):
        super().__init__(len(made.splits))
        host = ClientHost(made, torch.device("cpu"))
        self.worker = Worker(make_client_app(host, []), 1, lambda: False, why=host.why)
        #: What a worker that is no longer ours does to its reply.
        self.change = lambda _reply: None

    def send_and_receive(self, messages, *, timeout=None):
        answers = []
        for each in messages:
            work = make_work(pack(each.content), each.metadata.message_type, [[0]])
            reply = self.worker.answer(Message(work, 1, "query.work"))
            self.change(reply)
            try:
                told = read_answers(reply).get(0, UNREADABLE)
            except ValueError as error:
                told = str(error)
            content = Error(0, told) if isinstance(told, str) else told
            answers.append(Message(content, reply_to=each))
        return answers


def told_of(made, change=None, run_id="r1"):
    """Everything that the researcher gets to see of a run, as text, and the run's error."""
    records = Records.default()
    recorder = lab_recorder(records, run_id, made)
    server = Server(made, make_strategy(made), recorder, lambda: False, at_home=True)
    grid = WorkerHere(made)
    grid.change = change or grid.change
    error = ""
    try:
        serve(server, grid)
    except lab.TrainingError as raised:
        error = str(raised)
    recorder.close()
    events = records.events(run_id)
    log = (records.folder(run_id) / "run.log").read_text() if error or events else ""
    return "\n".join([error, server.remark, log, *map(str, events)])


def lab_recorder(records, run_id, made):
    from flautim_lab.records.recorder import Recorder

    records.create_run(
        run_id, name="x", runner="cluster", rounds=1, clients=1, settings={}, plan={}
    )
    return Recorder(records, run_id)


class Raises(Net):
    def forward(self, x):
        if len(x) > 8:  # not where it is checked
            raise ValueError(f"could not convert string to float: {SECRET!r}")
        return super().forward(x)


class RaisesOurs(Net):
    def forward(self, x):
        if len(x) > 8:
            raise lab.DatasetError(SECRET)
        return super().forward(x)


class RaisesItsOwn(Net):
    def forward(self, x):
        if len(x) > 8:
            raise type(SECRET, (lab.TrainingError,), {"__module__": "builtins"})(SECRET)
        return super().forward(x)


class Prints(Net):
    def forward(self, x):
        print(SECRET, flush=True)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Raises, "ValueError; what it says is in its worker's own log"),
        (RaisesOurs, "DatasetError; what it says is in its worker's own log"),
        (RaisesItsOwn, "TrainingError; what it says is in its worker's own log"),
        (Prints, " characters, kept in its worker's own log: its rows stay home]"),
    ],
)
def test_what_it_raises_and_prints_stays(volume, model, sentence, capsys):
    told = told_of(at_home(model, batch_size=100))
    assert sentence in told
    assert SECRET not in told
    assert SECRET in "".join(capsys.readouterr())  # in the worker's own log


def test_why_a_table_cannot_be_read_is_told(volume):
    iris_frame().drop(columns="petal_width").to_csv(volume / "iris.csv", index=False)
    told = told_of(at_home())
    assert "the table of ufmg has no column named 'petal_width'" in told
    assert "Traceback" not in told


def test_a_loss_that_is_no_number_is_told_in_words_of_ours(volume):
    told = told_of(at_home(lr=1e30, optimizer="SGD", batch_size=10))
    assert "its loss or weights became NaN or infinite; lower lr" in told


class Measures(lab.Experiment):
    def metrics(self, outputs, targets):
        found = {"-".join(("Jo", "ana")): 4.9, "recall": 0.5, "far" + "away": 1.0}
        found |= {f"recall_{name}": 1.0 for name in self.dataset.classes}
        return found | {f"of_{part}": 1.0 for part in (7, 1234, "Jo" + "-ana")} | {"precise": 0.5}


def test_a_measure_is_known_by_its_name_in_the_code(volume):
    told = told_of(at_home(cls=Measures))
    assert "ana" not in told
    for name in ("recall", "recall_setosa", "of_7", "precise"):
        assert f"name='{name}'" in told
    assert "name='of_1234'" not in told
    assert "name='faraway'" not in told
    assert "some measures were left out: where rows stay home, each is a number whose name" in told


class Many(lab.Experiment):
    def metrics(self, outputs, targets):
        return {f"value_{number}": 1.0 for number in range(200)}


def test_there_are_not_many_measures(volume):
    told = told_of(at_home(cls=Many))
    assert len(set(re.findall(r"name='value_\d+'", told))) == 63  # and the loss


class Grows(nn.Module):
    """Names its weights and buffers after rows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x):
        if len(x) > 8 and self.kind == "weight":
            self.register_parameter("Maria-4-9", nn.Parameter(x[:2].clone()))
        elif len(x) > 8 and self.kind == "buffer":
            self.register_buffer("Maria-4-9", x[:2].clone())
        elif len(x) > 8:
            self.layers[1].running_mean = x[:, 0].clone()[:2]
            self.layers[1].momentum = 0.0
            return torch.zeros(len(x), 3) + self.layers[0].weight.sum()
        return self.layers(x)


@pytest.mark.parametrize("kind", ["weight", "buffer", "shape"])
def test_weights_and_buffers_are_those_of_the_model(volume, kind, monkeypatch):
    monkeypatch.setattr(Grows, "kind", kind, raising=False)
    told = told_of(at_home(Grows, batch_size=200, optimizer="SGD"))
    assert REFUSED in told
    assert "Maria" not in told


def answers_as(content):
    """A worker whose process is no longer ours answers with this."""

    def change(reply):
        reply.content.config_records["answers"]["contents"] = [pack(RecordDict(content))]

    return change


def record_of(**more):
    def change(reply):
        reply.content.config_records["answers"].update(more)

    return change


ROWS = MetricRecord({"num-examples": 9, "loss": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        answers_as({SECRET: ConfigRecord({SECRET: SECRET})}),
        answers_as({"metrics": ROWS, "printed": ConfigRecord({"text": SECRET})}),
        answers_as({"metrics": MetricRecord({SECRET: 1})}),
        answers_as({"metrics": MetricRecord({"num-examples": [1, 2], "loss": 1.0})}),
        answers_as({"metrics": ROWS, SECRET: ROWS}),
        answers_as({"sums": ArrayRecord({SECRET: weights.to_record(Net()).popitem()[1]})}),
        answers_as({"metrics": ROWS, "buffers": ConfigRecord({"buffers": SECRET.encode()})}),
        record_of(contents=[SECRET.encode()]),
        record_of(clients=[SECRET]),
        record_of(errors=[f"ValueError: one\n{SECRET}"]),
        record_of(resources=[SECRET], used=[1.0]),
    ],
)
def test_a_worker_that_is_no_longer_ours_tells_numbers_alone(volume, change):
    assert SECRET not in told_of(at_home(), change)


def test_what_a_worker_used_has_names_that_are_known():
    record = ConfigRecord({"resources": [SECRET, "cpu_seconds"], "used": [1.0, 2.0]})
    reply = Message(RecordDict({"answers": record}), 1, "query.work")
    assert read_resources(reply) == {"cpu_seconds": 2.0}
    with pytest.raises(ValueError, match=UNREADABLE):
        read_answers(reply)


class Meta(type):
    """Says that it is some other class."""

    def __eq__(cls, other):
        return True

    def __hash__(cls):
        return hash(ValueError)


@pytest.mark.parametrize("error", [Meta(SECRET, (ValueError,), {})(SECRET), KeyError(SECRET)])
def test_words_are_not_made_of_the_error(error):
    assert SECRET not in words_of(error)
