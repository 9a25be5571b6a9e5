from __future__ import annotations

from flautim_lab.records.event import Event
from flautim_lab.records.faults import Fault, faults_of


def fault(seq: int, time: float, target: str = "server", text: str = "killed") -> Event:
    return Event(seq, time, "fault", 2, name=target, text=text)


def recovery(seq: int, time: float, seconds: float, target: str = "server") -> Event:
    return Event(seq, time, "recovery", 2, name=target, value=seconds)


def test_a_recovery_belongs_to_the_fault_of_its_target() -> None:
    events = [
        fault(1, 10.0),
        fault(2, 10.5, "client-1", "paused for 5 s"),
        recovery(3, 12.0, 2.0),
        Event(4, 12.5, "log", text="not a fault"),
    ]
    assert faults_of(events) == [
        Fault(10.0, 2, "server", "killed", 2.0),
        Fault(10.5, 2, "client-1", "paused for 5 s", None),
    ]


def test_struck_again_before_it_was_back() -> None:
    events = [fault(1, 10.0), fault(2, 14.0), recovery(3, 16.0, 2.0), recovery(4, 30.0, 20.0)]
    assert [one.recovery_seconds for one in faults_of(events)] == [20.0, 2.0]


def test_a_fault_may_be_stored_after_its_recovery() -> None:
    assert faults_of([recovery(1, 12.0, 2.0), fault(2, 10.0)]) == [
        Fault(10.0, 2, "server", "killed", 2.0)
    ]
    assert faults_of([recovery(1, 12.0, 2.0)]) == []


def test_in_words() -> None:
    assert Fault(1.0, 3, "server", "killed").words() == "server killed"
    assert Fault(1.0, 3, "server", "killed", 1.24).words() == "server killed, back after 1.2 s"
