"""``python -m hub_local.tied COMMAND ...``: a command that ends when who started it does.

JupyterHub, killed, leaves its proxy, its services and its users' servers alone, which suits a hub
that is to find them again; here nothing is to stay behind. The system sends SIGTERM (Linux).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command; does not return."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that was asked for
            sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - what it is for


if __name__ == "__main__":
    main()
