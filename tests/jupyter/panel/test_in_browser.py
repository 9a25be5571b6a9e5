"""The panel in use: the way of Flautim's paper, in a real JupyterLab and headless Chromium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.jupyter.in_browser import MARKS, browser, lab_pages, open_lab, server

__all__ = ["browser", "open_lab", "server"]  # fixtures
pytestmark = MARKS

KEPT = os.environ.get("FLAUTIM_LAB_SCREENSHOTS")  # a folder: for the README
IRIS = Path(__file__).parents[3] / "notebooks" / "iris.csv"
PREPARE = """\
import flautim_lab as lab

catalog = lab.open_catalog()
for key, name, cnpj in [
    ("ufmg", "Universidade Federal de Minas Gerais", "17.217.985/0001-04"),
    ("ifnmg", "Instituto Federal do Norte de Minas Gerais", "10.727.655/0001-10"),
    ("funed", "Fundação Ezequiel Dias", ""),
]:
    if not catalog.institutions(key).items:
        catalog.add_institution(name, key=key, cnpj=cnpj)
if not catalog.projects("ufmg").items:
    catalog.add_project("ufmg", "Flowers", description="Which iris is it?")
lab.panel()
"""
#: Words of the panel whose contrast with what is behind them is below WCAG's AA (4.5 to 1).
PALE = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, alpha, below) => below.map((v, i) => alpha * top[i] + (1 - alpha) * v);
  const behind = one => {
    const [r, g, b, alpha = 1] = parts(getComputedStyle(one).backgroundColor);
    const below = alpha < 1 && one.parentElement ? behind(one.parentElement) : [255, 255, 255];
    return over([r, g, b], alpha, below);
  };
  const faint = one => one ? getComputedStyle(one).opacity * faint(one.parentElement) : 1;
  const pale = [];
  for (const one of document.querySelectorAll('.lab-panel *')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const written = own || one.matches('input, select');
    if (!written || !one.checkVisibility() || one.closest('[disabled], style, option')) continue;
    const [r, g, b, alpha = 1] = parts(getComputedStyle(one).color);
    const back = behind(one);
    const pair = [light(over([r, g, b], alpha * faint(one), back)), light(back)];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) pale.push([one.textContent.trim() || one.tagName, ratio.toFixed(2)]);
  }
  return pale;
}"""
DATASET = '''\
import flautim_lab as lab


class Iris(lab.CSVDataset):
    """The flowers, with what to learn of them."""

    def __init__(self, path):
        super().__init__(path, target="species", name="iris")
'''
WATCHED = "time.sleep(0.02)"  # so that there is something to watch
MODEL = f"""\
import time

from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        {WATCHED}
        return self.layers(x)
"""
HYPERPARAMETERS = """\
rounds = 12
clients = 5
lr = 0.05
strategy = "FedProx"

[strategy_args]
proximal_mu = 0.1

[partition]
kind = "by_label"
alpha = 0.8
"""


class Walk:
    """The panel in a page."""

    def __init__(self, lab, shots):
        self.lab, self._shots = lab, shots
        self.page = lab.page
        self.panel = self.page.locator(".lab-panel").first

    def press(self, name):
        """Press a button, by its words or by what is shown when one points at it."""
        named = self.panel.get_by_role("button", name=name, exact=True)
        named.or_(self.panel.get_by_title(name, exact=True)).first.click()

    def start(self):
        """Go to the first screen, wherever the last test was."""
        first = self.panel.get_by_role("button", name="Institutions", exact=True)
        if first.is_enabled():
            first.click()
        self.see("Instituto Federal do Norte")

    def new_experiment(self):
        """Go from the first screen to the form of a project."""
        self.press("Open Universidade Federal de Minas Gerais")
        self.press("Open Flowers")
        self.press("New experiment")

    def type(self, label, words):
        box = self.panel.get_by_label(label, exact=True).first
        box.fill(words)
        box.press("Tab")

    def choose(self, label, words):
        self.panel.get_by_label(label, exact=True).first.select_option(label=words)

    def upload(self, label, path):
        button = self.panel.locator("button.lab-upload", has_text=label).first
        with self.page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(path)

    def see(self, words):
        self.panel.get_by_text(words).first.wait_for()

    def shot(self, name):
        path = self._shots / f"{name}.png"
        self.panel.screenshot(path=path)
        if KEPT:
            shutil.copy(path, Path(KEPT) / f"{name}.png")

    def save(self, words, folder):
        """Press a link that saves a file; returns where it is."""
        with self.page.expect_download() as download:
            self.panel.locator("a.lab-link", has_text=words).first.click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture(scope="module")
def one_page(server, browser, tmp_path_factory):
    """A notebook with the panel, through which all these tests go."""
    with lab_pages(server, browser, tmp_path_factory.mktemp("panel")) as open_page:
        lab = open_page("panel.ipynb", [PREPARE])
        lab.command("notebook:run-all-cells")
        yield lab


@pytest.fixture
def walk(one_page, tmp_path):
    """The panel on its first screen."""
    one_page.page.set_viewport_size({"width": 1280, "height": 1300})
    made = Walk(one_page, tmp_path)
    made.panel.wait_for()
    made.start()
    return made


def test_the_papers_way(walk, tmp_path):
    go = tmp_path / "go"
    go.touch()
    slower = f"time.sleep(0.02 if os.path.exists({str(go)!r}) else 0.3)"
    for name, content in (
        ("iris_dataset.py", DATASET),
        ("net.py", "import os\n" + MODEL.replace(WATCHED, slower)),
        ("settings.toml", HYPERPARAMETERS),
    ):
        (tmp_path / name).write_text(content)

    walk.see("Fundação Ezequiel Dias")
    walk.shot("institutions")
    walk.panel.get_by_label("Search").fill("17217985")
    walk.panel.get_by_text("Fundação Ezequiel Dias").wait_for(state="hidden")
    walk.press("Open Universidade Federal de Minas Gerais")
    walk.see("CNPJ 17.217.985/0001-04")
    walk.see("Which iris is it?")
    walk.shot("institution")
    walk.press("Open Flowers")
    walk.press("New experiment")

    walk.type("Name", "First flowers")
    walk.upload("CSV file", IRIS)
    walk.panel.get_by_label("Target").first.wait_for()
    walk.upload("Dataset class (.py)", tmp_path / "iris_dataset.py")
    walk.upload("Model (.py)", tmp_path / "net.py")
    walk.upload("Hyperparameters", tmp_path / "settings.toml")
    walk.see("settings.toml set rounds")
    walk.press("Check and estimate")
    walk.see("rows · 5 clients")
    walk.panel.locator("img").first.wait_for()
    walk.shot("new_experiment")
    go.unlink()
    walk.press("Run experiment")

    walk.see("running")
    walk.shot("run_overview")
    walk.press("Outputs")
    picture = walk.panel.locator("img").first
    picture.wait_for()
    first = picture.get_attribute("src")
    walk.page.wait_for_function(
        "src => document.querySelector('.lab-panel img')?.src !== src", arg=first
    )
    go.touch()
    walk.see("finished")
    walk.shot("run_outputs")
    metrics = walk.save("Metrics as CSV", tmp_path).read_text()
    assert metrics.startswith("round,")
    assert metrics.count("\n") > 12
    assert walk.save("loss as PNG", tmp_path).read_bytes().startswith(b"\x89PNG")
    assert walk.save("accuracy as PDF", tmp_path).read_bytes().startswith(b"%PDF")
    walk.press("Log")
    walk.see("validation loss")
    walk.shot("run_log")
    assert "FINISHED" in walk.save("Whole log", tmp_path).read_text()
    walk.press("Models")
    walk.shot("run_models")
    import torch
    from safetensors.torch import load_file

    weights = torch.load(walk.save("Model as a state_dict", tmp_path))
    assert weights["layers.0.weight"].shape == (16, 4)
    again = load_file(walk.save("Model as safetensors", tmp_path))
    assert sorted(again) == sorted(weights)

    walk.choose("Language", "Português")
    walk.see("Visão geral")
    walk.shot("em_portugues")
    walk.choose("Idioma", "English")
    walk.see("Overview")


def test_a_reload_and_a_new_kernel_land_on_the_same_screen(walk):
    walk.press("Open Instituto Federal do Norte de Minas Gerais")
    walk.press("Institution data")
    walk.panel.get_by_label("CNPJ", exact=True).wait_for()
    walk.lab.save()
    walk.page.reload()
    walk.lab.wait_for_kernel()
    walk.panel.get_by_label("CNPJ", exact=True).wait_for()  # the same widgets, of the same kernel
    walk.lab.command("kernelmenu:restart")
    walk.page.get_by_role("button", name="Confirm Kernel Restart").click()
    walk.lab.wait_for_kernel()
    walk.lab.command("notebook:run-all-cells")
    walk.page.wait_for_timeout(1000)
    walk.panel.get_by_label("CNPJ", exact=True).wait_for()
    assert walk.panel.get_by_label("CNPJ", exact=True).input_value() == "10.727.655/0001-10"


def test_a_wrong_input_is_a_sentence_beside_its_field_and_loses_nothing(walk):
    walk.new_experiment()
    walk.type("Name", "Wrong")
    walk.type("Rounds", "0")
    walk.see("rounds must be at least 1, not 0")
    walk.type("Learning rate", "fast")
    walk.see("lr must be a number, not 'fast'")
    walk.choose("Strategy", "FedAdam")
    walk.type("beta_1", "2")
    walk.see("beta_1 of FedAdam must be at least 0 and below 1, not 2.0")
    walk.press("Run experiment")
    assert walk.panel.get_by_label("Name", exact=True).first.input_value() == "Wrong"
    walk.choose("Language", "Português")
    walk.see("Novo experimento")
    assert walk.panel.get_by_label("Nome", exact=True).first.input_value() == "Wrong"
    walk.see("rounds deve ser no mínimo 1, e não 0")
    walk.shot("wrong_input_em_portugues")
    walk.choose("Idioma", "English")


def test_the_keyboard_alone_and_a_narrow_page(walk):
    walk.page.set_viewport_size({"width": 800, "height": 900})
    search = walk.panel.get_by_label("Search")
    search.focus()
    walk.page.keyboard.type("ezequiel")
    walk.panel.get_by_text("Universidade Federal").first.wait_for(state="hidden")
    focused = "document.activeElement.title"
    for _ in range(6):
        walk.page.keyboard.press("Tab")
        if walk.page.evaluate(focused) == "Open Fundação Ezequiel Dias":
            break
    walk.page.keyboard.press("Enter")
    walk.see("No project here yet")
    wide = walk.page.evaluate(
        "(() => { const p = document.querySelector('.lab-panel');"
        " return p.scrollWidth - p.clientWidth; })()"
    )
    assert wide <= 2
    walk.shot("narrow")


def test_in_notebook_7(open_lab, tmp_path):
    lab = open_lab("in_notebook.ipynb", [PREPARE], lab=False)
    assert lab.page.locator("#jp-NotebookLogo, #jp-NotebookLogo *").count()  # no JupyterLab
    lab.command("notebook:run-all-cells")
    lab.page.set_viewport_size({"width": 1280, "height": 1000})
    walk = Walk(lab, tmp_path)
    walk.panel.wait_for()
    walk.start()
    walk.panel.get_by_label("Search").fill("17217985")
    walk.panel.get_by_text("Fundação Ezequiel Dias").wait_for(state="hidden")
    walk.new_experiment()
    walk.type("Rounds", "0")
    walk.see("rounds must be at least 1, not 0")
    assert walk.page.evaluate(PALE) == []
    walk.shot("in_notebook_7")


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_words_can_be_read_on_dark_and_light_pages(walk, theme):
    walk.lab.change_theme(theme)
    walk.panel.get_by_label("Search", exact=True).wait_for()
    assert walk.page.evaluate(PALE) == []
    walk.new_experiment()
    walk.type("Rounds", "0")
    walk.see("rounds must be at least 1")
    assert walk.page.evaluate(PALE) == []
    walk.shot(f"words on {theme}")
