"""The `restricted` Pod Security Standard, as far as our pods could break it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def problems(spec: dict[str, Any]) -> list[str]:
    """Return what the standard forbids in a pod's spec, as sentences; none for a good one."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec.get("securityContext", {})
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            found.append(f"volume {volume['name']} is a {kinds - VOLUMES}")
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        both = pod | own
        name = container["name"]
        if both.get("runAsNonRoot") is not True:
            found.append(f"{name} may run as root")
        if 0 in (pod.get("runAsUser"), own.get("runAsUser")):
            found.append(f"{name} runs as root")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name} has no seccomp profile")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name} may escalate privileges")
        if own.get("privileged"):
            found.append(f"{name} is privileged")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            found.append(f"{name} keeps capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{name} has a port of the node")
    return found
