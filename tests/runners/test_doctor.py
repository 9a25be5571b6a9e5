"""What doctor says of a machine where something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flautim_lab.runners import doctor
from flautim_lab.runners.doctor import Check, examine

ABANDONED = """\
import os
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records

records = Records.default()
records.create_run(
    "r1-left", name="left", runner="local", rounds=3, clients=1, settings={}, plan={}
)
Recorder(records, "r1-left").status("running")
os._exit(1)
"""


def by_name() -> dict[str, Check]:
    return {check.name: check for check in examine()}


def test_a_machine_in_order(home: Path) -> None:
    checks = by_name()
    assert {check.state for check in checks.values()} <= {"ok", "missing"}
    assert checks["python"].found.endswith(f"({sys.executable})")
    assert "thread" in checks["torch"].found
    assert checks["records"].found == f"{home / 'records.db'}, 0 runs"
    # What is missing says how to get it, and what is there needs no advice.
    assert all(bool(check.advice) == (check.state == "missing") for check in checks.values())


def test_a_home_that_is_a_file(home: Path) -> None:
    home.write_text("a file")
    check = by_name()["home"]
    assert check.state == "problem"
    assert "is a file, not a folder" in check.found


def test_records_that_are_no_database(home: Path) -> None:
    home.mkdir()
    (home / "records.db").write_text("no database " * 100)
    checks = by_name()
    assert checks["home"].state == "ok"
    assert checks["records"].state == "problem"
    assert "runner local" not in checks


def test_runs_whose_process_died_are_named() -> None:
    subprocess.run([sys.executable, "-c", ABANDONED], check=False)
    assert by_name()["interrupted runs"] == Check(
        "interrupted runs",
        "ok",
        "r1-left",
        "their process ended before they did; what they recorded is kept",
    )


def test_a_flower_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another Flower cannot be installed beside this one: only its version is pretended.
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "1.99.0" if name == "flwr" else real(name))
    check = by_name()["flwr"]
    assert check.state == "problem"
    assert check.found == "1.99.0 (<1.42,>=1.41 is supported)"
    assert check.advice == "pip install 'flwr<1.42,>=1.41'"


def test_little_space_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_SPACE", sys.maxsize)
    check = by_name()["home"]
    assert check.state == "problem"
    assert check.advice == "free some space there, or move FLAUTIM_LAB_HOME"
