"""``make hub``: get together what a hub on this machine needs, and be it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from pathlib import Path

from flautim_lab.home import HOME_VARIABLE
from flautim_lab.records.artifacts import write_atomic
from hub_local.proxy import proxy_command
from hub_local.seed import seed

ROOT = Path(__file__).parents[1]
INSTITUTIONS = Path(__file__).with_name("institutions.json")
PORT_VARIABLE = "HUB_PORT"
PORT = 8000


def main(folder: Path, proxy_folder: Path | None = None) -> None:
    """Start the hub, whose files are all in ``folder``; does not return.

    Parameters
    ----------
    folder : Path
    proxy_folder : Path, optional
        Where the proxy is installed, or is to be; ``folder / "proxy"`` by default.

    Raises
    ------
    SystemExit
        With one sentence, for what keeps it from starting.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port = _port(os.environ.get(PORT_VARIABLE) or str(PORT))
    sys.stdout.write("The hub is starting; its address follows once it answers.\n")
    sys.stdout.flush()
    proxy = proxy_command(proxy_folder or folder / "proxy")
    passwords = _passwords(folder / "passwords.json")
    os.environ[HOME_VARIABLE] = str(folder / "service")
    seed(INSTITUTIONS, ROOT / "notebooks" / "iris.csv")
    inner = _free_ports(3)
    environment = os.environ | {
        "FLAUTIM_LAB_HUB_FOLDER": str(folder),
        "FLAUTIM_LAB_HUB_PORTS": " ".join(map(str, (port, *inner))),
        "FLAUTIM_LAB_INSTITUTIONS": str(INSTITUTIONS),
        "FLAUTIM_LAB_LOGIN_PASSWORD": passwords["user"],
        "FLAUTIM_LAB_ADMIN_PASSWORD": passwords["admin"],
        "FLAUTIM_LAB_PROXY": "\n".join(proxy),
        "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
    }
    config = Path(__file__).with_name("jupyterhub_config.py")
    command = [sys.executable, "-m", "jupyterhub", "--log-level=WARN", "--config", str(config)]
    os.chdir(folder)
    os.execve(sys.executable, command, environment)  # noqa: S606 - JupyterHub takes over


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        sys.exit(f"{PORT_VARIABLE} must be the number of a port, not {text!r}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError:
            sys.exit(f"port {text} is taken; choose another: make hub {PORT_VARIABLE}=8100")
    return int(text)


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _passwords(path: Path) -> dict[str, str]:
    """Return the passwords, made once; only who starts the hub may read them."""
    if not path.exists():
        made = {"user": secrets.token_hex(8), "admin": secrets.token_hex(20)}
        write_atomic(path, json.dumps(made).encode())
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
