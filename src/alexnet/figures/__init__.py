"""Pictures, drawn from the values they are given: they know nothing of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet.errors import UsageError


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure without a display, in inches. Raises UsageError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'alexnet[figures]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG. Raises UsageError where that cannot be done."""
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror}; choose another file.") from None
