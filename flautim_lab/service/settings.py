"""What the service is told by its environment, read once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flautim_lab.errors import UsageError
from flautim_lab.runners.cluster import IMAGE, IMAGE_VARIABLE
from flautim_lab.service.spaces import PREFIX, Claims, Spaces

INSTITUTIONS_VARIABLE = "FLAUTIM_LAB_INSTITUTIONS"
PREFIX_VARIABLE = "JUPYTERHUB_SERVICE_PREFIX"
PORT_VARIABLE = "FLAUTIM_LAB_SERVICE_PORT"
METRICS_VARIABLE = "FLAUTIM_LAB_METRICS_TOKEN"
SHORTEST_TOKEN = 32  # characters: one that can be guessed is worse than none
#: How the namespaces begin that the service makes; it makes none where this is empty.
NAMESPACES_VARIABLE = "FLAUTIM_LAB_NAMESPACES"
#: The file with what each of them has, and the service's own namespace.
OBJECTS_VARIABLE = "FLAUTIM_LAB_NAMESPACE_OBJECTS"
OWN_VARIABLE = "POD_NAMESPACE"
#: The claim in it with its institution's data; "" where they have none.
DATA_VARIABLE = "FLAUTIM_LAB_NAMESPACES_DATA"
HOST_VARIABLE = "FLAUTIM_LAB_SERVICE_HOST"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's own address; policies say who may reach it
STOP_VARIABLE = "FLAUTIM_LAB_STOP_SECONDS"
STOP_SECONDS = 60.0
LONGEST_STOP_SECONDS = 3600.0
NAME = "flautim-lab"
NEEDED = ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", INSTITUTIONS_VARIABLE)


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    Attributes
    ----------
    institutions : mapping of str to str
        The namespace of each institution, by its key, which is its group at the Hub. Where the
        service makes namespaces they change while it runs, see ``service/spaces.py``.
    names : mapping of str to str
        The name of each, by its key; the catalog has it from here.
    data : mapping of str to str
        The claim of the volume with its data, of each institution that has one, by its key;
        ``made`` of it is that in each namespace that the service makes.
    fewest_rows : mapping of str to int
        How few rows of them may be trained on, or validated on, together, of each institution that
        says so, by its key.
    image : str
        Of run pods.
    prefix : str
        Of every route, without a slash at its end.
    port : int
    host : str
        The address that it listens on; in a pod, every one of its own.
    token : str
        Its own at the Hub, with which the hub asks it, too.
    listed : mapping of str to mapping
        All that the list says of each institution, by its key; the hub checks it
        (``hub_config/institutions.py``).
    metrics_token : str
        With which Prometheus may ask for the metrics; "" for nobody.
    stop_seconds : float
        How long a run is given to end by itself when an owner of its data asks for its end, before
        its pods are removed.
    objects : Path or None
        What each namespace that the service makes has; None where it makes none.
    namespace : str
        The service's own, where it makes others.
    """

    institutions: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    fewest_rows: Mapping[str, int] = field(default_factory=dict)
    image: str = IMAGE
    prefix: str = f"/services/{NAME}"
    port: int = 8080
    host: str = EVERYWHERE
    token: str = field(default="", repr=False)
    listed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics_token: str = field(default="", repr=False)
    stop_seconds: float = STOP_SECONDS
    objects: Path | None = None
    namespace: str = ""

    @classmethod
    def of_environment(cls) -> Settings:
        """Read the environment.

        Raises
        ------
        UsageError
            Naming a variable that is missing or wrong.
        """
        missing = [name for name in NEEDED if not os.environ.get(name)]
        if missing:
            raise UsageError(f"the service needs {', '.join(missing)} in its environment")
        path = Path(os.environ[INSTITUTIONS_VARIABLE])
        try:
            told: Any = json.loads(path.read_text(encoding="utf-8"))
            institutions = {key: str(value["namespace"]) for key, value in told.items()}
            names = {key: str(value.get("name") or key) for key, value in told.items()}
            data = {key: str(value["data"]) for key, value in told.items() if value.get("data")}
            fewest = {
                key: int(value["fewest_rows"])
                for key, value in told.items()
                if "fewest_rows" in value
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} ({INSTITUTIONS_VARIABLE}) is no list of institutions with a namespace "
                f"each: {type(error).__name__}: {error}"
            ) from error
        port = os.environ.get(PORT_VARIABLE, "8080")
        if not port.isdigit():
            raise UsageError(f"{PORT_VARIABLE} must be a number, not {port!r}")
        token = os.environ.get(METRICS_VARIABLE, "").strip()
        if token and len(token) < SHORTEST_TOKEN:
            raise UsageError(
                f"{METRICS_VARIABLE} has {len(token)} characters; it needs at least "
                f"{SHORTEST_TOKEN}, or to be empty"
            )
        prefix = _prefix()
        spaces = Spaces(institutions, prefix)
        return cls(
            spaces,
            names,
            Claims(spaces, data, os.environ.get(DATA_VARIABLE, "").strip() if prefix else ""),
            fewest,
            os.environ.get(IMAGE_VARIABLE) or IMAGE,
            (os.environ.get(PREFIX_VARIABLE) or f"/services/{NAME}").rstrip("/"),
            int(port),
            os.environ.get(HOST_VARIABLE) or EVERYWHERE,
            os.environ["JUPYTERHUB_API_TOKEN"],
            told,
            token,
            _stop_seconds(),
            Path(os.environ[OBJECTS_VARIABLE]) if prefix else None,
            os.environ[OWN_VARIABLE] if prefix else "",
        )


def _stop_seconds() -> float:
    told = os.environ.get(STOP_VARIABLE) or f"{STOP_SECONDS:g}"
    try:
        seconds = float(told)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_STOP_SECONDS:
        raise UsageError(
            f"{STOP_VARIABLE} must be a number of seconds from 0 to {LONGEST_STOP_SECONDS:g}, not "
            f"{told!r}"
        )
    return seconds


def _prefix() -> str:
    """Return how the namespaces begin that the service makes, "" where it makes none."""
    prefix = os.environ.get(NAMESPACES_VARIABLE, "").strip()
    if not prefix:
        return ""
    if not PREFIX.fullmatch(prefix):
        raise UsageError(
            f"{NAMESPACES_VARIABLE} must be at most 20 lower-case letters, digits and dashes, and "
            f"end with a dash, such as flautim-of-, not {prefix!r}"
        )
    lacking = [name for name in (OBJECTS_VARIABLE, OWN_VARIABLE) if not os.environ.get(name)]
    if lacking:
        raise UsageError(
            f"to make namespaces ({NAMESPACES_VARIABLE}) the service needs {', '.join(lacking)} in "
            "its environment"
        )
    return prefix
