"""What keeps the pods of a run from working, told as it changes: by watches, never by asking again.

Each watch goes on from the version where the last one ended. One that breaks off (the API server
is restarted, the machine slept) is begun again; the run does not mind meanwhile.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes import watch as k8s_watch

from flautim_lab.pods.manifests import ROLE_LABEL, RUN_LABEL, SERVER, WORKER, RunPods
from flautim_lab.pods.sentences import START_REASONS, not_started, refused, trouble

WATCH_SECONDS = 60  # of one watch; it goes on from where the last one ended
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 1.0
# A watch from here begins with what the API server knows, and does not wait for the newest: one
# that lags behind (an old etcd, a restart) would answer nothing but "too large version".
ANY = "0"
GONE = 410  # the API server has forgotten so old a version
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
JOB_LABEL = "batch.kubernetes.io/job-name"

NOT_MADE = "FailedCreate"  # the reason of an event: a Job was accepted, and a pod of it was not

ROLES = (SERVER, WORKER)
#: How many pods took the place of another since this process began, by their role.
replaced: Counter[str] = Counter()


class Follower:
    """Follows pods and jobs of one run in one namespace.

    Parameters
    ----------
    core, batch : CoreV1Api, BatchV1Api
    run : RunPods
    namespace : str
    say : callable
        Gets the name of a pod or of a job and a sentence, "" when it works again.
    lost : callable
        Gets the namespace and a sentence when none of its workers will ever work again.
    stopped : Event
    """

    def __init__(
        self,
        core: k8s.CoreV1Api,
        batch: k8s.BatchV1Api,
        run: RunPods,
        namespace: str,
        say: Callable[[str, str], None],
        lost: Callable[[str, str], None],
        stopped: threading.Event,
    ) -> None:
        self._core, self._batch = core, batch
        self._run, self._space = run, namespace
        self._say, self._lost = say, lost
        self._stopped = stopped
        self._begun = datetime.now(UTC)
        self._watches: set[k8s_watch.Watch] = set()
        self._looking = threading.Lock()
        self._said: dict[str, str] = {}
        self._last = ""
        #: By job: the pods that have not ended, how many there are to be, and why some are refused.
        self._living: dict[str, set[str]] = {}
        self._wanted: dict[str, int] = {}
        self._phases: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        #: By job and index: creation and name of the newest pod, and the names of all.
        self._newest: dict[tuple[str, str], tuple[Any, str]] = {}
        self._of_slot: dict[tuple[str, str], set[str]] = {}

    def start(self) -> list[threading.Thread]:
        """Start the watches, each in a thread of its own."""
        ours = {"label_selector": f"{RUN_LABEL}={self._run.name}"}
        # A Job is accepted and its pods are refused: only an event of the Job tells of it.
        refusals = {"field_selector": f"involvedObject.kind=Job,reason={NOT_MADE}"}
        # Nor does a pod's status tell of a volume that is held elsewhere, or of a broken node.
        starts = {"field_selector": "involvedObject.kind=Pod,type=Warning"}
        watched = (
            (self._core.list_namespaced_pod, ours, self._pod),
            (self._batch.list_namespaced_job, ours, self._job),
            (self._core.list_namespaced_event, refusals, self._event),
            (self._core.list_namespaced_event, starts, self._start_event),
        )
        threads = [
            threading.Thread(target=self._watch, args=each, name="follower", daemon=True)
            for each in watched
        ]
        threads.append(threading.Thread(target=self._close, name="closer", daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def _close(self) -> None:
        self._stopped.wait()
        for watch in list(self._watches):
            watch.stop()

    def _watch(
        self,
        listing: Callable[..., Any],
        selector: dict[str, str],
        look: Callable[[str, Any], None],
    ) -> None:
        for kind, thing in self._changes(listing, selector):
            with self._looking:
                look(kind, thing)

    def _changes(
        self, listing: Callable[..., Any], selector: dict[str, str]
    ) -> Iterator[tuple[str, Any]]:
        version = ANY
        while not self._stopped.is_set():
            watch = k8s_watch.Watch()
            self._watches.add(watch)
            try:
                for event in watch.stream(
                    listing,
                    self._space,
                    resource_version=version,
                    timeout_seconds=WATCH_SECONDS,
                    _request_timeout=(CONNECT_SECONDS, WATCH_SECONDS + CONNECT_SECONDS),
                    **selector,
                ):
                    version = event["object"].metadata.resource_version
                    yield event["type"], event["object"]
                    if self._stopped.is_set():
                        return
            except k8s.ApiException as error:
                if error.status == GONE:
                    version = ANY  # what there is now is told first
                    if listing == self._core.list_namespaced_pod:
                        with self._looking:
                            self._begin_anew()
                self._stopped.wait(RETRY_SECONDS)
            except (urllib3.exceptions.HTTPError, OSError):
                self._stopped.wait(RETRY_SECONDS)  # the API server is away; the run does not mind
            finally:
                self._watches.discard(watch)

    # --- what was seen; one at a time -------------------------------------------------------

    def _pod(self, kind: str, pod: Any) -> None:
        name, labels = pod.metadata.name, pod.metadata.labels or {}
        job = labels.get(JOB_LABEL, "")
        self._phases[name] = pod.status.phase
        ended = kind == "DELETED" or pod.status.phase in ("Failed", "Succeeded")
        living = self._living.setdefault(job, set())
        (living.discard if ended else living.add)(name)
        slot = (job, labels.get(INDEX_LABEL, ""))
        newest = self._newest.get(slot)
        if newest is None or pod.metadata.creation_timestamp > newest[0]:
            # Of what was there before anybody looked, who took whose place was counted then.
            if newest is not None and pod.metadata.creation_timestamp > self._begun:
                replaced[labels.get(ROLE_LABEL, "")] += 1
            newest = self._newest[slot] = (pod.metadata.creation_timestamp, name)
        # What was said of one that has ended stands until another has taken its place.
        if kind == "DELETED" or newest[1] != name:
            self._tell(name, "")
        else:
            self._tell(name, trouble(pod))
            if pod.status.phase == "Running":
                for other in self._of_slot.get(slot, set()) - {name}:
                    self._tell(other, "")
        self._of_slot.setdefault(slot, set()).add(name)
        self._tell_refused(job)

    def _begin_anew(self) -> None:
        """Forget the pods: some may have gone while the watch was away."""
        for name in {name for names in self._of_slot.values() for name in names}:
            self._tell(name, "")
        self._living.clear()
        self._phases.clear()
        self._newest.clear()
        self._of_slot.clear()

    def _job(self, kind: str, job: Any) -> None:
        name = job.metadata.name
        self._wanted[name] = 0 if kind == "DELETED" else job.spec.parallelism or 1
        for condition in (job.status and job.status.conditions) or ():
            if condition.status == "True" and condition.type in ("Complete", "Failed"):
                self._wanted[name] = 0
            failed = condition.type == "Failed" and condition.status == "True"
            if failed and name.endswith("-workers"):
                why = self._last or condition.message or condition.reason
                self._lost(self._space, f"no worker is left in {self._space}: {why}")
        self._tell_refused(name)

    def _event(self, kind: str, event: Any) -> None:
        job = event.involved_object.name
        if kind == "DELETED" or job not in (
            f"{self._run.name}-server",
            f"{self._run.name}-workers",
        ):
            return
        role = WORKER if job.endswith("-workers") else "server"
        self._refused[job] = refused(role, self._space, event.message)
        self._tell_refused(job)

    def _start_event(self, kind: str, event: Any) -> None:
        """Say what keeps a pod that has a node from starting there, until its status changes."""
        name = event.involved_object.name
        waits = self._phases.get(name) == "Pending" and not self._said.get(name)
        if kind != "DELETED" and waits and event.reason in START_REASONS:
            self._tell(name, not_started(name, event.reason, event.message))

    def _tell_refused(self, job: str) -> None:
        """Say that pods are refused for as long as some are missing."""
        if job not in self._refused or job not in self._wanted:
            return  # the watches tell in no order: how many there are to be may come last
        if len(self._living.get(job, ())) >= self._wanted[job]:
            del self._refused[job]
        self._tell(job, self._refused.get(job, ""))

    def _tell(self, name: str, sentence: str) -> None:
        if sentence == self._said.get(name, ""):
            return
        self._said[name] = sentence
        self._last = sentence or self._last
        self._say(name, sentence)
