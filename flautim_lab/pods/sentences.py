"""What keeps a pod from working, in one sentence with the next step; pure."""

from __future__ import annotations

from typing import Any

from flautim_lab.pods.volume import has_rows

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
START_REASONS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")  # of events
LONGEST = 200  # characters of what a node says; it tends to repeat itself
SIGNALLED = (137, 143)  # exit statuses of a pod that was killed or asked to end: no word of its own
#: The pods of a Job, by their role, and of what fewer can be asked for.
PODS = {
    "server": ("the run's server", "workers"),
    "worker": ("all of the run's workers", "workers"),
    "point": ("all of the batch's jobs", "jobs"),
}
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def trouble(pod: Any) -> str:
    """Return what is wrong with a pod, or "" where nothing is that a researcher must know.

    Parameters
    ----------
    pod : V1Pod
        As the cluster gives it.
    """
    name, status = pod.metadata.name, pod.status
    if status.reason == "Evicted":
        return f"pod {name} was evicted: {_clean(status.message)}; it is started again"
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            said = _clean(condition.message)
            return f"pod {name} finds no node: {said}; {_placing(said)}"
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return (
                f"pod {name} has to leave its node ({_clean(condition.message)}); another takes "
                "its place, and the run goes on"
            )
    for container in status.container_statuses or ():
        said = _of_container(name, pod, container)
        if said:
            return said
    return ""


def _placing(said: str) -> str:
    """Return what to do about a pod that finds no node, by what the scheduler says."""
    if "Insufficient" in said:
        return "ask for less cpu or memory, or wait until there is room"
    if "were unschedulable" in said:
        return (
            "its people keep new pods off (a drain); the run waits, and goes on once there is a "
            "node again"
        )
    if "selector" in said or "taint" in said:
        return (
            "check node_selector and tolerations of lab.Cluster, or wait: a node keeps pods off "
            "while its disk is full, too"
        )
    return "the run waits; if it lasts, ask who runs the cluster"


def _of_container(name: str, pod: Any, container: Any) -> str:
    waiting = container.state.waiting if container.state else None
    if waiting is not None and waiting.reason in IMAGE_REASONS:
        return (
            f"the image {container.image or _image(pod, container)} cannot be pulled for pod "
            f"{name} ({waiting.reason}); check its name, or ask who runs the cluster to load it"
        )
    if waiting is not None and waiting.reason in CONFIG_REASONS:
        return f"pod {name} cannot start ({waiting.reason}): {_clean(waiting.message)}"
    for state in (container.state, container.last_state):
        ended = None if state is None else state.terminated
        if ended is not None and ended.reason == "OOMKilled":
            limit = _limit(pod, container)
            setting = "server_memory" if container.name == "server" else "memory"
            return (
                f"pod {name} was killed for memory (its limit is {limit}); give more, as in "
                f'lab.Cluster({setting}="...")'
            )
        if ended is not None and ended.exit_code and ended.exit_code not in SIGNALLED:
            if has_rows(pod):  # its words may be made of them
                return (
                    f"pod {name}, which has rows of its institution, ended with exit status "
                    f"{ended.exit_code}; why is in its own log, for who runs the cluster there"
                )
            words = (ended.message or "").strip().splitlines()
            said = f"; its last words: {_short(_clean(words[-1]))}" if words else ""
            return f"pod {name} ended with exit status {ended.exit_code}{said}"
    return ""


def refusal(status: int, reason: str, message: str, what: str) -> str:
    """Return what the API server refused, in one sentence.

    Parameters
    ----------
    status, reason, message : int, str, str
        Of its answer.
    what : str
        What was asked of it, as in "create a Job in ufmg".
    """
    said = _clean(message)
    if status == 401:
        return f"the cluster does not know you, and may not {what}; log in again ({said})"
    if status == 403 and "exceeded quota" in said:
        return f"there is no room in the namespace's quota to {what}: {said}; ask for less"
    if status == 403:
        return f"you may not {what}: {said}; ask who runs the cluster for the permission"
    if status == 404:
        return f"cannot {what}: {said}; check the namespace"
    if status == 422:
        return f"the cluster refuses to {what}: {said}"
    return f"cannot {what} ({status} {reason}): {said}"


def refused(role: str, namespace: str, message: str | None) -> str:
    """Return why pods of a Job that was accepted are refused.

    Parameters
    ----------
    role : {"server", "worker", "point"}
    namespace : str
    message : str
        Of the Job's event, such as "Error creating: pods "..." is forbidden: exceeded quota: ...".
    """
    said = _clean(message).removeprefix("Error creating: ")
    who, fewer = PODS[role]
    if "exceeded quota" in said:
        quota = said[said.index("exceeded quota") :]
        return (
            f"there is no room for {who} in the quota of {namespace} ({quota}); ask for less cpu "
            f"or memory or for fewer {fewer}, wait until there is room, or ask who runs the "
            "cluster for a larger quota"
        )
    return f"the cluster refuses pods for {who} in {namespace}: {said}; ask who runs it"


def not_started(name: str, reason: str, message: str | None) -> str:
    """Return what keeps a pod that has a node from starting there.

    Parameters
    ----------
    name : str
    reason, message : str
        Of the pod's event; the reason is one of :data:`START_REASONS`.
    """
    said = _short(_clean(message))
    return (
        f"pod {name} cannot start yet ({reason}: {said}); it is tried again, and if it lasts, ask "
        "who runs the cluster"
    )


def _short(said: str) -> str:
    return said if len(said) <= LONGEST else f"{said[:LONGEST].rstrip()}..."


def _image(pod: Any, container: Any) -> str:
    return next((c.image for c in pod.spec.containers if c.name == container.name), "")


def _limit(pod: Any, container: Any) -> str:
    for one in pod.spec.containers:
        if one.name == container.name and one.resources and one.resources.limits:
            return str(one.resources.limits.get("memory", "unknown"))
    return "unknown"


def _clean(message: str | None) -> str:
    return " ".join((message or "no reason was given").split()).rstrip(".")
