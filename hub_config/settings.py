"""What the environment tells the hub, read once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_config import monitoring
from hub_config.institutions import CLAIM, Institutions, InstitutionsError, read_institutions
from hub_config.oidc import NEEDED as OIDC_NEEDED
from hub_config.oidc import Oidc, OidcError
from hub_config.sizes import Size, SizeError, amount

#: Shorter ones can be guessed by who may try for weeks. JupyterHub itself wants 32 of an admin's.
SHORTEST_PASSWORD = 12
SHORTEST_ADMIN_PASSWORD = 32
SHORTEST_METRICS_TOKEN = 32
DATABASE_URL = "sqlite:////flautim/hub/jupyterhub.sqlite"
DATABASES = {
    "sqlite": "sqlite",
    # Of SQLAlchemy's drivers the one that is in the hub's image.
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
NEEDED = {
    "POD_NAMESPACE": "the hub's own namespace",
    "FLAUTIM_LAB_INSTITUTIONS": "the path of the list of institutions",
    "FLAUTIM_LAB_SERVICE_TOKEN": "the service's, to ask the hub",
    # JupyterHub reads this one itself.
    "CONFIGPROXY_AUTH_TOKEN": "the hub's, to tell the proxy its routes",
}
#: Servers tell the hub every 5 minutes that they are in use.
LEAST_IDLE_MINUTES = 15
LOGIN_VARIABLE = "FLAUTIM_LAB_LOGIN"
PASSWORDS = {
    "FLAUTIM_LAB_LOGIN_PASSWORD": "with which users log in",
    "FLAUTIM_LAB_ADMIN_PASSWORD": "with which the admin logs in",
}
#: What each way to log in needs besides.
LOGINS = {"password": PASSWORDS, "oidc": OIDC_NEEDED}


class SettingsError(SystemExit):
    """A setting is missing or wrong. Who starts the hub reads one sentence, without a traceback."""


@dataclass(frozen=True)
class Settings:
    """The hub's settings.

    Attributes
    ----------
    namespace : str
        The hub's own.
    institutions : mapping of str to Institution
    service_token : str
    passwords : tuple of str, or None
        The users' and the admin's, where login is by password.
    oidc : Oidc or None
        The identity provider, where login is by it.
    service_url : str or None
        Where the service is, where not at its place in the hub's namespace.
    notebook_image : str
    image_pull_policy : str
    cpu, memory : str
        What a notebook pod may use: cores, and bytes as KubeSpawner writes them (``2G``).
    home_size : str
        Of a user's volume, as Kubernetes writes it.
    idle_minutes : int
        After which a notebook that nobody uses, and in which nothing computes, is ended; 0: never.
    storage_class : str or None
        Of a user's volume; the cluster's own choice by default.
    database_url : str
        Of what JupyterHub keeps, as SQLAlchemy writes it; a file on the hub's volume by default.
    logs : str
        ``text``, or ``json`` for a line of JSON for each entry of the log.
    metrics_token : str
        With which Prometheus may read ``/hub/metrics``; "" for nobody.
    namespaces : str
        How the namespaces begin that the service makes; "" where it makes none.
    namespaces_data : str or None
        The PersistentVolumeClaim with an institution's data in each of these, where it has one.
    """

    namespace: str
    institutions: Institutions
    service_token: str = field(repr=False)
    passwords: tuple[str, str] | None = field(default=None, repr=False)
    oidc: Oidc | None = None
    service_url: str | None = None
    idle_minutes: int = 60
    notebook_image: str = "flautim-lab-notebook:0.1.0"
    image_pull_policy: str = "IfNotPresent"
    cpu: float = 1.0
    memory: str = "2G"
    home_size: str = "2Gi"
    storage_class: str | None = None
    # With a password in it.
    database_url: str = field(default=DATABASE_URL, repr=False)
    logs: str = monitoring.TEXT
    metrics_token: str = field(default="", repr=False)
    namespaces: str = ""
    namespaces_data: str | None = None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the environment.

        Raises
        ------
        SettingsError
            Naming the variable that is missing or wrong.
        """
        login = environment.get(LOGIN_VARIABLE, "").strip() or "password"
        if login not in LOGINS:
            raise SettingsError(
                f"{LOGIN_VARIABLE} must be one of {', '.join(LOGINS)}, not {login!r}"
            )
        for name, what in {**NEEDED, **LOGINS[login]}.items():
            if not environment.get(name, "").strip():
                raise SettingsError(f"the hub needs {name} in its environment: {what}")
        try:
            institutions = read_institutions(Path(environment["FLAUTIM_LAB_INSTITUTIONS"]))
        except InstitutionsError as error:
            raise SettingsError(f"FLAUTIM_LAB_INSTITUTIONS: {error}") from error
        return cls(
            namespace=environment["POD_NAMESPACE"],
            institutions=institutions,
            service_token=environment["FLAUTIM_LAB_SERVICE_TOKEN"],
            passwords=_passwords(environment) if login == "password" else None,
            oidc=_oidc(environment, institutions) if login == "oidc" else None,
            **_chosen(environment),
        )

    @property
    def size(self) -> Size:
        """What a notebook pod may use where its institution offers nothing of its own."""
        return Size("Standard", self.cpu, self.memory, image=self.notebook_image)


def _passwords(environment: Mapping[str, str]) -> tuple[str, str]:
    for name, shortest in zip(PASSWORDS, (SHORTEST_PASSWORD, SHORTEST_ADMIN_PASSWORD), strict=True):
        if len(environment[name]) < shortest:
            raise SettingsError(
                f"{name} has {len(environment[name])} characters; it needs at least {shortest}"
            )
    user, admin = (environment[name] for name in PASSWORDS)
    if user == admin:
        raise SettingsError(
            f"{' and '.join(PASSWORDS)} are the same; every user would be an admin: give each "
            "its own"
        )
    return user, admin


def _oidc(environment: Mapping[str, str], institutions: Institutions) -> Oidc:
    for each in institutions.values():
        if each.users:
            raise SettingsError(
                f"{LOGIN_VARIABLE} is oidc, so the provider's claims say who belongs to "
                f"{each.key}; take its users off the list"
            )
    try:
        return Oidc.of_environment(environment)
    except OidcError as error:
        raise SettingsError(str(error)) from error


def _chosen(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return those settings that have a default and were given."""
    names = {
        "notebook_image": "FLAUTIM_LAB_NOTEBOOK_IMAGE",
        "image_pull_policy": "FLAUTIM_LAB_IMAGE_PULL_POLICY",
        "cpu": "FLAUTIM_LAB_NOTEBOOK_CPU",
        "memory": "FLAUTIM_LAB_NOTEBOOK_MEMORY",
        "home_size": "FLAUTIM_LAB_HOME_SIZE",
        "storage_class": "FLAUTIM_LAB_STORAGE_CLASS",
        "idle_minutes": "FLAUTIM_LAB_IDLE_MINUTES",
        "service_url": "FLAUTIM_LAB_SERVICE_ADDRESS",
        "database_url": "FLAUTIM_LAB_HUB_DATABASE_URL",
        "logs": "FLAUTIM_LAB_LOGS",
        "metrics_token": "FLAUTIM_LAB_METRICS_TOKEN",
        "namespaces": "FLAUTIM_LAB_NAMESPACES",
        "namespaces_data": "FLAUTIM_LAB_NAMESPACES_DATA",
    }
    given: dict[str, Any] = {
        key: environment[name] for key, name in names.items() if environment.get(name)
    }
    if "cpu" in given:
        try:
            given["cpu"] = float(given["cpu"])
        except ValueError:
            raise SettingsError(
                f"{names['cpu']} must be a number of cores, such as 0.5, not {given['cpu']!r}"
            ) from None
    if "idle_minutes" in given:
        text = given["idle_minutes"]
        if not re.fullmatch("[0-9]{1,6}", text, re.ASCII) or 0 < int(text) < LEAST_IDLE_MINUTES:
            raise SettingsError(
                f"{names['idle_minutes']} must be a whole number of minutes from "
                f"{LEAST_IDLE_MINUTES} on, or 0 for never, not {text!r}"
            )
        given["idle_minutes"] = int(text)
    if "memory" in given:
        try:
            amount(given["memory"])
        except SizeError as error:
            raise SettingsError(f"{names['memory']}: {error}") from None
    if not CLAIM.fullmatch(given.get("namespaces_data", "data")):
        raise SettingsError(
            f"{names['namespaces_data']} must be the name of a PersistentVolumeClaim, not "
            f"{given['namespaces_data']!r}"
        )
    if "database_url" in given:
        given["database_url"] = _database(given["database_url"].strip(), names["database_url"])
    if given.get("logs", monitoring.TEXT) not in (monitoring.TEXT, monitoring.JSON):
        raise SettingsError(f"{names['logs']} must be text or json, not {given['logs']!r}")
    if len(given.get("metrics_token", "x" * SHORTEST_METRICS_TOKEN)) < SHORTEST_METRICS_TOKEN:
        raise SettingsError(
            f"{names['metrics_token']} has {len(given['metrics_token'])} characters; it needs at "
            f"least {SHORTEST_METRICS_TOKEN}, or to be empty"
        )
    return given


def _database(url: str, variable: str) -> str:
    """Return the address of a database, with the driver that is here."""
    kind, separator, rest = url.partition("://")
    if not separator or kind not in DATABASES:
        # Never the address itself: a password is in it.
        raise SettingsError(
            f"{variable} must begin with sqlite:/// or postgresql+psycopg://, such as "
            "postgresql+psycopg://hub:PASSWORD@database:5432/hub"
        )
    return f"{DATABASES[kind]}://{rest}"
