"""Datasets, their versions and their grants."""

import pytest

from flautim_lab.catalog.things import Column
from flautim_lab.errors import CatalogError, InUseError, NotAllowedError, NotFoundError
from tests.catalog.conftest import COLUMNS, run_id


def register(catalog, rows=1000, sha256="ab" * 32, **more):
    settings = {"columns": COLUMNS, "target": "energy", "path": "trips.csv"} | more
    return catalog.add_dataset_version("ufmg", "Telemetry", rows=rows, sha256=sha256, **settings)


def refs(things):
    return [each.ref for each in things]


def test_a_version_is_what_was_registered(people):
    version = people.ana.dataset("ufmg/telemetry").latest
    assert version.ref == "ufmg/telemetry@1"
    assert version.columns == COLUMNS
    assert (version.target, version.rows, version.created_by) == ("energy", 1000, "davi")


def test_what_equals_the_newest_makes_no_new_version(people):
    assert register(people.davi).number == 1
    assert register(people.davi, rows=1001, sha256="cd" * 32).number == 2
    assert register(people.davi).number == 3  # not the newest one again
    assert refs(people.ana.dataset_versions("ufmg/telemetry")) == [
        f"ufmg/telemetry@{number}" for number in (3, 2, 1)
    ]


def test_an_old_version_is_still_there(people):
    register(people.davi, rows=5)
    assert people.ana.dataset("ufmg/telemetry@1").latest.rows == 1000
    assert people.ana.dataset("ufmg/telemetry").latest.rows == 5
    with pytest.raises(NotFoundError):
        people.ana.dataset("ufmg/telemetry@3")


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "nothing"},
        {"rows": -1},
        {"sha256": "zz"},
        {"columns": ()},
        {"columns": (COLUMNS[2], COLUMNS[2])},
        {"columns": (COLUMNS[2], Column("x", "picture"))},
        {"path": ""},
    ],
)
def test_what_is_no_dataset_is_refused(people, wrong):
    with pytest.raises(CatalogError):
        register(people.davi, **wrong)
    assert len(people.ana.dataset_versions("ufmg/telemetry")) == 1


def test_a_dataset_is_not_shown_to_strangers(people):
    with pytest.raises(NotFoundError):
        people.eva.dataset("ufmg/telemetry")
    with pytest.raises(NotFoundError):
        people.nobody.datasets("ufmg")


def test_a_grant_shows_and_lets_use(people):
    assert refs(people.ana.usable("ufmg/vision")) == ["ufmg/telemetry"]
    assert not people.ana.granted("ifnmg/telemetry", "ufmg/vision")
    grant = people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    assert (grant.given_by, grant.until, grant.ended) == ("eva", None, None)
    assert people.ana.granted("ifnmg/telemetry", "ufmg/vision")
    assert refs(people.ana.usable("ufmg/vision")) == ["ifnmg/telemetry", "ufmg/telemetry"]
    assert people.ana.dataset("ifnmg/telemetry").latest.rows == 1000


def test_a_grant_ends_by_itself(people):
    until = people.world.clock.now + 3600
    people.eva.give_grant("ifnmg/telemetry", "ufmg/vision", until=until)
    assert people.ana.granted("ifnmg/telemetry", "ufmg/vision")
    people.world.clock.now = until
    assert not people.ana.granted("ifnmg/telemetry", "ufmg/vision")
    assert refs(people.ana.usable("ufmg/vision")) == ["ufmg/telemetry"]


def test_a_grant_is_ended_once(people):
    grant = people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    ended = people.eva.end_grant(grant.id)
    assert ended.ended is not None
    assert people.eva.end_grant(grant.id) == ended
    assert not people.ana.granted("ifnmg/telemetry", "ufmg/vision")


def test_a_new_grant_takes_the_place_of_the_one_there_was(people):
    first = people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    second = people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    grants = people.eva.grants(dataset="ifnmg/telemetry")
    assert [each.id for each in grants] == [second.id, first.id]
    assert [each.ended is None for each in grants] == [True, False]


def test_a_grant_until_a_moment_that_has_been_is_refused(people):
    with pytest.raises(CatalogError):
        people.eva.give_grant("ifnmg/telemetry", "ufmg/vision", until=1.0)
    with pytest.raises(CatalogError):
        people.eva.give_grant("ifnmg/telemetry", "ufmg/vision", until=float("nan"))


def test_only_its_owners_grant_a_dataset(people):
    with pytest.raises(NotFoundError):
        people.ana.give_grant("ifnmg/telemetry", "ufmg/vision")
    with pytest.raises(NotAllowedError, match="data owners"):
        people.admin.give_grant("ufmg/telemetry", "ifnmg/roads")


def test_who_may_neither_see_a_dataset_nor_a_project_sees_no_grants(people):
    people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    assert len(people.ana.grants(project="ufmg/vision")) == 1
    with pytest.raises(NotFoundError):
        people.nobody.grants(project="ufmg/vision")
    with pytest.raises(CatalogError):
        people.ana.grants()


def test_is_removed_until_a_run_used_it(people):
    register(people.davi, rows=5)
    people.ana.remove_experiment("ufmg/vision/first")
    people.davi.remove_dataset("ufmg/telemetry@1")
    assert refs(people.davi.dataset_versions("ufmg/telemetry")) == ["ufmg/telemetry@2"]
    people.ana.save_experiment(
        "ufmg/vision", "Again", model="ufmg/vision/net", dataset="ufmg/telemetry", settings={}
    )
    people.ana.add_run(run_id(1), "ufmg/vision/again")
    for ref in ("ufmg/telemetry", "ufmg/telemetry@2"):
        with pytest.raises(InUseError, match="archive"):
            people.davi.remove_dataset(ref)
    assert people.davi.dataset("ufmg/telemetry").latest.used
    assert people.davi.change_dataset("ufmg/telemetry", archived=True).archived
    assert people.davi.datasets("ufmg").items == ()


def test_a_number_of_a_version_is_never_given_twice(people):
    people.ana.remove_experiment("ufmg/vision/first")
    register(people.davi, rows=5)
    people.davi.remove_dataset("ufmg/telemetry@2")
    assert register(people.davi, rows=6).number == 3
