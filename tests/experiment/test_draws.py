"""Random numbers that the whole process shares: seen in code, refused in a model, kept in data."""

from __future__ import annotations

import functools
import random
import random as chance
from random import shuffle

import numpy as np
import pytest
import torch
from numpy.random import rand
from torch import nn
from torch.utils.data import Dataset, Subset

import flautim_lab as lab
from flautim_lab.experiment.client_data import ClientData
from flautim_lab.experiment.draws import global_draw, reads_global_random
from flautim_lab.experiment.streams import PrivateGlobals
from tests.federations import Net, experiment, tensors


def imported_inside():
    from random import sample as chosen

    return chosen([1, 2], 1)


def imported_as_inside():
    import numpy.random as numbers

    return [numbers.normal() for _ in range(2)]


def kept_in_a_variable():
    generator = np.random
    return generator.permutation(3)


def in_a_nested_function():
    def inner():
        return np.random.rand(3)

    return inner()


def by_another():
    return in_a_nested_function()


class Helper:
    @property
    def value(self):
        return chance.gauss(0, 1)


def by_a_class():
    return Helper().value


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda: random.random(), "random.random"),
        (lambda: chance.choice([1]), "random.choice"),
        (lambda x: shuffle(x), "random.shuffle"),
        (lambda: rand(2), "numpy.random.rand"),
        (lambda: np.random.normal(), "numpy.random.normal"),
        (lambda: np.random.seed(1), "numpy.random.seed"),
        (lambda: list(map(np.random.rand, [1])), "numpy.random.rand"),
        (functools.partial(lambda a: random.randint(0, a), 3), "random.randint"),
        (imported_inside, "random.sample"),
        (imported_as_inside, "numpy.random.normal"),
        (kept_in_a_variable, "numpy.random.permutation"),
        (in_a_nested_function, "numpy.random.rand"),
        (by_another, "numpy.random.rand"),
        (by_a_class, "random.gauss"),
    ],
)
def test_functions_of_the_process_are_seen_by_any_name(function, what):
    found = global_draw([function])
    assert found is not None
    assert found[1] == what


def test_it_says_which_function_it_was():
    assert global_draw([by_another])[0] == "in_a_nested_function"
    assert global_draw([by_a_class])[0] == "Helper.value"


@pytest.mark.parametrize(
    "function",
    [
        lambda: np.random.default_rng(3).normal(),
        lambda: random.Random(3).random(),
        lambda: np.random.RandomState(3).rand(),
        lambda: torch.rand(3),
        lambda random: random.random(),
        lambda rand: rand(3),
        lambda model: model.random.rand,
    ],
)
def test_a_generator_of_ones_own_is_not_the_process(function):
    assert global_draw([function]) is None


def test_a_model_a_loss_and_a_loop_may_not_share_the_process():
    class NoisyNet(Net):
        def forward(self, x):
            return super().forward(x) * random.uniform(0.9, 1.1)

    class Loss(lab.Experiment):
        def loss(self, model, batch):
            if len(batch[0]) > 1000:  # seen in the code, though no batch comes here
                np.random.shuffle(batch[0])
            return super().loss(model, batch)

    class Loop(lab.Experiment):
        def training_loop(self, model, loader):
            return float(np.random.rand())

    def make_net():
        net = Net()
        nn.init.constant_(net.layers[0].bias, np.random.normal())
        return net

    advice = (
        ", whose numbers the whole process shares, so the run could not be repeated; use torch's "
        "own functions, such as torch.rand, torch.randn and torch.randperm, or a generator of "
        "your own from numpy.random.default_rng(seed)"
    )
    for model, cls, start in [
        (NoisyNet, lab.Experiment, "NoisyNet.forward uses random.uniform"),
        (Net, Loss, "Loss.loss uses numpy.random.shuffle"),
        (Net, Loop, "Loop.training_loop uses numpy.random.rand"),
        (make_net, lab.Experiment, "make_net uses numpy.random.normal"),
    ]:
        with pytest.raises(lab.ExperimentError) as caught:
            experiment(model, cls=cls)
        assert str(caught.value) == start + advice


class Jittered(Dataset):
    """Rows that are drawn when the dataset is made, and moved each time they are read."""

    def __init__(self, rows=24):
        self.x = torch.randn(rows, 2)
        self.more = np.random.rand(rows).astype("float32")
        self.shift = random.random()
        self.targets = [row % 3 for row in range(rows)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        extra = torch.tensor([self.more[row] + np.random.normal(), self.shift + random.random()])
        return torch.cat([self.x[row], extra.float()]), self.targets[row]


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def drawn(dataset):
    return [*dataset.x.flatten().tolist(), *dataset.more.tolist(), dataset.shift]


def test_a_dataset_class_is_made_alike_for_a_seed_and_moves_nothing():
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    before = states()
    first = experiment(dataset=Jittered, seed=5)
    random.random(), np.random.rand(), torch.rand(1)
    again, other = experiment(dataset=Jittered, seed=5), experiment(dataset=Jittered, seed=6)
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    assert drawn(first.dataset) == drawn(again.dataset)
    assert not set(drawn(first.dataset)) & set(drawn(other.dataset))
    experiment(dataset=Jittered, seed=5)
    assert states() == before


def test_another_seed_draws_a_dataset_anew_as_if_made_with_it():
    made = experiment(dataset=Jittered, seed=5)
    assert made.replace(lr=0.5).dataset is made.dataset
    changed = made.replace(lr=0.5).replace(seed=6)
    assert drawn(changed.dataset) == drawn(experiment(dataset=Jittered, seed=6).dataset)

    class Fixed(Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, row):
            return torch.full((4,), float(row)), row % 3

    fixed = experiment(dataset=Fixed, seed=5)
    assert fixed.replace(seed=6).dataset is fixed.dataset  # it draws nothing: nothing changes


def test_reading_moves_nothing_and_is_seen():
    dataset = Jittered()
    before = states()
    made = experiment(dataset=dataset)
    assert made.facts.data_draws_globally
    assert states() == before
    assert not experiment(dataset=tensors()).facts.data_draws_globally


class Rotate:
    def __call__(self, x):
        return x * random.choice([1.0, -1.0])


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x


class Transformed(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 24

    def __getitem__(self, row):
        return self.transform(torch.ones(4)), row % 3


def test_the_transforms_of_a_dataset_are_looked_at():
    assert reads_global_random(Transformed(Compose([torch.neg, Rotate()])))
    assert reads_global_random(Subset(Transformed(lambda x: x * np.random.rand()), [0, 1]))
    assert not reads_global_random(Transformed(Compose([torch.neg])))


def test_batches_come_from_the_private_state():
    made = experiment(dataset=Jittered(), clients=1)

    def passes(seed, elsewhere=0):
        private = PrivateGlobals(seed)
        batches = ClientData(made, 0).batches("train", reading=private)
        result = []
        for _ in range(2):
            for x, _ in batches:
                result.append(x)
                [(random.random(), np.random.rand()) for _ in range(elsewhere)]
        assert private.moved
        return torch.cat(result)

    assert torch.equal(passes(1), passes(1, elsewhere=3))
    assert not torch.equal(passes(1), passes(2))
    half = len(passes(1)) // 2
    assert not torch.equal(passes(1)[:half], passes(1)[half:])  # the second epoch draws on


def test_what_is_raised_inside_leaves_the_global_state():
    before = states()

    def fail():
        with PrivateGlobals(1, with_torch=True):
            random.random(), np.random.rand(), torch.rand(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert states() == before
