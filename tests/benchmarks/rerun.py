"""A grid over the first notebook: ``flautim-lab rerun`` beside one ``papermill`` after another.

``python tests/benchmarks/rerun.py [--rounds N] [--repeats N]``: 12 points (2 strategies, 3 rates,
2 seeds) with ``papermill`` (called for each, and in a loop of one process), with ``--jobs 1`` and
with ``--jobs 2``, in turn; then a batch that is killed (``kill -9``) in the middle and begun again.
It prints the figures, and writes them to ``build/bench/rerun.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_first_experiment.ipynb"
GRID = {"strategy": ["FedAvg", "FedAdam"], "lr": ["0.003", "0.01", "0.03"], "seed": ["7", "8"]}
MOST_OVERHEAD = 0.05
SIDES = ("papermill", "in one process", "jobs 1", "jobs 2")


class Sides:
    """Both ways to execute the grid, each with a home and an output of its own."""

    def __init__(self, scratch: Path, rounds: int) -> None:
        self.scratch = scratch
        self.rounds = rounds
        self._number = 0

    def fresh(self) -> tuple[Path, dict[str, str]]:
        """Return a new folder, and an environment whose records lie in it."""
        self._number += 1
        folder = self.scratch / str(self._number)
        folder.mkdir()
        return folder, {**os.environ, "FLAUTIM_LAB_HOME": str(folder / "home")}

    def papermill(self) -> float:
        """Return the seconds of one call after another."""
        folder, environment = self.fresh()
        began = time.perf_counter()
        for number, values in enumerate(itertools.product(*GRID.values())):
            options = [("rounds", str(self.rounds)), *zip(GRID, values, strict=True)]
            subprocess.run(
                [sys.executable, "-m", "papermill", NOTEBOOK.name, str(folder / f"{number}.ipynb"),
                 "--no-progress-bar", "--log-level", "ERROR", "--kernel", "python3",
                 *(part for name, value in options for part in ("-p", name, value))],
                cwd=NOTEBOOK.parent, env=environment, check=True, capture_output=True,
            )  # fmt: skip
        return time.perf_counter() - began

    def papermill_in_one_process(self) -> float:
        """Return the seconds of a loop that imports papermill once, without that import."""
        folder, environment = self.fresh()
        combined = itertools.product(*GRID.values())
        points = [dict(zip(GRID, values, strict=True)) for values in combined]
        code = (
            "import json, sys, time, papermill\n"
            "points, source, folder, rounds = json.loads(sys.argv[1])\n"
            "began = time.perf_counter()\n"
            "for number, point in enumerate(points):\n"
            "    point |= {'lr': float(point['lr']), 'seed': int(point['seed'])}\n"
            "    point |= {'rounds': rounds}\n"
            "    papermill.execute_notebook(source, f'{folder}/{number}.ipynb', point,\n"
            "                               progress_bar=False, kernel_name='python3')\n"
            "print(time.perf_counter() - began)\n"
        )
        asked = json.dumps([points, NOTEBOOK.name, str(folder), self.rounds])
        done = subprocess.run(
            [sys.executable, "-c", code, asked],
            cwd=NOTEBOOK.parent, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return float(done.stdout.split()[-1])

    def rerun(self, jobs: int) -> dict:
        """Return the seconds of a batch, and those of its points by their own stamps."""
        folder, environment = self.fresh()
        began = time.perf_counter()
        subprocess.run(self.command(folder, jobs), env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "points": [float(r["seconds"]) for r in rows_of(folder)]}

    def command(self, folder: Path, jobs: int) -> list[str]:
        """Return the call for the whole grid."""
        grid = [
            part for name, values in GRID.items() for part in ("-g", f"{name}={','.join(values)}")
        ]
        return [
            sys.executable, "-m", "flautim_lab.cli", "rerun", str(NOTEBOOK), *grid,
            "-p", "rounds", str(self.rounds), "-j", str(jobs), "-o", str(folder / "out"),
        ]  # fmt: skip

    def killed(self, after: int) -> dict:
        """Kill a batch when so many points are done, begin it again, and count what was done."""
        folder, environment = self.fresh()
        command = self.command(folder, jobs=2)
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while sum(row["status"] == "finished" for row in rows_of(folder)) < after:
            if process.poll() is not None:
                raise RuntimeError("the batch ended before it was killed")
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        before = {row["run"]: row["point"] for row in rows_of(folder) if row["run"]}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        rows = rows_of(folder)
        kept = {row["run"]: row["point"] for row in rows if row["run"] in before}
        listed = subprocess.run(
            [sys.executable, "-m", "flautim_lab.cli", "runs", "--limit", "1000", "--json"],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
        states = [run["status"] for run in json.loads(listed.stdout)]
        return {
            "done_before_the_kill": len(before),
            "processes_left": len(alive),
            "finished": sum(row["status"] == "finished" for row in rows),
            "done_before_and_kept": len(kept),
            "different_runs": len({row["run"] for row in rows}),
            "runs_finished": states.count("finished"),
            "runs_cut_off": len(states) - states.count("finished"),
        }


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a summary; none where there is none yet."""
    with contextlib.suppress(FileNotFoundError), open(folder / "out" / "summary.csv") as file:
        return list(csv.DictReader(file))
    return []


def main() -> int:
    """Measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    number = len(list(itertools.product(*GRID.values())))
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as scratch:
        sides = Sides(Path(scratch), options.rounds)
        results: dict = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            results["papermill"].append({"seconds": sides.papermill()})
            results["in one process"].append({"seconds": sides.papermill_in_one_process()})
            results["jobs 1"].append(sides.rerun(1))
            results["jobs 2"].append(sides.rerun(2))
        results["killed"] = sides.killed(after=4)
    median = {
        side: statistics.median(result["seconds"] for result in results[side]) for side in SIDES
    }
    for side, seconds in median.items():
        print(f"{side:16} {seconds:7.1f} s for {number} points, {seconds / number:.2f} s a point")
    overhead = median["jobs 1"] / median["papermill"] - 1
    print(f"overhead of a point, --jobs 1, summary included: {overhead:+.1%} (goal: under 5 %)")
    own = statistics.median(sum(result["points"]) for result in results["jobs 1"])
    strict = own / median["in one process"] - 1
    print(f"points alone, against papermill's own loop in one process: {strict:+.1%}")
    faster = median["papermill"] / median["jobs 2"]
    print(f"--jobs 2 against one papermill after another: {faster:.2f} times as fast")
    killed = results["killed"]
    print("killed in the middle and begun again:", killed)
    whole = (
        killed["finished"] == killed["different_runs"] == killed["runs_finished"] == number
        and killed["done_before_and_kept"] == killed["done_before_the_kill"]
        and not killed["processes_left"]
    )
    path = ROOT / "build" / "bench" / "rerun.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"rounds": options.rounds, "median": median, "overhead": overhead}
    path.write_text(json.dumps({**told, "points alone": strict, **results}, indent=1))
    return 0 if whole and overhead < MOST_OVERHEAD else 1


if __name__ == "__main__":
    sys.exit(main())
