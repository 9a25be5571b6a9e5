"""Links in the page that save a file: what they hold comes with them, up to a size."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from flautim_lab.jupyter.panel.text import Text

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

MOST_LINK_BYTES = 8 * 2**20  # of a file in the page; a larger one is written beside the notebook
KINDS = {".csv": "text/csv", ".png": "image/png", ".pdf": "application/pdf", ".log": "text/plain"}


def link(name: str, content: bytes, words: str) -> str:
    """Return a link as HTML that saves a file of this name."""
    kind = KINDS.get(Path(name).suffix, "application/octet-stream")
    data = base64.b64encode(content).decode("ascii")
    return (
        f"<a class='lab-link' download='{escape(name, quote=True)}' "
        f"href='data:{kind};base64,{data}'>{escape(words)}</a>"
    )


def links(*made: str) -> str:
    """Return links beside each other."""
    return " &nbsp; ".join(filter(None, made))


def model_links(text: Text, run: Run) -> str:
    """Return the trained model as links, in both forms, or the sentence for one that is large."""
    import torch

    from flautim_lab.records.artifacts import MODEL_FILE, load_model

    path = run.folder / MODEL_FILE
    if not path.exists():
        return escape(text("The model is here once the run has ended after its first round"))
    size = path.stat().st_size
    if size > MOST_LINK_BYTES:
        words = text(
            "The model has {size} MiB; write it beside the notebook with run.download('model')",
            size=f"{size / 2**20:.0f}",
        )
        return escape(words)
    content = io.BytesIO()
    torch.save(load_model(run.folder), content)
    return links(
        link(f"{run.id}.safetensors", path.read_bytes(), text("Model as safetensors")),
        link(f"{run.id}.pt", content.getvalue(), text("Model as a state_dict (.pt)")),
    )
