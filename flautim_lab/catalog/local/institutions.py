"""Institutions."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from flautim_lab.catalog import cnpj as cnpjs
from flautim_lab.catalog.authorization import Action
from flautim_lab.catalog.interface import PER_PAGE
from flautim_lab.catalog.local.base import Base, named
from flautim_lab.catalog.refs import contains, fold, make_key
from flautim_lab.catalog.schema import datasets, institutions, projects, roles
from flautim_lab.catalog.things import Institution, Page
from flautim_lab.errors import CatalogError, ConflictError, InUseError

MOST_LOGO_BYTES = 64 * 2**10
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # and WebP: RIFF, a size, WEBP


class Institutions(Base):
    """The part of the catalog that keeps institutions."""

    def institutions(
        self,
        search: str = "",
        *,
        active_only: bool = False,
        page: int = 1,
        per_page: int = PER_PAGE,
    ) -> Page[Institution]:
        """Return institutions by name, that have ``search`` in their name, key or CNPJ."""
        query = _query().order_by(institutions.c.folded, institutions.c.key)
        if active_only:
            query = query.where(institutions.c.active)
        if words := fold(search):
            pattern = contains(words)
            found = [
                institutions.c.folded.like(pattern, escape="\\"),
                institutions.c.key.like(pattern, escape="\\"),
            ]
            if number := cnpjs.plain(search):
                found.append(institutions.c.cnpj.like(contains(number), escape="\\"))
            query = query.where(sa.or_(*found))
        with self._database.reading() as connection:
            self._require(connection, Action.SEE_INSTITUTIONS, "list of institutions")
            return self._page(
                connection, query, page, per_page, lambda rows: self._things(connection, rows)
            )

    def institution(self, key: str) -> Institution:
        """Return one institution."""
        with self._database.reading() as connection:
            self._require(connection, Action.SEE_INSTITUTIONS, f"institution {key}")
            return self._institution(connection, key)

    def add_institution(
        self, name: str, *, key: str = "", cnpj: str = "", logo: bytes = b""
    ) -> Institution:
        """Make an institution; ``key`` is made from the name where none is given."""
        name = _named(name)
        key = make_key(name, key)
        now = self._now()
        with self._writing() as connection:
            self._require(
                connection,
                Action.MAKE_INSTITUTIONS,
                f"institution {key}",
                see=Action.SEE_INSTITUTIONS,
            )
            if connection.scalar(sa.select(institutions.c.id).where(institutions.c.key == key)):
                raise ConflictError(
                    f"there is an institution {key} already; give this one another key"
                )
            number = self._free_cnpj(connection, cnpj)
            connection.execute(
                sa.insert(institutions).values(
                    key=key,
                    name=name,
                    folded=fold(name),
                    cnpj=number,
                    logo=_checked_logo(logo),
                    active=True,
                    created=now,
                    changed=now,
                )
            )
            return self._institution(connection, key)

    def change_institution(
        self,
        key: str,
        *,
        name: str | None = None,
        cnpj: str | None = None,
        logo: bytes | None = None,
        active: bool | None = None,
    ) -> Institution:
        """Change what is given of an institution."""
        with self._writing() as connection:
            row = self._institution_row(connection, key)
            action = Action.CHANGE_INSTITUTION if active is None else Action.MAKE_INSTITUTIONS
            self._require(
                connection, action, f"institution {key}", row.id, see=Action.SEE_INSTITUTIONS
            )
            values: dict[str, Any] = {"changed": self._now()}
            if name is not None:
                values["name"] = _named(name)
                values["folded"] = fold(values["name"])
            if cnpj is not None:
                values["cnpj"] = self._free_cnpj(connection, cnpj, but=row.id)
            if logo is not None:
                values["logo"] = _checked_logo(logo)
            if active is not None:
                values["active"] = bool(active)
            connection.execute(
                sa.update(institutions).where(institutions.c.id == row.id).values(values)
            )
            return self._institution(connection, key)

    def remove_institution(self, key: str) -> None:
        """Remove an institution that has no projects and no datasets."""
        with self._writing() as connection:
            row = self._institution_row(connection, key)
            self._require(
                connection,
                Action.MAKE_INSTITUTIONS,
                f"institution {key}",
                row.id,
                see=Action.SEE_INSTITUTIONS,
            )
            for table, what in ((projects, "projects"), (datasets, "datasets")):
                there = sa.select(table.c.key).where(table.c.institution_id == row.id).limit(1)
                if (first := connection.scalar(there)) is not None:
                    raise InUseError(
                        f"institution {key} has {what}, such as {key}/{first}; remove them first, "
                        "or make the institution inactive"
                    )
            connection.execute(sa.delete(roles).where(roles.c.institution_id == row.id))
            connection.execute(sa.delete(institutions).where(institutions.c.id == row.id))

    def _institution(self, connection: sa.Connection, key: str) -> Institution:
        row = self._institution_row(connection, key)
        rows = connection.execute(_query().where(institutions.c.id == row.id)).all()
        (made,) = self._things(connection, rows)
        return made

    def _things(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Institution]:
        """Return institutions; who is of one by the hub's list is counted among its users."""
        made = []
        for row in rows:
            listed = list(self._listed.get(row.key, ()))
            both = sa.select(sa.func.count(roles.c.user.distinct())).where(
                roles.c.institution_id == row.id, roles.c.user.in_(listed)
            )
            more = len(listed) - (connection.scalar(both) or 0) if listed else 0
            made.append(_thing(row, users=row.users + more))
        return made

    def _free_cnpj(self, connection: sa.Connection, cnpj: str, but: int = 0) -> str:
        """Return a CNPJ, checked, that no other institution has."""
        number = cnpjs.check_cnpj(cnpj)
        query = sa.select(institutions.c.key).where(
            institutions.c.cnpj == number, institutions.c.id != but
        )
        if number and (other := connection.scalar(query)) is not None:
            raise ConflictError(
                f"institution {other} has the CNPJ {cnpjs.formatted(number)} already"
            )
        return number


def _query() -> sa.Select[Any]:
    def counted(query: sa.Select[Any], name: str) -> sa.Label[int]:
        return query.correlate(institutions).scalar_subquery().label(name)

    def here(table: sa.Table) -> sa.Select[Any]:
        return (
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.institution_id == institutions.c.id, ~table.c.archived)
        )

    users = sa.select(sa.func.count(roles.c.user.distinct())).where(
        roles.c.institution_id == institutions.c.id
    )
    return sa.select(
        institutions,
        counted(here(projects), "projects"),
        counted(here(datasets), "datasets"),
        counted(users, "users"),
    )


def _thing(row: sa.Row[Any], users: int) -> Institution:
    return Institution(
        key=row.key,
        name=row.name,
        cnpj=row.cnpj,
        logo=bytes(row.logo),
        active=row.active,
        created=row.created,
        changed=row.changed,
        projects=row.projects,
        datasets=row.datasets,
        users=users,
    )


def _named(name: str) -> str:
    """Return an institution's name, which unlike others may hold a slash: CEFET/MG."""
    named(name.replace("/", "-"), "institution")
    return unicodedata.normalize("NFC", name).strip()


def _checked_logo(logo: bytes) -> bytes:
    """Return a logo that browsers show and that holds no scripts."""
    if len(logo) > MOST_LOGO_BYTES:
        raise CatalogError(
            f"the logo has {len(logo) // 2**10} KiB; give one of at most "
            f"{MOST_LOGO_BYTES // 2**10} KiB"
        )
    webp = logo[:4] == b"RIFF" and logo[8:12] == b"WEBP"
    if logo and not (webp or logo.startswith(_PICTURES)):
        raise CatalogError("the logo is no PNG, JPEG or WebP picture; give one of these")
    return bytes(logo)
