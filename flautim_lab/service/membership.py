"""Of which institution a run or a batch is: one that its user is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flautim_lab.errors import ClusterError
from flautim_lab.service.hub import Caller


def home_of(caller: Caller, wished: str | None, named: Sequence[str] = ()) -> str:
    """Return the institution in whose namespace something is to be made.

    Parameters
    ----------
    caller : Caller
    wished : str, optional
        Else the first that is named, or the first that they are of.
    named : sequence of str
        Others, of which they must be too.

    Raises
    ------
    ClusterError
        If the user is not of an institution that is named, or of none.
    """
    if not caller.institutions:
        raise ClusterError(
            f"{caller.name} belongs to no institution; ask who runs the hub to put you in one"
        )
    institution = wished or next(iter(named or caller.institutions))
    check_member(caller, [institution, *named])
    return institution


def check_member(caller: Caller, institutions: Iterable[str]) -> None:
    """Refuse institutions that a user is not of.

    Raises
    ------
    ClusterError
        Naming the first.
    """
    for each in institutions:
        if each not in caller.institutions:
            raise ClusterError(
                f"{caller.name} is not of the institution {each!r}; choose one of: "
                f"{', '.join(sorted(caller.institutions)) or 'none'}"
            )
