"""The promises about a thousand small models, trained as cohorts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING

from engine_rows import line
from fresh_process import MeasurementError
from report import Row, Sample, ratio
from sides import rounds
from work import (
    CROWD,
    FLUTE,
    FLUTE_EVALUATED,
    FLUTE_EVALUATED_SHORT,
    FLUTE_SHORT,
    MANY,
    MICRO_FL,
    WHOLE,
    Work,
)

if TYPE_CHECKING:
    from run import Bench

LONGEST_SECONDS = 1.0  # FLUTE's workload, start included
MICRO_FL_CLIENTS = (10, 100, 1000)
MANY_CLIENTS = (1000, 10_000)
FLAT = 1.25  # of a tenth of the clients: a round that is as long, but for noise
FLAT_BYTES = 40e6  # for nine thousand clients more: what says which rows are whose
TIMES = 200  # as fast as Flower's simulation
ALIKE = 0.1  # how far the losses of other clients and batches may be apart, relatively
ALIKE_SOON = 0.2  # after four rounds, when few clients have been asked
WHOLE_CLIENTS = (1000, 5000, 10_000)
FEW_BYTES = 100e6  # for nine thousand clients more in a round, whose weights are 2,400 MB
SAME = 1e-3  # how far a round's mean losses of two sides may be apart, relatively


def flute(bench: Bench) -> Iterator[Row]:
    """FLUTE's workload: 1,000 clients, 10 a round, 100 rounds."""
    mine, peers, notes = _sides(bench, FLUTE)
    value, text = ratio(mine, peers["plain"])
    yield Row("FLUTE's workload", mine, None, "", "< 1 s", mine.median < LONGEST_SECONDS, notes)
    yield Row("FLUTE's workload", mine, peers["plain"], text, "<= 0.5 x", value <= 0.5)
    yield Row("FLUTE's workload", mine, peers["loop"], ratio(mine, peers["loop"])[1])


def flute_flower(bench: Bench) -> Iterator[Row]:
    """FLUTE's workload beside Flower's simulation: seconds a round, ours with its start.

    Flower asks clients that it chooses itself, so that the losses are alike and not the same. There
    is no goal: a two-hundredth of what Flower takes to train ten clients is less than the products
    of their numbers take by themselves.
    """
    title = "a round of FLUTE's workload"
    yield from _beside_flower(bench, "flute_flower", title, FLUTE, FLUTE_SHORT, ALIKE, goal=False)


def flute_evaluated(bench: Bench) -> Iterator[Row]:
    """The same with all 1,000 clients evaluated after each round, as Flower does by itself."""
    title = "a round of FLUTE's workload, all clients evaluated"
    yield from _beside_flower(
        bench, "flute_evaluated", title, FLUTE_EVALUATED, FLUTE_EVALUATED_SHORT, ALIKE_SOON
    )


def _beside_flower(
    bench: Bench, name: str, title: str, work: Work, short: Work, alike: float, *, goal: bool = True
) -> Iterator[Row]:
    """Measure a work beside Flower's simulation of fewer rounds, with losses that far apart."""
    go, wanted = bench.processes.measure, f"<= 1/{TIMES} x" if goal else ""
    sides = {"ours": lambda: go("cohorts", "ours", work.name, "auto")}
    if find_spec("ray") is not None:
        data = str(bench.processes.scratch / f"{work.name}.npz")
        go("cohorts", "save_rows", work.name, data)
        sides["flower"] = lambda: go("flower_simulation", "lenet_round", short.name, data)
    results = bench.interleave(name, sides, bench.repeats)
    seconds = [result["seconds"] / work.rounds for result in results["ours"]]
    mine = Sample("lab.run, start included", seconds)
    if "flower" not in results:
        yield Row(title, mine, None, "not measured", wanted, None)
        return
    curves = {"training": "losses"}
    if work.validation:
        if any(r["evaluated"] != work.clients * work.rounds for r in results["ours"]):
            raise MeasurementError(f"{work.name}: not all clients were evaluated in each round")
        curves["validation"] = "validation_losses"
    notes = [
        _alike(
            f"{work.name}: {kind} loss",
            short.rounds,
            alike,
            *([result[key] for result in results[side]] for side in ("ours", "flower")),
        )
        for kind, key in curves.items()
    ]
    peer = rounds("Flower's simulation, without its start", results["flower"])
    value, text = ratio(mine, peer)
    yield Row(title, mine, peer, text, wanted, value <= 1 / TIMES if goal else None, notes)


def _alike(
    what: str, number: int, most: float, ours: list[list[float]], flowers: list[list[float]]
) -> str:
    """Return the losses of both sides after so many rounds.

    Raises
    ------
    MeasurementError
        If they are not alike.
    """
    here = ours[0][number - 1]
    there = median(losses[number - 1] for losses in flowers)
    said = f"{what} {here:.3f} after {number} rounds, Flower's {there:.3f}"
    if abs(here - there) > most * there:
        raise MeasurementError(said)
    return said


def crowd(bench: Bench) -> Iterator[Row]:
    """1,000 clients x 100 rows, a small perceptron, all of them in each of five rounds."""
    mine, peers, notes = _sides(bench, CROWD)
    value, text = ratio(mine, peers["plain"])
    name = "1,000 clients, all in each round"
    yield Row(name, mine, peers["plain"], text, "<= 0.2 x", value <= 0.2, notes)
    yield Row(name, mine, peers["loop"], ratio(mine, peers["loop"])[1])


def _sides(bench: Bench, work: Work) -> tuple[Sample, dict[str, Sample], list[str]]:
    """Return our sample, those of our loop and the plain one, and that all learned the same.

    Raises
    ------
    MeasurementError
        If some side's losses are others, or ours was no cohort.
    """
    go = bench.processes.measure
    data = str(bench.processes.scratch / f"{work.name}.npz")
    plan = str(bench.processes.scratch / f"{work.name}-plan.npz")
    go("cohorts", "save_for_peer", work.name, data, plan)
    results = bench.interleave(
        work.name,
        {
            "cohort": lambda: go("cohorts", "ours", work.name, "auto"),
            "loop": lambda: go("cohorts", "ours", work.name, "loop"),
            "plain": lambda: go("cohorts", "plain", work.name, data, plan),
        },
        bench.repeats,
    )
    if any(result["engine"] != "cohort" for result in results["cohort"]):
        raise MeasurementError(f"{work.name} was not trained as cohorts")
    curve, apart = results["plain"][0]["losses"], _apart(work.name, results)
    samples = {
        side: Sample(side, [result["seconds"] for result in found])
        for side, found in results.items()
    }
    notes = [
        f"loss {curve[0]:.4f} at first and {curve[-1]:.4f} at the end on every side; in no round "
        f"are two of them more than {apart:.1e} of it apart"
    ]
    return samples.pop("cohort"), samples, notes


def _apart(name: str, results: dict[str, list[dict]]) -> float:
    """Return how far a round's losses of a side are from the plain loop's, relatively, at most.

    Raises
    ------
    MeasurementError
        If that is more than rounding.
    """
    curve = results["plain"][0]["losses"]
    apart = max(
        abs(mine - theirs) / theirs
        for side in results.values()
        for result in side
        for mine, theirs in zip(result["losses"], curve, strict=True)
    )
    if apart > SAME:
        raise MeasurementError(f"{name}: the losses of two sides are {apart:.2g} apart")
    return apart


def micro_fl_clients(bench: Bench) -> Iterator[Row]:
    """Micro-FL's job as clients are added: seconds a round, and memory beyond the rows."""
    go, name, some = bench.processes.measure, MICRO_FL.name, MICRO_FL.clients
    data = str(bench.processes.scratch / f"{name}.npz")
    plan = str(bench.processes.scratch / f"{name}-plan.npz")
    go("cohorts", "save_for_peer", name, data, plan)
    sides = {str(n): (lambda n=n: go("cohorts", "growth", name, str(n))) for n in MICRO_FL_CLIENTS}
    sides["plain"] = lambda: go("cohorts", "plain", name, data, plan)
    if find_spec("ray") is not None:
        sides["flower"] = lambda: go("flower_simulation", "lenet_round", name, data)
    results = bench.interleave("micro_fl_clients", sides, bench.repeats)
    peers = {"plain": "plain PyTorch"}
    apart = _apart(name, {side: results[side] for side in (str(some), "plain")})
    if "flower" in results:
        peers["flower"] = "Flower's simulation"
    mine = rounds("lab.run", results[str(some)])
    title = "Micro-FL's job, a round of {:,} clients"
    note = (
        f"{name}: in no round are the losses of ours and the plain loop more than {apart:.1e} apart"
    )
    for side, label in peers.items():
        peer = rounds(label, results[side])
        value, text = ratio(mine, peer)
        goal, met = ("<= 1 x", value <= 1) if side == "plain" else ("", None)
        yield Row(title.format(some), mine, peer, text, goal, met, [note])
    seconds = [
        (float(n), median(result["rounds"])) for n in MICRO_FL_CLIENTS for result in results[str(n)]
    ]
    memory = [(float(n), r["bytes"] / 1e6) for n in MICRO_FL_CLIENTS for r in results[str(n)]]
    for n in MICRO_FL_CLIENTS:
        held = median(result["bytes"] for result in results[str(n)]) / 1e6
        each = median(median(result["rounds"]) for result in results[str(n)]) / n
        text = f"{1000 * each:.2g} ms a client; {held:.0f} MB beyond the rows"
        yield Row(title.format(n), rounds("lab.run", results[str(n)]), None, text)
    notes = [
        f"{name}: {line(seconds, 's a round')} per client",
        f"{name}: {line(memory, 'MB')} per client",
    ]
    yield Row("Micro-FL's job as clients are added", None, None, "as lines: see below", notes=notes)


def many(bench: Bench) -> Iterator[Row]:
    """10,000 clients, of whom 100 are asked in a round, beside 1,000 of whom as many are."""
    go, name = bench.processes.measure, MANY.name
    sides = {str(n): (lambda n=n: go("cohorts", "growth", name, str(n))) for n in MANY_CLIENTS}
    results = bench.interleave(name, sides, bench.repeats)
    few, all_ = (results[str(n)] for n in MANY_CLIENTS)
    mine, peer = rounds(f"{MANY_CLIENTS[1]:,} clients", all_), rounds(f"{MANY_CLIENTS[0]:,}", few)
    value, text = ratio(mine, peer)
    title = f"{MANY_CLIENTS[1]:,} clients, {MANY.clients_per_round} a round"
    yield Row(f"{title}: a round", mine, peer, text, f"<= {FLAT} x", value <= FLAT)
    held, less = (median(result["bytes"] for result in found) for found in (all_, few))
    text = f"{held / 1e6:.0f} against {less / 1e6:.0f} MB beyond the rows"
    goal = f"<= {FLAT_BYTES / 1e6:.0f} MB more"
    yield Row(f"{title}: memory", None, None, text, goal, held - less <= FLAT_BYTES)


def whole(bench: Bench) -> Iterator[Row]:
    """Rounds of 1,000 to 10,000 clients, all of them asked: the most memory that a round takes."""
    go, name = bench.processes.measure, WHOLE.name
    sides = {str(n): (lambda n=n: go("cohorts", "growth", name, str(n))) for n in WHOLE_CLIENTS}
    results = bench.interleave(name, sides, bench.repeats)
    peaks = {n: median(result["peak"] for result in results[str(n)]) for n in WHOLE_CLIENTS}
    fewest, *others = WHOLE_CLIENTS
    first = f"{peaks[fewest] / 1e6:.0f} MB beyond the rows at the most"
    yield Row(
        f"{fewest:,} clients, all in a round", rounds("lab.run", results[str(fewest)]), None, first
    )
    for n in others:
        more = peaks[n] - peaks[fewest]
        text = f"{peaks[n] / 1e6:.0f} MB beyond the rows at the most"
        goal, met = f"<= {FEW_BYTES / 1e6:.0f} MB more", more <= FEW_BYTES
        mine = rounds("lab.run", results[str(n)])
        yield Row(f"{n:,} clients, all in a round", mine, None, text, goal, met)
