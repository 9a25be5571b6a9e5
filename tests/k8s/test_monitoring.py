"""The examples for Prometheus: what they ask for is there."""

from __future__ import annotations

import re

import jupyterhub.metrics as of_the_hub
import yaml
from prometheus_client import REGISTRY

from flautim_lab.records.store import Records
from flautim_lab.service import settings
from flautim_lab.service.metrics import Metrics
from tests.k8s.conftest import K8S

FOLDER = K8S / "monitoring"
#: kube-state-metrics', which is a program of its own.
OTHERS = {"kube_cronjob_status_last_successful_time"}
NAME = re.compile(r"\b(?:flautim_lab|jupyterhub|kube)_[a-z_]+")
WORDS = re.compile(r'(\w+)(?:=~|!=|=)"([^"]*)"')


def known():
    """Every name that Prometheus may find at hub and service, with its labels."""
    assert of_the_hub  # its import fills the registry
    metrics = Metrics(Records.default())
    metrics.requests.labels("GET", "/", "200")
    metrics.seconds.labels("GET", "/")
    metrics._events.labels("log")
    found = {}
    for family in [*metrics.registry.collect(), *REGISTRY.collect()]:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if not family.samples:  # nothing of that kind has happened to this hub yet
            found |= {f"{family.name}{end}": None for end in ("", "_count", "_bucket", "_total")}
    return found


def test_every_alert_is_about_something_that_is_there():
    (told,) = yaml.safe_load_all((FOLDER / "alerts.yaml").read_text())
    rules = [rule for group in told["spec"]["groups"] for rule in group["rules"]]
    assert len(rules) >= 10
    assert len({rule["alert"] for rule in rules}) == len(rules)
    there = known()
    for rule in rules:
        names = set(NAME.findall(rule["expr"]))
        assert names, rule["alert"]
        assert names - OTHERS <= set(there), rule["alert"]
        for name in names - OTHERS:
            for label, _ in WORDS.findall(rule["expr"]):
                own = there[name]
                used = re.search(rf"{name}\{{[^}}]*\b{label}\b", rule["expr"])
                assert own is None or not used or label in own, (rule["alert"], name, label)
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_prometheus_asks_services_that_there_are(production):
    services = [
        each for each in production if each["kind"] == "Service" and "labels" in each["metadata"]
    ]
    prefix = settings.Settings({}).prefix
    paths = set()
    for monitor in yaml.safe_load_all((FOLDER / "scrape.yaml").read_text()):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (each for each in services if wanted <= each["metadata"]["labels"].items())
        assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["authorization"]["type"] == "Bearer"
        paths.add(endpoint["path"])
    assert paths == {"/hub/metrics", f"{prefix}/metrics"}
