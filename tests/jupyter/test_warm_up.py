"""What shows a run is loaded once the cell that imported us has ended, and once only."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
from ipykernel.inprocess.manager import InProcessKernelManager
manager = InProcessKernelManager()
manager.start_kernel()
client = manager.client()
client.start_channels()

def loading():
    return [t for t in threading.enumerate() if t.name == "flautim-warm-up"]

seen = []
sys.modules["__main__"].look = lambda: seen.append("matplotlib" in sys.modules)
manager.kernel.shell.user_ns["look"] = sys.modules["__main__"].look
client.execute("import flautim_lab; look()")
for thread in loading():
    thread.join(60)
loaded = {"matplotlib.backends.backend_agg", "ipywidgets", "flautim_lab.jupyter.live_view"}
print(seen, sorted(loaded - set(sys.modules)), "matplotlib.pyplot" in sys.modules)
client.execute("1")
print(loading())
"""


def test_after_the_cell_that_imports_not_in_it():
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True
    )
    assert out.stdout.splitlines() == ["[False] [] False", "[]"]
