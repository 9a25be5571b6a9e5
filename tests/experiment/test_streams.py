"""Private random streams: reproducible, and blind to the global generators."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.streams import (
    PrivateRandom,
    numpy_stream,
    stream,
    stream_seed,
    stream_seeds,
)


def test_a_stream_depends_on_its_key_alone():
    def draw(*key):
        return torch.rand(4, generator=stream(*key)).tolist()

    assert draw(1, "batches", 2, 3) == draw(1, "batches", 2, 3)
    others = [(2, "batches", 2, 3), (1, "draws", 2, 3), (1, "batches", 3, 3), (1, "batches", 2, 4)]
    assert all(draw(*key) != draw(1, "batches", 2, 3) for key in others)
    assert numpy_stream(1, "a").random() == numpy_stream(1, "a").random()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.drop = nn.Dropout(0.3)
        self.recurrent = nn.LSTM(12, 4, 2, dropout=0.5, batch_first=True)
        self.attention = nn.MultiheadAttention(12, 2, dropout=0.2, batch_first=True)

    def forward(self, x):
        x = self.drop(F.relu(self.first(x))).unsqueeze(1).repeat(1, 3, 1)
        x = self.attention(x, x, x)[0]
        x = x + torch.randn_like(x) + torch.rand(x.shape) + torch.rand_like(x)
        x = x + torch.randint_like(x, 3) + torch.randint_like(x, 2, 5) + torch.randperm(12)
        x = F.alpha_dropout(F.rrelu(F.dropout1d(x, 0.2), training=True), 0.2, training=True)
        return self.recurrent(x + F.gumbel_softmax(x) + torch.normal(0.0, 1.0, x.shape))[0].sum()


def run_noisy():
    generator = torch.Generator()
    generator.manual_seed(5)
    with PrivateRandom(generator) as random_numbers:
        model = Noisy()
        loss = model(torch.ones(3, 6))
    loss.backward()
    return loss.item(), model.first.weight.grad.clone(), random_numbers.draws


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**63 - 1, 2**128 + 3, 2**200 + 1])
@pytest.mark.parametrize("round_number", [0, 1, 1000, 2**32 - 1, 2**32])
def test_seeds_of_many_clients_are_those_of_each(seed, round_number):
    for clients in ([], [0], [3, 1, 2**31, 2**32 - 1], [5, 2**32]):
        each = [stream_seed(seed, "batches", round_number, client) for client in clients]
        assert stream_seeds(seed, "batches", round_number, clients) == each


def test_every_random_operator_is_redirected_and_the_global_stream_stays():
    before = torch.get_rng_state()
    loss, gradient, draws = run_noisy()
    again, gradient_again, _ = run_noisy()
    assert draws > 10
    assert loss == again
    assert torch.equal(gradient, gradient_again)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_do_not_disturb_each_other():
    alone = run_noisy()[0]
    results = []
    threads = [threading.Thread(target=lambda: results.append(run_noisy()[0])) for _ in range(4)]
    [t.start() for t in threads]
    torch.rand(1000)
    [t.join() for t in threads]
    assert results == [alone] * 4


def test_initial_weights_equal_those_of_manual_seed():
    generator = torch.Generator()
    generator.manual_seed(11)
    with PrivateRandom(generator):
        ours = nn.Sequential(nn.Linear(4, 8), nn.Conv2d(1, 2, 3), nn.Embedding(5, 3))
    with torch.random.fork_rng():
        torch.manual_seed(11)
        plain = nn.Sequential(nn.Linear(4, 8), nn.Conv2d(1, 2, 3), nn.Embedding(5, 3))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_keeps_the_right_share_and_scale():
    with PrivateRandom(stream(1, "x")):
        dropped = F.dropout(torch.ones(100_000), 0.25)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert 0.74 < (dropped > 0).float().mean().item() < 0.76
    with PrivateRandom(stream(1, "x")):
        assert torch.equal(F.dropout(torch.ones(5), 1.0), torch.zeros(5))
        assert torch.equal(F.dropout(torch.ones(5), 0.5, training=False), torch.ones(5))


def test_a_generator_that_the_caller_brings_is_used():
    mine = torch.Generator()
    mine.manual_seed(3)
    with PrivateRandom(stream(1, "x")) as random_numbers:
        drawn = torch.rand(3, generator=mine)
    mine.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3, generator=mine))
    assert random_numbers.draws == 0


def test_a_loader_inside_is_reproducible():
    data = TensorDataset(torch.arange(10))

    def order():
        with PrivateRandom(stream(2, "x")):
            return [batch[0].tolist() for batch in DataLoader(data, 4, shuffle=True)]

    assert order() == order()


def test_an_operator_that_takes_no_generator_is_refused_by_name():
    query = torch.ones(1, 2, 4, 8)
    attention = torch.ops.aten._scaled_dot_product_flash_attention
    with (
        PrivateRandom(stream(1, "x")),
        pytest.raises(ExperimentError, match="'_scaled_dot_product_flash_attention' draws random"),
    ):
        attention(query, query, query, 0.5)


def test_attention_without_dropout_draws_nothing():
    query = torch.ones(1, 2, 4, 8)
    with PrivateRandom(stream(1, "x")) as random_numbers, torch.no_grad():
        F.scaled_dot_product_attention(query, query, query)
        nn.LSTM(8, 2)(query[0])
        drawn = random_numbers.draws
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()(query[0])
    assert drawn == 4  # the four weights of the LSTM


def test_python_and_numpy_streams_are_not_moved():
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].copy()
    numpy_stream(1, "a").random(10)
    stream(1, "a")
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
