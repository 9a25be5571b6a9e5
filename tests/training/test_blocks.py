"""Which clients are handled together, and the messages that they are asked by."""

from __future__ import annotations

from flwr.app import Message, RecordDict

from flautim_lab.training import flower
from flautim_lab.training.blocks import Asked, one_by_one


def twos(clients, *, evaluated):
    return [list(clients)] if evaluated else [clients[n : n + 2] for n in range(0, len(clients), 2)]


def messages(content, clients, kind="train"):
    flower.prepare()
    return [Message(content, client, kind) for client in clients]


def test_messages_are_found_by_client_in_the_order_of_the_clients():
    sent = messages(RecordDict(), [4, 0, 2])
    asked = Asked(iter(sent))
    assert list(asked) == asked.clients == [0, 2, 4]
    assert asked[4] is sent[0]
    assert len(asked) == 3
    assert asked.kind == "train"
    empty = Asked([])
    assert (len(empty), empty.kind, empty.in_blocks(one_by_one)) == (0, "", [])


def test_messages_that_are_alike_are_made_when_they_are_looked_at():
    first, *_ = messages(RecordDict(), [4], "evaluate")
    asked = Asked(flower.Alike(first, [4, 0, 2]))
    assert asked.clients == [0, 2, 4]
    assert [m.metadata.dst_node_id for m in asked.values()] == [0, 2, 4]
    assert asked[2].content is first.content
    assert 2 in asked
    assert 1 not in asked
    assert asked.kind == "evaluate"
    assert asked.in_blocks(twos) == [[0, 2, 4]]
    assert Asked(flower.Alike(first, [])).in_blocks(twos) == []


def test_a_block_is_sent_one_content_and_asked_one_thing():
    one, other = RecordDict(), RecordDict()
    sent = messages(one, [0, 3, 5, 6]) + messages(other, [1, 2]) + messages(one, [4, 7], "evaluate")
    assert Asked(sent).in_blocks(twos) == [[0, 3], [5, 6], [1, 2], [4, 7]]
    assert Asked(sent).in_blocks(one_by_one) == [[0], [3], [5], [6], [1], [2], [4], [7]]
