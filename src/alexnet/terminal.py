"""Text for a terminal of any kind: one that knows only ASCII, is 80 columns wide, or has been closed."""

from __future__ import annotations

import sys
from typing import NoReturn

from rich.console import Console
from rich.markup import escape


class Terminal(Console):
    """Standard output as rich shows it, without colours for numbers; a pipe that its reader has closed raises
    BrokenPipeError, as `print` does. In a notebook it is plain text, line under line: rich would make a box of HTML of
    each call, and scroll what is long."""

    def __init__(self, quiet: bool = False) -> None:
        notebook = type(sys.stdout).__module__.startswith("ipykernel")  # which says that it is a terminal
        super().__init__(highlight=False, quiet=quiet, force_jupyter=False, force_terminal=False if notebook else None)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def printable(text: str, most: int | None = None) -> str:
    """Text of any origin, such as the name of a folder, on one line: line breaks, control characters and bytes that are
    not UTF-8 are shown as escapes. What is longer than `most` characters is cut, and ends in an ellipsis."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if most is None or len(shown) <= most else shown[: most - 1] + "…"


def markup(text: str, most: int | None = None) -> str:
    """`printable`, for rich's markup: brackets stay brackets."""
    return escape(printable(text, most))
