"""What all our grids share: the strategy sees clients 0 to N-1, whoever does their work."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from flautim_lab.names import count
from flautim_lab.training import flower

WAIT_SECONDS = 2.0  # before it is said what is waited for, and between two sentences


class ClientGrid(Grid):
    """A Flower ``Grid`` whose nodes are clients; how they answer is left to ``send_and_receive``.

    Parameters
    ----------
    clients : int
        Clients 0 to ``clients - 1`` take part.

    Attributes
    ----------
    sent : callable
        Called once per round of messages, when the first of them have left.
    waits : callable
        Gets one sentence that says what is waited for, "" when it has come.
    taken : callable
        Gets each answer as soon as it and those of all clients before it are there; what it takes
        out of an answer is not held until the round ends.
    """

    def __init__(self, clients: int) -> None:
        self.sent: Callable[[], None] = lambda: None
        self.waits: Callable[[str], None] = lambda _sentence: None
        self.taken: Callable[[Message], None] = lambda _answer: None
        self._clients = clients
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(flower.RUN_NUMBER)

    def set_run(self, run: Run) -> None:
        """Set the run; kept for completeness of the interface."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a client."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of all clients."""
        return range(self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer messages now; :meth:`pull_messages` gives the answers."""
        ids = []
        for reply in self.send_and_receive(messages):
            ids.append(f"{time.monotonic_ns()}-{reply.metadata.src_node_id}")
            self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers of :meth:`push_messages`, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]


class InTurn:
    """Hands the answers of a round on in the order of its clients, whoever is done first.

    An answer is held back for as long as that of a client before it is missing.

    Parameters
    ----------
    take : callable
        Gets each answer, in one thread after another.
    blocks : sequence of sequences of int
        The clients that are asked, in their order.
    """

    def __init__(self, take: Callable[[Message], None], blocks: Sequence[Sequence[int]]) -> None:
        self._take = take
        self._next = deque(client for block in blocks for client in block)
        self._there: dict[int, Sequence[Message]] = {}

    def add(self, clients: Sequence[int], answers: Sequence[Message]) -> None:
        """Take in the answers of clients that follow one another, and hand on what is next.

        Parameters
        ----------
        clients : sequence of int
            All of whom have answered with that.
        answers : sequence of Message
            One of each client, or of several together.
        """
        self._there.update(dict.fromkeys(clients, ()))
        self._there[clients[0]] = answers
        while self._next and self._next[0] in self._there:
            self._hand_on(self._next.popleft())

    def end(self) -> None:
        """Hand on the rest: those before them will not come any more."""
        for client in self._next:
            if client in self._there:
                self._hand_on(client)
        self._next.clear()

    def _hand_on(self, client: int) -> None:
        for answer in self._there.pop(client):
            self._take(answer)


class Waiting:
    """Says what a round waits for: not at once, not too often, and only when it changes.

    Parameters
    ----------
    say : callable
        Gets the sentence, and "" when nothing is waited for any more.
    asked, enough : int
        How many clients were asked, and how few answers are enough once the time is up.
    timeout : float, optional
        Seconds after which the answers that are there may be enough.
    """

    def __init__(
        self, say: Callable[[str], None], asked: int, enough: int, timeout: float | None
    ) -> None:
        self._say = say
        self._asked = asked
        self._enough = min(enough, asked)
        self._timeout = timeout
        self._begin = self._last = time.monotonic()
        self._said = ""
        self._over = False
        # Whoever looks may be another thread than the one whose waiting is over.
        self._lock = threading.Lock()

    def look(self, missing: Collection[int], why: str = "") -> None:
        """Say whom the round waits for, if it is time to.

        Parameters
        ----------
        missing : collection of int
            Clients that have not answered.
        why : str
            What is known of the reason.
        """
        with self._lock:
            self._look(missing, why)

    def _look(self, missing: Collection[int], why: str) -> None:
        now = time.monotonic()
        if self._over or now - self._last < WAIT_SECONDS or not missing:
            return
        self._last = now
        first, *others = sorted(missing)
        more = f" and {count(len(others), 'other')}" if others else ""
        there = self._asked - len(missing)
        sentence = f"waiting for client {first}{more}; {there} of {self._asked} have answered"
        if self._timeout is not None:
            left = self._timeout - (now - self._begin)
            sentence += f", {self._enough} are enough" + (
                f" {self._timeout:g} s after they were asked" if left > 0 else " now"
            )
        if why:
            sentence += f" ({why})"
        if sentence != self._said:
            self._said = sentence
            self._say(sentence)

    def over(self) -> None:
        """Say that nothing is waited for any more, if anything was."""
        with self._lock:
            self._over = True
            if self._said:
                self._say("")
