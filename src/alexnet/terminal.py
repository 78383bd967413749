"""Text for a terminal of any kind: one that knows only ASCII, is 80 columns wide, or has been closed; and the progress
of what takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class Terminal(Console):
    """Standard output as rich shows it, without colours for numbers; a pipe that its reader has closed raises
    BrokenPipeError, as `print` does. In a notebook it is plain text, line under line: rich would make a box of HTML of
    each call, and scroll what is long."""

    def __init__(self, quiet: bool = False) -> None:
        notebook = type(sys.stdout).__module__.startswith("ipykernel")  # which says that it is a terminal
        super().__init__(
            highlight=False,
            emoji=False,  # or a class called a:cat:b would get a picture in the middle
            quiet=quiet,
            force_jupyter=False,
            force_terminal=False if notebook else None,
        )

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


def duration(seconds: float) -> str:
    """Seconds as 0:42, 5:49 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Live:
    """What says how long work goes on: a bar or several on a terminal, whole lines elsewhere, nothing if `quiet`. To be
    used in a `with` statement, which shows the bars."""

    def __init__(self, quiet: bool, console: Console | None, heading: str) -> None:
        """`heading` says what stands before a bar, in the words of rich's TextColumn; behind it stands its field
        "text"."""
        self.console = console or Terminal(quiet)
        self._bar = Progress(
            TextColumn(heading),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal or quiet,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str | Text) -> None:
        """Say something as it stands."""
        # Whole lines for a log, wrapped between words on a terminal; a path in brackets is no markup.
        if isinstance(text, str):  # a name of somebody's file may hold a terminal's commands
            text = "\n".join(map(printable, text.split("\n")))
        _tell(self.console, text, soft_wrap=not self.console.is_terminal)

    def note(self, text: str) -> None:
        """Say something that is not progress."""
        self.say(Text.assemble(("note:", "yellow"), f" {printable(text)}"))


def _tell(console: Console, text: str | Text, soft_wrap: bool) -> None:
    try:
        console.print(text, soft_wrap=soft_wrap, markup=False)
    except OSError:  # the reader of a pipe has gone, or a log's disk is full: the work is worth more
        console.quiet = True


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """A function (part, done, total) that shows progress and time left: a bar on a terminal, elsewhere lines."""
    console = Terminal()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}
    begun: dict[str, tuple[float, int]] = {}
    said = time.monotonic()

    def count(part: str, done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if part not in begun:
            begun[part] = (now, done)
            tasks[part] = bar.add_task(part, total=total)
        bar.update(tasks[part], completed=done)
        if not console.is_terminal and now - said > 10:
            said = now
            start, before = begun[part]
            rate = (done - before) / max(now - start, 1e-9)
            left = duration((total - done) / rate) if rate else "?"
            _tell(console, f"{part}: {done} of {total} images, {rate:.0f} images/s, {left} left", soft_wrap=True)

    with bar:
        yield count
