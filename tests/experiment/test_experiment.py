"""An experiment is checked when it is made, and goes to JSON and back."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import flautim_lab as lab
from tests.federations import DropoutNet, Net, NormNet, experiment, iris, iris_frame, tensors


def refuses(sentence: str, error=lab.ExperimentError, **settings) -> None:
    with pytest.raises(error) as caught:
        experiment(**settings)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"rounds": 2.5}, "rounds must be a whole number, not 2.5"),
        ({"rounds": True}, "rounds must be a whole number, not True"),
        ({"lr": -0.1}, "lr must be greater than 0, not -0.1"),
        ({"lr": float("nan")}, "lr must be a finite number, not nan"),
        ({"lr": "fast"}, "lr must be a number, not 'fast'"),
        ({"clients": 0}, "clients must be at least 1, not 0"),
        ({"clients": None}, "say how many clients take part, for example clients=8"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"local_epochs": 0}, "local_epochs must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"validation": 1}, "validation must be at least 0 and below 1, not 1"),
        ({"round_timeout_seconds": 0}, "round_timeout_seconds must be greater than 0, not 0"),
        (
            {"clients_per_round": 9},
            "clients_per_round is 9 and there are 4 clients; use at most 4",
        ),
        ({"min_clients": 5}, "min_clients is 5 and a round asks 4 clients; use at most 4"),
        (
            {"device": "tpu"},
            "no device named 'tpu'; did you mean 'cpu'? choose one of: auto, cpu, cuda",
        ),
        ({"task": "ranking"}, "no task named 'ranking'; choose one of: classification, regression"),
        ({"model_args": [1]}, "model_args must be a dict like {'name': value}, not [1]"),
        (
            {"dataset_args": {"a": 1}},
            "dataset_args go with a dataset class, and this dataset is made already; "
            "pass the class, or leave dataset_args out",
        ),
        (
            {"partition": "evenly"},
            "partition must be lab.evenly(), lab.by_label(alpha=...), lab.by_size(...) or "
            "lab.by_column(name), not 'evenly'",
        ),
        (
            {"name": "a/b"},
            "the name 'a/b' of the experiment holds a slash; "
            "use letters, digits, spaces, '-', '_' and '.'",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    refuses(sentence, **settings)


def test_an_unknown_setting_is_one_sentence_too():
    refuses("no setting named 'epochs'; it is called 'local_epochs' here", epochs=3)
    with pytest.raises(
        lab.ExperimentError, match="no setting named 'round'; did you mean 'rounds'"
    ):
        experiment(round=3)


def test_unknown_names_get_a_suggestion():
    for setting, value, hint in [
        (
            "strategy",
            "FedAvgg",
            "no strategy named 'FedAvgg'; did you mean 'FedAvg'? choose one of: ",
        ),
        ("optimizer", "adam", "no optimizer named 'adam'; did you mean 'Adam'? choose one of: "),
    ]:
        with pytest.raises(lab.ExperimentError, match=re.escape(hint)):
            experiment(**{setting: value})
    with pytest.raises(lab.ExperimentError, match="no argument of Adam named 'beta'"):
        experiment(optimizer_args={"beta": 1})
    with pytest.raises(lab.ExperimentError, match="SGD refuses its arguments"):
        experiment(optimizer="SGD", optimizer_args={"momentum": -1.0})


@pytest.mark.parametrize(
    ("strategy", "args", "sentence"),
    [
        ("FedAvg", {"mu": 1}, "FedAvg takes no arguments; remove 'mu'"),
        (
            "FedProx",
            {"mu": 1},
            "no argument of FedProx named 'mu'; choose one of: proximal_mu",
        ),
        ("FedProx", {"proximal_mu": -1}, "proximal_mu of FedProx must be at least 0, not -1"),
        (
            "Krum",
            {"num_malicious_nodes": 1.5},
            "num_malicious_nodes of Krum must be a whole number at least 0, not 1.5",
        ),
        (
            "Bulyan",
            {"num_malicious_nodes": 1},
            "Bulyan needs at least 7 clients in a round and this experiment has 4; "
            "use more clients or another strategy",
        ),
        (
            "DifferentialPrivacyServerSideFixedClipping",
            {"noise_multiplier": 1.0},
            "DifferentialPrivacyServerSideFixedClipping needs 'clipping_norm' (greater than 0); "
            "write strategy_args={'clipping_norm': ...}",
        ),
    ],
)
def test_a_strategys_arguments_are_checked(strategy, args, sentence):
    refuses(sentence, strategy=strategy, strategy_args=args)


def test_fedprox_is_refused_where_the_loop_has_no_proximal_term():
    class Mine(lab.Experiment):
        def training_loop(self, model, loader):
            return 0.0

    refuses(
        "FedProx adds its proximal term to the local loss, which a training_loop of your own does "
        "not have; override loss instead of training_loop, or use strategy='FedAvg'",
        cls=Mine,
        strategy="FedProx",
        strategy_args={"proximal_mu": 0.1},
    )


class TooFew(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        self.layer = nn.Linear(4, outputs)

    def forward(self, x):
        return self.layer(x)


class WrongInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x)


class Empty(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            TooFew,
            "TooFew gives 2 numbers per row and the target has 3 classes; "
            "make its last layer give 3",
        ),
        (
            WrongInput,
            "WrongInput fails on a batch of shape (8, 4): mat1 and mat2 shapes cannot be "
            "multiplied (8x4 and 5x3); one row of the dataset has shape (4,)",
        ),
        (Empty, "Empty has no parameters to train"),
        (dict, "dict is no nn.Module; derive it from torch.nn.Module"),
        (3, "the model must be an nn.Module class or a function that returns a model, not 3"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, sentence):
    refuses(sentence, lab.ModelError, model=model)


def test_a_model_that_is_made_already_is_refused():
    refuses(
        "the model is made already; give the class Net, so that every client makes its own",
        lab.ModelError,
        model=Net(),
    )
    with pytest.raises(lab.ModelError, match=r"such as lambda: nn.Sequential\(...\)"):
        experiment(nn.Sequential(nn.Linear(4, 3)))


def test_a_misspelt_hook_is_pointed_out():
    with pytest.warns(UserWarning, match="Mine.train_loop is never called by a run; did you mean"):

        class Mine(lab.Experiment):
            def train_loop(self, model, loader):
                return 0.0

            def my_own_helper(self):
                return 1


def test_model_arguments():
    assert experiment(model_args={"hidden": 5}).facts.parameters == 4 * 5 + 5 + 5 * 3 + 3
    with pytest.raises(lab.ModelError, match=r"Net cannot be made with model_args=\{'hiden': 5\}"):
        experiment(model_args={"hiden": 5})


def test_one_number_per_row_suits_two_classes():
    two = iris_frame().query("species != 'setosa'")
    dataset = lab.CSVDataset(two, target="species")
    made = experiment(lambda: TooFew(1), dataset)
    assert made.facts.measured


def test_a_regression_wants_one_number():
    frame = iris_frame().drop(columns="species")
    dataset = lab.CSVDataset(frame, target="petal_width", task="regression")
    with pytest.raises(lab.ModelError, match="gives 2 numbers per row and the target has 1"):
        experiment(lambda: nn.Linear(3, 2), dataset)


def test_more_clients_than_rows():
    with pytest.raises(lab.DatasetError, match="151"):
        experiment(clients=151)


def test_splits_cover_every_row_once_and_no_client_trains_on_what_it_validates_on():
    made = experiment(clients=7, partition=lab.by_label(alpha=0.3), validation=0.25)
    every = np.concatenate([np.concatenate([r.train, r.validation]) for r in made.splits])
    assert sorted(every) == list(range(150))
    assert all(len(r.train) >= 1 and len(r.validation) >= 1 for r in made.splits)
    together = made.replace(centralized=True)
    assert len(together.splits) == 1
    validation = np.sort(np.concatenate([r.validation for r in made.splits]))
    assert np.array_equal(together.splits[0].validation, validation)


def test_what_draws_and_what_normalizes_is_seen():
    assert not experiment().facts.draws
    assert experiment(DropoutNet).facts.draws
    assert experiment(NormNet).facts.has_batch_norm


def test_making_an_experiment_moves_no_global_stream():
    before = torch.get_rng_state()
    experiment(DropoutNet)
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_frozen():
    made = experiment()

    def refused(change) -> str:
        with pytest.raises(lab.ExperimentError) as caught:
            change()
        return str(caught.value)

    frozen = "an experiment is frozen; make another with experiment.replace"
    assert refused(lambda: setattr(made, "rounds", 99)) == f"{frozen}(rounds=99)"
    assert refused(lambda: setattr(made, "splits", ())) == f"{frozen}(...)"
    assert refused(lambda: delattr(made, "lr")) == f"{frozen}(...)"
    assert refused(lambda: setattr(made, "round", 1)).startswith("no setting named 'round'; did")
    assert made.rounds == 3
    own = experiment(cls=Own)
    own.calls = 1  # beside the settings, a class of one's own keeps what it likes
    assert own.calls == 1
    assert refused(lambda: setattr(own, "rounds", 99)) == f"{frozen}(rounds=99)"
    assert made.replace(rounds=5).rounds == 5
    with pytest.raises(
        lab.ExperimentError, match="no setting named 'round'; did you mean 'rounds'"
    ):
        made.replace(round=5)


def test_an_optimizer_may_be_given_as_the_class_of_torch():
    made = experiment(optimizer=torch.optim.AdamW)
    assert made.optimizer == "AdamW"
    assert made.to_json() == experiment(optimizer="AdamW", dataset=made.dataset).to_json()
    assert type(made.make_optimizer(made.build_model())) is torch.optim.AdamW
    with pytest.raises(lab.ExperimentError, match="no optimizer named 'LBFGS'"):
        experiment(optimizer=torch.optim.LBFGS)

    class Adam(torch.optim.Adam):
        pass

    with pytest.raises(lab.ExperimentError, match=r"Adam is a class of your own; override make_op"):
        experiment(optimizer=Adam)


def test_any_name_of_a_dataset_gives_a_name():
    dataset = iris()
    dataset.name = "C:\\data\\iris\n" + "x" * 200
    made = experiment(dataset=dataset)
    assert made.name == "Net on C:-data-iris-" + "x" * 80


def test_unicode_names_are_fine():
    assert experiment(name="Olá, 实验 1").name == "Olá, 实验 1"


# --- JSON -------------------------------------------------------------------------------------


class Rows(Dataset):
    """A dataset in PyTorch style."""

    def __init__(self, rows=30):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, i):
        return torch.full((4,), float(i)), i % 3


class Own(lab.Experiment):
    def loss(self, model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)


def settings(made):
    """The settings, without where a table lies: one given as a frame is kept beside them."""
    values = json.loads(made.to_json())
    values["dataset"].pop("path", None)
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: experiment(partition=lab.by_label(alpha=0.5), strategy="FedAdam"),
        lambda: experiment(dataset=Rows, dataset_args={"rows": 40}, model_args={"hidden": 3}),
        lambda: experiment(cls=Own, min_clients=2, round_timeout_seconds=3.5),
    ],
    ids=["csv", "class", "subclass"],
)
def test_it_goes_to_json_and_back(make, tmp_path):
    made = make()
    made.save(tmp_path / "kept")
    back = lab.Experiment.load(tmp_path / "kept")
    assert settings(back) == settings(made)
    assert type(back).__name__ == type(made).__name__
    for ours, theirs in zip(made.splits, back.splits, strict=True):
        assert np.array_equal(ours.train, theirs.train)
    text = (tmp_path / "kept" / "experiment.json").read_text()
    assert json.loads(text)["rounds"] == 3
    assert not list((tmp_path / "kept").rglob("*.pkl"))


def test_a_live_dataset_is_not_made_again(tmp_path):
    experiment(dataset=tensors()).save(tmp_path)
    with pytest.raises(lab.BundleError, match="was a live TensorDataset object, which is not kept"):
        lab.Experiment.load(tmp_path)


def test_a_table_that_changed_is_refused(tmp_path):
    path = tmp_path / "iris.csv"
    iris_frame().to_csv(path, index=False)
    made = experiment(dataset=lab.CSVDataset(path, target="species"))
    made.save(tmp_path / "kept")
    frame = iris_frame()
    frame.loc[3, "sepal_width"] += 1
    frame.to_csv(path, index=False)
    with pytest.raises(lab.ExperimentError, match="has changed since this experiment was made"):
        lab.Experiment.load(tmp_path / "kept")


# --- datasets and losses of one's own -----------------------------------------------------------


def test_a_dataset_without_targets_needs_an_own_loss():
    class Only(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return torch.ones(4) * i

    with pytest.raises(lab.ModelError, match=r"write your own loss\(model, batch\)"):
        experiment(lambda: nn.Linear(4, 4), Only())

    class Auto(lab.Experiment):
        def loss(self, model, batch):
            return nn.functional.mse_loss(model(batch), batch)

    assert not experiment(lambda: nn.Linear(4, 4), Only(), cls=Auto).measured


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (lambda out: out.sum().item(), "must return one number as a tensor, not float"),
        (lambda out: out, r"must return one number as a tensor, not \(8, 3\)"),
        (lambda out: out.sum().detach(), "does not depend on the model's parameters"),
        (lambda out: out.nope, "the loss fails on a first batch: AttributeError"),
    ],
)
def test_a_loss_that_cannot_be_trained_on(returned, sentence):
    class Bad(lab.Experiment):
        def loss(self, model, batch):
            return returned(model(batch[0]))

    with pytest.raises(lab.ModelError, match=sentence):
        experiment(cls=Bad)


def test_a_metric_that_is_no_number():
    class Bad(lab.Experiment):
        def metrics(self, outputs, targets):
            return {"f1": "high"}

    with pytest.raises(lab.ExperimentError, match="the metric 'f1' must be one number, not 'high'"):
        experiment(cls=Bad)


def test_repr_says_what_is_learned():
    assert repr(experiment()).startswith("Experiment('iris', Net, clients=4, partition=evenly()")
    assert repr(iris())


def test_tensor_datasets_are_described():
    made = experiment(dataset=TensorDataset(torch.randn(12, 4), torch.arange(12) % 3), clients=2)
    assert made.task == "classification"
    assert made.info.rows == 12


def test_batch_normalization_cannot_train_on_one_row():
    refuses(
        "NormNet has batch normalization, which cannot train on a batch of one row, and batch_size "
        "is 1; use batch_size=2 or more, or another normalization such as nn.GroupNorm",
        lab.ModelError,
        model=NormNet,
        batch_size=1,
    )
    refuses(
        "NormNet has batch normalization, which cannot train on a batch of one row, and client 0 "
        "has one row to train on; use fewer clients, or another normalization such as nn.GroupNorm",
        lab.ModelError,
        model=NormNet,
        dataset=tensors(8),
        clients=4,
    )
    assert experiment(batch_size=1).facts.parameters  # only batch normalization needs more

    class PerPixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(2), nn.Linear(4, 3)

        def forward(self, x):  # two channels of two values each: one row has a variance
            return self.last(self.norm(x.view(-1, 2, 2)).flatten(1))

    assert experiment(PerPixel, batch_size=1).facts.has_batch_norm
