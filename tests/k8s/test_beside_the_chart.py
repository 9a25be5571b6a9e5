"""What ``k8s/zero-to-jupyterhub`` makes beside a release of the chart: do they fit each other?

The release is written down here as the chart makes it, as far as it matters; where helm and the
chart are (``tests/k8s/chart.py``) it is what helm renders.
"""

from __future__ import annotations

import copy as copies

import pytest
import yaml

from tests.k8s.chart import NO_HELM, rendered
from tests.k8s.conftest import K8S, pods_of
from tests.k8s.pod_security import problems
from tests.k8s.reach import Address, Network, Pod

FOLDER = K8S / "zero-to-jupyterhub"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
# Without the policies' ranges of addresses, in which pods may be, or not: a plugin decides it.
RELEASE = """
kind: NetworkPolicy
metadata: {name: hub, namespace: jhub}
spec:
  podSelector: {matchLabels: {app: jupyterhub, component: hub, release: jhub}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: http}]
      from: [{podSelector: {matchLabels: {hub.jupyter.org/network-access-hub: "true"}}}]
  egress:
    - ports: [{port: 8001}]
      to: [{podSelector: {matchLabels: {app: jupyterhub, component: proxy, release: jhub}}}]
---
kind: NetworkPolicy
metadata: {name: proxy, namespace: jhub}
spec:
  podSelector: {matchLabels: {app: jupyterhub, component: proxy, release: jhub}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: http}, {port: https}]
    - ports: [{port: api}]
      from: [{podSelector: {matchLabels: {hub.jupyter.org/network-access-proxy-api: "true"}}}]
  egress:
    - ports: [{port: 8081}]
      to: [{podSelector: {matchLabels: {app: jupyterhub, component: hub, release: jhub}}}]
---
kind: Service
metadata: {name: hub, namespace: jhub}
spec:
  selector: {app: jupyterhub, component: hub, release: jhub}
  ports: [{port: 8081, targetPort: http}]
---
kind: Service
metadata: {name: proxy-api, namespace: jhub}
spec:
  selector: {app: jupyterhub, component: proxy, release: jhub}
  ports: [{port: 8001, targetPort: api}]
---
kind: Deployment
metadata: {name: hub, namespace: jhub}
spec:
  template:
    metadata:
      labels:
        app: jupyterhub
        component: hub
        release: jhub
        app.kubernetes.io/name: jupyterhub
        app.kubernetes.io/component: hub
        hub.jupyter.org/network-access-proxy-api: "true"
    spec:
      serviceAccountName: hub
      containers: [{name: hub, env: [], ports: [{name: http, containerPort: 8081}]}]
---
kind: Deployment
metadata: {name: proxy, namespace: jhub}
spec:
  template:
    metadata:
      labels:
        app: jupyterhub
        component: proxy
        release: jhub
        app.kubernetes.io/name: jupyterhub
        app.kubernetes.io/component: proxy
        hub.jupyter.org/network-access-hub: "true"
    spec:
      containers:
        - name: chp
          env: []
          ports: [{name: http, containerPort: 8000}, {name: api, containerPort: 8001}]
"""
NOTEBOOK = {
    "app": "jupyterhub",
    "release": "jhub",
    "component": "singleuser-server",
    "app.kubernetes.io/name": "jupyterhub",
    "app.kubernetes.io/component": "singleuser-server",
    "app.kubernetes.io/part-of": "flautim-lab",
}
BY_HELM = pytest.param("helm", marks=pytest.mark.skipif(bool(NO_HELM), reason=NO_HELM))


@pytest.fixture
def objects(beside_the_chart):
    return beside_the_chart


@pytest.fixture(scope="session", params=["as written here", BY_HELM])
def release(request):
    if request.param == "helm":
        return rendered("jhub", FOLDER / "values.yaml")
    found = list(yaml.safe_load_all(RELEASE))
    told = {"hub": VALUES["hub"], "proxy": VALUES["proxy"]["chp"]}
    for each in found[:2]:
        for way in ("ingress", "egress"):
            more = told[each["metadata"]["name"]]["networkPolicy"].get(way, [])
            each["spec"][way] += copies.deepcopy(more)
    return found


def of_kind(kind, objects):
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def the_pods(release, objects):
    core = pods_of([each for name, each in of_kind("Deployment", release).items()
                    if name in ("hub", "proxy")])  # fmt: skip
    return {
        **{name: Pod("jhub", each.labels, each.ports) for name, each in core.items()},
        "service": Pod("jhub", pods_of(objects)["service"].labels, {"http": 8080}),
        "notebook": Pod("flautim-ufmg", NOTEBOOK),
        "stranger": Pod("other", NOTEBOOK),
        "stranger as hub": Pod("other", core["hub"].labels),
        "another of the release": Pod("jhub", {"app": "jupyterhub", "component": "image-puller"}),
    }


def test_who_may_reach_whom(release, objects):
    policies = [each for each in [*objects, *release] if each["kind"] == "NetworkPolicy"]
    spaces = {"jhub": {}, "other": {}, "flautim-ufmg": {"flautim-lab/institution": "ufmg"}}
    network = Network(policies, spaces)
    pods = the_pods(release, objects)
    found = {
        (source, target, port)
        for source in pods
        for target, port in (("hub", 8081), ("proxy", 8001), ("service", 8080), ("notebook", 8888))
        if source != target and network.may(pods[source], pods[target], port)
    }
    assert found == {
        ("proxy", "hub", 8081),
        ("service", "hub", 8081),
        ("notebook", "hub", 8081),
        ("hub", "proxy", 8001),
        ("hub", "service", 8080),
        ("proxy", "service", 8080),
        ("notebook", "service", 8080),
        ("hub", "notebook", 8888),
        ("proxy", "notebook", 8888),
    }
    # The service reaches the API server, on a private network, and nobody in the internet.
    assert network.may(pods["service"], Address("10.96.0.1"), 443)
    assert not network.may(pods["service"], Address("203.0.113.7"), 443)


def test_hub_proxy_and_service_are_where_they_are_looked_for(release, objects):
    pods, services = the_pods(release, objects), of_kind("Service", [*release, *objects])
    for name, port, pod in (("hub", 8081, "hub"), ("proxy-api", 8001, "proxy"),
                            ("service", 8080, "service")):  # fmt: skip
        spec = services[name]["spec"]
        (target,) = (each["targetPort"] for each in spec["ports"] if each["port"] == port)
        assert spec["selector"].items() <= pods[pod].labels.items()
        assert pods[pod].ports[target] == port
        others = [each for key, each in pods.items() if key != pod and each.namespace == "jhub"]
        assert not [each for each in others if spec["selector"].items() <= each.labels.items()]


def test_it_is_the_releases_hub_that_may_make_notebooks(release, objects):
    account = pods_of([of_kind("Deployment", release)["hub"]])["hub"].spec["serviceAccountName"]
    (subject,) = of_kind("RoleBinding", objects)["flautim-lab-notebooks"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "jhub"}


def test_nothing_is_made_twice(release, objects):
    names = [
        {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in of}
        for of in (release, objects)
    ]
    assert names[0] & names[1] == set()


@pytest.mark.skipif(bool(NO_HELM), reason=NO_HELM)
def test_what_the_rendered_hub_names_is_there(objects):
    every = [*rendered("jhub", FOLDER / "values.yaml"), *objects]
    spec = of_kind("Deployment", every)["hub"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    kinds = {
        "ConfigMap": [each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each],
        "Secret": [each["secret"]["secretName"] for each in spec["volumes"] if "secret" in each],
        "PersistentVolumeClaim": [
            each["persistentVolumeClaim"]["claimName"]
            for each in spec["volumes"] if "persistentVolumeClaim" in each
        ],
        "ServiceAccount": [spec["serviceAccountName"]],
    }  # fmt: skip
    assert "institutions" in kinds["ConfigMap"]
    for kind, names in kinds.items():
        there = {name for name, each in of_kind(kind, every).items()
                 if each["metadata"].get("namespace") == "jhub"}  # fmt: skip
        assert names
        assert set(names) <= there
    secrets = of_kind("Secret", every)
    for each in container["env"]:
        if "secretKeyRef" in each.get("valueFrom", {}):
            told = each["valueFrom"]["secretKeyRef"]
            assert told["key"] in secrets[told["name"]]["data"], each["name"]
    # Its own namespace may be a strict one, too.
    assert problems(spec) == []
