"""The table of who may do what, row by row."""

import pytest

from flautim_lab.service.access import ALLOWED, Action, Role, may

ROWS = [
    ("owner", "read", True),
    ("owner", "stop", True),
    ("owner", "change", True),
    ("owner", "remove", True),
    ("admin", "read", True),
    ("admin", "stop", True),
    ("admin", "change", False),
    ("admin", "remove", False),
    ("stranger", "read", False),
    ("stranger", "stop", False),
    ("stranger", "change", False),
    ("stranger", "remove", False),
]


@pytest.mark.parametrize(("role", "action", "allowed"), ROWS)
def test_a_row(role, action, allowed):
    assert may(Role(role), Action(action)) is allowed


def test_every_row_is_tested():
    assert {(role, action) for role, action, _ in ROWS} == {(r, a) for r in Role for a in Action}
    assert set(ALLOWED) == set(Action)
