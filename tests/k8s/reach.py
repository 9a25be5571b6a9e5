"""May a pod reach another? What NetworkPolicies say, as a cluster that enforces them would.

https://kubernetes.io/docs/concepts/services-networking/network-policies
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NAME_LABEL = "kubernetes.io/metadata.name"  # every namespace has its own


@dataclass(frozen=True)
class Pod:
    """A pod; ``ports`` are its named ones."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """Somebody outside of the cluster, or a node of it."""

    ip: str


class Network:
    """The policies of a cluster.

    Parameters
    ----------
    policies : iterable of dict
        NetworkPolicies, each with its namespace.
    namespaces : mapping
        The labels of each namespace, by name; its name is added.
    """

    def __init__(
        self, policies: Iterable[dict[str, Any]], namespaces: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._policies = list(policies)
        self._namespaces = {
            name: {**labels, NAME_LABEL: name} for name, labels in namespaces.items()
        }

    def may(
        self, source: Pod | Address, target: Pod | Address, port: int, how: str = "TCP"
    ) -> bool:
        """Whether ``source`` may open a connection to a port of ``target``: both sides decide."""
        return self._lets(source, "Egress", target, port, how, target) and self._lets(
            target, "Ingress", source, port, how, target
        )

    def _lets(
        self,
        pod: Pod | Address,
        kind: str,
        other: Pod | Address,
        port: int,
        how: str,
        target: Pod | Address,
    ) -> bool:
        if isinstance(pod, Address):
            return True
        own = [each["spec"] for each in self._policies if self._selects(each, pod)]
        own = [spec for spec in own if kind in _types(spec)]
        if not own:
            return True  # whom no policy selects is open
        peers = "to" if kind == "Egress" else "from"
        return any(
            self._port(rule, port, how, target) and self._peer(rule.get(peers), other, pod)
            for spec in own
            for rule in spec.get(kind.lower()) or []
        )

    def _selects(self, policy: dict[str, Any], pod: Pod) -> bool:
        if policy["metadata"]["namespace"] != pod.namespace:
            return False
        return matches(policy["spec"]["podSelector"], pod.labels)

    def _port(self, rule: dict[str, Any], port: int, how: str, target: Pod | Address) -> bool:
        if not rule.get("ports"):
            return True
        for each in rule["ports"]:
            if each.get("protocol", "TCP") != how:
                continue
            told = each.get("port")
            if isinstance(told, str):
                told = target.ports.get(told) if isinstance(target, Pod) else None
                if told is None:
                    continue
            if told is None or told <= port <= each.get("endPort", told):
                return True
        return False

    def _peer(self, peers: list[dict[str, Any]] | None, other: Pod | Address, pod: Pod) -> bool:
        if not peers:
            return True  # none named: everybody
        return any(self._is(peer, other, pod) for peer in peers)

    def _is(self, peer: dict[str, Any], other: Pod | Address, pod: Pod) -> bool:
        if "ipBlock" in peer:
            # The addresses of pods are the cluster's own, of which a manifest knows nothing.
            return isinstance(other, Address) and _within(peer["ipBlock"], other.ip)
        if isinstance(other, Address):
            return False
        if "namespaceSelector" in peer:
            labels = self._namespaces.get(other.namespace, {NAME_LABEL: other.namespace})
            if not matches(peer["namespaceSelector"], labels):
                return False
        elif other.namespace != pod.namespace:
            return False
        return matches(peer.get("podSelector", {}), other.labels)


def matches(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether labels fit a selector; an empty one fits all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        value, operator = labels.get(each["key"]), each["operator"]
        fits = {
            "In": value is not None and value in each.get("values", []),
            "NotIn": value is None or value not in each.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[operator]
        if not fits:
            return False
    return True


def _types(spec: dict[str, Any]) -> list[str]:
    default = ["Ingress", "Egress"] if "egress" in spec else ["Ingress"]
    return spec.get("policyTypes", default)


def _within(block: dict[str, Any], ip: str) -> bool:
    address = ipaddress.ip_address(ip)

    def inside(cidr: str) -> bool:
        network = ipaddress.ip_network(cidr)
        return network.version == address.version and address in network

    return inside(block["cidr"]) and not any(inside(each) for each in block.get("except", []))
