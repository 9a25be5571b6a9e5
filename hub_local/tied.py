"""``python -m hub_local.tied COMMAND ...``: a command that ends when who started it does.

JupyterHub, killed, leaves its proxy, its services and its users' servers alone, which suits a hub
that is to find them again; here nothing is to stay behind. The system sends SIGTERM (Linux).
"""

from __future__ import annotations

import os
import signal
import sys

from flautim_lab.training.orphans import die_with_parent


def main() -> None:
    """Become the command; does not return."""
    die_with_parent(os.getppid(), signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - what it is for


if __name__ == "__main__":
    main()
