"""One measurement in a process of its own: ``measure.py MODULE FUNCTION WORK [ARGUMENT ...]``."""

from __future__ import annotations

import importlib
import json
import sys

from fresh_process import MARK
from work import WORKS

if __name__ == "__main__":
    module, function, work, *arguments = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)(WORKS[work], *arguments)
    print(MARK + json.dumps(result))
