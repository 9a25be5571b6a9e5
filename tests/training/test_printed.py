"""What a client prints is its own, and no more than can be read."""

from __future__ import annotations

import sys
import threading

from flautim_lab.training.printed import FIRST_CHARACTERS, MOST_CHARACTERS, printed_here


def test_what_is_printed_is_noted_and_still_printed(capsys):
    before = sys.stdout, sys.stderr
    with printed_here() as printed:
        print("to the cell")
        print("a warning", file=sys.stderr)
        sys.stdout.writelines(["one\n", "two\n"])
    assert printed.text == "to the cell\na warning\none\ntwo"
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    assert (out, err) == ("to the cell\none\ntwo\n", "a warning\n")


def test_each_thread_has_its_own():
    texts: dict[int, str] = {}
    together = threading.Barrier(3)

    def client(number: int) -> None:
        with printed_here() as printed:
            together.wait()
            for _ in range(100):
                print(number)
            together.wait()
        texts[number] = printed.text

    threads = [threading.Thread(target=client, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    together.wait()
    print("the kernel's own")
    together.wait()
    for thread in threads:
        thread.join()
    assert texts == {n: "\n".join([str(n)] * 100) for n in range(2)}


def test_of_much_the_beginning_and_the_end_are_kept():
    with printed_here() as printed:
        for number in range(10_000):
            print(f"{number:05d}")
    text = printed.text
    assert len(text) < MOST_CHARACTERS + 100
    assert text.startswith("00000\n00001\n")
    assert text.endswith("\n09999")
    head, left_out, _ = text.partition("\n[56000 characters left out]\n")
    assert left_out, text[FIRST_CHARACTERS - 10 : FIRST_CHARACTERS + 60]
    assert len(head) == FIRST_CHARACTERS


def test_of_a_progress_bar_the_last_state_is_kept():
    with printed_here() as printed:
        for percent in range(0, 101, 10):
            print(f"\r{percent} %", end="")
        print("\nhalf a line\r")
    assert printed.text == "100 %\nhalf a line"


def test_a_stream_that_was_replaced_meanwhile_stays(monkeypatch, capsys):
    class Mine:
        def write(self, text: str) -> None:
            lines.append(text)

    lines: list[str] = []
    with printed_here() as printed:
        monkeypatch.setattr(sys, "stdout", Mine())
        print("hidden")
    assert isinstance(sys.stdout, Mine)
    assert lines == ["hidden", "\n"]
    assert printed.text == ""
