"""What a kubeconfig holds as text is in files for as long as the process lives, and no longer."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys

import pytest

from flautim_lab.scratch import PREFIX, remove_abandoned

CONNECT = """\
import sys
from flautim_lab.pods.api import Api
api = Api()
print(open(api._client.configuration.key_file).read(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def connected(tmp_path):
    """A process with a client, and the folder for its temporary files."""

    def text(name):
        return base64.b64encode(name.encode()).decode()

    user = {"client-certificate-data": text("certificate"), "client-key-data": text("the key")}
    cluster = {"server": "https://127.0.0.1:9", "certificate-authority-data": text("authority")}
    known = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "ana"}}],
        "clusters": [{"name": "one", "cluster": cluster}],
        "users": [{"name": "ana", "user": user}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(known))
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECT],
        env=os.environ
        | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "TMPDIR": str(tmp_path / "tmp")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "the key\n"
        yield process, tmp_path / "tmp"
    finally:
        process.kill()
        process.communicate()


def test_keys_go_with_the_process(connected):
    process, folder = connected
    (one,) = folder.iterdir()
    assert one.name.startswith(PREFIX)
    assert one.stat().st_mode & 0o077 == 0
    process.communicate()
    assert process.returncode == 0
    assert list(folder.iterdir()) == []


def test_keys_of_a_process_that_was_killed_are_removed_by_the_next(connected):
    process, folder = connected
    remove_abandoned(folder)
    assert len(list(folder.iterdir())) == 1  # it lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    remove_abandoned(folder)
    assert list(folder.iterdir()) == []
