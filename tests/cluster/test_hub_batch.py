"""A batch as pods, asked for in a notebook pod of a hub: its command and the service are killed.

The three images of ``make laptop-images`` must be there, as for ``test_hub.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.cluster.asking import Asking, in_a_notebook
from tests.cluster.conftest import left_in
from tests.cluster.hub import hub_on_the_cluster, kubectl
from tests.cluster.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
RERUN = """\
cd notebooks && echo $$ > /tmp/batch-pid && exec flautim-lab rerun 01_first_experiment.ipynb \
-p rounds 20 --seeds 4 --jobs 2 --on cluster -o batch
"""
MADE = """\
import json
from pathlib import Path
from flautim_lab.runners.stamp import read_stamp

points = sorted(Path("notebooks/batch/points").glob("*.ipynb"))
print(json.dumps({path.name: read_stamp(path) for path in points}))
"""
WHOLE = """\
import flautim_lab as lab

batch = lab.Batch.read("notebooks/batch")
print(batch.finished, len(set(batch.runs)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_on_the_cluster(tmp_path_factory.mktemp("hub")) as made:
        yield made


@pytest.fixture(scope="module")
def ana(hub):
    made = Asking(hub).by_password("ana")
    made.start("ana")
    yield made
    made.close()


def rerun(hub):
    command = ["kubectl", "exec", "-n", hub.institution, "jupyter-ana", "--", "sh", "-c", RERUN]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def made(hub):
    return json.loads(in_a_notebook(hub.institution, "ana", MADE))


def test_a_batch_outlives_its_command_and_the_service(api, hub, ana):
    with rerun(hub) as cut_off:
        wait_until(lambda: made(hub), "a first point")
        in_a_notebook(
            hub.institution, "ana",
            "import os; os.kill(int(open('/tmp/batch-pid').read()), 9)",
        )  # fmt: skip
        said, _ = cut_off.communicate(timeout=60)
    assert cut_off.returncode == 137, said
    before = made(hub)
    assert 0 < len(before) < 4
    jobs = [name for name in left_in(api, [hub.institution]) if name.startswith("V1Job ")]
    assert len(jobs) == 1

    with rerun(hub) as again:
        wait_until(lambda: len(made(hub)) > len(before), "a further point")
        assert [x for x in left_in(api, [hub.institution]) if x.startswith("V1Job ")] == jobs
        label = "app.kubernetes.io/name=service"
        kubectl("delete", "pod", "-n", hub.namespace, "-l", label, "--grace-period=0", "--force")
        said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert in_a_notebook(hub.institution, "ana", WHOLE).split() == ["True", "4"]
    after = made(hub)
    assert {name: after[name] for name in before} == before  # not done twice
    kubectl("rollout", "status", "-n", hub.namespace, "deployment/service")
    assert ana.service("GET", "/batches").json() == []
    wait_until(lambda: not left_in(api, [hub.institution]), "objects of the batch are left")
