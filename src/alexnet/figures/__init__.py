"""Pictures, drawn from the values they are given: functions return a Figure, saving it is the caller's."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.errors import UsageError
from alexnet.files import make_ready, write_atomically
from alexnet.terminal import printable

if TYPE_CHECKING:  # an extra, and slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = np.ndarray[Any, np.dtype[np.uint8]]
"""Pixels [H, W, C], of three colours or one grey."""


def new_figure(width: float, height: float) -> Figure:
    """A matplotlib figure of so many inches, without a display. Raises UsageError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'alexnet[figures]'") from None
    except ValueError as problem:  # MPLBACKEND, or a matplotlibrc
        raise UsageError(f"matplotlib does not start: {problem}") from None
    return Figure(figsize=(width, height), layout="constrained")


def label(name: str, most: int) -> str:
    """A name from outside, a class's or a file's, as matplotlib's text: on one line of at most `most` characters, in
    which a dollar is a dollar and begins no formula."""
    return printable(name, most).replace("$", r"\$")


def show_image(axes: Axes, image: Image) -> None:
    """Draw an image's pixels, of any size, as they are."""
    shown = image[..., 0] if image.shape[2] == 1 else image
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if max(shown.shape) < 100 else None)


def check_png(path: Path, flag: str) -> None:
    """Raise UsageError, before anything is computed, for a file that no figure can be saved as: one that is not named
    .png, or that cannot be written."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"{flag} {path}: figures are PNG files, name one that ends in .png.")
    make_ready(path, flag)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically. Raises UsageError where that cannot be done."""
    content = io.BytesIO()
    with warnings.catch_warnings():  # a box stands for a letter that the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(content, dpi=150, format="png")
    try:  # makes no folder: one that was moved away while it was trained in shall not come back
        write_atomically(path, content.getbuffer())
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror or problem}; choose another file.") from None
