"""A project asks for a dataset with its code; the dataset's owner reads it, and decides."""

import dataclasses
import re

import pytest
import sqlalchemy as sa

from flautim_lab.catalog.things import Answer
from flautim_lab.errors import (
    CatalogError,
    ConflictError,
    InUseError,
    NotAllowedError,
    NotFoundError,
)
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code
from tests.catalog.conftest import COLUMNS, NET, run_id

DATA, PROJECT = "ifnmg/telemetry", "ufmg/vision"
ROLES = {"model": "experiment.py:Net"}
SETTINGS = {"rounds": 3}
CODE = Code.of_bundle(Bundle({"experiment.py": NET}, ROLES), SETTINGS)
OTHER = Code.of_bundle(Bundle({"experiment.py": NET + "x = 1\n"}, ROLES), SETTINGS)


@pytest.fixture
def asking(people):
    """ana (a member of ufmg/vision) can see ifnmg's dataset, which eva owns."""
    people.eva.change_dataset(DATA, published=True)
    return people


def save(catalog, name="First", dataset=DATA, **more):
    settings = {"rounds": 3} | more.pop("settings", {})
    return catalog.save_experiment(
        PROJECT, name, model="ufmg/vision/net", dataset=dataset, settings=settings, **more
    )


def ask(catalog, code=CODE, **more):
    return catalog.ask_grant(DATA, PROJECT, code=code, settings=SETTINGS, **more)


def test_only_a_published_dataset_is_seen_from_elsewhere(people):
    with pytest.raises(NotFoundError):
        people.ana.dataset(DATA)
    assert people.ana.published().items == ()
    people.eva.change_dataset(DATA, published=True)
    (shown,) = people.ana.published("telem").items
    assert (shown.ref, shown.published, shown.latest.columns) == (DATA, True, COLUMNS)
    assert people.nobody.dataset(DATA).ref == DATA
    assert people.ana.published("nothing like it").items == ()
    with pytest.raises(NotAllowedError, match=r"may not register datasets .* data owners"):
        people.ana.change_dataset(DATA, published=False)
    people.eva.change_dataset(DATA, published=False)
    with pytest.raises(NotFoundError):
        people.ana.dataset(DATA)


def test_code_may_be_saved_before_the_grant_and_not_run(asking):
    version = save(asking.ana)
    assert version.dataset == f"{DATA}@1"
    with pytest.raises(NotAllowedError, match="is not granted to project ufmg/vision for this co"):
        asking.ana.add_run(run_id(1), version.ref)
    assert asking.eva.uses("ifnmg").items == ()


def test_yes_for_this_code_is_no_yes_for_another(asking):
    version = save(asking.ana)
    request = asking.ana.ask_grant(DATA, PROJECT, experiment=version.ref, note="please")
    (listed,) = asking.eva.grant_requests(institution="ifnmg", waiting=True).items
    assert (listed.id, listed.note, listed.code) == (request.id, "please", None)
    read = asking.eva.grant_request(request.id)
    assert read.code.files == {"model.py": NET}
    assert (read.settings, read.before, read.experiment) == ({"rounds": 3}, None, version.ref)
    answered = asking.eva.answer_request(request.id, Answer.THIS_CODE)
    assert (answered.answer, answered.answered_by) == (Answer.THIS_CODE, "eva")
    assert asking.ana.granted(DATA, PROJECT, code=read.code.hash)
    assert not asking.ana.granted(DATA, PROJECT)
    assert not asking.ana.granted(DATA, PROJECT, code=OTHER.hash)
    assert asking.ana.add_run(run_id(1), version.ref).dataset == f"{DATA}@1"
    # More rounds are the same code; another strategy, or another model, is not.
    more = save(asking.ana, settings={"rounds": 30})
    asking.ana.add_run(run_id(2), more.ref)
    other = save(asking.ana, settings={"strategy": "FedMedian"})
    with pytest.raises(NotAllowedError, match="for this code"):
        asking.ana.add_run(run_id(3), other.ref)
    asking.ana.save_model(PROJECT, "Net", source=NET + "# more\n", class_name="Net")
    with pytest.raises(NotAllowedError, match="for this code"):
        asking.ana.add_run(run_id(4), save(asking.ana).ref)
    # The next request is shown beside what was said yes to.
    again = asking.ana.ask_grant(DATA, PROJECT, experiment="ufmg/vision/first")
    before = asking.eva.grant_request(again.id)
    assert before.before.files == {"model.py": NET}
    assert before.before_settings == {"rounds": 3}


def test_yes_for_the_project_holds_for_any_code_until_it_ends(asking):
    request = ask(asking.ana)
    asking.eva.answer_request(request.id, Answer.ANY_CODE, until=asking.world.clock.now + 100)
    assert asking.ana.granted(DATA, PROJECT)
    assert asking.ana.granted(DATA, PROJECT, code=OTHER.hash)
    (grant,) = asking.eva.grants(dataset=DATA)
    assert (grant.code, grant.project) == ("", PROJECT)
    with pytest.raises(CatalogError, match="for this code already; run it"):
        ask(asking.ana, OTHER)
    asking.world.clock.now += 1000
    assert not asking.ana.granted(DATA, PROJECT)


def test_no_comes_with_a_reason(asking):
    request = ask(asking.ana)
    asking.eva.answer_request(request.id, Answer.NO, reason="it keeps single rows")
    (told,) = asking.ana.grant_requests(project=PROJECT).items
    assert (told.answer, told.reason) == (Answer.NO, "it keeps single rows")
    assert not asking.ana.granted(DATA, PROJECT, code=CODE.hash)
    assert asking.eva.answer_request(request.id, Answer.NO).reason == "it keeps single rows"
    with pytest.raises(ConflictError, match="answered already: no, by eva"):
        asking.eva.answer_request(request.id, Answer.THIS_CODE)
    assert ask(asking.ana).id != request.id  # one may ask again


def test_the_same_once_more_is_one_request_and_other_code_replaces_it(asking):
    first = ask(asking.ana)
    assert ask(asking.ana).id == first.id
    second = ask(asking.ana, OTHER)
    told = {each.id: each.answer for each in asking.ana.grant_requests(project=PROJECT).items}
    assert told == {first.id: Answer.WITHDRAWN, second.id: Answer.WAITING}
    with pytest.raises(ConflictError, match="withdrawn, by ana"):
        asking.eva.answer_request(first.id, Answer.ANY_CODE)
    assert asking.ana.withdraw_request(second.id).answer == Answer.WITHDRAWN
    assert asking.ana.withdraw_request(second.id).answer == Answer.WITHDRAWN


@pytest.mark.parametrize("user", ["bia", "davi", "nobody", "root", "carla"])
def test_nobody_else_asks_answers_or_reads(asking, user):
    request = ask(asking.ana)
    catalog = asking.admin if user == "carla" else getattr(asking, user)
    with pytest.raises((NotAllowedError, NotFoundError)):
        catalog.ask_grant(DATA, PROJECT, code=OTHER, settings={})
    with pytest.raises(NotFoundError):
        catalog.answer_request(request.id, Answer.ANY_CODE)
    with pytest.raises((NotAllowedError, NotFoundError)):
        catalog.withdraw_request(request.id)
    with pytest.raises(NotFoundError):
        catalog.grant_requests(institution="ifnmg")
    if user in ("bia", "davi", "carla"):  # of the project's own institution
        assert catalog.grant_request(request.id).id == request.id
    else:
        with pytest.raises(NotFoundError):
            catalog.grant_request(request.id)
    with pytest.raises(NotFoundError):
        asking.ana.answer_request(request.id, Answer.ANY_CODE)
    assert asking.ana.grant_request(request.id).answer == Answer.WAITING


def test_what_cannot_be_asked_is_one_sentence(asking):
    with pytest.raises(CatalogError, match="is of ufmg, as project ufmg/vision is"):
        asking.ana.ask_grant("ufmg/telemetry", PROJECT, code=CODE)
    with pytest.raises(CatalogError, match="say for which code"):
        asking.ana.ask_grant(DATA, PROJECT)
    with pytest.raises(CatalogError, match="does not use ifnmg/telemetry; it uses ufmg/telemetry"):
        asking.ana.ask_grant(DATA, PROJECT, experiment="ufmg/vision/first")
    with pytest.raises(CatalogError, match="is not of project"):
        asking.ana.ask_grant(DATA, PROJECT, experiment="ifnmg/roads/first")
    with pytest.raises(CatalogError, match="cannot be a file"):
        ask(asking.ana, Code({"../x.py": ""}, {"model": "../x.py:Net"}))
    with pytest.raises(CatalogError, match="say whose requests"):
        asking.ana.grant_requests()
    request = ask(asking.ana)
    with pytest.raises(CatalogError, match="yet to come"):
        asking.eva.answer_request(request.id, Answer.ANY_CODE, until=5.0)
    with pytest.raises(CatalogError, match="answer"):
        asking.eva.answer_request(request.id, Answer.WITHDRAWN)
    with pytest.raises(NotFoundError, match="there is no request 99"):
        asking.eva.answer_request(99, Answer.NO)


def hidden(**changes):
    return dataclasses.replace(CODE, guards={**CODE.guards, **changes})


def test_an_owner_is_shown_what_counts_as_it_is(asking):
    for code, sentence in [
        (hidden(validation=0.9), "says other settings than those that its owner is shown (valida"),
        (hidden(clients=True, seed=9), "is shown (clients, seed); make it of both"),
        (hidden(more=1), "(more)"),
        (dataclasses.replace(CODE, guards={}), "(batch_size, centralized, class, "),
    ]:
        with pytest.raises(CatalogError, match=re.escape(sentence)):
            ask(asking.ana, code)
    code = Code.of_bundle(Bundle({"a.py": "# \ud800"}, {"model": "a.py:Net"}), SETTINGS)
    with pytest.raises(CatalogError, match=r"has the character U\+D800|holds half of a character"):
        ask(asking.ana, code)


def test_settings_that_cannot_be_kept(asking):
    for settings in ({"\0": 1}, {"a": "\ud83d"}, {"a": [{"b": "x\udfff"}]}):
        code = Code.of_bundle(Bundle(CODE.files, ROLES), settings)
        with pytest.raises(CatalogError, match="a character that cannot be kept"):
            asking.ana.ask_grant(DATA, PROJECT, code=code, settings=settings)
    emoji = {"model_args": {"name": "\U0001f600 \\u0000"}}
    code = Code.of_bundle(Bundle(CODE.files, ROLES), emoji)
    kept = asking.ana.ask_grant(DATA, PROJECT, code=code, settings=emoji)
    assert kept.settings == emoji


def test_several_institutions_train_one_experiment(asking):
    version = save(asking.ana, dataset="ufmg/telemetry", more_datasets=[DATA])
    assert version.datasets == ("ufmg/telemetry@1", f"{DATA}@1")
    assert save(asking.ana, dataset="ufmg/telemetry", more_datasets=[DATA]).number == version.number
    assert save(asking.ana, dataset="ufmg/telemetry").number == version.number + 1
    assert asking.ana.experiment(version.ref).more_datasets == (f"{DATA}@1",)
    with pytest.raises(CatalogError, match="two datasets are of ufmg"):
        save(asking.ana, dataset="ufmg/telemetry", more_datasets=["ufmg/telemetry"])
    with pytest.raises(NotAllowedError, match="ifnmg/telemetry is not granted"):
        asking.ana.add_run(run_id(1), version.ref)
    request = asking.ana.ask_grant(DATA, PROJECT, experiment=version.ref)
    asking.eva.answer_request(request.id, Answer.THIS_CODE)
    link = asking.ana.add_run(run_id(1), version.ref)
    assert (link.dataset, link.more_datasets) == ("ufmg/telemetry@1", (f"{DATA}@1",))
    with pytest.raises(InUseError, match="was used by"):
        asking.eva.remove_dataset(DATA)
    assert asking.eva.dataset(f"{DATA}@1").latest.used
    project = asking.ana.add_project("ufmg", "Away")
    asking.ana.save_model(project.ref, "Net", source=NET, class_name="Net")
    asking.ana.save_experiment(
        project.ref,
        "First",
        model="ufmg/away/net",
        dataset="ufmg/telemetry",
        settings={},
        more_datasets=[DATA],
    )
    asking.ana.remove_experiment("ufmg/away/first")
    asking.ana.ask_grant(DATA, project.ref, code=CODE)
    asking.ana.remove_project(project.ref)


def test_a_data_owner_sees_every_run_that_reads_the_data_and_stops_it(asking):
    request = ask(asking.ana)
    asking.eva.answer_request(request.id, Answer.ANY_CODE)
    version = save(asking.ana)
    asking.ana.add_run(run_id(1), version.ref)
    asking.ana.add_run(run_id(1), version.ref)
    asking.ana.add_run(run_id(2), version.ref)
    first = asking.eva.uses("ifnmg", dataset=DATA).items[-1]
    assert (first.run_id, first.dataset, first.project) == (run_id(1), f"{DATA}@1", PROJECT)
    assert (first.started_by, first.ended, len(first.code)) == ("ana", None, 64)
    for catalog in (asking.ana, asking.davi, asking.admin, asking.root, asking.nobody):
        with pytest.raises(NotFoundError):
            catalog.uses("ifnmg")
        with pytest.raises(NotFoundError):
            catalog.stop_use(run_id(1))
    (stopped,) = asking.eva.stop_use(run_id(1))
    assert stopped.stop_asked_by == "eva"
    assert asking.eva.stop_use(run_id(1))[0].stop_asked == stopped.stop_asked
    assert asking.ana.run(run_id(1)).stop_asked_by == "eva"
    assert asking.ana.run(run_id(2)).stop_asked_by == ""
    asking.davi.end_run(run_id(1))  # not theirs
    assert asking.eva.uses("ifnmg").items[-1].ended is None
    asking.ana.end_run(run_id(1))
    ended = asking.eva.uses("ifnmg").items[-1].ended
    asking.ana.end_run(run_id(1))
    assert asking.eva.uses("ifnmg").items[-1].ended == ended is not None
    with pytest.raises(NotFoundError):
        asking.eva.stop_use("nothing")


def test_everything_is_in_the_audit(asking):
    request = ask(asking.ana)
    asking.eva.answer_request(request.id, Answer.NO, reason="no")
    asking.eva.answer_request(ask(asking.ana).id, Answer.ANY_CODE)
    asking.ana.add_run(run_id(1), save(asking.ana).ref)
    asking.eva.stop_use(run_id(1))
    asking.eva.end_grant(asking.eva.grants(dataset=DATA)[0].id)
    replaced = ask(asking.ana)
    asking.ana.withdraw_request(ask(asking.ana, OTHER).id)
    told = [(each.user, each.action, each.about) for each in asking.eva.audit("ifnmg").items]
    assert told == [
        ("ana", "withdrew", DATA),
        ("ana", "asked for", DATA),
        ("ana", "withdrew", DATA),  # since the next took its place
        ("ana", "asked for", DATA),
        ("eva", "ended a grant", DATA),
        ("eva", "stopped", run_id(1)),
        ("ana", "ran", run_id(1)),
        ("eva", "granted", DATA),
        ("ana", "asked for", DATA),
        ("eva", "refused", DATA),
        ("ana", "asked for", DATA),
        ("eva", "published", DATA),
        ("eva", "registered", f"{DATA}@1"),
    ]
    entries = asking.eva.audit("ifnmg").items
    assert entries[2].details == {"project": PROJECT, "code": CODE.hash, "request": replaced.id}
    ran = entries[6]
    assert ran.details["project"] == PROJECT
    assert len(ran.details["code"]) == 64
    with pytest.raises(NotFoundError):
        asking.davi.audit("ifnmg")


def test_what_goes_with_a_project_or_a_dataset_is_in_the_audit(asking):
    project = asking.ana.add_project("ufmg", "Away").ref

    def ask_for_it(code):
        return asking.ana.ask_grant(DATA, project, code=code, settings=SETTINGS)

    def told():
        found = asking.eva.audit("ifnmg").items
        return [(each.user, each.action, each.about, each.details) for each in found]

    asking.eva.end_grant(asking.eva.give_grant(DATA, project).id)  # over already: told once
    asking.eva.answer_request(ask_for_it(CODE).id, Answer.THIS_CODE)
    waiting = ask_for_it(OTHER)
    asking.eva.give_grant(DATA, PROJECT)
    before = told()
    asking.ana.remove_project(project)
    about = {"project": project, "reason": "the project was removed"}
    of_project = [
        ("ana", "withdrew", DATA, about | {"code": OTHER.hash, "request": waiting.id}),
        ("ana", "ended a grant", DATA, about | {"code": CODE.hash}),
    ]
    assert told() == of_project + before
    asking.eva.remove_dataset(DATA)
    about = {"project": PROJECT, "reason": "the dataset was removed", "code": "any"}
    assert told() == [("eva", "ended a grant", DATA, about), *of_project, *before]


def test_runs_of_before_are_uses_too(address):
    """What an older catalog noted of its runs is known to the data's owners after the migration."""
    from alembic import command

    from flautim_lab.catalog import migrations

    engine = sa.create_engine(address)
    with engine.begin() as connection:
        command.upgrade(migrations.config(connection), "0001")
        for statement in OLD.strip().split(";\n"):
            connection.execute(sa.text(statement))
        migrations.upgrade(connection)
        rows = connection.execute(sa.text("SELECT run_id, project, ended FROM run_uses")).all()
        assert [tuple(row) for row in rows] == [("r1", "u/p", 7.0)]
        assert connection.scalar(sa.text("SELECT code FROM grants")) == ""
    engine.dispose()


OLD = """
INSERT INTO institutions (id, key, name, folded, cnpj, logo, active, created, changed)
    VALUES (1, 'u', 'U', 'u', '', '', true, 0, 0);
INSERT INTO projects
    (id, institution_id, key, name, folded, description, archived, created, changed)
    VALUES (1, 1, 'p', 'P', 'p', '', false, 0, 0);
INSERT INTO datasets (id, institution_id, key, name, folded, description, archived, last)
    VALUES (1, 1, 'd', 'D', 'd', '', false, 1);
INSERT INTO dataset_versions VALUES (1, 1, '[]', 't', 1, '', 'd.csv', '', '', 0, 'x');
INSERT INTO models (id, project_id, key, name, archived) VALUES (1, 1, 'm', 'M', false);
INSERT INTO model_versions VALUES (1, 1, '', 'Net', 0, 'x');
INSERT INTO experiments (id, project_id, key, name, folded, archived, changed)
    VALUES (1, 1, 'e', 'E', 'e', false, 0);
INSERT INTO experiment_versions VALUES (1, 1, '', 1, 1, 1, 1, '{}', '', 0, 'x');
INSERT INTO grants (dataset_id, project_id, given_by, given) VALUES (1, 1, 'x', 0);
INSERT INTO run_links VALUES ('r1', 1, 1, 'x', 7)
"""
