"""Pictures: a figure that a notebook shows sharp, and its PNG."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 96
"""Pixels per inch of a figure as it is shown."""


class Plot(Figure):
    """A figure that a notebook shows as it is, sharp, whether or not ``pyplot`` was imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = shown_size(self)
        return to_png(self), {"width": width, "height": height}


def shown_size(figure: Figure) -> tuple[int, int]:
    """Return the width and height with which ``figure`` is shown, in CSS pixels."""
    width, height = figure.get_size_inches() * DPI
    return round(width), round(height)


def to_png(figure: Figure, scale: float = 2.0) -> bytes:
    """Return ``figure`` as PNG.

    Parameters
    ----------
    figure : Figure
        Left as it is.
    scale : float
        Pixels of the file per pixel of the figure; two is sharp on any screen.
    """
    shown_on, dpi = figure.canvas, figure.dpi
    canvas: Any = FigureCanvasAgg(figure)  # its methods ship no types
    try:
        figure.dpi = scale * dpi
        canvas.draw()
        return canvas_png(canvas)
    finally:
        figure.dpi = dpi
        figure.set_canvas(shown_on)


def canvas_png(canvas: Any) -> bytes:
    """Return what was drawn on an Agg canvas as PNG.

    With a palette of 256 colours, which is all that lines and letters need: a fourth of the bytes,
    in every message to a browser and in every saved notebook.
    """
    size = canvas.get_width_height(physical=True)
    picture = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    picture = picture.convert("RGB").quantize(
        256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )
    # The octree ends at 254; white is to be white.
    picture.putpalette([255 if value >= 253 else value for value in picture.getpalette() or ()])
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()
