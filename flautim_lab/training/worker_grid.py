"""A Flower ``Grid`` over workers: the strategy sees clients 0 to N-1, workers do their work.

Each client has a home, the slot whose worker keeps its data loaded. Workers come and go: a lost
worker's clients are given to others, and their unfinished work is sent again (Micro-FL's
redistribution of load). Neither node ids nor the order of arrival reaches a strategy.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode

from flautim_lab.errors import TrainingError
from flautim_lab.names import count
from flautim_lab.records.event import WORKER_LOST
from flautim_lab.training.blocks import Asked, Blocks, one_by_one
from flautim_lab.training.client_grid import ClientGrid, InTurn, Waiting
from flautim_lab.training.content import pack
from flautim_lab.training.engine import Refused, SuperLink
from flautim_lab.training.worker import (
    UNREADABLE,
    WORK,
    make_farewell,
    make_work,
    read_answers,
    read_resources,
)

LOOK_SECONDS = 0.01
PARTS = 3  # a worker gets its clients in so many portions, so that one may be taken over midway
LONGEST_SECONDS = 30 * 24 * 3600.0  # that a worker may take for its clients; Flower's own is 12 h
REFUSED_SECONDS = 60.0  # without one message that the SuperLink takes: it never will
SHORT_SECONDS = 1.0  # work that takes no longer goes out in one portion
PORTION_BYTES = 2**22  # of weights that a worker answers with at once


@dataclass(frozen=True)
class Flight:
    """Work that is under way: where, since which activation, and what it was made from.

    ``content`` is the number of what the clients are sent.
    """

    slot: int
    node: int
    activated: float
    questions: Mapping[int, Message]
    content: int


class WorkerGrid(ClientGrid):
    """Sends the messages of a ServerApp to workers.

    Parameters
    ----------
    link : SuperLink
        What the workers are connected to.
    slots : int
        How many workers there may be.
    clients : int
        Clients 0 to ``clients - 1`` take part.
    roster : callable
        Returns the node that holds each slot now; a node that is not in it is lost.
    stopped : callable
        Tells whether the run was asked to stop.
    enough : int
        How few answers end a round once its time is up.
    log : callable
        Gets one line when there is something to say.
    hosts : callable, optional
        Returns the slots whose workers may host a client: those where its rows are. All by default.
    meant : callable, optional
        Returns the slots that are meant to have a worker now. All by default. A worker at another
        slot ends the work that it was given, and gets no more.
    blocks : callable, optional
        Returns clients, sorted, as lists of those that one worker handles together; each one by
        itself by default.
    """

    def __init__(
        self,
        link: SuperLink,
        slots: int,
        clients: int,
        roster: Callable[[], Mapping[int, int]],
        *,
        stopped: Callable[[], bool],
        enough: int = 1,
        log: Callable[[str], None] = lambda _line: None,
        hosts: Callable[[int], Sequence[int]] | None = None,
        meant: Callable[[], Collection[int]] | None = None,
        blocks: Blocks = one_by_one,
    ) -> None:
        super().__init__(clients)
        slots_in_all = range(slots)
        self._hosts = hosts or (lambda _client: slots_in_all)
        self._meant = meant or (lambda: slots_in_all)
        self._blocks = blocks
        self._link = link
        self._roster = roster
        self._stopped = stopped
        self._enough = enough
        self._log = log
        self._connected: dict[int, float] = {}
        self._refused_since: float | None = None
        # What clients are sent: it itself, its number, and its bytes.
        self._content: tuple[RecordDict | None, int, bytes] = (None, 0, b"")
        #: Which content a worker has read last, by node and activation.
        self._read: dict[tuple[int, float], int] = {}
        #: Seconds per client, by slot and type of message, when it last answered.
        self._pace: dict[tuple[int, str], float] = {}
        #: Called with a slot when its worker has connected, or has answered.
        self.heard: Callable[[int], None] = lambda _slot: None
        #: Called with a slot and what its worker used for an answer.
        self.used: Callable[[int, Mapping[str, float]], None] = lambda _slot, _resources: None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages to clients and return their answers in client order.

        Parameters
        ----------
        messages : iterable of Message
            At most one per client.
        timeout : float, optional
            Seconds after which the answers that are there are enough, if they are at least
            ``enough``; what comes later is dropped and logged.
        """
        questions = Asked(messages)
        waiting, asked = dict(questions), len(questions)
        blocks = questions.in_blocks(self._blocks)
        answered: dict[int, Message] = {}
        flights: dict[str, Flight] = {}
        state = Waiting(self.waits, asked, self._enough, timeout)
        turn = InTurn(self.taken, blocks)
        begin = time.monotonic()
        left = False
        while len(answered) < asked and not self._stopped():
            here = self._here()
            self._take_back(flights, waiting, here)
            self._send(flights, waiting, blocks, here)
            if flights and not left:
                left = True
                self.sent()
            fresh = self._receive(flights, waiting)
            answered.update(fresh)
            for client, answer in fresh.items():
                turn.add([client], [answer])
            missing = {client for flight in flights.values() for client in flight.questions}
            state.look(missing | set(waiting), self._why(here))
            late = timeout is not None and time.monotonic() - begin >= timeout
            if late and len(answered) >= self._enough:
                self._drop(asked, answered, flights, waiting, timeout or 0.0)
                break
            if not fresh:
                time.sleep(LOOK_SECONDS)
        turn.end()
        state.over()
        self._link.forget(flights)
        self._content = (None, self._content[1], b"")
        # Those without anything in them are part of their cohort's.
        return [m for _, m in sorted(answered.items()) if m.has_error() or len(m.content)]

    def dismiss(self, seconds: float) -> None:
        """Tell the workers that the run has ended, and wait until they are gone, or so long."""
        for node, _ in self._here().values():
            with contextlib.suppress(Refused):
                self._link.send(Message(make_farewell(), node, WORK))
        end = time.monotonic() + seconds
        while self._link.online() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)

    # --- parts -----------------------------------------------------------------------------

    def _here(self) -> dict[int, tuple[int, float]]:
        """Return node and activation of each slot whose worker is connected."""
        online = self._link.online()
        here = {
            slot: (node, online[node]) for slot, node in self._roster().items() if node in online
        }
        for slot, (_, activated) in here.items():
            if self._connected.get(slot) != activated:
                self._connected[slot] = activated
                self._read = {at: n for at, n in self._read.items() if at in here.values()}
                self.heard(slot)
        return here

    def _why(self, here: Mapping[int, object]) -> str:
        """Return what is known of why the clients do not answer."""
        meant = set(self._meant())
        gone = sorted(meant - set(here))
        if not gone:
            return ""
        if len(gone) == len(meant):
            return f"none of {count(len(meant), 'worker')} is connected"
        shown = ", ".join(f"client-{slot}" for slot in gone[:5])
        return f"not connected: worker {shown}" + (", ..." if len(gone) > 5 else "")

    def _take_back(
        self,
        flights: dict[str, Flight],
        waiting: dict[int, Message],
        here: Mapping[int, tuple[int, float]],
    ) -> None:
        """Take the work of lost workers back, to be sent again.

        One that connected anew is lost, too: it remembers nothing of what it was given before.
        """
        connected = set(here.values())
        for message_id, flight in list(flights.items()):
            if (flight.node, flight.activated) not in connected:
                del flights[message_id]
                self._link.forget([message_id])
                waiting.update(flight.questions)
                lost = count(len(flight.questions), "client")
                self._log(f"{WORKER_LOST}; the work of {lost} is sent again")

    def _send(
        self,
        flights: dict[str, Flight],
        waiting: dict[int, Message],
        blocks: Sequence[Sequence[int]],
        here: Mapping[int, tuple[int, float]],
    ) -> None:
        """Give each idle worker a portion of the blocks that are at home with it.

        A block whose home is gone goes to the next slot that is there.
        """
        meant = set(self._meant())
        here = {slot: at for slot, at in here.items() if slot in meant}
        if not waiting or not here:
            return
        busy = {flight.node for flight in flights.values()}
        of_slot: dict[int, list[Sequence[int]]] = {}
        for number, block in enumerate(blocks):
            if block[0] not in waiting:  # sent, or answered: a block stays together
                continue
            # A client by itself has its home by its own number, whoever else is asked.
            slot = self._slot_of(block[0], number if len(block) > 1 else block[0], here, meant)
            if slot is not None:
                of_slot.setdefault(slot, []).append(block)
        for slot, there in of_slot.items():
            node, activated = here[slot]
            if node in busy:
                continue
            first = waiting[there[0][0]]
            portion = self._portion(slot, there, waiting, len(meant))
            questions = {client: waiting[client] for block in portion for client in block}
            number, packed = self._packed(first.content)
            known = self._read.get((node, activated)) == number
            work = make_work(
                None if known else packed, first.metadata.message_type, portion, number
            )
            try:
                message_id = self._link.send(Message(work, node, WORK, ttl=LONGEST_SECONDS))
            except Refused as error:  # lost between two looks; the next one sees it
                self._refused_since = self._refused_since or time.monotonic()
                if time.monotonic() - self._refused_since > REFUSED_SECONDS:
                    raise TrainingError(
                        f"the run's SuperLink takes no work for its workers any more ({error}); "
                        "its log tells what Flower says"
                    ) from error
                continue
            self._refused_since = None
            flights[message_id] = Flight(slot, node, activated, questions, number)
            for client in questions:
                del waiting[client]

    def _packed(self, content: RecordDict) -> tuple[int, bytes]:
        """Return the number and the bytes of a content, made once where all clients are sent it."""
        last, number, data = self._content
        if last is not content:
            number, data = number + 1, pack(content)
            self._content = (content, number, data)
        return number, data

    def _portion(
        self,
        slot: int,
        blocks: Sequence[Sequence[int]],
        waiting: Mapping[int, Message],
        slots: int,
    ) -> list[Sequence[int]]:
        """Return the blocks that a worker gets next: not all, where those take long or much."""
        first = waiting[blocks[0][0]]
        kind = first.metadata.message_type
        if kind.startswith(MessageType.TRAIN):
            # A block answers with weights at least once.
            blocks = blocks[: max(1, PORTION_BYTES // max(1, len(self._packed(first.content)[1])))]
        number = sum(map(len, blocks))
        most = number
        if self._pace.get((slot, kind), math.inf) * number > SHORT_SECONDS:
            most = math.ceil(math.ceil(self._clients / slots) / PARTS)
        portion: list[Sequence[int]] = []
        for block in blocks:
            if portion and sum(map(len, portion)) + len(block) > most:
                break
            # One content for all of them: a strategy that sends others another gets its way.
            theirs = waiting[block[0]]
            if theirs.content is first.content and theirs.metadata.message_type == kind:
                portion.append(block)
        return portion

    def _slot_of(
        self, client: int, number: int, here: Mapping[int, object], meant: Collection[int]
    ) -> int | None:
        """Return the slot at which a client is hosted now; None where none may host it.

        ``number`` spreads clients, or blocks of them, over the slots.
        """
        mine = [slot for slot in self._hosts(client) if slot in meant]
        home = mine[number % len(mine)] if mine else None
        if home in here:
            return home
        others = [slot for slot in mine if slot in here]
        return others[number % len(others)] if others else None

    def _receive(
        self, flights: dict[str, Flight], waiting: dict[int, Message]
    ) -> dict[int, Message]:
        fresh: dict[int, Message] = {}
        for message_id, reply in list(self._link.receive(flights)):
            flight = flights.pop(message_id, None)
            if flight is None:
                continue
            if reply.has_error():  # the engine lost it on its way
                waiting.update(flight.questions)
                continue
            self.heard(flight.slot)
            self._read[flight.node, flight.activated] = flight.content
            used = read_resources(reply)
            self.used(flight.slot, used)
            kind = next(iter(flight.questions.values())).metadata.message_type
            spent = ("data_seconds", "training_seconds", "evaluating_seconds")
            seconds = sum(used.get(name, 0.0) for name in spent)
            self._pace[flight.slot, kind] = seconds / len(flight.questions)
            try:
                answers = read_answers(reply)
            except ValueError:
                answers = {}
            for client, question in flight.questions.items():
                answer = answers.get(client, UNREADABLE)
                if isinstance(answer, str):
                    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, answer)
                    fresh[client] = Message(error, reply_to=question)
                else:
                    fresh[client] = Message(answer, reply_to=question)
        return fresh

    def _drop(
        self,
        asked: int,
        answered: Mapping[int, Message],
        flights: Mapping[str, Flight],
        waiting: Mapping[int, Message],
        timeout: float,
    ) -> None:
        missing = sorted(
            {client for flight in flights.values() for client in flight.questions} | set(waiting)
        )
        if len(answered) < asked:
            shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            self._log(f"late after {timeout:g} s, their work is dropped: clients {shown}")
