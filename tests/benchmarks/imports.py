"""What ``import flautim_lab`` costs and loads, in fresh interpreters."""

from __future__ import annotations

from fresh_process import MARK, FreshProcesses

UNWANTED = ("kubernetes", "papermill", "ipywidgets", "matplotlib")

_TIMED = """
import json, sys, time
begin = time.perf_counter()
{statements}
seconds = time.perf_counter() - begin
loaded = [name for name in {unwanted!r} if name in sys.modules]
print({mark!r} + json.dumps({{"seconds": seconds, "loaded": loaded, **extra}}))
"""
_PEER = "import torch, flwr.serverapp\nextra = {}"
_OURS = """
import torch, flwr.serverapp
middle = time.perf_counter()
import flautim_lab
extra = {"alone": time.perf_counter() - middle}
"""
_IN_USE = """
import torch, flwr.serverapp
middle = time.perf_counter()
import flautim_lab as lab
lab.CSVDataset, lab.Experiment, lab.run
extra = {"alone": time.perf_counter() - middle}
"""


def peer(processes: FreshProcesses) -> dict:
    """Import torch and Flower's server."""
    return _time(processes, _PEER)


def ours(processes: FreshProcesses) -> dict:
    """The same, and Flautim Lab; ``alone`` is the last import by itself."""
    return _time(processes, _OURS)


def in_use(processes: FreshProcesses) -> dict:
    """The same, with the names that a first experiment uses: the package loads them then."""
    return _time(processes, _IN_USE)


def _time(processes: FreshProcesses, statements: str) -> dict:
    code = _TIMED.format(statements=statements.strip(), unwanted=UNWANTED, mark=MARK)
    return processes.python("-c", code)
