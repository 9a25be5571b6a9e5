"""Who may reach whom: every pod, every port, against a table; what is not in it must not be."""

from __future__ import annotations

import dataclasses
import re

import pytest
from kubernetes import client as k8s

from flautim_lab.pods import manifests, points
from flautim_lab.pods.manifests import API_PORT, FLEET_PORT, POINT, SERVER, WORKER, RunPods
from tests.k8s.conftest import pods_of
from tests.k8s.kustomize import build
from tests.k8s.reach import Address, Network, Pod, matches
from tests.k8s.test_production import MIGRATE

HUB = "flautim-hub"
NOTEBOOK = {"component": "singleuser-server", "app.kubernetes.io/part-of": "flautim-lab"}
API_SERVER = Address("10.96.0.1")
INTERNET = Address("93.184.216.34")
CLOUD = Address("169.254.169.254")  # where clouds tell a node's credentials
OWNER = k8s.V1OwnerReference(api_version="v1", kind="ConfigMap", name="x", uid="0")


def a_run(number):
    name = f"r20261125-202140-{number:08x}"
    return RunPods(
        run_id=f"r20261125-202140-iris-{number:08x}",
        name=name,
        namespace="flautim-ufmg",
        workers={"flautim-ufmg": 1, "flautim-ifnmg": 1},
        clients=2,
        image="flautim-lab:0.1.0",
    )


RUN, OTHER = a_run(1), dataclasses.replace(a_run(2), data={"flautim-ufmg": "rows"})


def policies_of_runs(spaces):
    """As the service makes them, in the namespaces that are there."""
    made = []
    for run in (RUN, OTHER):
        made += [manifests.make_server_policy(run, OWNER), points.make_policy(run, OWNER)]
        made += [manifests.make_worker_policy(run, space, OWNER) for space in run.workers]
    plain = [k8s.ApiClient().sanitize_for_serialization(each) for each in made]
    return [each for each in plain if each["metadata"]["namespace"] in spaces]


def the_network(objects):
    spaces = {
        each["metadata"]["name"]: each["metadata"]["labels"]
        for each in objects
        if each["kind"] == "Namespace"
    }
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    return Network(
        policies + policies_of_runs(spaces),
        spaces | {name: {} for name in ("kube-system", "monitoring", "ingress-nginx", "other")},
    )


def the_pods(objects):
    """Pods of the hub, of institutions and runs, and of others on the same cluster."""
    hub = {name: Pod(HUB, pod.labels, pod.ports) for name, pod in pods_of(objects).items()}
    if MIGRATE in hub:
        hub["migrate"] = hub.pop(MIGRATE)
    spaces = {each["metadata"]["name"] for each in objects if each["kind"] == "Namespace"}
    found = hub | {
        "stranger in the hub": Pod(HUB, {"app": "x"}),
        "stranger": Pod("other", {"app": "x"}),
        # Whoever may make pods somewhere gives them the labels that they like.
        "stranger as notebook": Pod("other", NOTEBOOK),
        "stranger as hub": Pod("other", {"app.kubernetes.io/name": "hub"}),
        "names": Pod("kube-system", {"k8s-app": "kube-dns"}),
        "prometheus": Pod("monitoring", {"app.kubernetes.io/name": "prometheus"}),
        "ingress": Pod("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
    }
    for key in ("ufmg", "ifnmg"):
        space = f"flautim-{key}"
        if space in spaces:
            found |= {
                f"notebook {key}": Pod(space, NOTEBOOK),
                f"worker {key}": Pod(space, manifests.labels(RUN, WORKER)),
                f"worker of another run {key}": Pod(space, manifests.labels(OTHER, WORKER)),
                f"stranger in {key}": Pod(space, {"app": "x"}),
            }
    found["server"] = Pod(RUN.namespace, manifests.labels(RUN, SERVER))
    found["server of another run"] = Pod(RUN.namespace, manifests.labels(OTHER, SERVER))
    found["point"] = Pod(RUN.namespace, manifests.labels(RUN, POINT))
    return found


PORTS = {
    "hub": (8081,),
    "proxy": (8000, 8001),
    "service": (8080,),
    "database": (5432,),
    "server": (FLEET_PORT, API_PORT),
    "server of another run": (FLEET_PORT, API_PORT),
    "notebook ufmg": (8888,),
    "notebook ifnmg": (8888,),
    "worker ufmg": (22, 8080),
    "point": (22,),
    "migrate": (22,),
    "backup": (22,),
}


def who_may(objects):
    """All that may be: (who, whom, port)."""
    network, pods = the_network(objects), the_pods(objects)
    return {
        (source, target, port)
        for source in pods
        for target, ports in PORTS.items()
        for port in ports
        if target in pods and source != target and network.may(pods[source], pods[target], port)
    }


ANYBODY = {  # who is held back by no policy of theirs
    "stranger", "stranger as notebook", "stranger as hub", "names", "prometheus", "ingress",
}  # fmt: skip


def wanted(institutions):
    notebooks = {f"notebook {key}" for key in institutions}
    table = {
        # The way of a browser, and what goes between hub, proxy and service.
        ("proxy", "hub", 8081),
        ("proxy", "service", 8080),
        ("hub", "proxy", 8001),
        ("hub", "service", 8080),
        ("service", "hub", 8081),
    }
    for each in notebooks:
        table |= {("proxy", each, 8888), ("hub", each, 8888)}
        table |= {(each, "hub", 8081), (each, "service", 8080)}
    # Of runs: workers to their own server, and nothing else; questions to a server come by the
    # API server's port-forward, from its node.
    for key in institutions:
        table |= {
            (f"worker {key}", "server", FLEET_PORT),
            (f"worker of another run {key}", "server of another run", FLEET_PORT),
        }
    return table


def test_on_a_laptop(objects):
    assert who_may(objects) == wanted(["ufmg"]) | {
        (each, "proxy", 8000)
        for each in ANYBODY  # nobody else is let out of their own namespace
    }


def test_in_production(production):
    assert who_may(production) == wanted(["ufmg", "ifnmg"]) | {
        ("ingress", "proxy", 8000),
        ("prometheus", "hub", 8081),
        ("prometheus", "service", 8080),
        *((each, "database", 5432) for each in ("hub", "service", "migrate", "backup")),
    }


@pytest.mark.parametrize("overlay", ["objects", "production"])
def test_who_leaves_the_cluster(overlay, request):
    objects = request.getfixturevalue(overlay)
    network, pods = the_network(objects), the_pods(objects)

    def who(address, port):
        inside = {name for name in pods if name not in ANYBODY}
        return {name for name in inside if network.may(pods[name], address, port)}

    # The API server has no address that is the same everywhere: it is on a private network.
    for address in (API_SERVER, Address("172.18.0.2"), Address("fd00::1")):
        assert who(address, 443) == who(address, 6443) == {"hub", "service"}
    on_a_laptop = {"notebook ufmg"} if overlay == "objects" else set()
    # In production the hub asks the identity provider.
    assert who(INTERNET, 443) == (on_a_laptop or {"hub"})
    assert who(INTERNET, 6443) == who(CLOUD, 443) == set()
    assert who(INTERNET, 80) == on_a_laptop
    assert who(INTERNET, 5432) == who(INTERNET, 22) == set()
    assert who(CLOUD, 80) == set()
    asks = {name for name in pods if network.may(pods[name], pods["names"], 53, "UDP")} - ANYBODY
    # Of the other run, workers have rows in one namespace: a name would carry them out.
    mute = {"server", "server of another run", "point", "worker of another run ufmg"}
    assert {name for name in set(pods) - ANYBODY if "stranger in" not in name} - asks == mute
    assert not any(network.may(INTERNET, pod, 22) for name, pod in pods.items() if name in asks)


@pytest.mark.parametrize("overlay", ["objects", "production"])
def test_every_namespace_is_closed_in_both_directions(overlay, request):
    objects = request.getfixturevalue(overlay)
    spaces = {each["metadata"]["name"] for each in objects if each["kind"] == "Namespace"}
    closed = {
        each["metadata"]["namespace"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
        and each["spec"]["podSelector"] == {}
        and set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not each["spec"].get("ingress")
        and not each["spec"].get("egress")
    }
    assert closed == spaces


def test_with_a_database_of_ones_own(copy, tmp_path):
    file = copy / "overlays/production/hub/kustomization.yaml"
    told = file.read_text()
    file.write_text(
        told.replace("- ../../../components/postgresql", "- ../../../components/external-database")
    )
    try:
        objects = build(copy / "overlays/production")
    finally:
        file.write_text(told)
    assert not [each for each in objects if each["kind"] == "StatefulSet"]
    network, pods = the_network(objects), the_pods(objects)
    outside = {name for name, pod in pods.items() if network.may(pod, INTERNET, 5432)}
    assert outside - ANYBODY == {"hub", "service", "migrate", "backup"}


def test_the_address_of_the_api_server_and_an_identity_provider(copy):
    hub = copy / "overlays/production/hub"
    patch, file = hub / "api-server.yaml", hub / "kustomization.yaml"
    before = {path: path.read_text() for path in (patch, file)}
    narrowed = re.sub(r"(?s)- to:.*ports", PATCHED, before[patch])
    patch.write_text(narrowed)
    file.write_text(before[file].replace("# - ../../../components/id", "- ../../../components/id"))
    try:
        objects = build(copy / "overlays/production")
    finally:
        for path, text in before.items():
            path.write_text(text)
    network, pods = the_network(objects), the_pods(objects)

    def who(address):
        return {name for name, pod in pods.items() if network.may(pod, address, 443)} - ANYBODY

    assert who(API_SERVER) == {"hub", "service"}
    assert who(Address("10.96.0.2")) == who(CLOUD) == set()
    assert who(INTERNET) == {"hub"}


PATCHED = f"- to: [{{ipBlock: {{cidr: {API_SERVER.ip}/32}}}}]\n      ports"


# --- the evaluator is not blind -----------------------------------------------------------------


def policy(**spec):
    return {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}} | spec}


A, B = Pod("a", {"x": "1"}, {"http": 80}), Pod("b", {"x": "2"})


@pytest.mark.parametrize(
    ("policies", "may"),
    [
        ([], True),
        ([policy()], False),  # selected, and nobody is named
        ([policy(podSelector={"matchLabels": {"x": "9"}})], True),
        ([policy(policyTypes=["Egress"])], True),
        ([policy(egress=[])], False),
        ([policy(ingress=[{}])], True),
        ([policy(ingress=[{"from": [{"podSelector": {}}]}])], False),  # of its own namespace
        ([policy(ingress=[{"from": [{"namespaceSelector": {}}]}])], True),
        ([policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"n": "b"}}}]}])], True),
        ([policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"n": "c"}}}]}])], False),
        (
            [
                policy(
                    ingress=[
                        {
                            "from": [
                                {
                                    "namespaceSelector": {},
                                    "podSelector": {"matchLabels": {"x": "1"}},
                                }
                            ]
                        }
                    ]
                )
            ],
            False,
        ),
        ([policy(ingress=[{"ports": [{"port": 80}]}])], True),
        ([policy(ingress=[{"ports": [{"port": "http"}]}])], True),
        ([policy(ingress=[{"ports": [{"port": 80, "protocol": "UDP"}]}])], False),
        ([policy(ingress=[{"ports": [{"port": 70, "endPort": 90}]}])], True),
        ([policy(ingress=[{"ports": [{"port": 81}]}])], False),
        ([policy(), policy(ingress=[{"ports": [{"port": 80}]}])], True),  # they add up
        ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])], False),
    ],
)
def test_how_policies_are_read(policies, may):
    assert Network(policies, {"a": {}, "b": {"n": "b"}}).may(B, A, 80) is may


def test_addresses_and_selectors():
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}
    closed = policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": block}]}])
    network = Network([closed], {"a": {}})
    assert network.may(A, INTERNET, 443)
    assert not network.may(A, API_SERVER, 443)
    assert not network.may(A, B, 443)
    for operator, values, fits in (
        ("In", ["1"], True), ("NotIn", ["1"], False), ("Exists", [], True),
        ("DoesNotExist", [], False),
    ):  # fmt: skip
        selector = {"matchExpressions": [{"key": "x", "operator": operator, "values": values}]}
        assert matches(selector, {"x": "1"}) is fits
