"""Where the pods of a batch are made and looked at: by the service of a hub, for its users."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from flautim_lab.connection import Away, Refusal, Service
from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.rerun.place import Facts, Seen
from flautim_lab.runners.service import chosen_of

CHOSEN = ("institution", "cpu", "memory", "gpu", "hours")
"""What a user of a hub may choose; how many pods at once the batch says itself."""
AWAY_SECONDS = 30.0
"""How long a service may be away that answered a moment ago: one that restarts is back by then."""
AGAIN_SECONDS = 2.0
REMOVE_SECONDS = 60.0
GONE = 404


class HubPlace:
    """An institution's namespace, through the service of a hub.

    Parameters
    ----------
    cluster : Cluster

    Raises
    ------
    ExperimentError
        For a setting that a hub decides.
    """

    def __init__(self, cluster: Cluster) -> None:
        chosen = chosen_of(cluster)
        self._chosen = {name: chosen[name] for name in CHOSEN}
        self._say: Callable[[str, str], None] = lambda *_: None

    def check(self) -> None:
        """Ask the service whether it knows this user."""
        self._ask("GET", "/")

    def plan(self, batch_id: str) -> Facts:
        """Return under which id the service will know it."""
        return {"batch": batch_id}

    def make(self, facts: Facts, archive: bytes, number: int, jobs: int, tries: int) -> None:
        """Ask for it; the same once more is no second batch."""
        asked = {
            "cluster": self._chosen,
            "points": number,
            "jobs": jobs,
            "tries": tries,
            "archive": base64.b64encode(archive).decode("ascii"),
        }
        # It may have been made though no answer came.
        self._ask_again("PUT", _path(facts), asked)

    def is_there(self, facts: Facts) -> bool:
        """Whether the service has it, whole."""
        try:
            self._ask_again("GET", _path(facts))
        except Refusal as refusal:
            if refusal.status != GONE:
                raise
            return False
        return True

    def look(self, facts: Facts) -> Seen:
        """Return how it stands, and say what keeps its pods from working."""
        seen = Seen.from_dict(json.loads(self._ask("GET", _path(facts))))
        for pod in seen.pods:
            if pod.phase == "Pending":
                self._say(pod.name, pod.trouble)
        return seen

    def result(self, facts: Facts, pod: str) -> bytes | None:
        """Return what a pod made."""
        return self._ask("GET", _path(facts, f"/results/{quote(pod, safe='')}")) or None

    def remove(self, facts: Facts) -> list[str]:
        """Let the service remove it, and wait for the pods to end."""
        end = time.monotonic() + REMOVE_SECONDS
        while True:
            try:
                left = json.loads(self._ask_again("DELETE", _path(facts)))["left"]
            except Refusal as refusal:
                if refusal.status != GONE:
                    raise
                return []
            if not left or time.monotonic() > end:
                return list(left)

    def follow(self, facts: Facts, say: Callable[[str, str], None], over: threading.Event) -> None:
        """Say what keeps its pods from working, at each look."""
        del facts, over
        self._say = say

    def _ask_again(self, method: str, path: str, body: Any = None) -> bytes:
        """Ask, and once more where the service has gone meanwhile."""
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return self._ask(method, path, body)
            except Away:
                if time.monotonic() > end:
                    raise
                time.sleep(AGAIN_SECONDS)

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        with Service() as service:
            return service.ask(method, path, body)


def _path(facts: Facts, rest: str = "") -> str:
    return f"/batches/{facts['batch']}{rest}"
