"""What the live view costs a run: the same experiment in a real kernel, shown and not shown."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from work import Work

ROUNDS = 6

# Cells as notebooks have them: what is imported, what is learned, and the run.
_IMPORT = """
import sys, time
sys.path.insert(0, {folder!r})
from ours import make_experiment
from work import WORKS
import flautim_lab as lab
"""
_MAKE = """
made = make_experiment(WORKS[{work!r}], rounds={rounds}, validation=0.2)
lab.run
"""
# Not run.wait(): where no view is shown it tells its progress as text, which costs a little, too.
_WAIT = """
while not run.status.ended:
    time.sleep(0.5)
cpu_seconds = time.process_time() - began
"""
_TELL = """
import json
record = run.record
print(json.dumps({"seconds": record.finished - record.started, "status": str(run.status),
                  "cpu_seconds": cpu_seconds, "log": run.logs()}))
"""


def seconds(work: Work, shown: str) -> dict:
    """Return the run's own seconds, from its records, and the CPU seconds of the kernel meanwhile.

    Parameters
    ----------
    work : Work
    shown : {"shown", "not shown"}
        Whether the cell that starts the run ends with it, so that the kernel displays it.
    """
    imports = _IMPORT.format(folder=str(Path(__file__).parent))
    make = _MAKE.format(work=work.name, rounds=ROUNDS)
    start = "began = time.process_time()\nrun = lab.run(made)" + (
        "\nrun" if shown == "shown" else ""
    )
    cells = [
        nbformat.v4.new_code_cell(code.strip()) for code in (imports, make, start, _WAIT, _TELL)
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    result = json.loads(cells[-1].outputs[-1].text)
    if result["status"] != "finished":
        raise RuntimeError(f"the run {result['status']}")
    displayed = [out.data for out in cells[2].outputs if out.output_type == "display_data"]
    if bool(displayed) != (shown == "shown"):
        raise RuntimeError(f"the run should be {shown}, and the cell has {len(displayed)} displays")
    return result
