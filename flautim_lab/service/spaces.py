"""Which namespace, and which data, is whose: by the hub's list, and by what the service makes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

#: What the names of namespaces that are made begin with: short enough for a key after it.
PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,18})-")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of a namespace (RFC 1123)


class Spaces(Mapping[str, str]):
    """Namespaces by the keys of institutions, as whoever holds this sees them now.

    Parameters
    ----------
    listed : mapping of str to str
        Those of the hub's list, which stay.
    prefix : str
        Of those that the service makes, before the institution's key; "" where it makes none.
    """

    def __init__(self, listed: Mapping[str, str], prefix: str = "") -> None:
        self._listed, self.prefix = dict(listed), prefix
        self._made: dict[str, str] = {}
        self.names: dict[str, str] = {}

    @property
    def made(self) -> Mapping[str, str]:
        """Those that the service makes."""
        return self._made

    def know(self, names: Mapping[str, str]) -> None:
        """Take the institutions that there are now: names by key."""
        taken = set(self._listed.values())
        found = {
            key: f"{self.prefix}{key}"
            for key in names
            if self.prefix and key not in self._listed and f"{self.prefix}{key}" not in taken
        }
        self.names = dict(names)
        self._made = {key: name for key, name in found.items() if _NAME.fullmatch(name)}

    def __getitem__(self, key: str) -> str:
        """Return the namespace of an institution."""
        made = self._made  # another thread puts a new one in its place
        return self._listed[key] if key in self._listed else made[key]

    def __iter__(self) -> Iterator[str]:
        """Return the institutions that have one: those of the list first."""
        return iter([*self._listed, *self._made])

    def __len__(self) -> int:
        """Return how many institutions have one."""
        return len(self._listed) + len(self._made)


class Claims(Mapping[str, str]):
    """The claims of the volumes with institutions' data, by their keys, as they are now.

    Parameters
    ----------
    spaces : Spaces
    listed : mapping of str to str
        Those of the hub's list.
    made : str
        That in each namespace that the service makes; "" where they have none.
    """

    def __init__(self, spaces: Spaces, listed: Mapping[str, str], made: str = "") -> None:
        self._spaces, self._listed, self.made = spaces, dict(listed), made

    def __getitem__(self, key: str) -> str:
        """Return the claim of an institution."""
        if self.made and key in self._spaces.made:
            return self.made
        return self._listed[key]

    def __iter__(self) -> Iterator[str]:
        """Return the institutions that have one: those of the list first."""
        return iter([*self._listed, *(self._spaces.made if self.made else ())])

    def __len__(self) -> int:
        """Return how many institutions have one."""
        return sum(1 for _ in self)
