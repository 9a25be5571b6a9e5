"""Which engine an experiment gets, and why: a rule that looks at nothing but the experiment."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import flautim_lab as lab
from flautim_lab.training.numerics import make_plan
from flautim_lab.training.stackable import Engine, choose_engine
from flautim_lab.training.stacked_layers import read_layers
from tests.federations import DropoutNet, Net, NormNet, iris_frame, tensors

CPU = torch.device("cpu")


def engine(model=Net, dataset=None, cls=lab.Experiment, **settings) -> Engine:
    settings = {"clients": 20, "batch_size": 4} | settings
    return choose_engine(cls(tensors(100) if dataset is None else dataset, model, **settings), CPU)


class OwnLoop(lab.Experiment):
    def training_loop(self, model, loader):
        return 1.0


class OwnLoss(lab.Experiment):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


class OwnOptimizer(lab.Experiment):
    def make_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=0.1)


class Rows(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, row):
        return tensors(100)[row]


class Counting(Net):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Remembering(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


class Choosing(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Printing(Net):
    def forward(self, x):
        print("a batch")
        return super().forward(x)


NUMBERS = np.random.default_rng(3)


class OwnNumbers(Net):
    def __init__(self):
        super().__init__()
        self.numbers = NUMBERS

    def forward(self, x):
        return super().forward(x) * int(self.numbers.integers(1, 9))


class Buffered(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return super().forward(x)


class Noisy(Net):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.layers.register_forward_hook(lambda module, x, outputs: outputs * 2)


class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 400))
        self.head = nn.Linear(400, 3)

    def forward(self, x):
        return self.head(self.layers(x))


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 3, padding_idx=0)

    def forward(self, x):
        return self.words(x.abs().long()).sum(1)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"engine": "loop"}, "engine='loop' was asked for"),
        ({"clients": 9}, "a round asks 9 clients, and a cohort is worth it from 10"),
        ({"clients_per_round": 3}, "a round asks 3 clients, and a cohort is worth it from 10"),
        ({"centralized": True}, "one model is trained on all rows"),
        ({"round_timeout_seconds": 9}, "a round has a time limit, and each client answers for"),
        ({"cls": OwnLoop}, "the experiment has a training_loop of its own"),
        ({"cls": OwnOptimizer}, "the experiment makes an optimizer of its own"),
        ({"dataset": Rows()}, "the dataset's own code reads each row"),
        ({"model": NormNet}, "batch normalization keeps statistics of each client's batches"),
        ({"model": Counting}, "Counting.forward keeps something beside the weights"),
        ({"model": Remembering}, "the model keeps something beside its weights"),
        ({"model": Choosing}, "it cannot be stacked (RuntimeError: vmap: "),
        ({"model": Printing}, "its code prints"),
        ({"model": OwnNumbers}, "a stack of clients has other "),
        ({"model": Buffered}, "the model changes its buffers while it trains"),
        ({"model": Noisy}, "the model or the loss draws random numbers outside of nn.Dropout"),
        ({"model": Hooked}, "the model has hooks, or functions that hold on to it"),
        ({"model": Large}, "its 163603 weights keep a core busy by themselves"),
        ({"model": Padded}, "Embedding leaves some gradients out (padding_idx, scale_grad_by_"),
    ],
)
def test_why_it_is_the_loop(settings, why):
    got = engine(**settings)
    assert got.name == "loop"
    assert got.why.startswith(why)
    assert got.rule == f"none, since {got.why}"


def test_a_cohort_that_was_asked_for_and_cannot_be_is_refused():
    with pytest.raises(lab.ExperimentError) as refused:
        engine(NormNet, engine="cohort")
    assert str(refused.value) == (
        "engine='cohort' cannot be, since batch normalization keeps statistics of each client's "
        "batches; leave it out, or use engine='loop'"
    )
    assert engine(Large, engine="cohort").name == "cohort"  # slower, and asked for


def test_a_convolution_that_keeps_a_core_busy_is_no_cohort():
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
            self.more = nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
            self.head = nn.Linear(400, 10)

        def forward(self, x):
            return self.head(self.more(self.body(x)).flatten(1))

    images = torch.utils.data.TensorDataset(torch.randn(60, 1, 28, 28), torch.arange(60) % 10)
    few = engine(LeNet, images, clients=12, batch_size=32)
    assert (few.name, few.products, few.clients) == ("cohort", True, 10)
    assert engine(LeNet, images, clients=60, batch_size=32).clients == 15
    got = engine(LeNet, images, clients=12, batch_size=256)
    assert got.why == "each batch keeps a core busy by itself"
    assert engine(LeNet, images, clients=12, batch_size=256, engine="cohort").name == "cohort"

    class Circular(LeNet):
        def __init__(self):
            super().__init__()
            self.more[0] = nn.Conv2d(6, 16, 5, padding_mode="circular")

    by_vmap = engine(Circular, images, clients=12, batch_size=32)
    assert by_vmap.why == "each batch keeps a core busy by itself"


def test_the_plan_says_how():
    made = lab.Experiment(tensors(100), DropoutNet, clients=20, batch_size=4)
    plan = make_plan(made, CPU)
    assert plan.engine == "cohort"
    assert plan.cohorts == (
        "at most 10 clients in their order, cohorts even in number if they can be, products of "
        "stacks, uneven batches filled up; evaluated as one batch: a part of 8, 10 to 128 clients"
    )
    assert plan == make_plan(made.replace(), CPU)
    other = make_plan(made.replace(engine="loop"), CPU)
    assert (other.engine, other.cohorts) == ("loop", "none, since engine='loop' was asked for")
    with pytest.raises(lab.ExperimentError, match="no engine named 'stack'"):
        made.replace(engine="stack")


def test_cohorts_are_of_like_size_and_those_of_one_place_together():
    cohort = Engine("cohort", clients=4)
    made = lab.Experiment(tensors(100), Net, clients=20)
    assert cohort.blocks(made, [0, 2, 3, 5, 7, 8]) == [[0, 2, 3], [5, 7, 8]]
    assert Engine().blocks(made, [1, 4]) == [[1], [4]]
    assert cohort.blocks(made, []) == []
    # As many on each of two threads, or four, if that leaves them three quarters full.
    sizes = [
        [len(block) for block in Engine("cohort", clients=most).blocks(made, range(number))]
        for most, number in ((4, 17), (4, 18), (4, 50), (20, 100), (128, 1000), (128, 10_000))
    ]
    assert sizes[0] == [4, 4, 3, 3, 3]
    assert sizes[1] == [3] * 6
    assert sizes[2] == [4] * 2 + [3] * 14
    assert sizes[3] == [17] * 4 + [16] * 2
    assert sizes[4] == [125] * 8
    assert sizes[5] == [125] * 80


def test_more_are_evaluated_than_trained_together():
    made = lab.Experiment(tensors(3000), Net, clients=1000)
    trained = Engine("cohort", clients=10)
    assert [len(b) for b in trained.blocks(made, range(1000), evaluated=True)] == [10] * 100
    together = Engine("cohort", clients=10, measures=True)
    assert [len(b) for b in together.blocks(made, range(1000))] == [10] * 100
    blocks = [len(b) for b in together.blocks(made, range(1000), evaluated=True)]
    assert blocks == [125] * 8
    assert [len(b) for b in together.blocks(made, range(200), evaluated=True)] == [25] * 8
    assert [len(b) for b in together.blocks(made, range(30), evaluated=True)] == [10] * 3
    assert engine(dataset=tensors(1000), clients=100, validation=0.2).measures
    assert not engine(cls=OwnLoss, dataset=tensors(1000), clients=100, validation=0.2).measures


def test_cohorts_of_homes_hold_clients_of_one_alone():
    cohort = Engine("cohort", clients=4)
    home = lab.HomeDataset(
        iris_frame(), target="species", homes={"a": "1.csv", "b": "2.csv", "c": "3.csv"}
    )
    at_home = lab.Experiment(home, Net)
    assert cohort.blocks(at_home, [0, 1, 2]) == [[0], [1], [2]]


def test_how_many_are_together_depends_on_the_model_and_on_how_many_are_asked():
    assert engine(dataset=tensors(1000), clients=400).clients == 100
    assert engine(dataset=tensors(1000), clients=1000).clients == 128

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 2000), nn.ReLU(), nn.Linear(2000, 3))

        def forward(self, x):
            return self.layers(x)

    assert engine(Wide, tensors(1000), clients=400).clients == 2**19 // 16003


def test_reading_a_model_leaves_the_modules_of_other_threads_alone():
    call, errors, done = nn.Module.__call__, [], threading.Event()

    def use():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        try:
            while not done.is_set():
                model(torch.ones(1, 4))
        except Exception as error:
            errors.append(error)

    def read():
        try:
            for _ in range(20):
                assert read_layers(Net()).steps is not None
        except Exception as error:
            errors.append(error)

    users = [threading.Thread(target=use) for _ in range(2)]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in users + readers:
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    for thread in users:
        thread.join()
    assert errors == []
    assert nn.Module.__call__ is call


def test_the_trial_takes_one_thread_of_torch_whatever_the_kernel_has():
    seen = set()

    class Noting(Net):
        def forward(self, x):
            if not isinstance(x, torch.fx.Proxy):
                seen.add(torch.get_num_threads())
            return super().forward(x)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = lab.Experiment(tensors(100), Noting, clients=20, batch_size=4)
        seen.clear()
        assert choose_engine(made, CPU).name == "cohort"
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
