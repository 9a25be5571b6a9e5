"""Institutions and their people."""

import pytest

from flautim_lab.catalog.things import Role
from flautim_lab.errors import (
    CatalogError,
    ConflictError,
    InUseError,
    NotAllowedError,
    NotFoundError,
)
from tests.catalog.conftest import UFMG

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def keys(page):
    return [each.key for each in page.items]


@pytest.mark.parametrize(
    "search",
    ["minas gerais", "FEDERAL de", "17.217.985", "17217985", "0001-04", "ufmg", "Mínas  Geraís"],
)
def test_is_found_by_a_part_of_its_name_key_or_cnpj(people, search):
    assert "ufmg" in keys(people.nobody.institutions(search))


@pytest.mark.parametrize("search", ["%", "_", "paris", "17.217.986", "<script>"])
def test_what_is_no_part_of_it_finds_nothing(people, search):
    assert keys(people.nobody.institutions(search)) == []


def test_a_number_finds_only_those_whose_cnpj_has_it(people):
    assert keys(people.nobody.institutions("17.217.985/0001-04")) == ["ufmg"]


def test_inactive_ones_are_left_out_when_asked(people):
    people.root.change_institution("ifnmg", active=False)
    assert keys(people.nobody.institutions(active_only=True)) == ["ufmg"]
    assert keys(people.nobody.institutions()) == ["ifnmg", "ufmg"]


def test_come_in_pages_by_name(world):
    root = world.of("root", platform_admin=True)
    for number in range(25):
        root.add_institution(f"Unit {number:02}")
    first, second = root.institutions(per_page=20), root.institutions(page=2, per_page=20)
    assert (first.total, first.pages, len(first.items), len(second.items)) == (25, 2, 20, 5)
    assert keys(first) + keys(second) == [f"unit-{number:02}" for number in range(25)]
    assert root.institutions(page=9).items == ()


@pytest.mark.parametrize(("page", "per_page"), [(0, 20), (1, 0), (1, 101), (-1, 5)])
def test_a_page_that_cannot_be_is_refused(people, page, per_page):
    with pytest.raises(CatalogError):
        people.root.institutions(page=page, per_page=per_page)


def test_tells_how_much_it_has(people):
    ufmg = people.nobody.institution("ufmg")
    assert (ufmg.projects, ufmg.datasets, ufmg.users) == (1, 1, 4)
    assert ufmg.cnpj == "17217985000104"


def test_the_alphanumeric_cnpj_of_2026_is_taken(people):
    people.root.change_institution("ifnmg", cnpj="12.ABC.345/01DE-35")
    assert people.root.institution("ifnmg").cnpj == "12ABC34501DE35"
    assert keys(people.nobody.institutions("12.abc.345")) == ["ifnmg"]


@pytest.mark.parametrize("cnpj", ["17.217.985/0001-05", "123", "12.ABC.345/01DE-36"])
def test_a_cnpj_with_wrong_digits_is_refused(people, cnpj):
    with pytest.raises(CatalogError, match="CNPJ"):
        people.root.change_institution("ifnmg", cnpj=cnpj)


def test_a_cnpj_belongs_to_one(people):
    with pytest.raises(ConflictError, match="ufmg has the CNPJ"):
        people.root.change_institution("ifnmg", cnpj=UFMG)


def test_a_key_belongs_to_one(people):
    with pytest.raises(ConflictError, match="another key"):
        people.root.add_institution("Another", key="ufmg")


def test_a_key_is_made_from_the_name(people):
    assert people.root.add_institution("Fundação  Ezequiel Dias").key == "fundacao-ezequiel-dias"


def test_a_logo_is_a_picture_that_holds_no_script(people):
    assert people.root.change_institution("ufmg", logo=PNG).logo == PNG
    with pytest.raises(CatalogError, match="PNG, JPEG or WebP"):
        people.root.change_institution("ufmg", logo=b"<svg onload='alert(1)'/>")
    with pytest.raises(CatalogError, match="at most 64 KiB"):
        people.root.change_institution("ufmg", logo=PNG + bytes(2**17))
    assert people.nobody.institution("ufmg").logo == PNG


def test_is_removed_when_it_is_empty(people):
    people.root.add_institution("Empty")
    people.root.set_roles("empty", "ana", [Role.RESEARCHER])
    people.root.remove_institution("empty")
    assert "empty" not in people.ana.me().roles
    with pytest.raises(NotFoundError):
        people.root.institution("empty")
    with pytest.raises(InUseError, match="inactive"):
        people.root.remove_institution("ufmg")


def test_a_name_with_markup_is_text(people):
    name = "<script>alert(1)</script> CEFET/MG"
    assert people.root.add_institution(name, key="x").name == name
    assert people.nobody.institution("x").name == name


# --- people -------------------------------------------------------------------------------


def test_users_by_name_with_what_they_are(people):
    users = people.ana.users("ufmg").items
    assert [(each.user, set(each.roles)) for each in users] == [
        ("ana", {Role.RESEARCHER}),
        ("bia", {Role.RESEARCHER}),
        ("carla", {Role.INSTITUTION_ADMIN}),
        ("davi", {Role.DATA_OWNER}),
    ]


def test_who_comes_from_the_hubs_list_is_among_them(people):
    researcher, both = frozenset({Role.RESEARCHER}), frozenset({Role.RESEARCHER, Role.DATA_OWNER})
    people.world.listed["ufmg"] = {"hugo": researcher, "davi": researcher, "iris": both}
    found = people.ana.users("ufmg")
    assert [(each.user, set(each.roles), each.from_hub) for each in found.items] == [
        ("ana", {Role.RESEARCHER}, False),
        ("bia", {Role.RESEARCHER}, False),
        ("carla", {Role.INSTITUTION_ADMIN}, False),
        ("davi", set(both), True),
        ("hugo", {Role.RESEARCHER}, True),
        ("iris", set(both), True),
    ]
    assert found.total == people.ana.institution("ufmg").users == 6
    second = people.ana.users("ufmg", page=2, per_page=4)
    assert [each.user for each in second.items] == ["hugo", "iris"]
    assert (second.total, second.pages) == (6, 2)
    assert [each.user for each in people.eva.users("ifnmg").items] == ["eva"]


def test_who_comes_from_the_hubs_list_is_not_taken_off_here(people):
    people.world.listed["ufmg"] = {"hugo": frozenset({Role.RESEARCHER})}
    with pytest.raises(
        CatalogError, match=r"^hugo is of ufmg by the hub's list; only who runs the"
    ):
        people.admin.remove_user("ufmg", "hugo")
    made = people.admin.set_roles("ufmg", "hugo", [Role.DATA_OWNER])
    assert (made.roles, made.from_hub) == ({Role.RESEARCHER, Role.DATA_OWNER}, True)
    people.admin.remove_user("ufmg", "hugo")  # what the catalog gave
    (left,) = [each for each in people.ana.users("ufmg").items if each.user == "hugo"]
    assert left.roles == {Role.RESEARCHER}


def test_roles_are_given_in_place_of_those_there_were(people):
    both = [Role.RESEARCHER, Role.DATA_OWNER]
    assert people.admin.set_roles("ufmg", "ana", both).roles == set(both)
    assert people.ana.me().roles["ufmg"] == set(both)
    people.admin.set_roles("ufmg", "ana", [Role.DATA_OWNER])
    assert people.ana.me().roles["ufmg"] == {Role.DATA_OWNER}


def test_who_is_taken_off_is_off_its_projects_too(people):
    people.admin.remove_user("ufmg", "ana")
    assert people.ana.me().roles == {}
    with pytest.raises(NotFoundError):
        people.ana.project("ufmg/vision")
    assert "ana" not in people.admin.members("ufmg/vision")


def test_an_administrator_of_one_gives_no_roles_at_another(people):
    with pytest.raises((NotFoundError, NotAllowedError)):
        people.admin.set_roles("ifnmg", "carla", [Role.DATA_OWNER])
    assert "ifnmg" not in people.admin.me().roles


def test_who_asks_is_told_what_they_may_do(people):
    me = people.davi.me()
    assert (me.user, me.platform_admin) == ("davi", False)
    assert "grant datasets" in me.allowed["ufmg"]
    assert "give roles" not in me.allowed["ufmg"]
    assert "make institutions" not in me.allowed[""]
    assert "make institutions" in people.root.me().allowed[""]


def test_what_the_panel_remembers_is_each_users_own(people):
    assert people.ana.remembered("panel") == {}
    people.ana.remember("panel", {"screen": "project", "ref": "ufmg/vision"})
    people.ana.remember("panel", {"screen": "run", "tab": 2})
    assert people.ana.remembered("panel") == {"screen": "run", "tab": 2}
    assert people.bia.remembered("panel") == {}
