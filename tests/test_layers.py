"""The layers of ARCHITECTURE.md hold, and importing the package stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


HEAVY = ["kubernetes", "papermill", "ipywidgets", "matplotlib", "pandas", "sqlalchemy", "torch"]


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import flautim_lab") == set()


def test_a_run_loads_neither_widgets_nor_kubernetes():
    statement = "import flautim_lab as lab; lab.run; lab.Experiment; lab.CSVDataset"
    loaded = loaded_after(statement)
    assert loaded.isdisjoint({"kubernetes", "papermill", "ipywidgets", "matplotlib"})


def test_every_file_can_be_read_in_one_sitting():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "flautim_lab").rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 550
    }
    assert not long
