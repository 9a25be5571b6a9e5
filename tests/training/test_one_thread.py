from __future__ import annotations

import threading

import pytest
import torch

from flautim_lab.training.one_thread import by_one_thread, one_thread


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_thread_is_for_the_calling_thread_alone():
    torch.set_num_threads(2)
    seen = {}

    def worker():
        one_thread()
        seen["worker"] = torch.get_num_threads()

    def later():
        seen["later"] = torch.get_num_threads()

    for target in (worker, later):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert seen == {"worker": 1, "later": 2}
    assert torch.get_num_threads() == 2


def test_what_is_called_by_one_thread_has_one_and_the_caller_keeps_its_own():
    torch.set_num_threads(3)
    assert by_one_thread(torch.get_num_threads) == 1
    assert torch.get_num_threads() == 3
    assert by_one_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        by_one_thread(lambda: 1 / 0)
