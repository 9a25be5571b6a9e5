"""One measurement in a process of its own: ``measure.py MODULE FUNCTION WORK [ARGUMENT ...]``."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

from fresh_process import MARK
from work import WORKS

if __name__ == "__main__":
    module, function, work, *arguments = sys.argv[1:]
    try:
        result = getattr(importlib.import_module(module), function)(WORKS[work], *arguments)
    except BaseException:
        # Flower's simulation leaves a thread that waits for ever when it fails.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    print(MARK + json.dumps(result))
