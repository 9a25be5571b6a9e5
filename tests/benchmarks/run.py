"""Measure what Flautim Lab promises about speed, against its peers, on this machine.

``make bench``, or ``python tests/benchmarks/run.py [--quick] [--only NAME] [--repeats N]``. What is
measured and how to read it is in the README beside this file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import cohort_rows
import engine_rows
import imports
from fresh_process import ROOT, FreshProcesses, MeasurementError
from plain_pytorch import VARIANTS
from report import Row, Sample, machine, ratio, write
from sides import rounds, same_work
from work import IRIS, LENET, LENET_LAST, LENET_LONG, Work

RESULTS = ROOT / "build" / "bench"
REPEATS = 5
IMPORT_REPEATS = 15
LAST_ROUNDS = 10  # of a long run: after its trials
NO_RAY = "Flower's simulation needs Ray: pip install -e '.[bench]'"

Measure = Callable[[], dict]


class Bench:
    """Takes turns between the sides, so that a drift of the machine hits all of them."""

    def __init__(self, processes: FreshProcesses, repeats: int, import_repeats: int) -> None:
        self.processes = processes
        self.repeats = repeats
        self.import_repeats = import_repeats
        self.failures: list[str] = []
        self.raw: dict[str, dict[str, list[dict]]] = {}

    def interleave(
        self, name: str, sides: dict[str, Measure], repeats: int
    ) -> dict[str, list[dict]]:
        """Return the results of each side, one per repetition."""
        results: dict[str, list[dict]] = {side: [] for side in sides}
        self.raw[name] = results
        for repeat in range(repeats):
            for side, measure in sides.items():
                print(f"{name}, {repeat + 1} of {repeats}: {side}", file=sys.stderr, flush=True)
                results[side].append(self._measured(f"{name}: {side}", measure))
        return results

    def _measured(self, what: str, measure: Measure) -> dict:
        """Measure; once more if it fails, as a peer may on a crowded machine."""
        try:
            return measure()
        except MeasurementError as error:
            print(error, file=sys.stderr, flush=True)
            self.failures.append(what)
            return measure()

    def save_for_peers(self, work: Work) -> str:
        """Write the rows of each client where the peers find them."""
        data = str(self.processes.scratch / f"{work.name}.npz")
        self.processes.measure("ours", "save_for_peers", work.name, data)
        return data

    # --- the promises -------------------------------------------------------------------------

    def first_round(self) -> Iterator[Row]:
        """From ``lab.run`` to the first round's losses, against Flower's simulation."""
        go, name = self.processes.measure, IRIS.name
        data = self.save_for_peers(IRIS)
        sides: dict[str, Measure] = {"ours": lambda: go("ours", "first_round", name)}
        if _has_ray():
            sides["flower"] = lambda: go("flower_simulation", "first_round", name, data)
        results = self.interleave("first_round", sides, self.repeats)
        title, goal = f"first round, iris, {IRIS.clients} clients", "< 1 s and <= 1/20"
        mine = Sample("lab.run", [r["seconds"] for r in results["ours"]])
        if "flower" not in results:
            yield Row(title, mine, None, "not measured", goal, None, [NO_RAY])
            return
        peer = Sample("Flower's simulation", [r["seconds"] for r in results["flower"]])
        value, text = ratio(mine, peer)
        met = mine.median < 1 and value <= 1 / 20
        yield Row(title, mine, peer, text, goal, met, same_work(results))

    def lenet_round(self) -> Iterator[Row]:
        """Seconds per round, against Flower's simulation and plain PyTorch."""
        go, name = self.processes.measure, LENET.name
        data = self.save_for_peers(LENET)
        sides: dict[str, Measure] = {"ours": lambda: go("ours", "lenet_round", name)}
        if _has_ray():
            sides["flower"] = lambda: go("flower_simulation", "lenet_round", name, data)
        for variant in VARIANTS:
            sides[variant] = lambda v=variant: go("plain_pytorch", "lenet_round", name, data, v)
        results = self.interleave("lenet_round", sides, self.repeats)
        title = f"round of LeNet, {LENET.clients} clients x 300 images"
        notes = [*same_work(results), *_said(results)]
        mine = rounds("lab.run", results["ours"])
        if "flower" in results:
            peer = rounds("Flower's simulation", results["flower"])
            value, text = ratio(mine, peer)
            yield Row(title, mine, peer, text, "<= 0.5 x", value <= 0.5, notes)
        else:
            yield Row(title, mine, None, "not measured", "<= 0.5 x", None, [NO_RAY])
        plain = [rounds(f"plain PyTorch, {variant}", results[variant]) for variant in VARIANTS]
        plain.sort(key=lambda sample: sample.median)
        value, text = ratio(mine, plain[0])
        yield Row(title, mine, plain[0], text, "<= 1.15 x", value <= 1.15, notes)
        for slower in plain[1:]:
            yield Row(title, mine, slower, ratio(mine, slower)[1])

    def lenet_processes(self) -> Iterator[Row]:
        """Seconds per round of a long run, in which worker processes pay, against plain PyTorch."""
        go, name = self.processes.measure, LENET_LONG.name
        data = self.save_for_peers(LENET_LONG)
        sides: dict[str, Measure] = {"ours": lambda: go("ours", "lenet_round", name)}
        for variant in VARIANTS:
            sides[variant] = lambda v=variant: go(
                "plain_pytorch", "lenet_round", LENET_LAST.name, data, v
            )
        results = self.interleave("lenet_processes", sides, self.repeats)
        for found in results.values():
            for result in found:
                result["rounds"] = result["rounds"][-LAST_ROUNDS:]
        kept = sum("worker processes from here on" in result["log"] for result in results["ours"])
        notes = [
            *same_work(results),
            f"ours: worker processes were kept in {kept} of {len(results['ours'])} runs",
        ]
        mine = rounds("lab.run", results["ours"])
        plain = [rounds(f"plain PyTorch, {variant}", results[variant]) for variant in VARIANTS]
        plain.sort(key=lambda sample: sample.median)
        title = f"round of LeNet in a long run, {LENET_LONG.clients} clients x 300 images"
        for place, peer in enumerate(plain):
            value, text = ratio(mine, peer)
            goal, met = ("", None) if place else ("<= 1.15 x", value <= 1.15)
            yield Row(title, mine, peer, text, goal, met, [] if place else notes)

    def imports(self) -> Iterator[Row]:
        """What ``import flautim_lab`` adds, and what it loads."""
        sides: dict[str, Measure] = {
            "peer": lambda: imports.peer(self.processes),
            "ours": lambda: imports.ours(self.processes),
            "in use": lambda: imports.in_use(self.processes),
        }
        results = self.interleave("imports", sides, self.import_repeats)
        peer = Sample("import torch, flwr.serverapp", [r["seconds"] for r in results["peer"]])
        for side, title, goal in (
            ("ours", "import flautim_lab", "< 0.3 s more"),
            ("in use", "import and name CSVDataset, Experiment, run", ""),
        ):
            mine = Sample("the same and ours", [r["seconds"] for r in results[side]])
            more = mine.median - peer.median
            alone = statistics.median(r["alone"] for r in results[side])
            # The difference of two long times is rough; the import by itself is not.
            text = f"{more:+.3f} s; by itself {alone:.3f} s"
            met = max(more, alone) < 0.3 if goal else None
            yield Row(title, mine, peer, text, goal, met)
        loaded = sorted({name for r in results["ours"] for name in r["loaded"]})
        found = f"loads {', '.join(loaded) or 'none of them'}"
        goal = f"none of {', '.join(imports.UNWANTED)}"
        yield Row("import flautim_lab", None, None, found, goal, not loaded)

    def live_view(self) -> Iterator[Row]:
        """What showing a run in a cell adds to the run itself."""
        go, name = self.processes.measure, LENET.name
        sides: dict[str, Measure] = {
            "not shown": lambda: go("live_view", "seconds", name, "not shown"),
            "shown": lambda: go("live_view", "seconds", name, "shown"),
        }
        results = self.interleave("live_view", sides, self.repeats)
        mine = Sample("shown", [r["seconds"] for r in results["shown"]])
        peer = Sample("not shown", [r["seconds"] for r in results["not shown"]])
        more = 100 * (mine.median / peer.median - 1)
        used = {
            side: statistics.median(result["cpu_seconds"] for result in found)
            for side, found in results.items()
        }
        cpu = 100 * (used["shown"] / used["not shown"] - 1)
        notes = [
            f"{cpu:+.1f} % CPU seconds of the kernel, which other load moves less",
            *_said(results),
        ]
        text = f"{more:+.1f} %"
        yield Row("live view of a LeNet run", mine, peer, text, "< 5 % more", more < 5, notes)


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "first_round": Bench.first_round,
    "lenet_round": Bench.lenet_round,
    "lenet_processes": Bench.lenet_processes,
    "imports": Bench.imports,
    "live_view": Bench.live_view,
    "engine_overhead": engine_rows.engine_overhead,
    "engine_start": engine_rows.engine_start,
    "engine_growth": engine_rows.engine_growth,
    "flute": cohort_rows.flute,
    "flute_flower": cohort_rows.flute_flower,
    "flute_evaluated": cohort_rows.flute_evaluated,
    "crowd": cohort_rows.crowd,
    "micro_fl_clients": cohort_rows.micro_fl_clients,
    "many": cohort_rows.many,
    "whole": cohort_rows.whole,
}
NAMES = tuple(MEASURES)


def main() -> int:
    """Run the benchmarks that were asked for; 0 if all goals that were measured are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repetition: does it work at all?")
    parser.add_argument("--only", choices=NAMES, action="append", help="may be given several times")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    options = parser.parse_args()
    repeats = 1 if options.quick else max(1, options.repeats)
    facts = machine() | {"repetitions": str(repeats)}
    rows: list[Row] = []
    broken = False
    with FreshProcesses() as processes:
        bench = Bench(processes, repeats, 1 if options.quick else IMPORT_REPEATS)
        for name in options.only or NAMES:
            try:
                rows += MEASURES[name](bench)
            except MeasurementError as error:
                broken = True
                print(error, file=sys.stderr)
                rows.append(Row(name, None, None, "could not be measured"))
        if processes.left_behind:
            facts["had to be killed"] = ", ".join(sorted(set(processes.left_behind)))
        if bench.failures:
            facts["failed and was measured again"] = ", ".join(bench.failures)
    print(write(RESULTS, rows, facts, bench.raw))
    print(f"Written to {RESULTS.relative_to(ROOT)}: bench.md, bench.json, bench.png")
    return int(broken or any(row.met is False for row in rows))


def _said(results: dict[str, list[dict]]) -> list[str]:
    """Return in how many runs of ours the clients went back to training in turn."""
    notes = []
    for side, found in results.items():
        turned = sum("clients train in turn" in result.get("log", "") for result in found)
        if turned:
            notes.append(f"{side}: in {turned} of {len(found)} runs one thread was thought as fast")
    return notes


def _has_ray() -> bool:
    return find_spec("ray") is not None


if __name__ == "__main__":
    sys.exit(main())
