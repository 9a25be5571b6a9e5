"""Projects and their members."""

import pytest

from flautim_lab.errors import (
    CatalogError,
    ConflictError,
    InUseError,
    NotAllowedError,
    NotFoundError,
)
from tests.catalog.conftest import run_id


def refs(page):
    return [each.ref for each in page.items]


def test_the_one_that_changed_last_comes_first(people):
    people.ana.add_project("ufmg", "Sound")
    assert refs(people.ana.projects("ufmg")) == ["ufmg/sound", "ufmg/vision"]
    people.ana.save_model("ufmg/vision", "Other", source="class Other: pass", class_name="Other")
    assert refs(people.ana.projects("ufmg")) == ["ufmg/vision", "ufmg/sound"]


def test_counts_what_it_holds(people):
    project = people.ana.project("ufmg/vision")
    assert (project.models, project.datasets, project.experiments, project.runs) == (1, 1, 1, 0)
    people.ana.archive_model("ufmg/vision/net")
    people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    project = people.ana.project("ufmg/vision")
    assert (project.models, project.datasets) == (0, 2)


def test_who_makes_one_is_a_member(people):
    people.bia.add_project("ufmg", "Sound", description="Cars' engines")
    assert people.bia.members("ufmg/sound") == ("bia",)
    assert people.bia.project("ufmg/sound").description == "Cars' engines"


def test_a_member_of_another_institution_sees_the_project_alone(people):
    with pytest.raises(NotFoundError):
        people.eva.project("ufmg/vision")
    people.ana.add_member("ufmg/vision", "eva")
    people.ana.add_member("ufmg/vision", "eva")
    assert people.eva.project("ufmg/vision").name == "Vision"
    assert people.eva.members("ufmg/vision") == ("ana", "eva")
    people.bia.add_project("ufmg", "Sound")
    assert refs(people.eva.projects("ufmg")) == ["ufmg/vision"]
    people.ana.remove_member("ufmg/vision", "eva")
    with pytest.raises(NotFoundError):
        people.eva.project("ufmg/vision")


def test_who_is_no_member_sees_but_does_not_change(people):
    assert people.bia.project("ufmg/vision").name == "Vision"
    with pytest.raises(NotAllowedError, match="members of the project"):
        people.bia.change_project("ufmg/vision", name="Mine")


def test_is_changed_and_archived(people):
    changed = people.ana.change_project("ufmg/vision", name="Visão", description="Câmeras")
    assert (changed.ref, changed.name, changed.description) == ("ufmg/vision", "Visão", "Câmeras")
    people.ana.change_project("ufmg/vision", archived=True)
    assert refs(people.ana.projects("ufmg")) == []
    assert refs(people.ana.projects("ufmg", archived=True)) == ["ufmg/vision"]
    people.ana.change_project("ufmg/vision", archived=False)
    assert refs(people.ana.projects("ufmg", "visao")) == ["ufmg/vision"]


def test_is_removed_until_something_was_run(people):
    people.ana.add_project("ufmg", "Sound")
    people.ana.remove_project("ufmg/sound")
    with pytest.raises(NotFoundError):
        people.ana.project("ufmg/sound")
    people.ana.add_run(run_id(1), "ufmg/vision/first")
    with pytest.raises(InUseError, match="archive"):
        people.ana.remove_project("ufmg/vision")
    assert people.ana.project("ufmg/vision").runs == 1


def test_a_key_is_taken_once_within_its_institution(people):
    with pytest.raises(ConflictError):
        people.ana.add_project("ufmg", "Vision")
    people.eva.add_project("ifnmg", "Vision")


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 1000, "\ud800"])
def test_a_name_that_cannot_be_kept_is_refused(people, name):
    with pytest.raises(CatalogError):
        people.ana.add_project("ufmg", name)


@pytest.mark.parametrize("ref", ["ufmg", "ufmg/vision/net", "ufmg/", "UFMG/vision", "../x"])
def test_what_is_no_reference_of_a_project_is_refused(people, ref):
    with pytest.raises(CatalogError):
        people.ana.project(ref)
