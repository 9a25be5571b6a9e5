"""A Flower ``Grid`` over workers: the strategy sees clients 0 to N-1, workers do their work.

Each client has a home, the slot whose worker keeps its data loaded. Workers come and go: a lost
worker's clients are given to others, and their unfinished work is sent again (Micro-FL's
redistribution of load). Neither node ids nor the order of arrival reaches a strategy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from flautim_lab.names import count
from flautim_lab.training.client_grid import ClientGrid
from flautim_lab.training.engine import Refused, SuperLink
from flautim_lab.training.worker import WORK, make_work, read_answers

LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 3.0  # before the log says what is waited for
PARTS = 3  # a worker gets its clients in so many portions, so that one may be taken over midway


@dataclass(frozen=True)
class Flight:
    """Work that is under way: where, whose, and what it was made from."""

    node: int
    questions: Mapping[int, Message]


class WorkerGrid(ClientGrid):
    """Sends the messages of a ServerApp to workers.

    Parameters
    ----------
    link : SuperLink
        What the workers are connected to.
    slots : int
        How many workers there are meant to be.
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
    ) -> None:
        super().__init__(clients)
        self._link = link
        self._slots = slots
        self._roster = roster
        self._stopped = stopped
        self._enough = enough
        self._log = log

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
        waiting = {message.metadata.dst_node_id: message for message in messages}
        asked = len(waiting)
        answered: dict[int, Message] = {}
        flights: dict[str, Flight] = {}
        begin = quiet_since = time.monotonic()
        said = False
        while len(answered) < asked and not self._stopped():
            here = self._here()
            self._take_back(flights, waiting, set(here.values()))
            self._send(flights, waiting, here)
            fresh = self._receive(flights, waiting)
            answered.update(fresh)
            now = time.monotonic()
            if fresh:
                quiet_since, said = now, False
            elif not here and not said and now - quiet_since > PATIENCE_SECONDS:
                said = True
                self._log(f"waiting for a worker: none of {self._slots} is connected")
            late = timeout is not None and now - begin >= timeout
            if late and len(answered) >= self._enough:
                self._drop(asked, answered, flights, waiting, timeout or 0.0)
                break
            if not fresh:
                time.sleep(LOOK_SECONDS)
        self._link.forget(flights)
        return [answered[client] for client in sorted(answered)]

    # --- parts -----------------------------------------------------------------------------

    def _here(self) -> dict[int, int]:
        """Return the node of each slot whose worker is connected."""
        online = self._link.online()
        return {slot: node for slot, node in self._roster().items() if node in online}

    def _take_back(
        self, flights: dict[str, Flight], waiting: dict[int, Message], nodes: set[int]
    ) -> None:
        """Take the work of lost workers back, to be sent again."""
        for message_id, flight in list(flights.items()):
            if flight.node not in nodes:
                del flights[message_id]
                self._link.forget([message_id])
                waiting.update(flight.questions)
                lost = count(len(flight.questions), "client")
                self._log(f"a worker was lost; the work of {lost} is sent again")

    def _send(
        self, flights: dict[str, Flight], waiting: dict[int, Message], here: Mapping[int, int]
    ) -> None:
        """Give each idle worker a portion of the clients that are at home with it.

        A client whose home is gone goes to the next slot that is there.
        """
        if not waiting or not here:
            return
        busy = {flight.node for flight in flights.values()}
        slots = sorted(here)
        of_slot: dict[int, list[int]] = {}
        for client in sorted(waiting):
            home = client % self._slots
            slot = home if home in here else slots[client % len(slots)]
            of_slot.setdefault(slot, []).append(client)
        for slot, clients in of_slot.items():
            if here[slot] in busy:
                continue
            share = -(-self._clients // self._slots)
            portion = clients[: max(1, -(-share // PARTS))]
            first = waiting[portion[0]]
            # One content for all of them: a strategy that sends each client another gets its way.
            alike = [
                client
                for client in portion
                if waiting[client].content is first.content
                and waiting[client].metadata.message_type == first.metadata.message_type
            ]
            questions = {client: waiting[client] for client in alike}
            work = make_work(first.content, first.metadata.message_type, alike)
            try:
                message_id = self._link.send(Message(work, here[slot], WORK))
            except Refused:
                continue  # lost between two looks; the next one sees it
            flights[message_id] = Flight(here[slot], questions)
            for client in alike:
                del waiting[client]

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
            for client, answer in read_answers(reply).items():
                question = flight.questions[client]
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
