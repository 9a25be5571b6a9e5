"""Who belongs to an institution, and what the panel remembers of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog import schema
from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import Base, check_page, text, user_name
from flautim_lab.catalog.plain_json import to_json
from flautim_lab.catalog.schema import members, projects, remembered
from flautim_lab.catalog.things import Page, Person, Role
from flautim_lab.errors import CatalogError, NotFoundError
from flautim_lab.names import choose

MOST_REMEMBERED_CHARACTERS = 2**18


class People(Base):
    """The part of the catalog that keeps people."""

    def users(self, institution: str, *, page: int = 1, per_page: int = PER_PAGE) -> Page[Person]:
        """Return who belongs to an institution, by name: by a role here, or by the hub's list."""
        check_page(page, per_page)
        with self._database.reading() as connection:
            row = self._institution_row(connection, institution)
            self._require(connection, Action.SEE_USERS, f"list of users of {institution}", row.id)
            here = schema.roles.c.institution_id == row.id
            # All names, since those of the list are not in the database: an institution's staff.
            known = connection.scalars(sa.select(schema.roles.c.user).where(here).distinct())
            listed = self._listed.get(row.key, {})
            users = sorted({*known, *listed})
            shown = users[(page - 1) * per_page : page * per_page]
            held: dict[str, set[Role]] = {user: set(listed.get(user, ())) for user in shown}
            table = sa.select(schema.roles.c.user, schema.roles.c.role).where(
                here, schema.roles.c.user.in_(shown)
            )
            for user, role in connection.execute(table):
                held[user].add(Role(role))
        found = (Person(user, row.key, frozenset(held[user]), user in listed) for user in shown)
        return Page(tuple(found), len(users), page, per_page)

    def set_roles(self, institution: str, user: str, roles: Iterable[Role]) -> Person:
        """Let somebody be this at an institution, and nothing else; adds who was not there."""
        user = user_name(user)
        given = frozenset(
            Role(choose(str(role), [str(one) for one in Role], "role", CatalogError))
            for role in roles
        )
        if not given:
            raise CatalogError(
                f"{user} would have no role; give at least one, or remove the user from "
                f"{institution}"
            )
        with self._writing() as connection:
            row = self._institution_row(connection, institution)
            self._require(
                connection,
                Action.GIVE_ROLES,
                f"institution {institution}",
                row.id,
                see=Action.SEE_INSTITUTIONS,
            )
            self._set_roles(connection, row.id, user, given)
        listed = self._listed.get(row.key, {})
        return Person(user, row.key, given | listed.get(user, frozenset()), user in listed)

    def _set_roles(
        self, connection: sa.Connection, institution: int, user: str, given: Iterable[Role]
    ) -> None:
        theirs = (schema.roles.c.institution_id == institution) & (schema.roles.c.user == user)
        connection.execute(sa.delete(schema.roles).where(theirs))
        rows = [{"institution_id": institution, "user": user, "role": str(role)} for role in given]
        if rows:
            connection.execute(sa.insert(schema.roles), rows)

    def remove_user(self, institution: str, user: str) -> None:
        """Take somebody off an institution, and off its projects."""
        with self._writing() as connection:
            row = self._institution_row(connection, institution)
            self._require(
                connection,
                Action.GIVE_ROLES,
                f"institution {institution}",
                row.id,
                see=Action.SEE_INSTITUTIONS,
            )
            known = sa.select(schema.roles.c.user).where(
                schema.roles.c.institution_id == row.id, schema.roles.c.user == user
            )
            if connection.scalar(known) is None:
                if user in self._listed.get(row.key, {}):
                    raise CatalogError(
                        f"{user} is of {institution} by the hub's list; only who runs the hub can "
                        "take them off there"
                    )
                raise NotFoundError(f"there is no user {user} at {institution}")
            self._set_roles(connection, row.id, user, ())
            here = sa.select(projects.c.id).where(projects.c.institution_id == row.id)
            connection.execute(
                sa.delete(members).where(members.c.user == user, members.c.project_id.in_(here))
            )

    def remember(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep something of who asks, under a key, in place of what was there."""
        key = text(key, "the key", 100)
        what = "what is to be remembered"
        kept = text(to_json(value, what), what, MOST_REMEMBERED_CHARACTERS)
        mine = (remembered.c.user == self._actor.user) & (remembered.c.key == key)
        with self._writing() as connection:
            connection.execute(sa.delete(remembered).where(mine))
            connection.execute(
                sa.insert(remembered).values(user=self._actor.user, key=key, value=kept)
            )

    def remembered(self, key: str) -> Mapping[str, Any]:
        """Return what is kept of who asks under a key; ``{}`` where there is nothing."""
        mine = (remembered.c.user == self._actor.user) & (remembered.c.key == key)
        with self._database.reading() as connection:
            kept = connection.scalar(sa.select(remembered.c.value).where(mine))
        return {} if kept is None else dict(json.loads(kept))
