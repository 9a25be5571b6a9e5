"""Which notebook pods a user may choose from, and what of a form sent by hand is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from hub_config.institutions import Institution
from hub_config.profiles import (
    NoInstitutionError,
    check_chosen,
    offers_a_choice,
    profiles,
)
from hub_config.sizes import Limits, Size, SizeError

DEFAULT = Size("Standard", 1.0, "2G", image="ours:1")
SMALL, LARGE = Size("Small", 0.5, "1G"), Size("Large", 4.0, "8G", 1, "cuda:1")
UFMG = Institution("ufmg", "Federal & University", "flautim-ufmg", data="telemetry")
IFNMG = Institution(
    "ifnmg", "Institute", "flautim-ifnmg", sizes=(SMALL, LARGE), limits=Limits(4.0, "8G", 2)
)
USP = Institution("usp", "Other", "flautim-usp", limits=Limits(cpu=0.5))
ALL = {each.key: each for each in (UFMG, IFNMG, USP)}


def of(*groups, owned=()):
    return profiles("ana", groups, ALL, DEFAULT, owned)


def check(options, *groups):
    check_chosen(options, "ana", groups or ("ifnmg",), ALL, DEFAULT)


def test_a_notebook_is_in_the_namespace_of_the_users_institution():
    (only,) = of("ufmg")
    assert only["display_name"] == "Federal &amp; University"
    assert only["kubespawner_override"] == {
        "namespace": "flautim-ufmg",
        "environment": {"FLAUTIM_LAB_INSTITUTION": "ufmg", "FLAUTIM_LAB_DATA_VOLUME": ""},
        "volumes": {"data": None},
        "volume_mounts": {"data": None},
        "image": "ours:1",
        "cpu_limit": 1.0,
        "cpu_guarantee": 0.2,
        "mem_limit": "2G",
        "extra_resource_limits": {"nvidia.com/gpu": None},
    }
    assert not offers_a_choice([only])


def test_one_of_two_institutions_may_choose():
    both = of("ifnmg", "ufmg", "another-group")
    assert [each["slug"] for each in both] == ["ufmg", "ifnmg"]
    assert [each["kubespawner_override"]["namespace"] for each in both] == [
        "flautim-ufmg",
        "flautim-ifnmg",
    ]
    assert offers_a_choice(both)


@pytest.mark.parametrize("groups", [set(), {"another-group"}])
def test_who_belongs_to_none_is_refused(groups):
    sentence = (
        "ana belongs to no institution of this hub (ufmg, ifnmg, usp), so there is no place for a "
        "notebook; ask who runs the hub to add you to yours"
    )
    for attempt in (lambda: of(*groups), lambda: check_chosen({}, "ana", groups, ALL, DEFAULT)):
        with pytest.raises(NoInstitutionError, match=f"^{re.escape(sentence)}$"):
            attempt()


def test_data_are_mounted_for_their_owners_alone():
    owner, both = of("ufmg", owned=["ufmg"]), of("ufmg", "ifnmg", owned=["ufmg", "ifnmg", "usp"])
    assert owner[0]["kubespawner_override"]["volumes"]["data"] == {
        "name": "data",
        "persistentVolumeClaim": {"claimName": "telemetry"},
    }
    assert owner[0]["kubespawner_override"]["volume_mounts"]["data"] == {
        "name": "data",
        "mountPath": "/data",
    }
    # An owner at one is nobody at another, nor where there are no data.
    assert both[0]["kubespawner_override"]["volumes"]["data"] is not None
    assert both[1]["kubespawner_override"]["volumes"]["data"] is None
    assert of("ufmg", owned=["ifnmg"])[0]["kubespawner_override"]["volumes"]["data"] is None


def test_sizes_to_choose_from_and_free_fields_up_to_the_bounds():
    (only,) = of("ifnmg")
    options = only["profile_options"]
    assert list(options) == ["size", "cpu", "memory", "gpu"]
    assert [each["display_name"] for each in options["size"]["choices"].values()] == [
        "Small: 0.5 core, 1G",
        "Large: 4 cores, 8G, 1 GPU",
    ]
    large = options["size"]["choices"]["Large"]["kubespawner_override"]
    assert large == {
        "image": "cuda:1",
        "cpu_limit": 4.0,
        "cpu_guarantee": 0.2,
        "mem_limit": "8G",
        "extra_resource_limits": {"nvidia.com/gpu": "1"},
    }
    # What is not said otherwise is the first.
    assert only["kubespawner_override"]["mem_limit"] == "1G"
    free = {name: options[name]["unlisted_choice"] for name in ("cpu", "memory", "gpu")}
    assert [each["display_name"] for each in free.values()] == [
        "Cores, at most 4",
        "Memory, at most 8G",
        "GPUs, at most 2",
    ]
    for name, good, bad in (
        ("cpu", "1.5", "1,5"),
        ("memory", "1500M", "2Gi"),
        ("gpu", "2", "-1"),
    ):
        assert re.match(free[name]["validation_regex"], good)
        assert not re.match(free[name]["validation_regex"], bad)


def test_where_only_cores_are_bounded_only_they_are_free():
    (only,) = of("usp")
    assert list(only["profile_options"]) == ["size", "cpu"]
    # The hub's own size, as far as the bounds allow.
    assert only["kubespawner_override"]["cpu_limit"] == 0.5


def typed(field, value):
    (only,) = of("ifnmg")
    override = only["profile_options"][field]["unlisted_choice"]["kubespawner_override"]
    spawner = SimpleNamespace(user_options={f"{field}--unlisted-choice": value})
    return {key: each(spawner) for key, each in override.items()}


def test_what_is_typed_is_bounded_where_it_is_set_too():
    assert typed("cpu", "0.1") == {"cpu_limit": 0.1, "cpu_guarantee": 0.1}
    assert typed("cpu", "4") == {"cpu_limit": 4.0, "cpu_guarantee": 0.2}
    assert typed("memory", "1024M") == {"mem_limit": 2**30}
    assert typed("gpu", "2") == {"extra_resource_limits": {"nvidia.com/gpu": "2"}}
    assert typed("gpu", "0") == {"extra_resource_limits": {"nvidia.com/gpu": None}}
    for field, value in (("cpu", "4.001"), ("memory", "9G"), ("gpu", "3"), ("cpu", "4\n")):
        with pytest.raises(SizeError):
            typed(field, value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"profile": "ifnmg"},
        {"profile": "ifnmg", "size": "Large"},
        {"size": "Small", "cpu": "as-listed", "memory--unlisted-choice": "8G"},
        {"cpu--unlisted-choice": "4", "memory--unlisted-choice": "8192M", "gpu": "as-listed"},
        {"cpu--unlisted-choice": "", "gpu--unlisted-choice": "0"},
        {"something": "else"},
    ],
)
def test_what_is_offered_may_be_chosen(options):
    check(options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"profile": "ufmg"}, "'ufmg' is no institution of ana; choose one of: ifnmg"),
        ({"profile": ["ifnmg"]}, r"['ifnmg'] is no institution of ana; choose one of: ifnmg"),
        ({"size": "Huge"}, "ifnmg offers no size 'Huge'; choose one of: Small, Large"),
        ({"size": {"Small": 1}}, "ifnmg offers no size {'Small': 1}; choose one of: Small, Large"),
        (
            {"cpu--unlisted-choice": "4.5"},
            "4.5 cores are more than the 4 that may be asked for",
        ),
        (
            {"cpu--unlisted-choice": "1e1"},
            "CPU must be a number of cores from 0.1 on, such as 0.5, not '1e1'",
        ),
        (
            {"cpu--unlisted-choice": "٣"},
            "CPU must be a number of cores from 0.1 on, such as 0.5, not '٣'",
        ),
        (
            {"cpu--unlisted-choice": 2},
            "Cores must be a number of cores, such as 1.5, as text, not 2",
        ),
        (
            {"cpu": "unlisted-choice"},
            "Cores must be a number of cores, such as 1.5, typed in its field, not "
            "'unlisted-choice'",
        ),
        (
            {"memory--unlisted-choice": "9G"},
            "9G of memory is more than the 8G that may be asked for",
        ),
        (
            {"memory--unlisted-choice": "8G\n"},
            r"memory must be 512M or more, such as 2G, not '8G\n'",
        ),
        (
            {"memory--unlisted-choice": "64M"},
            "memory must be 512M or more, such as 2G, not '64M'",
        ),
        ({"gpu--unlisted-choice": "8"}, "8 GPUs are more than the 2 that may be asked for"),
        ({"gpu--unlisted-choice": "1.5"}, "GPUs must be a whole number, such as 1, not '1.5'"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_is_not_offered_is_one_sentence(options, sentence, named):
    """With the profile's name and without: KubeSpawner checks nothing where there is none."""
    if named:
        options = {"profile": "ifnmg"} | options
    with pytest.raises(SizeError, match=f"^{re.escape(sentence)}$"):
        check(options)


def test_nothing_is_free_where_there_is_no_bound():
    sentence = "^Memory cannot be chosen freely at usp; choose a size$"
    with pytest.raises(SizeError, match=sentence):
        check({"memory--unlisted-choice": "1G"}, "usp")
