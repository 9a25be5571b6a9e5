"""The grid inside the process: client order, failures, deadlines, threads."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flautim_lab.training import flower
from flautim_lab.training.client_grid import InTurn, Waiting
from flautim_lab.training.grid import Deadline, LocalGrid

flower.prepare()


def grid(answer, clients=4, stopped=lambda: False, **settings):
    app = ClientApp()
    deadline = Deadline(stopped)

    @app.train()
    def train(message, context):
        return answer(message, context, deadline)

    return LocalGrid(app, clients, deadline, **settings)


def ask(clients):
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return [Message(content, client, "train") for client in clients]


def echo(message, context, deadline):
    number = context.node_config["partition-id"]
    time.sleep(0.01 * (4 - number))
    return Message(RecordDict({"m": MetricRecord({"client": number})}), reply_to=message)


def test_answers_come_in_client_order_whatever_the_threads():
    for workers in (1, 4):
        here = grid(echo, workers=workers)
        taken = []
        here.taken = taken.append
        replies = here.send_and_receive(ask([3, 1, 0, 2]))
        here.close()
        assert taken == replies
        assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2, 3]
        assert [reply.content["m"]["client"] for reply in replies] == [0, 1, 2, 3]


def test_an_answer_waits_for_those_before_it_alone():
    taken = []
    turn = InTurn(taken.append, [[0, 1], [2], [3], [4], [5]])
    turn.add([2], ["of 2"])
    turn.add([4], ["of 4"])
    assert taken == []
    turn.add([0, 1], ["of 0 and 1", "why 1 failed"])
    assert taken == ["of 0 and 1", "why 1 failed", "of 2"]
    turn.add([5], ["of 5"])
    turn.end()  # 3 is late
    assert taken[3:] == ["of 4", "of 5"]


class LostProcesses:
    """Answers some of the messages, as processes do that are lost then."""

    def __init__(self, app):
        self.app = app

    def at_hand(self):
        return True

    def answer(self, messages, order, answered, **how):
        for message in messages[2:0:-1]:
            answered(self.app(message))
        return False

    def judge(self, seconds):
        pass

    def close(self):
        pass


def test_what_lost_processes_have_answered_is_not_done_again():
    asked, taken = [], []

    def answer(message, context=None, deadline=None):
        asked.append(message.metadata.dst_node_id)
        return Message(RecordDict(), reply_to=message)

    here = grid(answer, workers=1, processes=LostProcesses(answer))
    here.taken = taken.append
    replies = here.send_and_receive(ask(range(4)))
    assert taken == replies
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2, 3]
    assert asked == [2, 1, 0, 3]


def test_a_failure_is_an_answer_with_its_traceback():
    def fail(message, context, deadline):
        if context.node_config["partition-id"] == 2:
            raise KeyError("rows")
        return echo(message, context, deadline)

    here = grid(fail, workers=2)
    replies = here.send_and_receive(ask(range(4)))
    here.close()
    assert [reply.has_error() for reply in replies] == [False, False, True, False]
    reason = replies[2].error.reason
    assert reason.splitlines()[0] == "KeyError: 'rows'"
    assert "Traceback" in reason


def test_late_clients_are_dropped_once_enough_answered():
    lines = []
    gone = threading.Event()

    def slow(message, context, deadline):
        number = context.node_config["partition-id"]
        if number == 3:
            try:
                while True:
                    deadline.check(number)
                    time.sleep(0.01)
            finally:
                gone.set()
        return echo(message, context, deadline)

    here = grid(slow, workers=4, enough=3, log=lines.append)
    replies = here.send_and_receive(ask(range(4)), timeout=0.3)
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1, 2]
    assert lines == ["late after 0.3 s, their work is dropped: clients 3"]
    here.close()
    assert gone.wait(20)  # nobody goes on working for a round that is over


def test_a_round_waits_past_its_time_for_enough_answers():
    def slow(message, context, deadline):
        time.sleep(0.2)
        return echo(message, context, deadline)

    here = grid(slow, workers=4, enough=4)
    assert len(here.send_and_receive(ask(range(4)), timeout=0.05)) == 4
    here.close()


def test_a_stop_ends_the_work():
    stop = threading.Event()

    def endless(message, context, deadline):
        while True:
            deadline.check(context.node_config["partition-id"])
            time.sleep(0.01)

    here = grid(endless, workers=1, stopped=stop.is_set)
    threading.Timer(0.1, stop.set).start()
    replies = here.send_and_receive(ask([0, 1]))
    assert [reply.error.reason for reply in replies] == ["abandoned", "abandoned"]


def test_what_is_waited_for_is_said_once_and_when_it_is_over(monkeypatch):
    monkeypatch.setattr("flautim_lab.training.client_grid.WAIT_SECONDS", 0.1)
    for workers in (1, 4):
        go = threading.Event()

        def slow(message, context, deadline, go=go):
            if context.node_config["partition-id"] > 0:
                go.wait(20)
            return Message(RecordDict(), reply_to=message)

        here = grid(slow, workers=workers, enough=3)
        said, sent = [], []
        first = threading.Event()
        here.taken = lambda _reply, first=first: first.set()
        here.waits, here.sent = said.append, lambda sent=sent: sent.append(1)
        replies = []
        thread = threading.Thread(
            target=lambda here=here, replies=replies: replies.extend(
                here.send_and_receive(ask(range(4)))
            )
        )
        here.tell()  # nothing is waited for
        thread.start()
        assert first.wait(20)
        end = time.monotonic() + 20
        while not said and time.monotonic() < end:
            here.tell()
            time.sleep(0.02)
        for _ in range(15):
            here.tell()
            time.sleep(0.02)
        assert said == ["waiting for client 1 and 2 others; 1 of 4 have answered"]
        go.set()
        thread.join(20)
        here.tell()
        here.close()
        assert said[1:] == [""]
        assert len(replies) == 4
        assert sent == [1]


def test_a_round_with_a_time_limit_says_how_many_are_enough_and_when(monkeypatch):
    monkeypatch.setattr("flautim_lab.training.client_grid.WAIT_SECONDS", 0.0)
    said = []
    waiting = Waiting(said.append, 8, 6, 0.2)
    waiting.look({3, 5, 7}, "not connected: worker client-1")
    waiting.look({3, 5, 7}, "not connected: worker client-1")
    time.sleep(0.25)
    waiting.look({3, 5, 7})
    waiting.over()
    waiting.look({3})
    assert said == [
        "waiting for client 3 and 2 others; 5 of 8 have answered, 6 are enough 0.2 s after they "
        "were asked (not connected: worker client-1)",
        "waiting for client 3 and 2 others; 5 of 8 have answered, 6 are enough now",
        "",
    ]


def test_one_client_is_enough_and_push_and_pull_work():
    here = grid(echo, clients=1)
    assert list(here.get_node_ids()) == [0]
    ids = list(here.push_messages(ask([0])))
    assert len(list(here.pull_messages(ids))) == 1
    assert list(here.pull_messages(ids)) == []
    assert here.create_message(RecordDict(), "train", 0, "1").metadata.group_id == "1"
    here.set_run(here.run)


def after_the_trial(answer):
    lines = []
    here = grid(answer, workers="auto", log=lines.append)
    here.workers, here._trial = 2, 0  # as on a machine of two cores
    for _ in range(4):
        assert len(here.send_and_receive(ask(range(4)))) == 4
    here.close()
    return here.workers, lines


def test_threads_that_do_not_pay_are_given_up():
    lock = threading.Lock()

    def one_at_a_time(message, context, deadline):
        at_once = lock.acquire(blocking=False)
        if not at_once:
            lock.acquire()
        time.sleep(0.01 if at_once else 0.3)
        lock.release()
        return Message(RecordDict(), reply_to=message)

    workers, lines = after_the_trial(one_at_a_time)
    assert workers == 1
    assert lines == ["one thread is as fast as several here; clients train in turn"]


def sleep_less_beside_others():
    """Sleep long alone: who is faster is no matter of a moment in which the machine stalls."""
    time.sleep(0.3 if threading.current_thread() is threading.main_thread() else 0.05)


def test_threads_that_pay_are_kept():
    def side_by_side(message, context, deadline):
        sleep_less_beside_others()
        return Message(RecordDict(), reply_to=message)

    assert after_the_trial(side_by_side) == (2, [])


@pytest.mark.parametrize(("seconds", "alone"), [(0.0, 1), (1e6, 0)])
def test_threads_that_compute_all_the_time_are_not_tried_against_one(monkeypatch, seconds, alone):
    clock = iter(itertools.count(0.0, seconds))
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    of_rounds = []

    def told(message, context, deadline):
        sleep_less_beside_others()
        of_rounds.append(threading.get_ident())
        return Message(RecordDict(), reply_to=message)

    assert after_the_trial(told) == (2, [])
    assert of_rounds.count(threading.get_ident()) == alone * 4
