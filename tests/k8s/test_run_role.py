"""The Role grants what a run does, neither more nor less."""

from __future__ import annotations

from pathlib import Path

import yaml

from flautim_lab.pods.access import questions

ROLE = Path(__file__).parents[2] / "k8s" / "base" / "institution" / "run-role.yaml"


def test_the_role_is_what_the_code_asks_for():
    role = yaml.safe_load(ROLE.read_text(encoding="utf-8"))
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == set(questions())
    assert role["kind"] == "Role"  # never a ClusterRole: a run stays in its namespaces
