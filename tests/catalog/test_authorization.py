"""The table of rights, row by row, on every way in."""

import pytest

from flautim_lab.catalog.authorization import COLUMNS, TABLE, Action, Scope, may, who_may
from flautim_lab.catalog.things import Role
from flautim_lab.errors import NotAllowedError, NotFoundError
from tests.catalog.conftest import COLUMNS as SCHEMA
from tests.catalog.conftest import NET

INSIDE, OUTSIDE = "ufmg", "ifnmg"
# What is tried for each action at an institution, the project of which is INSTITUTION/vision.
TRIES = {
    Action.SEE_INSTITUTIONS: lambda catalog, at: catalog.institution(at),
    Action.MAKE_INSTITUTIONS: lambda catalog, at: catalog.change_institution(at, active=True),
    Action.CHANGE_INSTITUTION: lambda catalog, at: catalog.change_institution(at, name="New"),
    Action.SEE_USERS: lambda catalog, at: catalog.users(at),
    Action.GIVE_ROLES: lambda catalog, at: catalog.set_roles(at, "new", [Role.RESEARCHER]),
    Action.SEE_PROJECTS: lambda catalog, at: catalog.project(f"{at}/vision"),
    Action.MAKE_PROJECTS: lambda catalog, at: catalog.add_project(at, "Another"),
    Action.CHANGE_PROJECT: lambda catalog, at: catalog.change_project(f"{at}/vision", name="New"),
    Action.SEE_DATASETS: lambda catalog, at: catalog.datasets(at),
    Action.REGISTER_DATASETS: lambda catalog, at: catalog.add_dataset_version(
        at, "New", columns=SCHEMA, target="energy", rows=1, path="new.csv"
    ),
    Action.GRANT_DATASETS: lambda catalog, at: catalog.give_grant(f"{at}/telemetry", "third/roads"),
    Action.SEE_AUDIT: lambda catalog, at: catalog.audit(at),
    Action.SEE_WORK: lambda catalog, at: catalog.models(f"{at}/vision"),
    Action.DO_WORK: lambda catalog, at: catalog.save_model(
        f"{at}/vision", "New", source=NET, class_name="Net"
    ),
}


@pytest.fixture
def places(world):
    """Two institutions alike, and a third one whose project a dataset may be granted to."""
    root = world.of("root", platform_admin=True)
    for key in (INSIDE, OUTSIDE, "third"):
        root.add_institution(key, key=key)
        root.set_roles(key, f"owner-{key}", [Role.DATA_OWNER, Role.RESEARCHER])
        owner = world.of(f"owner-{key}")
        owner.add_project(key, "Vision")
        owner.add_project(key, "Roads")
        owner.add_dataset_version(
            key, "Telemetry", columns=SCHEMA, target="energy", rows=1, path="a.csv"
        )
    return world


def somebody(places, column, *, member):
    """A catalog as seen by who has one role at INSIDE alone, and perhaps works on its project."""
    root = places.of("root", platform_admin=True)
    name = "somebody"
    if column in list(Role):
        root.set_roles(INSIDE, name, [Role(column)])
    if member:
        places.of(f"owner-{INSIDE}").add_member(f"{INSIDE}/vision", name)
    return places.of(name, platform_admin=column == "platform_admin")


def allowed(catalog, action, at):
    """Whether something is done rather than refused."""
    try:
        TRIES[action](catalog, at)
    except (NotAllowedError, NotFoundError):
        return False
    return True


def test_every_action_has_a_row_and_is_tried():
    assert set(TABLE) == set(TRIES) == set(Action)
    assert all(set(row) == {str(column) for column in COLUMNS} for row in TABLE.values())


@pytest.mark.parametrize("column", [str(column) for column in COLUMNS])
@pytest.mark.parametrize("member", [False, True], ids=["", "member"])
def test_the_table_holds(places, column, member):
    catalog = somebody(places, column, member=member)
    wrong = []
    for action, row in TABLE.items():
        held = {row["anybody"], row[column]}
        here = bool(held & {Scope.ANYWHERE, Scope.OWN_INSTITUTION}) or (
            member and Scope.OWN_PROJECT in held
        )
        expected = {INSIDE: here, OUTSIDE: Scope.ANYWHERE in held}
        for at, right in expected.items():
            if allowed(catalog, action, at) is not right:
                wrong.append((action.value, at, right))
    assert wrong == []


@pytest.mark.parametrize("column", [str(column) for column in COLUMNS])
@pytest.mark.parametrize("member", [False, True], ids=["", "member"])
def test_of_a_dataset_that_all_see_one_sees_the_grants_the_table_lets(places, column, member):
    """Its owners see all of them, anybody else those to projects that they may see."""
    catalog = somebody(places, column, member=member)
    given = [f"{INSIDE}/vision", f"{INSIDE}/roads", f"{OUTSIDE}/vision", "third/roads"]

    def right(action, at, *, own=False):
        held = {TABLE[action]["anybody"], TABLE[action][column]}
        mine = at == INSIDE and Scope.OWN_INSTITUTION in held
        return mine or Scope.ANYWHERE in held or (own and member and Scope.OWN_PROJECT in held)

    for home in (INSIDE, OUTSIDE):
        owner = places.of(f"owner-{home}")
        owner.change_dataset(f"{home}/telemetry", published=True)
        for project in given:
            owner.give_grant(f"{home}/telemetry", project)
        shown = {each.project for each in catalog.grants(dataset=f"{home}/telemetry")}
        all_of_it = right(Action.GRANT_DATASETS, home)
        assert shown == {
            project
            for project in given
            if all_of_it
            or right(Action.SEE_PROJECTS, project.split("/")[0], own=project == f"{INSIDE}/vision")
        }


def test_what_is_refused_is_not_done(places):
    catalog = places.of("somebody")
    for action in TRIES:
        allowed(catalog, action, INSIDE)
    owner = places.of(f"owner-{INSIDE}")
    assert owner.institution(INSIDE).name == INSIDE
    assert owner.project(f"{INSIDE}/vision").name == "Vision"
    assert [each.ref for each in owner.datasets(INSIDE).items] == [f"{INSIDE}/telemetry"]
    assert owner.models(f"{INSIDE}/vision").items == ()
    assert owner.grants(dataset=f"{INSIDE}/telemetry") == ()
    assert [each.user for each in owner.users(INSIDE).items] == [f"owner-{INSIDE}"]


def test_a_refusal_names_who_may(people):
    with pytest.raises(NotAllowedError, match=r"ana may not make institutions .* administrators"):
        people.ana.add_institution("Mine")


def test_a_stranger_is_told_the_same_as_of_what_is_not_there(people):
    with pytest.raises(NotFoundError) as hidden:
        people.nobody.project("ufmg/vision")
    with pytest.raises(NotFoundError) as nothing:
        people.nobody.project("ufmg/nothing")
    assert str(hidden.value).replace("vision", "nothing") == str(nothing.value)


def test_the_sole_user_of_a_catalog_without_a_hub_may_do_everything(places):
    catalog = places.of("owner-third", alone=True)
    assert [action for action in TRIES if not allowed(catalog, action, INSIDE)] == []


@pytest.mark.parametrize("action", list(Action))
def test_some_words_say_who_may(action):
    assert who_may(action) or action is Action.SEE_INSTITUTIONS
    assert may(action, list(Role), platform_admin=True, member=True)
