"""What a round's time went into, from the resources of its processes."""

from __future__ import annotations

import pytest

from flautim_lab.records.event import ALL_CLIENTS, Event
from flautim_lab.records.profile import ProfileFollower, engine_in_words, parts_of, total_of


def used(number, process, name, value, client=ALL_CLIENTS):
    return Event(0, 0.0, "resource", number, client, process, f"{name}_seconds", value)


KERNEL = [
    used(1, "kernel", "round", 10.0),
    used(1, "kernel", "data", 1.0),
    used(1, "kernel", "training", 5.0),
    used(1, "kernel", "aggregating", 0.5),
    used(1, "kernel", "evaluating", 2.0),
]
PARTS = {"data": 1.0, "training": 5.0, "aggregation": 0.5, "evaluation": 2.0, "overhead": 1.5}


def test_in_the_kernel_the_rest_is_overhead():
    assert parts_of(KERNEL) == {1: PARTS}


def test_with_workers_the_busiest_counts_and_the_server_only_waited():
    waited = [used(1, "server", name, value) for name, value in (("training", 7), ("round", 10))]
    workers = [
        used(1, "client-0", "data", 1.0),
        used(1, "client-0", "training", 5.0),
        used(1, "client-0", "evaluating", 2.0),
        used(1, "client-1", "training", 6.0),
        used(1, "client-1", "transfer", 100.0),
        used(1, "client-1", "training", 50.0, client=3),
    ]
    aggregating = used(1, "server", "aggregating", 0.5)
    assert parts_of([*waited, *workers, aggregating]) == {1: PARTS}


def test_a_round_that_was_done_again_counts_once_and_no_part_is_negative():
    again = [used(1, "kernel", "round", 99.0), used(1, "kernel", "training", 99.0)]
    assert parts_of([*KERNEL, *again]) == {1: PARTS}
    late = [used(2, "kernel", "round", 1.0), used(2, "kernel", "training", 3.0)]
    assert parts_of(late)[2]["overhead"] == 0.0


def test_a_round_without_its_whole_time_is_left_out():
    assert parts_of(KERNEL[1:]) == {}
    assert ProfileFollower().total() == {}


def test_the_total_goes_on_as_events_come():
    follower = ProfileFollower()
    for event in [*KERNEL[:3], Event(0, 0.0, "log", 1)]:
        follower.read(event)
    assert follower.total()["overhead"] == 4.0
    for event in [*KERNEL[3:], used(2, "kernel", "round", 1.0)]:
        follower.read(event)
    assert follower.total() == pytest.approx({**PARTS, "overhead": 2.5})
    assert follower.total() == pytest.approx(total_of(follower.rounds().values()))
    assert list(follower.rounds()) == [1, 2]


def test_how_clients_are_trained_in_words():
    assert engine_in_words("cohort", "at most 10").endswith("together: at most 10")
    assert engine_in_words("loop", "") == "clients are trained one after another"  # an older plan
