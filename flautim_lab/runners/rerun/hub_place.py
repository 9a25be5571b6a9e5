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
ASKS = 3
"""For a batch whose first answer did not come: it may have been made."""
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
        for left in reversed(range(ASKS)):
            try:
                self._ask("PUT", _path(facts), asked)
                return
            except Away:
                if not left:
                    raise
                time.sleep(AGAIN_SECONDS)

    def is_there(self, facts: Facts) -> bool:
        """Whether the service has it, whole."""
        try:
            self._ask("GET", _path(facts))
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
                left = json.loads(self._ask("DELETE", _path(facts)))["left"]
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

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        with Service() as service:
            return service.ask(method, path, body)


def _path(facts: Facts, rest: str = "") -> str:
    return f"/batches/{facts['batch']}{rest}"
