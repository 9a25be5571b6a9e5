"""The live view as a researcher sees it: a real JupyterLab, its kernel, and headless Chromium."""

from __future__ import annotations

import json

from tests.jupyter.in_browser import MARKS, browser, open_lab, server

__all__ = ["browser", "open_lab", "server"]  # fixtures
pytestmark = MARKS
WIDGET = "application/vnd.jupyter.widget-view+json"

DEFINE = """\
import os
import time
import flautim_lab as lab
from sklearn.datasets import load_iris
from torch import nn

data = load_iris(as_frame=True)
iris = lab.CSVDataset(data.frame, target="target", name="iris", task="classification")

class Slow(lab.Experiment):
    def loss(self, model, batch):
        time.sleep(0 if os.path.exists({go!r}) else 0.1)
        return super().loss(model, batch)

experiment = Slow(iris, lambda: nn.Linear(4, 3), name="<i>iris", clients=3, rounds={rounds},
                  lr=0.05, batch_size=64)
run = lab.run(experiment)
"""


# The contrast of WCAG 2.1 between a text and the first background behind it.
CONTRAST = """element => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    let behind = element, color = [0, 0, 0, 0];
    while (behind && (color[3] ?? 1) < 1) {
        color = numbers(getComputedStyle(behind).backgroundColor);
        behind = behind.parentElement;
    }
    const both = [light(numbers(getComputedStyle(element).color)), light(color)].sort();
    return (both[1] + 0.05) / (both[0] + 0.05);
}"""
THEMES = ("JupyterLab Dark", "JupyterLab Light")


TEXTS = "strong, span, code, td, th, summary"


def check_readable(lab, view):
    """Words must stand out from what is behind them, in every theme."""
    # Found and looked at in one turn: a live view replaces its parts meanwhile.
    look = f"(view, texts) => [...view.querySelectorAll(texts)].map({CONTRAST})"
    for theme in THEMES:
        lab.change_theme(theme)
        contrasts = view.evaluate(look, TEXTS)
        assert len(contrasts) > 20
        assert min(contrasts) >= 4.5


def test_live_while_it_runs_and_static_at_the_end(open_lab, tmp_path):
    go = tmp_path / "go"  # from then on its rounds take no time
    lab = open_lab("live.ipynb", [DEFINE.format(rounds=300, go=str(go)), "run"])
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(2)
    lab.live.locator("img").wait_for()
    assert "&lt;i&gt;iris" in lab.live.inner_html()
    first = lab.picture
    lab.live.get_by_text("3 clients").click()
    lab.live.get_by_text("client 2").wait_for()
    lab.wait_for_another_picture(first)
    lab.shot("live")
    check_readable(lab, lab.live)
    assert lab.live.get_by_text("client 2").is_visible()  # the table stayed open

    go.touch()
    page = lab.page.locator(".jp-RenderedHTMLCommon", has_text="finished").first
    page.wait_for()
    assert page.locator("img").get_attribute("src").startswith("data:image/png;base64,")
    lab.shot("static")
    for folded in page.locator("summary").all():
        folded.click()
    check_readable(lab, page)
    saved = lab.save().cells[1].outputs
    assert [set(output.data) for output in saved] == [{"text/html", "image/png", "text/plain"}]
    assert WIDGET not in json.dumps(saved)


def test_reloaded_in_the_middle(open_lab):
    lab = open_lab("reload.ipynb", [DEFINE.format(rounds=500, go=""), "run"])
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(2)
    lab.live.locator("img").wait_for()
    lab.save()
    lab.page.reload()
    lab.wait_for_kernel()
    lab.wait_for_round(4)  # the same view, from the kernel's widgets
    lab.wait_for_another_picture(lab.picture)
    assert "running" in lab.live.inner_text()
    lab.shot("reloaded")
    # And to the end: no display is left behind as "running".
    lab.live.get_by_role("button", name="Stop").click()
    lab.wait_for_text("stopped")
    assert lab.live.get_by_role("button", name="Stop").is_disabled()
    lab.shot("reloaded_stopped")


def test_stop_button_while_the_kernel_waits(open_lab):
    lab = open_lab(
        "stop.ipynb", [DEFINE.format(rounds=500, go=""), "run", "print(run.wait().status)"]
    )
    lab.command("notebook:run-all-cells")
    lab.wait_for_round(1)
    lab.live.get_by_role("button", name="Stop").click()
    lab.page.locator(".jp-RenderedHTMLCommon", has_text="stopped").first.wait_for()
    lab.page.locator(".jp-RenderedText", has_text="stopped").first.wait_for()
    lab.shot("stopped")
