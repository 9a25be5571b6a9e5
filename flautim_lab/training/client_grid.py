"""What all our grids share: the strategy sees clients 0 to N-1, whoever does their work."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from flautim_lab.training import flower


class ClientGrid(Grid):
    """A Flower ``Grid`` whose nodes are clients; how they answer is left to ``send_and_receive``.

    Parameters
    ----------
    clients : int
        Clients 0 to ``clients - 1`` take part.
    """

    def __init__(self, clients: int) -> None:
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
