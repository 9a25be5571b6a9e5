"""Which notebook pods a user may have, as KubeSpawner's form; and a check of what they ask for.

No hub and no cluster are needed here.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hub_config import sizes
from hub_config.institutions import Institution, Institutions
from hub_config.sizes import NO_LIMITS, Size, SizeError

DATA = "/data"
DATA_OWNER = "data_owner"
GPU_RESOURCE = "nvidia.com/gpu"
IDLE_CPU = 0.2  # an idle notebook uses next to nothing
#: The choice of a free field that leaves it to the size.
AS_LISTED = "as-listed"
OWN = "--unlisted-choice"  # how KubeSpawner names what somebody typed themselves
#: What can be typed: words, KubeSpawner's pattern, what is asked for, and the reading of it.
FREE: Mapping[str, tuple[str, str, str, Callable[..., Any]]] = {
    "cpu": ("Cores", sizes.CPU, "a number of cores, such as 1.5", sizes.cores),
    "memory": ("Memory", sizes.MEMORY, "memory, such as 2G or 1500M", sizes.amount),
    "gpu": ("GPUs", sizes.GPU, "a whole number of GPUs", sizes.devices),
}


class NoInstitutionError(LookupError):
    """A user may have no notebook pod; its message is shown to them."""


def profiles(
    user: str,
    groups: Collection[str],
    institutions: Institutions,
    default: Size,
    owned: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return the notebook pods that a user may choose from: one for each of their institutions.

    Parameters
    ----------
    user : str
        Their name, for the sentence.
    groups : collection of str
        Their groups at the Hub.
    institutions : mapping of str to Institution
    default : Size
        Where an institution offers none of its own.
    owned : collection of str
        Keys of the institutions of which they are a data owner, whose data they get.

    Returns
    -------
    list of dict
        KubeSpawner's profiles, of which each sets the institution's namespace, and offers its
        sizes and, up to its bounds, free fields.

    Raises
    ------
    NoInstitutionError
        If no institution is theirs. An empty list would start the pod in the hub's namespace.
    """
    return [
        _profile(each, default, each.key in owned) for each in _mine(user, groups, institutions)
    ]


def offers_a_choice(found: list[dict[str, Any]]) -> bool:
    """Return whether there is anything to choose in some profiles."""
    return len(found) > 1 or bool(found[0].get("profile_options"))


def check_chosen(
    options: Mapping[str, Any],
    user: str,
    groups: Collection[str],
    institutions: Institutions,
    default: Size,
) -> None:
    """Refuse what is not offered: a form can be sent by hand.

    KubeSpawner looks at what was typed only where the profile is named, and only by a pattern.

    Parameters
    ----------
    options : mapping
        What was chosen, as KubeSpawner reads its form.
    user, groups, institutions, default
        As for :func:`profiles`.

    Raises
    ------
    NoInstitutionError
    SizeError
        Naming the first thing that is not offered.
    """
    mine = {each.key: each for each in _mine(user, groups, institutions)}
    key = options.get("profile") or next(iter(mine))
    if not isinstance(key, str) or key not in mine:
        raise SizeError(f"{key!r} is no institution of {user}; choose one of: {', '.join(mine)}")
    institution = mine[key]
    names = [each.name for each in _sizes(institution, default)]
    size = options.get("size") or names[0]
    if size not in names:
        raise SizeError(f"{key} offers no size {size!r}; choose one of: {', '.join(names)}")
    for field, (words, _, wanted, read) in FREE.items():
        limit = getattr(institution.limits, field)
        own = options.get(f"{field}{OWN}")
        if own:
            if limit is None:
                raise SizeError(f"{words} cannot be chosen freely at {key}; choose a size")
            if not isinstance(own, str):
                raise SizeError(f"{words} must be {wanted}, as text, not {own!r}")
            read(own, limit)
        elif (chosen := options.get(field)) and chosen != AS_LISTED:
            raise SizeError(f"{words} must be {wanted}, typed in its field, not {chosen!r}")


def _mine(user: str, groups: Collection[str], institutions: Institutions) -> list[Institution]:
    mine = [each for each in institutions.values() if each.key in groups]
    if not mine:
        raise NoInstitutionError(
            f"{user} belongs to no institution of this hub ({', '.join(institutions)}), so there "
            "is no place for a notebook; ask who runs the hub to add you to yours"
        )
    return mine


def _sizes(institution: Institution, default: Size) -> tuple[Size, ...]:
    """Return what an institution offers: its own, or the hub's as far as its bounds allow."""
    if institution.sizes:
        return institution.sizes
    bound = institution.limits
    cpu = default.cpu if bound.cpu is None else min(default.cpu, bound.cpu)
    memory = default.memory
    if bound.memory is not None:
        memory = min(memory, bound.memory, key=sizes.amount)
    return (Size(default.name, cpu, memory),)


def _profile(institution: Institution, default: Size, owner: bool) -> dict[str, Any]:
    claim = institution.data if owner else None
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}} if claim else None
    made: dict[str, Any] = {
        # KubeSpawner writes them into its form as they are.
        "display_name": html.escape(institution.name),
        "slug": institution.key,
        "kubespawner_override": {
            "namespace": institution.namespace,
            "environment": {
                "FLAUTIM_LAB_INSTITUTION": institution.key,
                # Datasets that are registered from here are known by their paths on the volume.
                "FLAUTIM_LAB_DATA_VOLUME": DATA if volume is not None else "",
            },
            # None takes away what an earlier start of the same spawner may have set.
            "volumes": {"data": volume},
            "volume_mounts": {
                "data": {"name": "data", "mountPath": DATA} if volume is not None else None
            },
        },
    }
    offered = _sizes(institution, default)
    made["kubespawner_override"] |= _override(offered[0], default)
    options: dict[str, Any] = {}
    if len(offered) > 1 or institution.limits != NO_LIMITS:
        options["size"] = {
            "display_name": "Size",
            "choices": {
                each.name: {
                    "display_name": each.words,
                    "kubespawner_override": _override(each, default),
                }
                for each in offered
            },
        }
    for field, (words, pattern, wanted, read) in FREE.items():
        limit = getattr(institution.limits, field)
        if limit is not None:
            shown = f"{limit:g}" if isinstance(limit, float) else limit
            options[field] = {
                "display_name": words,
                "choices": {AS_LISTED: {"display_name": "as the size says"}},
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": f"{words}, at most {shown}",
                    "validation_regex": f"^{pattern}$",
                    "validation_message": f"Write {wanted}.",
                    "kubespawner_override": _typed(field, read, limit),
                },
            }
    if options:
        made["profile_options"] = options
    return made


def _override(size: Size, default: Size) -> dict[str, Any]:
    """Return what KubeSpawner is to set for a size."""
    return {
        "image": size.image or default.image,
        "cpu_limit": size.cpu,
        "cpu_guarantee": min(size.cpu, IDLE_CPU),
        "mem_limit": size.memory,
        "extra_resource_limits": _gpus(size.gpu),
    }


def _gpus(number: int) -> dict[str, str | None]:
    return {GPU_RESOURCE: str(number) if number else None}


def _typed(field: str, read: Callable[..., Any], limit: Any) -> dict[str, Any]:
    """Return what KubeSpawner is to set for what somebody typed, bounded where it is set."""

    def value(spawner: Any) -> Any:
        return read(spawner.user_options[f"{field}{OWN}"], limit)

    if field == "cpu":
        return {"cpu_limit": value, "cpu_guarantee": lambda spawner: min(value(spawner), IDLE_CPU)}
    if field == "memory":
        return {"mem_limit": value}
    return {"extra_resource_limits": lambda spawner: _gpus(value(spawner))}
