"""Pictures, drawn from the values they are given: functions return a Figure, saving it is the caller's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.errors import UsageError
from alexnet.files import write_atomically

if TYPE_CHECKING:  # an extra, and slow to import
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """A matplotlib figure of so many inches, without a display. Raises UsageError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'alexnet[figures]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically. Raises UsageError where that cannot be done."""
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format="png")
    try:
        write_atomically(path, content.getbuffer())
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror}; choose another file.") from None
