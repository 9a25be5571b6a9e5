"""What a run reads is noted before it does, and nobody hides it from the data's owners."""

import threading

import pytest

from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.errors import CatalogError, ConflictError, NotFoundError
from flautim_lab.names import make_run_id, object_name
from tests.catalog.conftest import run_id
from tests.catalog.test_requests import CODE, DATA, OTHER, PROJECT, asking, save

__all__ = ["asking"]
RUN = run_id(1)
NEVER = float("inf")
HOMES = {"ifnmg": "trips.csv"}


@pytest.fixture
def granted(asking):
    """ana's project was granted the dataset, for any code."""
    asking.eva.give_grant(DATA, PROJECT)
    return asking


def service(people, user="ana", *, by_itself=False):
    """The catalog as the hub's service has it for somebody."""
    actor = Actor(user, service=by_itself)
    return LocalCatalog(people.world.database, actor, people.world.clock)


def admit(people, run=RUN, *, user="ana", code=CODE.hash, project=PROJECT):
    service(people, user).admit_run(run, project, HOMES, code, "energy")


def code_of(people, version):
    people.ana.add_run(run_id(99), version.ref)
    return people.eva.uses("ifnmg").items[0].code


def test_an_id_that_was_admitted_is_admitted_once(granted):
    admit(granted)
    for end in (lambda: None, lambda: service(granted, by_itself=True).end_run(RUN)):
        end()  # under way, and ended: as after a DELETE, which the catalog does not hear of
        with pytest.raises(ConflictError, match=f"the run id {RUN} is taken; run the experiment a"):
            admit(granted)
    assert len(granted.eva.uses("ifnmg").items) == 1


def test_what_its_researcher_noted_before_and_ended_hides_no_run(granted):
    granted.ana.add_run(RUN, save(granted.ana).ref)
    granted.ana.end_run(RUN)
    with pytest.raises(ConflictError, match="is taken"):
        admit(granted)


def test_a_link_without_any_use_takes_the_id_too(granted):
    """As of a run of an older catalog whose dataset is gone."""
    granted.ana.add_run(RUN, "ufmg/vision/first")
    from flautim_lab.catalog.schema import run_uses

    with granted.world.database.writing() as connection:
        connection.execute(run_uses.delete())
    with pytest.raises(ConflictError, match="is taken"):
        admit(granted)


def test_a_run_that_was_admitted_is_noted_as_what_it_is(granted):
    version = save(granted.ana)
    code = code_of(granted, version)
    admit(granted, code=code)
    granted.ana.add_run(RUN, version.ref)
    granted.ana.add_run(RUN, version.ref)
    granted.ana.end_run(RUN)
    (use,) = [each for each in granted.eva.uses("ifnmg").items if each.run_id == RUN]
    assert use.ended is None  # the service alone ends what it made
    assert granted.ana.run(RUN).experiment == version.ref


def test_a_run_that_was_admitted_is_not_noted_as_another(granted):
    version = save(granted.ana)
    code = code_of(granted, version)
    granted.eva.give_grant(DATA, granted.ana.add_project("ufmg", "Other").ref)
    more = save(granted.ana, "More", dataset="ufmg/telemetry", more_datasets=[DATA])
    for number, wrong in enumerate(({"code": OTHER.hash}, {"project": "ufmg/other"}), 2):
        admit(granted, run_id(number), **{"code": code} | wrong)
        with pytest.raises(ConflictError, match="which is not this experiment"):
            granted.ana.add_run(run_id(number), version.ref)
    admit(granted, code=code_of(granted, version))
    for other in ("ufmg/vision/first@1", more.ref):
        with pytest.raises(ConflictError, match="which is not this experiment"):
            granted.ana.add_run(RUN, other)
    with pytest.raises(NotFoundError):
        granted.ana.run(RUN)


def test_nobody_else_notes_anything_under_the_id(granted):
    admit(granted)
    own = granted.eva
    own.save_model("ifnmg/roads", "Net", source="import torch\n", class_name="Net")
    own.save_experiment(
        "ifnmg/roads", "Mine", model="ifnmg/roads/net", dataset=DATA, settings={"rounds": 1}
    )
    with pytest.raises(ConflictError, match="is taken"):
        own.add_run(RUN, "ifnmg/roads/mine")
    # Of one that reads nobody's rows at the institutions nothing is noted before: what another
    # notes under its id, and asks the end of, is not for this run.
    own.add_run(run_id(2), "ifnmg/roads/mine")
    own.stop_use(run_id(2))
    asked = service(granted, "service").stops_asked
    assert asked({run_id(2): "ana"}) == {}
    assert asked({run_id(2): "eva"})[run_id(2)][0] == "eva"
    with pytest.raises(ConflictError, match="is taken"):
        granted.ana.add_run(run_id(2), "ufmg/vision/first")


def test_the_first_who_asks_for_the_end_counts(granted):
    admit(granted)
    (use,) = granted.eva.stop_use(RUN)
    assert service(granted, "service").stops_asked({RUN: "ana", run_id(7): "ana"}) == {
        RUN: ("eva", use.stop_asked)
    }


def test_what_the_service_makes_is_known_until_its_end(granted):
    admit(granted)
    granted.ana.add_run(run_id(2), save(granted.ana).ref)
    assert service(granted, "service").going_by_service(NEVER) == {RUN: "ana"}
    service(granted, by_itself=True).end_run(RUN)
    assert service(granted, "service").going_by_service(NEVER) == {}


@pytest.mark.parametrize("wrong", ["r1", "", "R" + RUN[1:], RUN + "\n", RUN + "-1", "x" * 300])
def test_only_what_is_a_run_id_is_noted(granted, wrong):
    with pytest.raises((CatalogError, NotFoundError)):
        granted.ana.add_run(wrong, "ufmg/vision/first")
    with pytest.raises(CatalogError, match="is no run id, such as r2026"):
        admit(granted, wrong)


@pytest.mark.parametrize("name", ["Net on íris", "x" * 100, "-", "a"])
def test_every_id_that_is_made_is_one(granted, name):
    made = make_run_id(name)
    assert granted.ana.add_run(made, "ufmg/vision/first").run_id == made
    assert object_name(made).startswith(made[:16])


def test_two_at_once_are_one(granted):
    """Whoever comes first: an admission, another one, or a note of the researcher's own."""
    version = save(granted.ana)
    for number in range(3):
        run, outcomes = run_id(10 + number), []
        start = threading.Barrier(3)

        def attempt(act, run=run, start=start, outcomes=outcomes):
            start.wait()
            try:
                act(run)
                outcomes.append("done")
            except ConflictError:
                outcomes.append("refused")

        def note(run):
            granted.ana.add_run(run, version.ref)
            granted.ana.end_run(run)

        acts = [lambda run: admit(granted, run), lambda run: admit(granted, run), note]
        threads = [threading.Thread(target=attempt, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(outcomes) == ["done", "refused", "refused"]
        (use,) = [each for each in granted.eva.uses("ifnmg").items if each.run_id == run]
        # Where the service was let in, the researcher's end is none.
        made = service(granted, "service").going_by_service(NEVER)
        assert (use.ended is None) is (run in made)
