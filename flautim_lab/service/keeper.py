"""Makes the namespaces of institutions that the catalog has and the hub's list has not.

One thread does it, turn by turn: it compares the catalog with the cluster, makes what is missing,
changes quotas that are to be others, and removes what belongs to no institution any more and is
empty. What a turn did not get done (a killed service, a cluster that is away) the next one does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from flautim_lab.errors import FlautimError, InUseError
from flautim_lab.pods.namespaces import Namespaces, Objects, in_words
from flautim_lab.records.store import Records
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller
from flautim_lab.service.settings import NAMESPACES_VARIABLE
from flautim_lab.service.spaces import Spaces

TURN_SECONDS = 30.0
PAGE = 100  # institutions that the catalog is asked for at once
#: What is done around a method of the catalog, by its name.
Around = Mapping[str, Callable[[Caller, Mapping[str, Any]], AbstractContextManager[None]]]

_log = logging.getLogger(__name__)


class Keeper:
    """Keeps the cluster's namespaces as the catalog has institutions.

    Parameters
    ----------
    spaces : Spaces
        Told of every institution that the catalog has.
    catalogs : Catalogs
    records : Records
    connect : callable
        Returns the cluster's namespaces; asked again until it can.
    objects : callable
        Returns what the namespace of an institution is to have now, by its key.
    """

    def __init__(
        self,
        spaces: Spaces,
        catalogs: Catalogs,
        records: Records,
        connect: Callable[[], Namespaces],
        objects: Callable[[str], Objects],
    ) -> None:
        self._spaces, self._catalogs, self._records = spaces, catalogs, records
        self._connect, self._objects = connect, objects
        self._cluster: Namespaces | None = None
        self._whole: dict[str, Objects] = {}  # what namespaces were given, of those that have it
        self._said: dict[str, str] = {}
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="namespaces", daemon=True)

    def start(self) -> None:
        """Begin; institutions of the catalog have their places from now on."""
        self._know()
        self._thread.start()

    def close(self) -> None:
        """End, after the turn that is under way."""
        self._closed.set()
        self._wake.set()
        self._thread.join()

    @property
    def around(self) -> Around:
        """What is done around changes of the catalog."""
        return {"add_institution": self._adding, "remove_institution": self._removing}

    def turn(self) -> None:
        """Make what is missing, change what is another; remove what is nobody's and empty."""
        names = self._know()
        cluster = self._namespaces()
        there = cluster.made()
        for key, name in self._spaces.made.items():
            if there.get(name) != key:
                self._whole.pop(name, None)
            self._try(name, partial(self._make, cluster, name, key))
        for name, key in there.items():
            if key not in names:
                self._try(name, partial(self._remove, cluster, name))

    def check_empty(self, key: str) -> None:
        """Refuse to let an institution go whose namespace has anything in it.

        Raises
        ------
        InUseError
        ClusterError
            If the cluster cannot be asked.
        """
        name = self._spaces.made.get(key)
        if name is None:
            return
        for record in self._records.runs():
            if not record.status.over and record.settings.get("institution") == key:
                raise InUseError(
                    f"institution {key} has runs, such as {record.id}; stop them first, or make "
                    "the institution inactive"
                )
        cluster = self._namespaces()
        left = cluster.inside(name) if name in cluster.made() else []
        if left:
            raise InUseError(
                f"institution {key} still has something in its namespace {name} "
                f"({in_words(left)}); remove it first, or make the institution inactive"
            )

    # --- inside -------------------------------------------------------------------------------

    @contextmanager
    def _adding(self, _who: Caller, _given: Mapping[str, Any]) -> Iterator[None]:
        yield
        self._know()  # who asks for its place next finds it
        self._wake.set()

    @contextmanager
    def _removing(self, who: Caller, given: Mapping[str, Any]) -> Iterator[None]:
        if who.admin:  # whom else the catalog refuses
            self.check_empty(str(given["key"]))
        yield
        self._know()
        self._wake.set()

    def _know(self) -> dict[str, str]:
        catalog, page = self._catalogs.own(), 1
        names: dict[str, str] = {}
        while True:
            found = catalog.institutions(page=page, per_page=PAGE)
            names |= {each.key: each.name for each in found.items}
            if page >= found.pages:
                break
            page += 1
        self._spaces.know(names)
        return names

    def _namespaces(self) -> Namespaces:
        if self._cluster is None:
            self._cluster = self._connect()
        return self._cluster

    def _make(self, cluster: Namespaces, name: str, key: str) -> str:
        objects = self._objects(key)
        if self._whole.get(name) != objects:
            cluster.make(name, key, objects)
            self._whole[name] = objects
            _log.info("the namespace %s of institution %s is there", name, key)
        return ""

    def _remove(self, cluster: Namespaces, name: str) -> str:
        self._whole.pop(name, None)
        if left := cluster.remove(name):
            return f"no institution has the namespace {name}; it stays: {in_words(left)}"
        _log.info("the namespace %s is removed: no institution has it", name)
        return ""

    def _try(self, what: str, do: Callable[[], str]) -> None:
        """Do something; why it cannot be done is logged once, not each turn."""
        try:
            said = do()
        except FlautimError as error:
            said = str(error)
        if said and said != self._said.get(what):
            _log.warning("%s", said)
        self._said[what] = said

    def _turn(self) -> str:
        self.turn()
        return ""

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                self._try("", self._turn)
            except Exception:  # noqa: BLE001 - the next turn tries again
                _log.exception("namespaces could not be kept")
            self._wake.wait(TURN_SECONDS)


@contextmanager
def _told_that_none_is_made(_who: Caller, given: Mapping[str, Any]) -> Iterator[None]:
    yield
    _log.warning(
        "institution %r has no namespace, since the service makes none here (%s is not set); put "
        "it on the hub's list of institutions, or let the service make namespaces "
        "(k8s/components/namespaces)",
        given.get("key") or given.get("name"),
        NAMESPACES_VARIABLE,
    )


#: Where the service makes no namespaces.
NONE_IS_MADE: Around = {"add_institution": _told_that_none_is_made}
