"""Which clients are handled together: a round's messages in blocks, the same on every runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from flwr.app import Message, MessageType, RecordDict

from flautim_lab.names import count
from flautim_lab.training import flower

__all__ = ["Asked", "Blocks", "Prepare", "one_by_one", "together_failed"]


class Blocks(Protocol):
    """Makes blocks of clients who are sent the same."""

    def __call__(self, clients: Sequence[int], *, evaluated: bool) -> list[list[int]]:
        """Return clients, sorted, as lists of those that are handled together."""


#: Gets the type of a block's messages, their content, and the clients; returns what answers for
#: some of them together (``pooling.py``), or None.
Prepare = Callable[[str, RecordDict, Sequence[int]], RecordDict | None]


def one_by_one(clients: Sequence[int], *, evaluated: bool) -> list[list[int]]:
    """Return each client as a block of its own."""
    return [[client] for client in clients]


class Asked(Mapping[int, Message]):
    """The messages of a round by client, in the order of the clients.

    Parameters
    ----------
    messages : iterable of Message
        At most one per client.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._alike = messages if isinstance(messages, flower.Alike) else None
        self._one_by_one: dict[int, Message] = {}
        if self._alike is None:
            self._one_by_one = {m.metadata.dst_node_id: m for m in messages}
        #: The clients, sorted.
        self.clients = sorted(self._one_by_one if self._alike is None else self._alike.nodes)
        self._nodes = frozenset(self.clients)

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[int]:
        return iter(self.clients)

    def __getitem__(self, client: int) -> Message:
        if self._alike is None:
            return self._one_by_one[client]
        if client not in self._nodes:
            raise KeyError(client)
        return self._alike.to(client)

    @property
    def kind(self) -> str:
        """Flower's type of the messages; "" if there are none."""
        return self[self.clients[0]].metadata.message_type if self.clients else ""

    def in_blocks(self, blocks: Blocks) -> list[list[int]]:
        """Return the clients in blocks, each of which is sent one content.

        A strategy that sends some clients another content has blocks of theirs.
        """
        alike: dict[tuple[int, str], list[int]] = {}
        if self._alike is not None:
            alike[0, self.kind] = self.clients
        else:
            for client in self.clients:
                message = self._one_by_one[client]
                key = id(message.content), message.metadata.message_type
                alike.setdefault(key, []).append(client)
        return [
            part
            for (_, kind), clients in alike.items()
            if clients
            for part in blocks(clients, evaluated=kind.startswith(MessageType.EVALUATE))
        ]


def together_failed(clients: Sequence[int], reason: str) -> str:
    """Return the line of the log that says that a block is handled one by one after all."""
    return (
        f"{count(len(clients), 'client')} from client {clients[0]} on could not be handled "
        f"together, and are handled one after another: {reason}"
    )
