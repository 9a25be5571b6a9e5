"""The promises about runs as processes, beside Flower's deployment engine on the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
from flower_engine import is_installed
from report import Row, Sample, ratio
from sides import rounds, same_work
from work import IRIS

if TYPE_CHECKING:
    from run import Bench

IDLE_CLIENTS = 2
START_CLIENTS = 4
GROWTH_CLIENTS = (2, 4, 8, 16, 32)
FEW_WORKERS = 2
GROWTH_REPEATS = 3  # nine runs each; memory varies little
NO_ENGINE = "Flower's flower-superlink and its like are not beside this Python: pip install flwr"
NO_PSS = "this system does not tell how much memory processes share (PSS); Linux does"


def engine_overhead(bench: Bench) -> Iterator[Row]:
    """Seconds per round of clients that compute nothing."""
    go, name, clients = bench.processes.measure, IRIS.name, str(IDLE_CLIENTS)
    sides = {"ours": lambda: go("engine", "overhead", name, clients)}
    if is_installed():
        sides["flower"] = lambda: go("flower_engine", "overhead", name, clients)
    results = bench.interleave("engine_overhead", sides, bench.repeats)
    title = f"round of {clients} clients that compute nothing, on processes"
    mine = rounds(f"{clients} workers, TLS on", results["ours"])
    met = mine.median <= 0.3
    if "flower" not in results:
        yield Row(title, mine, None, "not measured", "<= 0.3 s", met, [NO_ENGINE])
        return
    peer = rounds(f"flwr run, {clients} SuperNodes, TLS off", results["flower"])
    yield Row(title, mine, peer, ratio(mine, peer)[1], "<= 0.3 s", met)


def engine_start(bench: Bench) -> Iterator[Row]:
    """From nothing to the first round's losses."""
    go, name, clients = bench.processes.measure, IRIS.name, str(START_CLIENTS)
    data = str(bench.processes.scratch / "engine.npz")
    go("engine", "save_for_peers", name, clients, data)
    sides = {"ours": lambda: go("engine", "start", name, clients)}
    if is_installed():
        sides["flower"] = lambda: go("flower_engine", "start", name, clients, data)
    results = bench.interleave("engine_start", sides, bench.repeats)
    title = f"first round on processes, iris, {clients} clients"
    mine = Sample("lab.run", [result["seconds"] for result in results["ours"]])
    if "flower" not in results:
        yield Row(title, mine, None, "not measured", notes=[NO_ENGINE])
        return
    notes = same_work(results)
    for label, key in (
        (f"SuperLink, {clients} SuperNodes and flwr run", "seconds"),
        ("flwr run alone, the others being up", "run_seconds"),
    ):
        peer = Sample(label, [result[key] for result in results["flower"]])
        yield Row(title, mine, peer, ratio(mine, peer)[1], notes=notes)


def engine_growth(bench: Bench) -> Iterator[Row]:
    """Memory and seconds per round as clients are added, each in a worker of its own or not."""
    title = "round of {} clients on processes"
    if not _has_pss():
        yield Row(title.format("2 to 32"), None, None, "not measured", notes=[NO_PSS])
        return
    go, name = bench.processes.measure, IRIS.name
    sides = {
        f"{clients} clients in {workers} workers": (
            lambda c=str(clients), w=str(workers): go("engine", "growth", name, c, w)
        )
        for clients in GROWTH_CLIENTS
        for workers in sorted({clients, FEW_WORKERS})
    }
    results = bench.interleave("engine_growth", sides, min(bench.repeats, GROWTH_REPEATS))

    def of(clients: int, workers: int) -> list[dict]:
        return results[f"{clients} clients in {workers} workers"]

    own = {clients: of(clients, clients) for clients in GROWTH_CLIENTS}
    few = {clients: of(clients, FEW_WORKERS) for clients in GROWTH_CLIENTS}
    for clients in GROWTH_CLIENTS:
        mine = rounds("a worker each", own[clients])
        if clients == FEW_WORKERS:
            yield Row(title.format(clients), mine, None, f"{_megabytes(own[clients])} MB")
            continue
        peer = rounds(f"in {FEW_WORKERS} workers", few[clients])
        memory = f"{_megabytes(own[clients])} against {_megabytes(few[clients])} MB"
        yield Row(title.format(clients), mine, peer, f"{ratio(mine, peer)[1]}; {memory}")
    notes = [
        *_lines("a worker each, per further worker", own),
        *_lines(f"in {FEW_WORKERS} workers, per further client", few),
    ]
    yield Row("growth on processes", None, None, "as lines: see below", notes=notes)


def _lines(which: str, results: dict[int, list[dict]]) -> list[str]:
    """Return the lines of least squares through all measurements, of memory and of seconds."""
    found = [(count, result) for count, of_count in results.items() for result in of_count]
    memory = [(count, result["bytes"] / 1e6) for count, result in found]
    seconds = [(count, statistics.median(result["rounds"])) for count, result in found]
    return [f"{which}: {line(memory, 'MB')}", f"{which}: {line(seconds, 's a round')}"]


def line(points: list[tuple[int, float]], unit: str) -> str:
    """Return how steep the line through the points is, and how well it fits them."""
    x, y = zip(*points, strict=True)
    slope, begin = statistics.linear_regression(x, y)
    # R² alone would condemn a flat line: it explains nothing, and yet no point is far from it.
    off = max(abs(b - (begin + slope * a)) for a, b in points)
    squared = statistics.correlation(x, y) ** 2
    return f"{slope:.3g} {unit} (R² {squared:.3f}; every point within {off:.3g} of the line)"


def _megabytes(results: list[dict]) -> str:
    return f"{statistics.median(result['bytes'] for result in results) / 1e6:.0f}"


def _has_pss() -> bool:
    return "pss" in psutil.Process().memory_full_info()._fields
