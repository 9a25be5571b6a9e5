"""Partitions: every row once, nobody without rows, and the reference implementation's counts."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flautim_lab.errors import DatasetError, ExperimentError
from flautim_lab.experiment.partition import (
    Assignment,
    Partition,
    by_column,
    by_label,
    by_size,
    evenly,
)
from flautim_lab.experiment.streams import numpy_stream

quick = settings(max_examples=60, deadline=None)


def no_column(name: str) -> np.ndarray:
    raise AssertionError(f"the column {name!r} was not asked for")


def labels(rows: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, rows)


def check(assignment: Assignment, rows: int, clients: int) -> None:
    assert len(assignment.rows) == len(assignment.names) == clients
    assert all(len(part) > 0 for part in assignment.rows)
    assert all(part.dtype == np.int64 for part in assignment.rows)
    assert all((np.diff(part) > 0).all() for part in assignment.rows)
    assert np.array_equal(np.sort(np.concatenate(assignment.rows)), np.arange(rows))


def counts(assignment: Assignment, targets: np.ndarray) -> np.ndarray:
    """Rows of each class at each client, shape (clients, classes)."""
    classes = int(targets.max()) + 1
    return np.stack([np.bincount(targets[part], minlength=classes) for part in assignment.rows])


# --- what holds for all of them ---------------------------------------------------------------


@quick
@given(
    rows=st.integers(1, 200),
    clients=st.integers(1, 30),
    seed=st.integers(0, 2**40),
    alpha=st.floats(0.01, 1000),
)
def test_every_row_goes_to_exactly_one_client(
    rows: int, clients: int, seed: int, alpha: float
) -> None:
    assume(clients <= rows)
    for partition in (evenly(), by_size(alpha=alpha), by_size(range(1, clients + 1))):
        check(partition.assign(rows, clients, seed, None, no_column), rows, clients)


@quick
@given(
    rows=st.integers(150, 300),
    clients=st.integers(1, 8),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**40),
    alpha=st.floats(0.5, 1000),
    min_rows=st.integers(1, 4),
)
def test_by_label_gives_every_row_to_exactly_one_client(
    rows: int, clients: int, classes: int, seed: int, alpha: float, min_rows: int
) -> None:
    partition = by_label(alpha, min_rows)
    assignment = partition.assign(rows, clients, seed, labels(rows, classes, seed), no_column)
    check(assignment, rows, clients)
    assert min(len(part) for part in assignment.rows) >= min_rows


@quick
@given(
    values=st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), min_size=1, max_size=60),
    seed=st.integers(0, 100),
)
def test_by_column_gives_each_value_a_client(values: list[Any], seed: int) -> None:
    column = np.array(values, dtype=object)
    clients = by_column("site").count(lambda _: column)
    assert clients == len({str(value) for value in values})
    assignment = by_column("site").assign(len(values), clients, seed, None, lambda _: column)
    check(assignment, len(values), clients)
    for name, part in zip(assignment.names, assignment.rows, strict=True):
        assert {str(value) for value in column[part]} == {name}


@pytest.mark.parametrize(
    "partition", [evenly(), by_label(0.3), by_size([1, 2, 3, 4]), by_size(alpha=0.5)], ids=repr
)
def test_same_seed_same_rows_whatever_else_is_drawn(partition: Partition) -> None:
    targets = labels(300, 3)
    first = partition.assign(300, 4, 7, targets, no_column)
    np.random.seed(1)
    np.random.rand(5)
    second = partition.assign(300, 4, 7, targets, no_column)
    other = partition.assign(300, 4, 8, targets, no_column)
    assert all(np.array_equal(a, b) for a, b in zip(first.rows, second.rows, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.rows, other.rows, strict=True))


def test_rows_of_a_seed_never_change() -> None:
    # Written down once: a release that shares rows out differently breaks recorded runs.
    targets = np.arange(12) % 3
    assignment = by_label(1.0).assign(12, 3, 7, targets, no_column)
    assert [part.tolist() for part in assignment.rows] == [
        [5, 10],
        [1, 2, 7, 8, 11],
        [0, 3, 4, 6, 9],
    ]
    assignment = evenly().assign(6, 2, 7, None, no_column)
    assert [part.tolist() for part in assignment.rows] == [[0, 1, 4], [2, 3, 5]]


@pytest.mark.parametrize(
    "partition",
    [evenly(), by_label(0.3), by_label(2, 5), by_size([3, 1]), by_size(alpha=2), by_column("ano")],
    ids=repr,
)
def test_settings_go_through_json(partition: Partition) -> None:
    text = json.dumps(partition.settings())
    assert Partition.from_settings(json.loads(text)) == partition


def test_settings_and_repr_are_readable() -> None:
    assert by_label(0.3).settings() == {"kind": "by_label", "alpha": 0.3, "min_rows": 2}
    assert by_size(np.array([3, 1])).settings() == {
        "kind": "by_size",
        "sizes": [3.0, 1.0],
        "alpha": None,
    }
    assert repr(by_label(0.3)) == "by_label(alpha=0.3, min_rows=2)"
    assert repr(evenly()) == "evenly()"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "by_labels", "alpha": 1},
            "no partition named 'by_labels'; did you mean 'by_label'? "
            "choose one of: evenly, by_label, by_size, by_column",
        ),
        (
            {"kind": "by_label", "alfa": 1},
            "no argument of by_label() named 'alfa'; did you mean 'alpha'? "
            "choose one of: alpha, min_rows",
        ),
        ({"kind": "by_label"}, "the settings of by_label() lack 'alpha'; add it"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        Partition.from_settings(settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("partition", [evenly(), by_label(1), by_size(alpha=1)], ids=repr)
def test_more_clients_than_rows(partition: Partition) -> None:
    with pytest.raises(DatasetError) as caught:
        partition.assign(3, 4, 0, np.array([0, 1, 1]), no_column)
    assert str(caught.value) == (
        "3 rows cannot be shared by 4 clients, since each needs at least one; use at most 3 clients"
    )


def test_no_clients() -> None:
    with pytest.raises(DatasetError) as caught:
        evenly().assign(3, 0, 0, None, no_column)
    assert str(caught.value) == "0 clients cannot share the rows; use at least 1 client"


# --- evenly -----------------------------------------------------------------------------------


@quick
@given(rows=st.integers(1, 300), clients=st.integers(1, 40), seed=st.integers(0, 1000))
def test_evenly_differs_by_one_row_at_most(rows: int, clients: int, seed: int) -> None:
    assume(clients <= rows)
    sizes = [len(part) for part in evenly().assign(rows, clients, seed, None, no_column).rows]
    assert max(sizes) - min(sizes) <= 1


def test_evenly_shuffles_and_numbers_clients() -> None:
    assignment = evenly().assign(1000, 2, 0, None, no_column)
    assert assignment.names == ("client 0", "client 1")
    # Rows in order would give a mean of 249.5 (first half) or 499 (every other row).
    assert 450 < assignment.rows[0].mean() < 550
    assert set(np.diff(assignment.rows[0])) > {1, 2, 3}


# --- by_label ---------------------------------------------------------------------------------

REFERENCE_CASES = [
    (8, 3, 0.3, 150),
    (5, 10, 0.1, 600),
    (20, 10, 1.0, 2000),
    (3, 2, 100.0, 50),
    (10, 4, 0.5, 237),
]


@pytest.mark.parametrize(("clients", "classes", "alpha", "rows"), REFERENCE_CASES)
def test_by_label_counts_are_those_of_flower_datasets(
    clients: int, classes: int, alpha: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the reference partitioner needs flwr-datasets (pip install flwr-datasets)"
    reference = pytest.importorskip("flwr_datasets.partitioner", reason=reason)
    datasets = pytest.importorskip("datasets", reason=reason)
    module = sys.modules["flwr_datasets.partitioner.dirichlet_partitioner"]
    # Since Python 3.12 sum() compensates for rounding; ours and 3.11's add from left to right.
    monkeypatch.setattr(module, "sum", lambda values: np.cumsum(list(values))[-1], raising=False)
    for seed in range(12):
        targets = labels(rows, classes, seed)
        partitioner = reference.DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=alpha,
            min_partition_size=2,
            self_balancing=True,
        )
        partitioner.dataset = datasets.Dataset.from_dict({"label": targets.tolist()})
        partitioner._rng = numpy_stream(seed, "partition")  # the same numbers as ours
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns before it draws again
            parts = [partitioner.load_partition(client)["label"] for client in range(clients)]
        theirs = np.stack([np.bincount(part, minlength=classes) for part in parts])
        ours = by_label(alpha).assign(rows, clients, seed, targets, no_column)
        assert np.array_equal(counts(ours, targets), theirs)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_by_label_shares_are_dirichlet(alpha: float) -> None:
    # The first class is shared out before anybody is full, so its shares are Dirichlet(alpha):
    # mean 1/C and variance (1/C)(1-1/C)/(C alpha + 1) (Kotz et al. 2000, chapter 49).
    clients, rows, draws = 4, 4000, 400
    targets = np.arange(rows) % 2
    partition = by_label(alpha, min_rows=1)
    shares = np.array(
        [
            counts(partition.assign(rows, clients, seed, targets, no_column), targets)[:, 0]
            for seed in range(draws)
        ]
    ) / (rows / 2)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    # 400 draws of 4 shares: a standard error of about 2 % (mean) and 5 % (variance).
    assert shares.mean(axis=0) == pytest.approx(1 / clients, rel=0.2)
    assert shares.var() == pytest.approx(variance, rel=0.2)


@quick
@given(
    clients=st.integers(2, 12),
    classes=st.integers(2, 8),
    alpha=st.sampled_from([0.1, 0.5, 2.0]),
    seed=st.integers(0, 10_000),
)
def test_by_label_fills_nobody_who_is_full(
    clients: int, classes: int, alpha: float, seed: int
) -> None:
    targets = np.arange(400) % classes
    try:
        assignment = by_label(alpha).assign(400, clients, seed, targets, no_column)
    except DatasetError:
        assume(False)
    before_last = counts(assignment, targets)[:, :-1].sum(axis=1)
    last = counts(assignment, targets)[:, -1]
    # Rounding may hand a single row to a client that is full.
    assert (last[before_last > 400 / clients] <= 1).all()
    assert all(len(part) >= 2 for part in assignment.rows)


def test_by_label_shuffles_within_a_class() -> None:
    # A table in the order of time: no client may get a piece of the calendar.
    assignment = by_label(100.0).assign(1000, 2, 3, np.zeros(1000, dtype=int), no_column)
    means = [part.mean() for part in assignment.rows]
    assert abs(means[0] - means[1]) < 100


def test_by_label_takes_text_and_gaps_in_class_numbers() -> None:
    text = np.array(["no", "yes"] * 50, dtype=object)
    numbers = np.array([3, 900_000] * 50)
    first = by_label(1.0).assign(100, 4, 0, text, no_column)
    second = by_label(1.0).assign(100, 4, 0, numbers, no_column)
    check(first, 100, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first.rows, second.rows, strict=True))


def test_by_label_of_one_client() -> None:
    check(by_label(0.1).assign(10, 1, 0, np.arange(10) % 2, no_column), 10, 1)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            None,
            "by_label needs one class per row, and none was found in the dataset; give it an "
            "attribute 'targets', or use by_size(alpha=...) or evenly()",
        ),
        (
            np.linspace(0, 1, 20),
            "by_label needs classes, but the targets are not whole numbers; give class numbers "
            "(as in `return x, int(y)`), or use by_size(alpha=...), by_column(...) or evenly()",
        ),
    ],
)
def test_by_label_without_classes(targets: np.ndarray | None, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        by_label(0.5).assign(20, 2, 0, targets, no_column)
    assert str(caught.value) == message


def test_by_label_that_cannot_be_drawn() -> None:
    with pytest.raises(DatasetError) as caught:
        by_label(1e-3).assign(60, 6, 0, np.arange(60) % 2, no_column)
    assert str(caught.value).startswith(
        "by_label(alpha=0.001) left a client with fewer than 2 of the 60 rows in each of 1000 "
        "draws (in the last one client "
    )
    assert str(caught.value).endswith("raise alpha, use fewer clients than 6, or lower min_rows")


def test_by_label_with_too_few_rows() -> None:
    with pytest.raises(DatasetError) as caught:
        by_label(1.0, min_rows=5).assign(20, 6, 0, np.arange(20) % 2, no_column)
    assert str(caught.value) == (
        "20 rows cannot give 6 clients at least 5 each; use at most 4 clients, or "
        "by_label(alpha=1, min_rows=3)"
    )


# --- by_size ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [
        ([3, 1], 8, [6, 2]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([0.5, 0.25, 0.25], 7, [3, 2, 2]),
        ([1000, 1, 1], 5, [3, 1, 1]),
        ([1e308, 1e308], 4, [2, 2]),
        ([1, 2, 3, 4], 10, [1, 2, 3, 4]),
    ],
)
def test_by_size_rounds_by_largest_remainder(
    sizes: list[float], rows: int, expected: list[int]
) -> None:
    assignment = by_size(sizes).assign(rows, len(sizes), 0, None, no_column)
    assert [len(part) for part in assignment.rows] == expected


@quick
@given(sizes=st.lists(st.floats(0.1, 100), min_size=1, max_size=20), extra=st.integers(0, 300))
def test_by_size_is_within_a_row_of_the_share(sizes: list[float], extra: int) -> None:
    rows = len(sizes) + extra
    parts = by_size(sizes).assign(rows, len(sizes), 0, None, no_column).rows
    got = np.array([len(part) for part in parts])
    wanted = np.array(sizes) / sum(sizes) * rows
    assume((wanted >= 1).all())  # below one row the share is rounded up
    assert (np.abs(got - wanted) < 1).all()


def test_by_size_implies_the_number_of_clients() -> None:
    assert by_size([1, 2, 3]).count(no_column) == 3
    assert by_size(alpha=1).count(no_column) is None
    assert evenly().count(no_column) is None


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_by_size_shares_are_dirichlet(alpha: float) -> None:
    clients, rows = 4, 4000
    shares = np.array(
        [
            [len(part) for part in by_size(alpha=alpha).assign(rows, 4, seed, None, no_column).rows]
            for seed in range(400)
        ]
    ) / rows  # fmt: skip
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert shares.mean(axis=0) == pytest.approx(1 / clients, rel=0.2)
    assert shares.var() == pytest.approx(variance, rel=0.2)


def test_by_size_of_another_number_of_clients() -> None:
    with pytest.raises(DatasetError) as caught:
        by_size([1, 2, 3]).assign(20, 8, 0, None, no_column)
    assert str(caught.value) == (
        "by_size was given 3 sizes for 8 clients; give one size per client, or say clients=3"
    )


# --- by_column --------------------------------------------------------------------------------


def test_by_column_sorts_numbers_by_size_and_text_by_alphabet() -> None:
    numbers = np.array([10, 9, 9, 100])
    assert by_column("car").assign(4, 3, 0, None, lambda _: numbers).names == ("9", "10", "100")
    floats = numbers.astype(float)
    assert by_column("car").assign(4, 3, 0, None, lambda _: floats).names == ("9", "10", "100")
    text = np.array(["UFMG", "UFOP", "PUC", "UFMG"], dtype=object)
    assignment = by_column("site").assign(4, 3, 0, None, lambda _: text)
    assert assignment.names == ("PUC", "UFMG", "UFOP")
    assert [part.tolist() for part in assignment.rows] == [[2], [0, 3], [1]]


def test_by_column_with_another_number_of_clients() -> None:
    with pytest.raises(DatasetError) as caught:
        by_column("car").assign(9, 8, 0, None, lambda _: np.arange(9) % 3)
    assert str(caught.value) == (
        "the column 'car' has 3 distinct values, one client each, but clients=8; say clients=3, "
        "or leave clients out"
    )


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_by_column_with_a_gap(gap: Any) -> None:
    column = np.array(["a", gap, "b"], dtype=object)
    with pytest.raises(DatasetError) as caught:
        by_column("site").count(lambda _: column)
    assert str(caught.value) == (
        "the column 'site' has no value in 1 row, first in row 1 (counted from 0), so that it "
        "belongs to no client; fill the gap, or leave those rows out"
    )


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_label(0), "alpha must be greater than 0, not 0"),
        (lambda: by_label("much"), "alpha must be a number, not 'much'"),
        (lambda: by_label(float("inf")), "alpha must be a finite number, not inf"),
        (
            lambda: by_label(1, min_rows=0),
            "min_rows must be at least 1, not 0, since no client may be without rows",
        ),
        (lambda: by_label(1, min_rows=1.5), "min_rows must be a whole number, not 1.5"),
        (lambda: by_size([1, -2]), "the size of client 1 must be greater than 0, not -2"),
        (
            lambda: by_size(3),
            "sizes must be a list of numbers, one per client, not 3; for example "
            "by_size([3, 2, 1])",
        ),
        (
            lambda: by_size([]),
            "sizes must be a list of numbers, one per client, not []; for example "
            "by_size([3, 2, 1])",
        ),
        (
            by_size,
            "by_size needs either sizes or alpha, and not both; for example by_size([3, 2, 1]) "
            "or by_size(alpha=0.5)",
        ),
        (
            lambda: by_size([1], alpha=1),
            "by_size needs either sizes or alpha, and not both; for example by_size([3, 2, 1]) "
            "or by_size(alpha=0.5)",
        ),
        (
            lambda: by_column(3),
            "by_column needs the name of a column, not 3; for example by_column('institution')",
        ),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        make()
    assert str(caught.value) == message
