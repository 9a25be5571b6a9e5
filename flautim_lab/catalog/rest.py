"""The catalog as the hub's service has it: every method of the interface is one request.

:mod:`flautim_lab.catalog.wire` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast
from urllib.parse import quote

from pydantic import ValidationError

from flautim_lab.catalog import wire
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.plain_json import to_json
from flautim_lab.catalog.refs import read_ref
from flautim_lab.connection import Away, Refusal, Service
from flautim_lab.errors import CatalogError, CatalogUnavailableError


class RestCatalog:
    """The catalog of a hub, as the user of this notebook may use it.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def close(self) -> None:
        """Close the connection."""
        self._service.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in wire.ROUTES:
            raise AttributeError(f"a catalog has no {name}")
        return partial(self._ask, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *wire.ROUTES})

    def _ask(self, name: str, /, *words: Any, **named: Any) -> Any:
        route = wire.ROUTES[name]
        bound = wire.signature(name).bind(*words, **named)
        given = bound.arguments
        path = wire.PREFIX + route.path
        for key, value in _path_values(route, given).items():
            path = path.replace(f"{{{key}}}", quote(value, safe="@"), 1)
        rest = {each.name: given[each.name] for each in wire.elsewhere(name) if each.name in given}
        for key, value in rest.items():
            if isinstance(value, Mapping):
                to_json(value, f"the {key}")  # or Pydantic would make lists of sets, and so on
        try:
            if (shape := wire.body(name)) is not None:
                sent = shape(**rest).model_dump(mode="json", exclude_unset=True)
                content = self._service.ask(route.method, path, sent)
            else:
                asked = {key: value for key, value in rest.items() if value is not None}
                content = self._service.ask(route.method, path, None, asked)
        except ValidationError as error:  # a ValueError too
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CatalogError(f"{where}: {first['msg']}") from None
        except UnicodeEncodeError:
            raise CatalogError(f"what {name} is given holds half of a character") from None
        except ValueError as error:
            raise CatalogError(f"{name} cannot be asked of the hub: {error}") from None
        except Refusal as error:
            raise wire.refusal(error.kind, str(error)) from None
        except Away as error:
            raise CatalogUnavailableError(str(error)) from None
        return wire.answer(name).validate_json(content)


def _path_values(route: wire.Route, given: dict[str, Any]) -> dict[str, str]:
    """Return what stands for the names in a path."""
    names = route.in_path
    values = {name: str(given[name]) for name in names[route.parts :]}
    for name, value in values.items():
        if not value.strip("."):  # such a part of a path is nothing, or another path
            raise CatalogError(f"{value!r} cannot be a {name}")
    if route.reference:
        text = str(given[route.reference])
        read_ref(text, route.parts)  # so many keys, each without a slash
        values |= dict(zip(names, text.strip().split("/"), strict=False))
    return values


def rest_catalog(service: Service) -> Catalog:
    """Return the catalog behind a connection."""
    return cast(Catalog, RestCatalog(service))
