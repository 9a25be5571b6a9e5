"""The list of institutions, and who gets a notebook where."""

from __future__ import annotations

import json
import re

import pytest

from hub_config.institutions import (
    InstitutionsError,
    NoInstitutionError,
    groups_of,
    profiles,
    read_institutions,
    users_of,
)

UFMG = {"name": "Federal University", "namespace": "flautim-ufmg", "users": ["ana", "bruno"]}
IFNMG = {"name": "Institute", "namespace": "flautim-ifnmg", "users": ["ana", "carla"]}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "institutions.json"

    def write(told):
        path.write_text(told if isinstance(told, str) else json.dumps(told), encoding="utf-8")
        return path

    return write


@pytest.fixture
def two(written):
    return read_institutions(written({"ufmg": UFMG, "ifnmg": IFNMG}))


def test_who_belongs_where(two):
    assert users_of(two) == {"ana", "bruno", "carla"}
    assert groups_of("ana", two) == ["ufmg", "ifnmg"]
    assert groups_of("carla", two) == ["ifnmg"]
    assert groups_of("dora", two) == []


def test_a_notebook_is_in_the_namespace_of_the_users_institution(two):
    (only,) = profiles("bruno", {"ufmg"}, two)
    assert only["display_name"] == "Federal University"
    assert only["kubespawner_override"] == {
        "namespace": "flautim-ufmg",
        "environment": {"FLAUTIM_LAB_INSTITUTION": "ufmg"},
    }


def test_one_of_two_institutions_may_choose(two):
    both = profiles("ana", {"ifnmg", "ufmg", "another-group"}, two)
    assert [each["slug"] for each in both] == ["ufmg", "ifnmg"]
    assert [each["kubespawner_override"]["namespace"] for each in both] == [
        "flautim-ufmg",
        "flautim-ifnmg",
    ]


@pytest.mark.parametrize("groups", [set(), {"another-group"}])
def test_who_belongs_to_none_is_refused(two, groups):
    sentence = (
        "dora belongs to no institution of this hub (ufmg, ifnmg), so there is no place for a "
        "notebook; ask who runs the hub to add you to yours"
    )
    with pytest.raises(NoInstitutionError, match=f"^{re.escape(sentence)}$"):
        profiles("dora", groups, two)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("{", "is no list of institutions in JSON"),
        ([], "must be a JSON object of institutions by their short names"),
        ({}, "must be a JSON object of institutions by their short names"),
        ({"UFMG": UFMG}, "'UFMG' must be named by at most 63 lowercase letters"),
        ({"ufmg": "ana"}, "'ufmg' must have name, namespace, users, and nothing else"),
        ({"ufmg": UFMG | {"gpu": 1}}, "'ufmg' must have name, namespace, users, and nothing else"),
        ({"ufmg": UFMG | {"name": " "}}, "'ufmg' needs a name for people to read, not ' '"),
        ({"ufmg": UFMG | {"namespace": "a b"}}, "needs a namespace of at most 63 .* not 'a b'"),
        ({"ufmg": UFMG | {"users": "ana"}}, "needs a list of users' names, not 'ana'"),
        ({"ufmg": UFMG | {"users": [""]}}, "needs a list of users' names"),
        ({"ufmg": UFMG | {"users": ["Ana"]}}, "has the user 'Ana'; write the name as 'ana'"),
        (
            {"ufmg": UFMG, "ifnmg": IFNMG | {"namespace": "flautim-ufmg"}},
            "'ufmg' and 'ifnmg' have the same namespace 'flautim-ufmg'; give each its own",
        ),
    ],
)
def test_a_wrong_list_is_one_sentence(written, told, sentence):
    path = written(told)
    with pytest.raises(InstitutionsError, match=sentence) as raised:
        read_institutions(path)
    assert str(raised.value).startswith(str(path))


def test_no_list_at_all(tmp_path):
    with pytest.raises(InstitutionsError, match=r"nowhere\.json is no list of institutions"):
        read_institutions(tmp_path / "nowhere.json")
