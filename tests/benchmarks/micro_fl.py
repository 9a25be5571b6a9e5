"""Repeat the evaluation of Micro-FL on ``on="processes"``: healthy, server killed, worker killed.

``python tests/benchmarks/micro_fl.py [--quick] [--clients 10,20,40,80,160] [--repeats N]``. What is
measured is written above the table, in ``build/bench/micro_fl.md``.
"""

from __future__ import annotations

import argparse
import json
import sys

import fresh_process
from fresh_process import HERE, ROOT, FreshProcesses, MeasurementError
from micro_fl_report import Results, write
from micro_fl_run import CONDITIONS, SEED
from micro_fl_work import make_digits
from report import machine

RESULTS = ROOT / "build" / "bench"
CLIENTS = (10, 20, 40, 80, 160)
REPEATS = 3
ROUNDS = 20
# As many as MNIST's 60000 are for a hundred clients. Each client brings its own: with more of them
# there is more work, and throughput says whether the server keeps up.
ROWS_PER_CLIENT = 600
QUICK_CLIENTS = (10,)
QUICK_ROUNDS = 10
LIMIT_SECONDS = 1800  # of one run: the largest takes some minutes on two cores


class Evaluation:
    """Runs the conditions in turn, so that a drift of the machine hits all of them."""

    def __init__(self, processes: FreshProcesses, rounds: int, repeats: int) -> None:
        self.processes = processes
        self.repeats = repeats
        self.results = Results({}, rounds, ROWS_PER_CLIENT)
        self.failures: list[str] = []

    def add(self, clients: int) -> None:
        """Measure with so many clients."""
        data = str(self.processes.scratch / f"digits-{clients}.npz")
        make_digits(data, clients * ROWS_PER_CLIENT, SEED)
        found: dict[str, list[dict]] = {condition: [] for condition in CONDITIONS}
        for repeat in range(self.repeats):
            for condition in CONDITIONS:
                print(
                    f"{clients} clients, {repeat + 1} of {self.repeats}: {condition}",
                    file=sys.stderr,
                    flush=True,
                )
                facts = {"data": data, "clients": clients, "rounds": self.results.rounds}
                facts["condition"] = condition
                found[condition].append(
                    self.processes.python(str(HERE / "micro_fl_run.py"), json.dumps(facts))
                )
        self.results.runs[clients] = found


def main() -> int:
    """Measure; 0 if every run that was struck ended with the weights of the healthy one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="once, and few: does it work at all?")
    parser.add_argument(
        "--clients", type=_numbers, help=f"default {','.join(map(str, CLIENTS))}", metavar="N,N,..."
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    options = parser.parse_args()
    repeats = 1 if options.quick else max(1, options.repeats)
    numbers = options.clients or (QUICK_CLIENTS if options.quick else CLIENTS)
    facts = machine() | {"repetitions": str(repeats)}
    fresh_process.LIMIT_SECONDS = LIMIT_SECONDS
    text = ""
    with FreshProcesses() as processes:
        evaluation = Evaluation(processes, QUICK_ROUNDS if options.quick else ROUNDS, repeats)
        for clients in numbers:
            try:
                evaluation.add(clients)
            except MeasurementError as error:
                print(error, file=sys.stderr, flush=True)
                evaluation.failures.append(f"{clients} clients: could not be measured")
            else:
                facts["workers"] = str(evaluation.results.runs[clients]["healthy"][0]["workers"])
            if processes.left_behind:
                facts["had to be killed"] = ", ".join(sorted(set(processes.left_behind)))
            # After each number: what was measured is not lost when a later one is interrupted.
            text = write(RESULTS, evaluation.results, facts, evaluation.failures)
    print(text)
    print(f"Written to {RESULTS.relative_to(ROOT)}: micro_fl.md, micro_fl.json, micro_fl.png")
    return int(bool(evaluation.failures or evaluation.results.wrong()))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(sorted({int(part) for part in text.split(",")}))
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("a run takes one client at least")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
