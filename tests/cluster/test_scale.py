"""Digits with 8 clients on 4 pods, on 2 in the middle, and what a round costs there."""

from __future__ import annotations

import itertools
import statistics

import pandas as pd
from sklearn.datasets import load_digits

import flautim_lab as lab
from flautim_lab.pods.manifests import WORKER
from tests.cluster.faulted import SMALL, check_it_ended_well, pods_of
from tests.cluster.models import Digits, Images
from tests.cluster.waiting import wait_until
from tests.federations import Net, experiment


def seconds_a_round(run):
    ends = [event.time for event in run.events() if event.kind == "round"]
    return statistics.median(b - a for a, b in itertools.pairwise(ends))


def test_digits_on_four_pods_and_then_on_two(api, spaces, started, record_property):
    bunch = load_digits(as_frame=True)
    table = lab.CSVDataset(pd.DataFrame(bunch.frame), target="target")
    made = lab.Experiment(
        table, Digits, clients=8, rounds=200, partition=lab.by_label(alpha=0.5), seed=11, lr=0.05
    )
    expected = lab.run(made).wait()
    run = started(made, namespace=spaces[0], workers=4, **SMALL)
    wait_until(lambda: run.round >= 5 or run.status.ended, "some rounds on four")
    assert not run.status.ended, run.message
    assert len(pods_of(api, run, WORKER)) == 4
    assert run.scale(workers=2) == "4 workers -> 2"
    taken = wait_until(lambda: len(pods_of(api, run, WORKER)) == 2, "two pods are left")
    record_property("seconds_to_two_pods", round(taken, 1))
    assert not run.status.ended
    check_it_ended_well(run, expected, api, spaces, record_property)
    assert run.logs().count("4 workers -> 2") == 1
    for client in (0, 7):
        printed = [line[20:] for line in run.logs(client).splitlines() if " PRINT " in line]
        here = [line[20:] for line in expected.logs(client).splitlines() if " PRINT " in line]
        assert len(printed) == 200
        assert printed == here


def test_workers_train_and_evaluate_cohorts_of_images(api, spaces, started, record_property):
    """Each answers once for several clients; what is learned and measured is the kernel's."""
    table = lab.CSVDataset(pd.DataFrame(load_digits(as_frame=True).frame), target="target")
    made = lab.Experiment(table, Images, clients=24, rounds=12, batch_size=16, seed=5, lr=0.05)
    here = lab.run(made).wait()
    assert here.plan["engine"] == "cohort"
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    check_it_ended_well(run, here, api, spaces, record_property)
    each = run.metrics.query("split == 'validation' and metric == 'accuracy' and client.notna()")
    assert len(each) == 24 * 12
    assert each[each["round"] == 12].value.mean() > 0.8


def test_what_a_round_of_pods_costs(api, spaces, started, record_property):
    made = experiment(Net, rounds=150, clients=4)
    here = lab.run(made, workers=1).wait()
    run = started(made, namespace=spaces[0], workers=2, **SMALL)
    check_it_ended_well(run, here, api, spaces, record_property)
    record_property("seconds_a_round_in_pods", round(seconds_a_round(run), 3))
    record_property("seconds_a_round_in_the_kernel", round(seconds_a_round(here), 4))
    # Flower's engine as it is takes 3 s and more; a round without work must stay far below.
    assert seconds_a_round(run) < 2
