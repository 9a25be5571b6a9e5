"""The panel's screens, without a browser: what they show, what they do, and what they refuse."""

from __future__ import annotations

import datetime
import re
from types import MappingProxyType

import ipywidgets as widgets
import pytest

import flautim_lab as lab
from flautim_lab.catalog.asking import ask_for_data
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.opening import database
from flautim_lab.catalog.things import Role
from flautim_lab.jupyter.panel.context import Place
from flautim_lab.runners.saved import start_apart
from tests.federations import iris_frame
from tests.jupyter.panel.driver import Driver

NET = """
from torch import nn

class Block(nn.Module): ...

class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.layers(x)
"""

SETTINGS = "rounds: 4\nclients: 3\nstrategy: FedAvg\npartition: {kind: by_label, alpha: 0.5}\n"


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLAUTIM_LAB_LANGUAGE", "en")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drive(home):
    """A panel of the sole user of a machine."""
    made = Driver(lab.open_catalog())
    yield made
    made.close()


@pytest.fixture
def drivers(home):
    """Panels of several users of one catalog."""
    lab.open_catalog()
    opened, made = database(), []

    def of(user, listed=MappingProxyType({}), **more):
        made.append(Driver(LocalCatalog(opened, Actor(user, **more), listed=listed)))
        return made[-1]

    yield of
    for each in made:
        each.close()
    opened.close()


def run(code):
    """Run a cell that the panel shows; returns its variables."""
    names = {}
    exec(code, names)
    return names


def flowers(catalog, home):
    """A project with a dataset, a model and an experiment."""
    iris_frame().to_csv(home / "iris.csv", index=False)
    catalog.add_project("local", "Flowers")
    lab.register_dataset("local", home / "iris.csv", target="species", name="Iris")
    catalog.save_model("local/flowers", "Net", source=NET, class_name="Net")
    return catalog.save_experiment(
        "local/flowers",
        "First",
        model="local/flowers/net",
        dataset="local/iris",
        settings={"rounds": 3, "clients": 3, "strategy": "FedProx", "seed": 7},
    )


# --- finding one's way ----------------------------------------------------------------------


def test_starts_with_the_institution_that_is_always_there(drive):
    assert "Local" in drive.words
    drive.press("Open Local")
    assert drive.panel.place == Place("institution", "local")
    assert "No project here yet" in drive.words


def test_a_search_shows_what_it_finds_and_makes_no_widgets(drive):
    catalog = lab.open_catalog()
    for number in range(30):
        catalog.add_institution(f"Campus {number:02}")
    drive.set("Search", "campus")
    made = len(drive.all())
    assert "Page 1 of 3 (30 in all)" in drive.words
    drive.press("Next")
    assert "Campus 12" in drive.words
    drive.set("Search", "campus 2")
    assert "Campus 20" in drive.words
    assert "Campus 12" not in "".join(
        one.children[0].value
        for one in drive.all(widgets.VBox)
        if "lab-card" in one._dom_classes and one.layout.display != "none"
    )
    drive.set("Search", "nowhere")
    assert "No institution is named so" in drive.words
    assert len(drive.all()) == made


def test_another_panel_lands_where_the_last_one_was(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("project", "local/flowers"))
    drive.press("Models")
    drive.set("Language", "pt_BR")
    again = Driver(lab.open_catalog())
    assert again.panel.place == Place("project", "local/flowers", "models")
    assert "Modelos" in again.buttons
    again.close()


def test_what_is_gone_leads_to_the_place_above(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("project", "local/gone"))
    assert drive.panel.place == Place("institution", "local")
    assert "there is no project local/gone" in drive.words
    drive.panel.go(Place("run", "r20260101-000000-x-00000000", more="local/flowers"))
    assert drive.panel.place == Place("project", "local/flowers", "runs")


def test_names_with_markup_are_text(drive):
    evil = "<script>alert(1)<b>"
    drive.panel.catalog.add_institution(evil, key="evil")
    drive.panel.catalog.add_project("evil", evil.replace("/", ""), key="x", description=evil)
    drive.panel.go(Place())
    assert "<script>" not in drive.markup
    assert evil in drive.words
    drive.panel.go(Place("institution", "evil"))
    assert "<script>" not in drive.markup
    drive.panel.go(Place("project", "evil/x", "settings"))
    assert "<script>" not in drive.markup


def test_closing_leaves_no_widgets(drive):
    kept = len(widgets.widget._instances)
    for place in (Place("institution", "local"), Place("institution", "local", "users"), Place()):
        drive.panel.go(place)
    after = len(widgets.widget._instances)
    for _ in range(3):
        for place in (Place("institution", "local"), Place("institution", "local", "users")):
            drive.panel.go(place)
        drive.panel.go(Place())
    assert len(widgets.widget._instances) <= max(kept, after) + 40


# --- forms and the code that does the same ----------------------------------------------------


def test_an_institution_is_made_by_form_and_by_code(drive):
    drive.set("Name", "Universidade Federal de Minas Gerais")
    drive.set("CNPJ", "17.217.985/0001-05")
    assert "17.217.985/0001-05" in drive.words
    drive.press("Make institution")
    assert drive.panel.place == Place()  # nothing was made, and nothing is lost
    drive.set("CNPJ", "17.217.985/0001-04")
    *_, code = drive.code
    run(code)
    made = drive.panel.catalog.institution("universidade-federal-de-minas-gerais")
    assert made.cnpj == "17217985000104"
    drive.panel.catalog.remove_institution(made.key)
    drive.press("Make institution")
    assert drive.panel.catalog.institution(drive.panel.place.ref).cnpj == made.cnpj


def test_a_project_is_made_and_changed_by_form_and_by_code(drive):
    drive.panel.go(Place("institution", "local"))
    drive.set("Name", "Vision")
    drive.set("Description", 'It\'s "cameras"')
    run(drive.code[-1])
    assert drive.panel.catalog.project("local/vision").description == 'It\'s "cameras"'
    drive.panel.catalog.remove_project("local/vision")
    drive.press("Make project")
    assert drive.panel.place == Place("project", "local/vision")
    drive.press("Settings")
    drive.set("Name", "Sound")
    drive.press("Save")
    assert drive.panel.catalog.project("local/vision").name == "Sound"
    drive.set("Name", "Light")
    run(drive.code[-1])
    assert drive.panel.catalog.project("local/vision").name == "Light"
    drive.press("Archive")
    assert "Light (archived)" in drive.words
    drive.press("Remove project")
    assert drive.panel.place == Place("institution", "local")


def test_roles_are_given_by_form_and_by_code(drive):
    drive.panel.go(Place("institution", "local", "users"))
    drive.set("User", "ana")
    drive.set("researcher", True)
    drive.press("Save roles")
    assert "ana" in drive.words
    drive.set("data owner", True)
    run(drive.code[-1])
    (person,) = drive.panel.catalog.users("local").items
    assert person.roles == {Role.RESEARCHER, Role.DATA_OWNER}
    drive.press("Remove user")
    assert drive.panel.catalog.users("local").items == ()


def test_who_comes_from_the_hub_is_shown_and_not_taken_off(drivers):
    listed = {"local": {"hugo": frozenset({Role.RESEARCHER})}}
    drive = drivers("root", listed, platform_admin=True)
    drive.panel.go(Place("institution", "local", "users"))
    assert "hugo" in drive.words
    assert "researcher (from the hub)" in drive.words
    assert "Who comes from the hub is in its list" in drive.words
    drive.set("User", "hugo")
    drive.press("Remove user")
    assert "hugo is of local by the hub" in drive.words
    assert "researcher (from the hub)" in drive.words


def test_a_dataset_is_registered_by_form_and_by_code_and_granted(drive, home):
    drive.panel.go(Place("institution", "local", "datasets"))
    drive.upload("CSV file", "trips.csv", "speed,energy\n1,2\n3,4\n=1+1,6\n")
    drive.until(lambda: "3 rows: speed, energy" in drive.words)
    drive.set("Target", "energy")
    code = drive.code[-1]
    drive.press("Register")
    drive.until(lambda: "local/trips@1 was registered" in drive.words)
    run(code)
    assert [one.ref for one in drive.panel.catalog.dataset_versions("local/trips")] == [
        "local/trips@1"
    ]
    drive.panel.catalog.add_institution("Other")
    drive.panel.catalog.add_project("other", "Roads")
    drive.set("Project", "roads")
    drive.press("Grant any code")
    assert "'roads' is no reference" in drive.words
    drive.set("Project", "other/roads")
    drive.press("Grant any code")
    assert "Any code of other/roads could then read local/trips" in drive.words
    drive.set("Project", "other/roads2")  # what was asked about is another thing now
    drive.set("Project", "other/roads")
    assert "could then read" not in drive.words
    drive.press("Grant any code")
    drive.press("Cancel")
    assert not drive.panel.catalog.granted("local/trips", "other/roads")
    drive.press("Grant any code")
    drive.press("Yes, grant any code")
    assert drive.panel.catalog.granted("local/trips", "other/roads")
    drive.press("End the grant of other/roads")
    assert not drive.panel.catalog.granted("local/trips", "other/roads")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("trips.exe", "a,b\n1,2\n", "trips.exe is of another kind"),
        ("trips.csv", "", "trips.csv is empty"),
        ("trips.csv", b"\x00\x01\x02", "not a text file"),
        ("trips.csv", "a," * 2**22 + "b\n", "with the file browser"),
        ("trips.csv", "a,a\n1,2\n", "more than one column named"),
    ],
)
def test_a_file_that_is_no_table_is_a_sentence(drive, name, content, said):
    drive.panel.go(Place("institution", "local", "datasets"))
    drive.upload("CSV file", name, content)
    drive.until(lambda: said in drive.words, 20)
    assert drive.all(widgets.Button, "Register")[0].disabled


# --- an experiment, from the form to its page -------------------------------------------------


def test_an_experiment_is_made_of_three_files_run_and_watched(drive, home):
    drive.panel.catalog.add_project("local", "Flowers")
    drive.panel.go(Place("new experiment", "local/flowers"))
    drive.set("Name", "First")
    drive.upload("CSV file", "iris.csv", iris_frame().to_csv(index=False))
    drive.until(lambda: drive.get("Target").options)
    drive.upload("Model (.py)", "net.py", NET)
    assert drive.get("Class").options == ("Block", "Net")
    assert drive.get("Class").value == "Net"
    drive.upload("Hyperparameters (.py, .toml, .yaml, .json)", "settings.yaml", SETTINGS)
    drive.press("Check and estimate")
    drive.until(lambda: "150 rows · 3 clients" in drive.words)
    (home / "net.py").write_text(NET)
    (home / "settings.yaml").write_text(SETTINGS)
    code = drive.code[-1]
    drive.press("Run experiment")
    drive.until(lambda: drive.panel.place.screen == "run")
    run_id = drive.panel.place.ref
    assert lab.attach(run_id).wait(60).status == "finished"
    drive.until(lambda: "finished" in drive.words)
    assert "4/4 rounds" in drive.words
    assert "local/flowers/first@1" in drive.words
    drive.press("Outputs")
    assert bytes(drive.all(widgets.Image)[0].value).startswith(b"\x89PNG")
    assert f"download='{run_id}-metrics.csv'" in drive.markup
    drive.press("Models")
    assert f"download='{run_id}.safetensors'" in drive.markup
    drive.press("Log")
    drive.set("Level", "error")
    assert "Nothing was said yet" in drive.words
    # The same by the code that the form showed: the same versions, the same numbers.
    again = run(code)["run"].wait()
    assert drive.panel.catalog.run(again.id).experiment == "local/flowers/first@1"
    assert again.metrics["value"].tolist() == lab.attach(run_id).metrics["value"].tolist()


def test_a_clone_has_all_that_was_set(drive, home):
    first = flowers(drive.panel.catalog, home)
    drive.panel.go(Place("project", "local/flowers"))
    drive.press("Clone First")
    assert drive.get("Name").value == "First (copy)"
    assert (drive.get("Rounds").value, drive.get("Strategy").value) == ("3", "FedProx")
    drive.set("proximal_mu", "0.2")
    drive.press("Save")
    drive.until(lambda: drive.panel.place.screen == "project")
    (second,) = [
        one
        for one in drive.panel.catalog.experiments("local/flowers").items
        if one.ref != first.ref
    ]
    assert (second.name, second.model) == ("First (copy)", first.model)
    assert second.settings["strategy_args"] == {"proximal_mu": 0.2}
    assert second.settings["seed"] == 7


def test_a_run_is_stopped_and_run_again_from_its_page(drive, home):
    first = flowers(drive.panel.catalog, home)
    catalog = drive.panel.catalog
    catalog.save_experiment(
        "local/flowers",
        "Long",
        model=first.model,
        dataset=first.dataset,
        settings={"rounds": 100_000, "clients": 2},
    )
    drive.panel.go(Place("project", "local/flowers"))
    drive.press("Run Long")
    drive.until(lambda: drive.panel.place.screen == "run")
    drive.until(lambda: "running" in drive.words)
    drive.press("Stop")
    drive.until(lambda: "stopped" in drive.words)
    before = drive.panel.place.ref
    drive.press("Run again")
    drive.until(lambda: drive.panel.place.ref != before)
    lab.attach(drive.panel.place.ref).stop().wait(60)
    assert catalog.runs("local/flowers").total == 2


def test_of_rows_that_stay_home_the_registered_number_is_shown(drive, home):
    first = flowers(drive.panel.catalog, home)
    catalog = drive.panel.catalog
    catalog.add_institution("Other", key="other")
    iris_frame()[:90].to_csv(home / "few.csv", index=False)
    lab.register_dataset("other", home / "few.csv", target="species", name="Iris", key="iris")
    catalog.give_grant("other/iris", "local/flowers")
    both = catalog.save_experiment(
        "local/flowers",
        "Both",
        model=first.model,
        dataset=first.dataset,
        more_datasets=["other/iris"],
        settings={},
    )
    at_home = {"runner": "cluster", "rounds": 1, "plan": {}}
    for clients, said in ((2, ["150 registered", "90 registered"]), (4, ["of 90 registered"] * 2)):
        record = f"r20261130-12000{clients}-both-7d1947b4"
        told = at_home | {"name": "Both", "clients": clients, "settings": {"client_rows": []}}
        drive.panel.records.create_run(record, **told)
        catalog.add_run(record, both.ref)
        drive.panel.go(Place("run", record))
        assert re.findall(r"(?:of )?\d+ registered", drive.words)[-2:] == said
    drive.panel.records.create_run(record[:-1] + "5", **told)  # of a cell
    drive.panel.go(Place("run", record[:-1] + "5"))
    assert drive.words.count("not told: they stay home") == 4


def test_what_cannot_run_is_a_sentence_and_nothing_is_kept(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("new experiment", "local/flowers"))
    drive.set("Name", "Wrong")
    drive.set("Model arguments", "hiden=3")
    drive.press("Run experiment")
    drive.until(lambda: "cannot be made with model_args" in drive.words)
    assert drive.get("Name").value == "Wrong"
    assert drive.panel.catalog.experiments("local/flowers").total == 1


def test_uploaded_code_does_not_run_in_the_kernel(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("new experiment", "local/flowers"))
    drive.upload("Model (.py)", "net.py", f"open({str(home / 'ran')!r}, 'w')\n{NET}")
    assert drive.get("Class").value == "Net"
    assert not (home / "ran").exists()
    drive.upload("Model (.py)", "net.py", "class Net(nn.Module:\n")
    assert "net.py is no Python" in drive.words


def test_the_form_changes_with_the_strategy_and_the_partition(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("new experiment", "local/flowers"))
    drive.set("Strategy", "FedAdam")
    assert drive.all(widgets.Text, "beta_1")
    drive.set("beta_1", "2")
    assert "beta_1 of FedAdam must be at least 0 and below 1" in drive.words
    drive.set("Strategy", "FedAvg")
    assert not drive.all(widgets.Text, "beta_1")
    drive.set("Partition", "by_column")
    assert drive.get("Column").options == tuple(iris_frame().columns)


def test_what_is_refused_is_said_where_it_was_pressed_and_is_not_kept(drive, home):
    flowers(drive.panel.catalog, home)
    drive.panel.go(Place("new experiment", "local/flowers"))
    drive.press("Save")
    assert drive.words.count("the name of the experiment is empty") == 2  # by the button, too
    label = "Hyperparameters (.py, .toml, .yaml, .json)"
    drive.upload(label, "good.toml", "rounds = 4")
    assert "open('good.toml')" in drive.code[-1]
    drive.upload(label, "bad.toml", "roundz = 4")
    assert "did you mean 'rounds'?" in drive.words
    assert "bad.toml')" not in drive.code[-1]
    assert drive.get("Rounds").value == "4"


# --- data of others ---------------------------------------------------------------------------


def test_a_data_owner_answers_a_request(drivers, home):
    root = LocalCatalog(database(), Actor("root", alone=True))
    for key in ("ufmg", "ifnmg"):
        root.add_institution(key.upper(), key=key)
    LocalCatalog(database(), Actor("root", platform_admin=True)).set_roles(
        "ifnmg", "bruno", [Role.DATA_OWNER]
    )
    iris_frame().to_csv(home / "iris.csv", index=False)
    lab.register_dataset(
        "ifnmg", home / "iris.csv", target="species", name="Iris", key="iris", catalog=root
    )
    root.change_dataset("ifnmg/iris", published=True)
    ana = LocalCatalog(database(), Actor("ana", institutions=frozenset({"ufmg"})))
    ana.add_project("ufmg", "Flowers")
    model = ana.save_model("ufmg/flowers", "Net", source=NET, class_name="Net")
    saved = ana.save_experiment(
        "ufmg/flowers", "First", model=model.ref, dataset="ifnmg/iris", settings={"rounds": 2}
    )
    with pytest.raises(lab.NotAllowedError, match="ask its owners for it"):
        start_apart(saved.ref)
    ask_for_data(saved.ref, catalog=ana)

    bruno = drivers("bruno")
    bruno.panel.go(Place("institution", "ifnmg"))
    assert "1 request for data waits for an answer" in bruno.words
    bruno.press("Data requests")
    bruno.press("Read the code of ufmg/flowers")
    bruno.press("Refuse")
    assert "Give a reason" in bruno.words
    today = datetime.date.today()
    bruno.set("until", today - datetime.timedelta(days=1))
    bruno.press("Grant this code")
    assert "would be over already" in bruno.words
    assert ana.grant_requests(project="ufmg/flowers", waiting=True).total == 1
    bruno.set("until", today)
    bruno.press("Grant any code of ufmg/flowers")
    assert "Any code of ufmg/flowers could then read ifnmg/iris" in bruno.words
    assert ana.grant_requests(project="ufmg/flowers", waiting=True).total == 1
    bruno.press("Grant this code")
    assert "granted for this code by bruno" in bruno.words
    assert f"until {today} 23:59" in bruno.words  # in the audit
    bruno.press("Datasets")
    assert "granted for this code" not in bruno.words  # said of another tab
    assert re.search(r"ufmg/flowers\s+code [0-9a-f]{12}", bruno.words)

    lab.register_dataset("ufmg", home / "iris.csv", target="species", name="Iris", catalog=root)
    other = drivers("ana", institutions=frozenset({"ufmg"}))
    other.panel.go(Place("new experiment", "ufmg/flowers"))
    assert other.get("Dataset").value == "ufmg/iris@1"  # and not the granted one


# --- roles ------------------------------------------------------------------------------------


def test_everyone_sees_the_buttons_of_what_they_may_do(drivers):
    root = LocalCatalog(database(), Actor("root", platform_admin=True))
    root.add_institution("UFMG", key="ufmg")
    for user, role in (("carla", Role.INSTITUTION_ADMIN), ("ana", Role.RESEARCHER)):
        root.set_roles("ufmg", user, [role])
    root.set_roles("ufmg", "davi", [Role.DATA_OWNER])
    LocalCatalog(database(), Actor("ana")).add_project("ufmg", "Vision")

    def buttons(user, place, **more):
        driver = drivers(user, **more)
        driver.panel.go(place)
        return driver.buttons

    users = Place("institution", "ufmg", "users")
    data = Place("institution", "ufmg", "datasets")
    assert "Save roles" in buttons("carla", users)
    assert "Save roles" not in buttons("ana", users)
    assert "Register" in buttons("davi", data)
    assert "Register" not in buttons("ana", data)
    assert "Users" not in buttons("zoe", Place("institution", "ufmg"))
    assert "Make institution" in buttons("root", Place(), platform_admin=True)
    assert "Make institution" not in buttons("carla", Place())
    assert "New experiment" in buttons("ana", Place("project", "ufmg/vision"))
    assert "New experiment" not in buttons("davi", Place("project", "ufmg/vision"))
    stranger = drivers("zoe")
    stranger.panel.go(Place("project", "ufmg/vision"))
    assert stranger.panel.place == Place("institution", "ufmg")
    assert "there is no project ufmg/vision, or it is not shown to you" in stranger.words
