"""Which clients are handled together: a round's messages in blocks, the same on every runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flwr.app import Message, RecordDict

from flautim_lab.names import count

__all__ = ["Blocks", "Prepare", "in_blocks", "one_by_one", "together_failed"]

#: Returns clients, sorted, as lists of those that are handled together.
Blocks = Callable[[Sequence[int]], list[list[int]]]
#: Gets the type of a block's messages, their content, and the clients; returns what answers for
#: some of them together (``pooling.py``), or None.
Prepare = Callable[[str, RecordDict, Sequence[int]], RecordDict | None]


def one_by_one(clients: Sequence[int]) -> list[list[int]]:
    """Return each client as a block of its own."""
    return [[client] for client in clients]


def in_blocks(messages: Mapping[int, Message], blocks: Blocks) -> list[list[int]]:
    """Return the clients that messages are for, in blocks, each of which is sent one content.

    A strategy that sends some clients another content has blocks of theirs.

    Parameters
    ----------
    messages : mapping of int to Message
        By client.
    blocks : callable
        Makes blocks of clients who are sent the same.
    """
    alike: dict[tuple[int, str], list[int]] = {}
    for client, message in sorted(messages.items()):
        key = id(message.content), message.metadata.message_type
        alike.setdefault(key, []).append(client)
    return [part for clients in alike.values() for part in blocks(clients)]


def together_failed(clients: Sequence[int], reason: str) -> str:
    """Return the line of the log that says that a block is handled one by one after all."""
    return (
        f"{count(len(clients), 'client')} from client {clients[0]} on could not be handled "
        f"together, and are handled one after another: {reason}"
    )
