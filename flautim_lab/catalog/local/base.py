"""What all parts of the local way in share: who asks, what they may do, what a reference means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import sqlalchemy as sa

from flautim_lab.catalog import authorization
from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import MOST_PER_PAGE
from flautim_lab.catalog.refs import Ref, read_ref
from flautim_lab.catalog.schema import CatalogDatabase, institutions, members, projects, roles
from flautim_lab.catalog.things import Me, Page, Role
from flautim_lab.errors import CatalogError, ExperimentError, NotAllowedError, NotFoundError
from flautim_lab.names import check_name

T = TypeVar("T")
MOST_CHARACTERS = 10_000  # of a description
MOST_SOURCE_CHARACTERS = 2**20


@dataclass(frozen=True)
class Actor:
    """Who asks.

    Attributes
    ----------
    user : str
    platform_admin : bool
    alone : bool
        Whether this is the sole user of a catalog without a hub, who is everything everywhere.
    institutions : frozenset of str
        Keys of those where they are a researcher because the Hub says so (its groups), beside what
        the catalog says.
    service : bool
        Whether the hub's service acts for them by itself, and not because they asked it to.
    data_owner_of : frozenset of str
        Keys of those where they are a data owner because the hub's list says so.
    """

    user: str
    platform_admin: bool = False
    alone: bool = False
    institutions: frozenset[str] = frozenset()
    service: bool = False
    data_owner_of: frozenset[str] = frozenset()

    def by_hub(self, key: str) -> set[Role]:
        """Return what they are at an institution because the Hub says so."""
        told = {Role.RESEARCHER: self.institutions, Role.DATA_OWNER: self.data_owner_of}
        return {role for role, keys in told.items() if key in keys}


#: Who is what at each institution by the hub's list: roles by user, by key.
Listed = Mapping[str, Mapping[str, frozenset[Role]]]


class Base:
    """A catalog on a database, as somebody may use it."""

    def __init__(
        self,
        database: CatalogDatabase,
        actor: Actor,
        now: Callable[[], float] = time.time,
        listed: Listed = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._actor = actor
        self._now = now
        self._listed = listed

    def close(self) -> None:
        """Close connections; they open again when the catalog is used again."""
        self._database.close()

    def me(self) -> Me:
        """Return who asks, and what they may do."""
        actor = self._actor
        with self._database.reading() as connection:
            mine: dict[str, set[Role]] = {}
            table = sa.select(institutions.c.key, roles.c.role).join_from(roles, institutions)
            for key, role in connection.execute(table.where(roles.c.user == actor.user)):
                mine.setdefault(key, set()).add(Role(role))
            for key in connection.scalars(self._by_hub()).all():
                mine.setdefault(key, set()).update(actor.by_hub(key))
            if actor.alone:
                mine = {key: set(Role) for key in connection.scalars(sa.select(institutions.c.key))}
        admin = actor.platform_admin or actor.alone
        allowed = {
            key: frozenset(
                action.value
                for action in Action
                # Faces ask about a project once they show one.
                if authorization.may(action, held, platform_admin=admin, member=True)
            )
            for key, held in [("", set[Role]()), *mine.items()]
        }
        return Me(actor.user, admin, {key: frozenset(held) for key, held in mine.items()}, allowed)

    # --- who may do what ------------------------------------------------------------------

    def _may(
        self, connection: sa.Connection, action: Action, institution: int = 0, project: int = 0
    ) -> bool:
        """Return whether who asks may do something, at an institution, in a project of it."""
        actor = self._actor
        if actor.alone:
            return authorization.may(action, tuple(Role), platform_admin=True, member=True)
        theirs = sa.select(roles.c.role).where(
            roles.c.institution_id == institution, roles.c.user == actor.user
        )
        held = {Role(role) for role in connection.scalars(theirs)}
        if key := connection.scalar(self._by_hub().where(institutions.c.id == institution)):
            held |= actor.by_hub(key)
        member = sa.select(members.c.user).where(
            members.c.project_id == project, members.c.user == actor.user
        )
        return authorization.may(
            action,
            held,
            platform_admin=actor.platform_admin,
            member=bool(project) and connection.scalar(member) is not None,
        )

    def _by_hub(self) -> sa.Select[Any]:
        """Return the query for the institutions of which the Hub says that they are."""
        told = self._actor.institutions | self._actor.data_owner_of
        return sa.select(institutions.c.key).where(institutions.c.key.in_(sorted(told)))

    def _require(
        self,
        connection: sa.Connection,
        action: Action,
        shown: str,
        institution: int = 0,
        project: int = 0,
        see: Action | None = None,
    ) -> None:
        """Refuse what who asks may not do; what they may not see either is not there.

        Parameters
        ----------
        shown : str
            What it is done to, in words.
        see : Action, optional
            What lets somebody see that thing; by default ``action`` does.

        Raises
        ------
        NotFoundError, NotAllowedError
        """
        if self._may(connection, action, institution, project):
            return
        if see is None or not self._may(connection, see, institution, project):
            raise not_there(shown)
        raise NotAllowedError(
            f"{self._actor.user} may not {action} ({shown}); that is for "
            f"{authorization.who_may(action)}"
        )

    # --- what a reference means -----------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Give a transaction in which nobody else writes: numbers and keys are given once."""
        with self._database.writing() as connection:
            self._database.lock(connection)
            yield connection

    def _institution_row(self, connection: sa.Connection, key: str) -> sa.Row[Any]:
        ref = read_ref(key, 1)
        query = sa.select(institutions).where(institutions.c.key == ref.keys[0])
        row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no institution {key}")
        return row

    def _project_row(
        self, connection: sa.Connection, ref: str, action: Action, see: Action | None = None
    ) -> sa.Row[Any]:
        """Return a project's row, with ``institution`` (its key), if this may be done in it."""
        return self._project_of(connection, read_ref(ref, 2), action, see)

    def _project_of(
        self, connection: sa.Connection, ref: Ref, action: Action, see: Action | None
    ) -> sa.Row[Any]:
        query = (
            sa.select(projects, institutions.c.key.label("institution"))
            .join_from(projects, institutions)
            .where(institutions.c.key == ref.keys[0], projects.c.key == ref.keys[1])
        )
        row = connection.execute(query).one_or_none()
        shown = f"project {'/'.join(ref.keys[:2])}"
        if row is None:
            raise not_there(shown)
        self._require(connection, action, shown, row.institution_id, row.id, see)
        return row

    def _touch(self, connection: sa.Connection, project: int) -> None:
        """Note that something in a project changed."""
        changed = sa.update(projects).where(projects.c.id == project).values(changed=self._now())
        connection.execute(changed)

    # --- pages and values -----------------------------------------------------------------

    def _page(
        self,
        connection: sa.Connection,
        query: sa.Select[Any],
        page: int,
        per_page: int,
        read: Callable[[Sequence[sa.Row[Any]]], Sequence[T]],
    ) -> Page[T]:
        """Return one page of a query that is ordered."""
        check_page(page, per_page)
        counted = sa.select(sa.func.count()).select_from(query.order_by(None).subquery())
        total = connection.scalar(counted) or 0
        rows = connection.execute(query.limit(per_page).offset((page - 1) * per_page)).all()
        return Page(tuple(read(rows)), total, page, per_page)


def check_page(page: int, per_page: int) -> None:
    """Refuse what is no page.

    Raises
    ------
    CatalogError
    """
    for name, value in (("page", page), ("per_page", per_page)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise CatalogError(f"{name} must be a whole number from 1, not {value!r}")
    if per_page > MOST_PER_PAGE:
        raise CatalogError(f"a page holds at most {MOST_PER_PAGE} things, not {per_page}")


def not_there(shown: str) -> NotFoundError:
    """Return the same for what is not there as for what somebody may not see."""
    return NotFoundError(f"there is no {shown}, or it is not shown to you")


def named(name: str, what: str) -> str:
    """Return a name that can be kept.

    Raises
    ------
    CatalogError
    """
    try:
        return check_name(name, what)
    except ExperimentError as error:
        raise CatalogError(str(error)) from None


def text(value: str, what: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text that can be kept.

    Raises
    ------
    CatalogError
        If it is too long, or holds what no database keeps.
    """
    if not isinstance(value, str):
        raise CatalogError(f"{what} must be text, not {type(value).__name__}")
    if len(value) > most:
        raise CatalogError(f"{what} has {len(value)} characters; at most {most} can be kept")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise CatalogError(f"{what} holds a character that cannot be kept (a zero or half of one)")
    return value


def user_name(user: str) -> str:
    """Return the name of a user that can be kept, as the Hub writes it.

    Raises
    ------
    CatalogError
    """
    return named(user, "user")
