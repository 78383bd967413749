"""What a training says while it runs: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from alexnet.config import TrainConfig
from alexnet.metrics import Result


class Reporter:
    """Shows a run's progress on the console; `quiet` shows nothing but still measures the rate."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(quiet=quiet, highlight=False)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal or quiet,
            transient=True,
        )
        self._task: TaskID | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=100)  # (time, images) of the latest steps
        self._epoch_start = (time.monotonic(), 0)
        self._images = 0
        self._left = 0
        self._said: set[str] = set()
        self._text = ""

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _say(self, text: str | Text) -> None:
        # Whole lines for a log, wrapped between words on a terminal; a path in brackets is no markup.
        self.console.print(text, soft_wrap=not self.console.is_terminal, markup=False)

    def start(self, path: Path, config: TrainConfig, count: int, epoch: int, step: int) -> None:
        """Say what is trained and where, and whether it goes on from an earlier session."""
        self._config, self._count, self._epoch = config, count, epoch
        self._left = count * config.epochs - step * config.batch_size
        resumed = f", going on from step {step} (epoch {epoch + 1})" if step else ""
        self._say(f"training {config.name}: {count} images, {config.epochs} epochs, in {path}{resumed}")
        self._recent.append((time.monotonic(), 0))
        self._epoch_start = (time.monotonic(), 0)
        self._task = self._bar.add_task("", total=count, epoch=f"{epoch + 1}/{config.epochs}", text="")

    def step(self, epoch_step: int, images: int) -> None:
        """Count a step of `images` images."""
        self._images += images
        self._left -= images
        self._recent.append((time.monotonic(), self._images))
        if self._task is not None and not self._bar.disable:
            self._bar.update(
                self._task,
                completed=min(epoch_step * self._config.batch_size, self._count),
                text=f"{self._text} {self.pace()}",
            )

    def pace(self) -> str:
        """Images a second lately and the time left."""
        (t0, n0), (t1, n1) = self._recent[0], self._recent[-1]
        rate = (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0
        return f"{rate:.0f} images/s, {_duration(max(self._left, 0) / rate) if rate else '?'} left"

    def rate(self) -> float:
        """Images a second since the last call, validation left out."""
        (t0, n0), (t1, n1) = self._epoch_start, self._recent[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def line(self, row: dict[str, Any]) -> None:
        """Report the values logged at a step."""
        self._text = f"loss {row['train_loss']:.4f}, accuracy {row['train_top1']:.2%},"
        if not self.console.is_terminal:
            place = f"epoch {row['epoch']}/{self._config.epochs} step {row['step']}"
            self._say(f"{place}: {self._text} lr {row['lr']:.2g}, {self.pace()}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Report a completed epoch."""
        val = f", val accuracy {row['val_top1']:.2%} (loss {row['val_loss']:.4f})" if "val_top1" in row else ""
        self._say(
            f"epoch {row['epoch']}/{self._config.epochs}: train loss {row['train_loss']:.4f}, "
            f"accuracy {row['train_top1']:.2%}{val}, {row['images_per_second']:.0f} images/s",
        )
        self._epoch_start = (time.monotonic(), self._images)
        if self._task is not None:
            self._bar.update(self._task, completed=0, epoch=f"{row['epoch'] + 1}/{self._config.epochs}")

    def say(self, text: str) -> None:
        """Say something as it stands."""
        self._say(text)

    def note(self, text: str) -> None:
        """Say something that is not progress."""
        self._say(Text.assemble(("note:", "yellow"), f" {text}"))

    def note_once(self, text: str) -> None:
        """`note`, but the same text only once."""
        if text not in self._said:
            self._said.add(text)
            self.note(text)

    def finish(self, path: Path, result: Result) -> None:
        """Report the test result and what to type next."""
        self._bar.stop()
        low, high = result.interval
        self._say(
            f"{result.split} accuracy {result.top1:.2%} (95 % interval {low:.2%}-{high:.2%}), top-5 {result.top5:.2%}, "
            f"loss {result.loss:.4f}, {result.count} images",
        )
        self._say(
            f"run folder: {path}\nnext: alexnet evaluate {path}\n      tensorboard --logdir {path.parent}",
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """A function (part, done, total) that shows progress and time left: a bar on a terminal, elsewhere lines."""
    console = Console(highlight=False)
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
            left = _duration((total - done) / rate) if rate else "?"
            console.print(f"{part}: {done} of {total} images, {rate:.0f} images/s, {left} left", soft_wrap=True)

    with bar:
        yield count
