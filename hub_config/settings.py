"""What the environment tells the hub, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_config import monitoring
from hub_config.institutions import Institutions, InstitutionsError, read_institutions

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
    "FLAUTIM_LAB_LOGIN_PASSWORD": "with which users log in",
    "FLAUTIM_LAB_ADMIN_PASSWORD": "with which the admin logs in",
    "FLAUTIM_LAB_SERVICE_TOKEN": "the service's, to ask the hub",
    # JupyterHub reads this one itself.
    "CONFIGPROXY_AUTH_TOKEN": "the hub's, to tell the proxy its routes",
}


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
    login_password, admin_password, service_token : str
    notebook_image : str
    image_pull_policy : str
    cpu, memory : str
        What a notebook pod may use: cores, and bytes as KubeSpawner writes them (``2G``).
    home_size : str
        Of a user's volume, as Kubernetes writes it.
    storage_class : str or None
        Of a user's volume; the cluster's own choice by default.
    database_url : str
        Of what JupyterHub keeps, as SQLAlchemy writes it; a file on the hub's volume by default.
    logs : str
        ``text``, or ``json`` for a line of JSON for each entry of the log.
    metrics_token : str
        With which Prometheus may read ``/hub/metrics``; "" for nobody.
    """

    namespace: str
    institutions: Institutions
    login_password: str = field(repr=False)
    admin_password: str = field(repr=False)
    service_token: str = field(repr=False)
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

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the environment.

        Raises
        ------
        SettingsError
            Naming the variable that is missing or wrong.
        """
        for name, what in NEEDED.items():
            if not environment.get(name, "").strip():
                raise SettingsError(f"the hub needs {name} in its environment: {what}")
        for name, shortest in (
            ("FLAUTIM_LAB_LOGIN_PASSWORD", SHORTEST_PASSWORD),
            ("FLAUTIM_LAB_ADMIN_PASSWORD", SHORTEST_ADMIN_PASSWORD),
        ):
            if len(environment[name]) < shortest:
                raise SettingsError(
                    f"{name} has {len(environment[name])} characters; it needs at least {shortest}"
                )
        if environment["FLAUTIM_LAB_LOGIN_PASSWORD"] == environment["FLAUTIM_LAB_ADMIN_PASSWORD"]:
            raise SettingsError(
                "FLAUTIM_LAB_LOGIN_PASSWORD and FLAUTIM_LAB_ADMIN_PASSWORD are the same; every "
                "user would be an admin: give each its own"
            )
        try:
            institutions = read_institutions(Path(environment["FLAUTIM_LAB_INSTITUTIONS"]))
        except InstitutionsError as error:
            raise SettingsError(f"FLAUTIM_LAB_INSTITUTIONS: {error}") from error
        return cls(
            namespace=environment["POD_NAMESPACE"],
            institutions=institutions,
            login_password=environment["FLAUTIM_LAB_LOGIN_PASSWORD"],
            admin_password=environment["FLAUTIM_LAB_ADMIN_PASSWORD"],
            service_token=environment["FLAUTIM_LAB_SERVICE_TOKEN"],
            **_chosen(environment),
        )


def _chosen(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return those settings that have a default and were given."""
    names = {
        "notebook_image": "FLAUTIM_LAB_NOTEBOOK_IMAGE",
        "image_pull_policy": "FLAUTIM_LAB_IMAGE_PULL_POLICY",
        "cpu": "FLAUTIM_LAB_NOTEBOOK_CPU",
        "memory": "FLAUTIM_LAB_NOTEBOOK_MEMORY",
        "home_size": "FLAUTIM_LAB_HOME_SIZE",
        "storage_class": "FLAUTIM_LAB_STORAGE_CLASS",
        "database_url": "FLAUTIM_LAB_HUB_DATABASE_URL",
        "logs": "FLAUTIM_LAB_LOGS",
        "metrics_token": "FLAUTIM_LAB_METRICS_TOKEN",
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
