"""What is left when a start breaks, in whatever way: nothing secret, and no pods unfollowed."""

from __future__ import annotations

import threading
import time

import pytest

from flautim_lab.catalog import opening
from flautim_lab.errors import ClusterError
from flautim_lab.pods.api import Unreachable
from flautim_lab.records.store import Records
from flautim_lab.service import dispatch
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.dispatch import Dispatch
from flautim_lab.service.hub import Caller
from flautim_lab.service.run_request import Request
from flautim_lab.service.settings import Settings
from tests.service.conftest import INSTITUTIONS, packed

ANA = Caller("ana", False, {"ufmg": "flautim-ufmg"})


def run_id(number=0):
    return f"r20261125-202140-iris-{number:08x}"


class Cluster:
    """Refuses what it is told to refuse, and writes down what is asked."""

    namespace = "here"

    def __init__(self):
        self.made, self.removed, self.trouble = 0, 0, None
        #: Cleared: a question what may be done is not answered, once.
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Semaphore(0)

    def check_access(self, namespaces):
        assert namespaces
        if not self.answers.is_set():
            self.asked.release()
            self.answers.wait(20)

    def spaces(self, run):
        return [run.namespace, *run.workers]

    def make(self, *_):
        self.made += 1
        trouble, self.trouble = self.trouble, None
        if trouble:
            raise trouble

    def remove(self, run):
        self.removed += 1
        return []

    def follow(self, *_):
        return []

    def failure(self, run):
        return ""

    def forward(self, *_):
        raise ClusterError("the server's pod is not running yet")


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    monkeypatch.setattr("flautim_lab.pods.api.Api", lambda context=None: made)
    monkeypatch.setattr("flautim_lab.runners.cluster_watch.STOP_SECONDS", 0.1)
    return made


@pytest.fixture
def runs(cluster):
    settings = Settings({key: each["namespace"] for key, each in INSTITUTIONS.items()})
    made = Dispatch(Records.default(), settings, Catalogs(opening.database()))
    yield made
    for record in Records.default().runs():
        Records.default().request_stop(record.id)
    made.close()
    wait_for(lambda: not made._following)


def asked():
    told = {"name": "iris", "rounds": 2, "clients": 3, "settings": {}, "plan": {}}
    return Request.model_validate(told | {"cluster": {"workers": 1}, "archive": ""})


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def secrets_of(run):
    folder = Records.default().folder(run) / "processes"
    return [p for p in folder.rglob("*") if p.suffix in (".key", ".pem", ".gz")]


def test_a_start_that_breaks_leaves_no_keys(runs, cluster, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(Records, "create_run", full)
    with pytest.raises(OSError, match="no space"):
        runs.start(run_id(), ANA, asked(), packed())
    assert secrets_of(run_id()) == []


def test_what_was_made_before_a_refusal_is_removed(runs, cluster):
    cluster.trouble = ClusterError("the quota is used up")
    with pytest.raises(ClusterError, match="the quota"):
        runs.start(run_id(), ANA, asked(), packed())
    wait_for(lambda: cluster.removed)
    wait_for(lambda: secrets_of(run_id()) == [])
    record = Records.default().run(run_id())
    assert (str(record.status), record.message) == ("failed", "the quota is used up")


def test_a_cluster_that_goes_away_meanwhile_is_waited_for(runs, cluster):
    cluster.trouble = Unreachable("the cluster does not answer")
    assert str(runs.start(run_id(), ANA, asked(), packed()).status) == "waiting"
    wait_for(lambda: cluster.made == 2)


def test_an_error_that_nobody_foresaw_does_not_end_the_following(runs, cluster, monkeypatch):
    monkeypatch.setattr(dispatch, "AGAIN_SECONDS", 0.05)
    watch, tries = dispatch.ClusterWatch.run, []

    def sometimes(self):
        tries.append(1)
        if len(tries) == 1:
            raise OverflowError("a number that no database holds")
        watch(self)

    monkeypatch.setattr(dispatch.ClusterWatch, "run", sometimes)
    runs.start(run_id(), ANA, asked(), packed())
    wait_for(lambda: len(tries) == 2)
    Records.default().request_stop(run_id())
    wait_for(lambda: str(Records.default().run(run_id()).status) == "stopped")
    assert cluster.removed


def test_a_service_that_died_before_it_removed_a_failed_run_removes_it_later(runs, cluster):
    runs.close()  # as if killed: the next one is told that it failed, and nobody removed it
    cluster.trouble = ClusterError("the quota is used up")
    with pytest.raises(ClusterError):
        runs.start(run_id(), ANA, asked(), packed())
    assert secrets_of(run_id())
    after = Dispatch(Records.default(), runs._settings, runs._catalogs)
    assert after.go_on() == [run_id()]
    wait_for(lambda: cluster.removed and not secrets_of(run_id()))
    wait_for(lambda: not after._following)
    assert Dispatch(Records.default(), runs._settings, runs._catalogs).go_on() == []


def test_a_user_has_only_so_many_runs_under_way(runs, cluster, monkeypatch):
    monkeypatch.setattr(dispatch, "MOST_UNDER_WAY", 2)
    for number in range(2):
        runs.start(run_id(number), ANA, asked(), packed())
    with pytest.raises(ClusterError, match="ana has 2 runs under way, and no more are let in"):
        runs.start(run_id(2), ANA, asked(), packed())
    runs.start(run_id(3), Caller("bruno", False, ANA.institutions), asked(), packed())
    assert not secrets_of(run_id(2))


def test_a_start_that_hangs_holds_up_nobody_elses(runs, cluster):
    bruno = Caller("bruno", False, ANA.institutions)
    cluster.answers.clear()
    ended = []

    def start(number, who):
        try:
            ended.append(runs.start(run_id(number), who, asked(), packed()).id)
        except ClusterError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=start, args=each) for each in ((1, ANA), (2, ANA))]
    for thread in threads:
        thread.start()
    assert cluster.asked.acquire(timeout=10)
    unblocked = cluster.answers
    cluster.answers = threading.Event()  # from now on it answers; the one before hangs
    cluster.answers.set()
    assert runs.start(run_id(3), bruno, asked(), packed()).id == run_id(3)
    assert ended == []  # of one user, one after the other: their number is counted
    # Nor can the id, or the names of the objects, of a start that hangs be taken.
    takers = threading.Thread(target=start, args=(1, bruno))
    takers.start()
    unblocked.set()
    for thread in [*threads, takers]:
        thread.join(20)
    taken = f"the run id {run_id(1)} is taken; run the experiment again"
    assert sorted(ended) == sorted([run_id(1), run_id(2), taken])


def test_a_run_is_not_removed_while_its_pods_are(runs, cluster, monkeypatch):
    removing, go_on = threading.Event(), threading.Event()

    def slowly(run):
        removing.set()
        assert go_on.wait(20)
        cluster.removed += 1
        return []

    monkeypatch.setattr(cluster, "remove", slowly)
    cluster.trouble = ClusterError("the quota is used up")
    with pytest.raises(ClusterError, match="the quota"):
        runs.start(run_id(), ANA, asked(), packed())
    assert removing.wait(20)
    with pytest.raises(ClusterError, match="are being removed; try again in a moment"):
        runs.remove(run_id())
    go_on.set()
    wait_for(lambda: not runs._following)
    runs.remove(run_id())
    assert Records.default().runs() == []
    assert cluster.removed == 1
