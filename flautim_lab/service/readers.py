"""One look at the records for all who follow a run, however many they are.

A run that is followed has one :class:`Reader`. It looks when this process stored something of the
run, and now and then by itself, since another process may have. Followers wait for it, and share
what it read; one that is further behind than what it keeps reads the records a page at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi.sse import format_sse_event

from flautim_lab.errors import FlautimError, RecordsError
from flautim_lab.records.event import Event
from flautim_lab.records.store import Records
from flautim_lab.runners.pod_api import event_page

LOOK_SECONDS = 1.0  # between looks, where nobody here stored anything
PAGE = 500  # events that a follower is given at once
KEPT_BYTES = 2**20  # of a run's last events, for all of its followers
MOST_CATCHING_UP = 4  # followers of any run that read the records themselves, at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is told: the number, as JSON, and as a part of a stream."""

    seq: int
    text: str
    frame: bytes

    @classmethod
    def of(cls, values: Sequence[Any]) -> Told:
        """Return it, of an event's values as ``event_page`` has them."""
        text = json.dumps(values)
        return cls(values[0], text, format_sse_event(data_str=text, id=str(values[0])))


@dataclass(frozen=True, slots=True)
class News:
    """How a run stands, and what happened after an event.

    Attributes
    ----------
    state : dict
        ``status``, ``ended``, ``message`` and ``plan``.
    events : list of Told
    more : bool
        Whether there are more events already; the next question gets them.
    """

    state: dict[str, Any]
    events: list[Told]
    more: bool

    def page(self) -> str:
        """Return it as ``event_page`` has it, as JSON."""
        # Not written anew for each follower: the events are JSON already.
        head = json.dumps(self.state | {"more": self.more})
        return f'{head[:-1]}, "events": [{", ".join(each.text for each in self.events)}]}}'


def look(records: Records, run_id: str, after: int, most: int) -> News:
    """Return what the records hold now, so many events of it at most.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    """
    page = event_page(records, run_id, after, most)
    events, more = page.pop("events"), page.pop("more")
    return News(page, [Told.of(each) for each in events], more)


class Reader:
    """The one who looks at a run's records, for all of its followers.

    Parameters
    ----------
    records : Records
    run_id : str
    catching_up : Semaphore
        Shared by all readers: who is further behind reads a page in it.
    """

    def __init__(self, records: Records, run_id: str, catching_up: asyncio.Semaphore) -> None:
        self._records, self._id = records, run_id
        self._catching_up = catching_up
        self.followers = 0
        self.error: FlautimError | None = None
        self._state: dict[str, Any] | None = None
        self._more = False
        #: The last events in their order, their bytes, and the number of the one before them.
        self._recent: list[Told] = []
        self._bytes = 0
        self._first: int | None = None
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at once: something was stored."""
        self._woken.set()

    async def run(self) -> None:
        """Look, until nobody follows any more."""
        while self.followers:
            self._woken.clear()
            try:
                await self._look()
                self.error = None
            except FlautimError as error:  # each follower is told; the next look may go well
                self.fail(error)
            if self._more and self.error is None:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._woken.wait()

    def fail(self, error: FlautimError) -> None:
        """Tell all who wait that the run cannot be read."""
        self.error = error
        self._tell()

    async def _look(self) -> None:
        if self._first is None:
            self._first = await asyncio.to_thread(self._records.last_seq, self._id)
        last = self._recent[-1].seq if self._recent else self._first
        found = await asyncio.to_thread(look, self._records, self._id, last, PAGE)
        if found.events or found.state != self._state or found.more != self._more:
            self._recent += found.events
            self._bytes += sum(len(each.frame) for each in found.events)
            self._state, self._more = found.state, found.more
            self._forget()
            self._tell()

    def _forget(self) -> None:
        """Keep so many bytes of the last events; who needs older ones reads the records."""
        drop = 0
        while self._bytes > KEPT_BYTES and drop < len(self._recent):
            self._bytes -= len(self._recent[drop].frame)
            drop += 1
        if drop:
            self._first = self._recent[drop - 1].seq
            del self._recent[:drop]

    def _tell(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def news(
        self, after: int, known: dict[str, Any] | None, seconds: float, most: int
    ) -> News | None:
        """Return what a follower does not know yet, as soon as there is any.

        Parameters
        ----------
        after : int
            The number of the last event that they know.
        known : dict, optional
            The state that they know; without, the present one is news.
        seconds : float
            How long to wait.
        most : int
            How many events they take.

        Returns
        -------
        News or None
            None where there was none in that time.

        Raises
        ------
        FlautimError
            If the records cannot be read, or the run is not there any more.
        """
        end = asyncio.get_running_loop().time() + seconds
        while True:
            changed = self._changed
            if self.error is not None:
                raise self.error
            if self._state is not None and self._first is not None:
                if after < self._first:
                    found = await self._catch_up(after, most)
                    if found.events:
                        return found
                    after = self._first
                found = self._since(after, most)
                if found.events or found.state != known:
                    return found
            try:
                async with asyncio.timeout_at(end):
                    await changed.wait()
            except TimeoutError:
                return None

    def _since(self, after: int, most: int) -> News:
        begin = bisect_right(self._recent, after, key=lambda each: each.seq)
        events = self._recent[begin : begin + most]
        more = self._more or begin + most < len(self._recent)
        return News(self._state or {}, events, more)

    async def _catch_up(self, after: int, most: int) -> News:
        async with self._catching_up:
            return await asyncio.to_thread(look, self._records, self._id, after, most)


class Readers:
    """The readers of all runs that are followed now.

    Parameters
    ----------
    records : Records
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self._readers: dict[str, Reader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._catching_up = asyncio.Semaphore(MOST_CATCHING_UP)
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While inside, be told by the records what this process stores."""
        self._loop = asyncio.get_running_loop()
        with self.records.listened(self._stored):
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()

    @contextmanager
    def following(self, run_id: str) -> Iterator[Reader]:
        """Give the reader of a run, which looks for as long as somebody follows."""
        reader = self._readers.get(run_id)
        if reader is None:
            reader = self._readers[run_id] = Reader(self.records, run_id, self._catching_up)
            task = asyncio.create_task(self._run(run_id, reader), name=f"read {run_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif reader.error is not None:  # of a look before; theirs may go well
            reader.error = None
            reader.wake()
        reader.followers += 1
        try:
            yield reader
        finally:
            reader.followers -= 1

    async def _run(self, run_id: str, reader: Reader) -> None:
        try:
            await reader.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, followers are not to wait on
            _log.exception("reading of %s broke", run_id)
            reader.fail(RecordsError(f"the run cannot be read now ({type(error).__name__})"))
        finally:
            del self._readers[run_id]

    def _stored(self, run_id: str, _new: Sequence[Event]) -> None:
        """From any thread: something of a run was stored."""
        reader = self._readers.get(run_id)
        if reader is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who follows
                self._loop.call_soon_threadsafe(reader.wake)
