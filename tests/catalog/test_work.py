"""Models, experiments, and what runs were made with."""

import pytest

from flautim_lab.errors import CatalogError, InUseError, NotAllowedError, NotFoundError
from tests.catalog.conftest import NET, run_id

OTHER = NET + "\n# another\n"


def experiment(catalog, name="First", **changed):
    settings = {
        "model": "ufmg/vision/net",
        "dataset": "ufmg/telemetry",
        "settings": {"rounds": 3},
    }
    return catalog.save_experiment("ufmg/vision", name, **(settings | changed))


def test_a_model_that_differs_is_a_new_version(people):
    save = people.ana.save_model
    assert save("ufmg/vision", "Net", source=NET, class_name="Net").number == 1
    second = save("ufmg/vision", "Net", source=OTHER, class_name="Net")
    assert second.ref == "ufmg/vision/net@2"
    assert people.ana.model("ufmg/vision/net@1").source == NET
    assert people.ana.model("ufmg/vision/net").source == OTHER
    assert [each.number for each in people.ana.model_versions("ufmg/vision/net")] == [2, 1]
    assert people.ana.models("ufmg/vision").items == (second,)


def test_an_experiment_points_at_exact_versions(people):
    assert people.ana.experiment("ufmg/vision/first").model == "ufmg/vision/net@1"
    people.ana.save_model("ufmg/vision", "Net", source=OTHER, class_name="Net")
    assert people.ana.experiment("ufmg/vision/first").model == "ufmg/vision/net@1"
    second = experiment(people.ana)
    assert (second.number, second.model) == (2, "ufmg/vision/net@2")
    assert second.dataset == "ufmg/telemetry@1"


def test_settings_come_back_as_they_were(people):
    settings = {"strategy": {"name": "FedProx", "mu": 0.1}, "rounds": 5, "on": "kernel", "x": None}
    experiment(people.ana, settings=settings, details="Até o fim", source="rounds = 5\n")
    kept = people.ana.experiment("ufmg/vision/first")
    assert (dict(kept.settings), kept.details, kept.source) == (
        settings,
        "Até o fim",
        "rounds = 5\n",
    )


@pytest.mark.parametrize("settings", [{"x": float("nan")}, {"x": {1, 2}}, {1: 2}, {"x": b"y"}])
def test_settings_that_json_does_not_hold_are_refused(people, settings):
    with pytest.raises(CatalogError):
        experiment(people.ana, settings=settings)


def test_a_dataset_that_may_not_be_used_is_refused(people):
    with pytest.raises(NotFoundError):
        experiment(people.ana, dataset="ifnmg/telemetry")
    people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    assert experiment(people.ana, dataset="ifnmg/telemetry").dataset == "ifnmg/telemetry@1"


def test_a_run_is_refused_once_the_grant_has_ended(people):
    grant = people.eva.give_grant("ifnmg/telemetry", "ufmg/vision")
    experiment(people.ana, dataset="ifnmg/telemetry")
    people.ana.add_run(run_id(1), "ufmg/vision/first")
    people.eva.end_grant(grant.id)
    with pytest.raises(NotAllowedError, match="ifnmg/telemetry"):
        people.ana.add_run(run_id(2), "ufmg/vision/first")
    assert [each.run_id for each in people.ana.runs("ufmg/vision").items] == [run_id(1)]


def test_a_run_knows_what_it_was_made_with(people):
    link = people.ana.add_run(run_id(1), "ufmg/vision/first")
    assert (link.experiment, link.model, link.dataset, link.started_by) == (
        "ufmg/vision/first@1",
        "ufmg/vision/net@1",
        "ufmg/telemetry@1",
        "ana",
    )
    assert people.ana.add_run(run_id(1), "ufmg/vision/first") == link
    assert people.bia.run(run_id(1)) == link
    with pytest.raises(NotFoundError):
        people.nobody.run(run_id(1))


def test_a_run_belongs_to_one_experiment(people):
    people.ana.add_run(run_id(1), "ufmg/vision/first")
    experiment(people.ana, "Second")
    with pytest.raises(CatalogError, match=run_id(1)):
        people.ana.add_run(run_id(1), "ufmg/vision/second")


def test_runs_of_an_experiment_the_newest_first(people):
    experiment(people.ana, "Second")
    for number, name in enumerate(["first", "second", "first"]):
        people.ana.add_run(run_id(number), f"ufmg/vision/{name}")
    mine = people.ana.runs("ufmg/vision", experiment="ufmg/vision/first")
    assert [each.run_id for each in mine.items] == [run_id(2), run_id(0)]
    assert people.ana.runs("ufmg/vision", per_page=1).pages == 3


def test_what_a_run_used_stays(people):
    people.ana.add_run(run_id(1), "ufmg/vision/first")
    with pytest.raises(InUseError, match="archive"):
        people.ana.remove_experiment("ufmg/vision/first")
    with pytest.raises(InUseError, match="archive"):
        people.ana.remove_model("ufmg/vision/net")
    assert people.ana.model("ufmg/vision/net").used
    assert people.ana.experiment("ufmg/vision/first").used
    people.ana.archive_model("ufmg/vision/net")
    people.ana.archive_experiment("ufmg/vision/first")
    assert people.ana.models("ufmg/vision").items == ()
    assert people.ana.experiments("ufmg/vision").items == ()
    assert len(people.ana.experiments("ufmg/vision", archived=True).items) == 1
    people.ana.archive_model("ufmg/vision/net", False)
    assert len(people.ana.models("ufmg/vision").items) == 1


def test_what_no_run_used_goes(people):
    with pytest.raises(InUseError):
        people.ana.remove_model("ufmg/vision/net")  # an experiment points at it
    people.ana.remove_experiment("ufmg/vision/first")
    people.ana.remove_model("ufmg/vision/net")
    with pytest.raises(NotFoundError):
        people.ana.model("ufmg/vision/net")


def test_who_is_no_member_reads_but_saves_nothing(people):
    assert people.bia.model("ufmg/vision/net").source == NET
    with pytest.raises(NotAllowedError):
        people.bia.save_model("ufmg/vision", "Net", source=OTHER, class_name="Net")
    with pytest.raises(NotAllowedError):
        people.bia.add_run(run_id(1), "ufmg/vision/first")


def test_a_source_has_a_limit(people):
    with pytest.raises(CatalogError, match="characters"):
        people.ana.save_model("ufmg/vision", "Big", source="#" * 2**21, class_name="Big")
