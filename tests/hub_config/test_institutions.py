"""The list of institutions, and who gets a notebook where."""

from __future__ import annotations

import json

import pytest

from hub_config.institutions import InstitutionsError, groups_of, read_institutions, users_of
from hub_config.sizes import Limits, Size

UFMG = {"name": "Federal University", "namespace": "flautim-ufmg", "users": ["ana", "bruno"]}
IFNMG = {"name": "Institute", "namespace": "flautim-ifnmg", "users": ["ana", "carla"]}

LARGE = {"name": "Large", "cpu": 4, "memory": "8G"}


def of_size(**changes):
    """A list with one size, and bounds."""
    limits = {"cpu": 4, "memory": "8G", "gpu": 1}
    return {"ufmg": UFMG | {"limits": limits, "profiles": [LARGE | changes]}}


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


def test_an_owner_belongs_there_too_and_data_have_a_claim(written):
    more = UFMG | {"owners": ["olga"], "data": "telemetry.v2", "fewest_rows": 50}
    told = read_institutions(written({"ufmg": more, "usp": {"name": "U", "namespace": "usp"}}))
    assert groups_of("olga", told) == ["ufmg"]
    assert users_of(told) == {"ana", "bruno", "olga"}
    assert (told["ufmg"].data, told["usp"].data) == ("telemetry.v2", None)
    assert (told["ufmg"].fewest_rows, told["usp"].fewest_rows) == (50, None)
    assert told["usp"].users == ()


def test_sizes_and_bounds(written):
    sizes = [
        {"name": "Small", "cpu": 0.5, "memory": "1G"},
        {"name": "With a GPU", "cpu": "4", "memory": "8G", "gpu": 1, "image": "cuda:1"},
    ]
    limits = {"cpu": 4, "memory": "8G", "gpu": 2}
    told = read_institutions(written({"ufmg": UFMG | {"profiles": sizes, "limits": limits}}))
    assert told["ufmg"].sizes == (
        Size("Small", 0.5, "1G"),
        Size("With a GPU", 4.0, "8G", 1, "cuda:1"),
    )
    assert told["ufmg"].limits == Limits(4.0, "8G", 2)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ("{", "is no list of institutions in JSON"),
        ([], "must be a JSON object of institutions by their short names"),
        ({}, "must be a JSON object of institutions by their short names"),
        ({"UFMG": UFMG}, "'UFMG' must be named by at most 63 lowercase letters"),
        ({"ufmg": "ana"}, "'ufmg' must have name and namespace, may have users, owners, data, f"),
        ({"ufmg": UFMG | {"gpu": 1}}, "'ufmg' must have name and namespace, .* and nothing else"),
        ({"ufmg": UFMG | {"owners": ["Ana"]}}, "has the user 'Ana'; write the name as 'ana'"),
        ({"ufmg": UFMG | {"data": "/data"}}, "a PersistentVolumeClaim as its data, not '/data'"),
        ({"ufmg": UFMG | {"fewest_rows": 0}}, "a whole number from 1 as its fewest_rows, not 0"),
        ({"ufmg": UFMG | {"fewest_rows": True}}, "from 1 as its fewest_rows, not True"),
        ({"ufmg": UFMG | {"limits": {"disk": 1}}}, "limits may have cpu, memory and gpu, and noth"),
        ({"ufmg": UFMG | {"limits": {"cpu": True}}}, "limits: CPU must be a number of cores"),
        ({"ufmg": UFMG | {"limits": {"memory": "8Gi"}}}, "limits: memory must be 512M or more, s"),
        ({"ufmg": UFMG | {"profiles": {}}}, "profiles must be a list, not {}"),
        (of_size(cpu=None), "profile 'Large': CPU must be a number of cores from 0.1 on, .*'None'"),
        (of_size(cpu="1\n"), "profile 'Large': CPU must be a number of cores"),
        (of_size(memory="1.5G"), "profile 'Large': memory must be 512M or more, .* not '1.5G'"),
        (of_size(memory="100M"), "profile 'Large': memory must be 512M or more, .* not '100M'"),
        (of_size(gpu=-1), "profile 'Large': GPUs must be a whole number, such as 1, not '-1'"),
        (of_size(image=""), "profile 'Large' needs the name of an image, not ''"),
        (of_size(disk=1), "a profile has a name .*, cpu and memory, may have gpu and image, and"),
        (of_size(name="<b>"), "a profile has a name"),
        (of_size(cpu=5), "profile 'Large': 5 cores are more than the 4 that may be asked for"),
        (of_size(memory="9G"), "profile 'Large': 9G of memory is more than the 8G that may be"),
        (of_size(gpu=2), "profile 'Large': 2 GPUs are more than the 1 that may be asked for"),
        (
            {"ufmg": UFMG | {"profiles": [LARGE, LARGE]}},
            "two profiles are called 'Large'; give each a name of its own",
        ),
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
