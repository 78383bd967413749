"""What a training says while it runs: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import TaskID

from alexnet.config import TrainConfig
from alexnet.data.sources import MEMORY, known_to_programs_alone
from alexnet.metrics import Result
from alexnet.terminal import Live, duration

if TYPE_CHECKING:
    from alexnet.training.learner import Counters


class Reporter(Live):
    """Shows a run's progress on the console; `quiet` shows nothing but still measures the rate."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet, console, "{task.fields[stage]}")
        self._task: TaskID | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=100)  # (seconds in steps, images) after the latest steps
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        self._began, self._earlier = time.monotonic(), 0.0
        return super().__enter__()

    def start(self, path: Path, config: TrainConfig, count: int, counters: Counters) -> None:
        """Say what is trained and where, and whether it goes on from an earlier session."""
        self._config, self._count, self._epoch = config, count, counters.epoch + 1
        self._images_left = count * (config.end - counters.epoch) - counters.epoch_step * config.batch_size
        self._earlier = counters.elapsed
        resumed = f", going on from step {counters.step} (epoch {self._epoch})" if counters.step else ""
        self.say(f"training {config.name}: {count} images, {_planned(config)}, in {path}{resumed}")
        self._seconds, self._images = 0.0, 0
        self._started, self._first, self._between = time.monotonic(), self._epoch, 0.0
        self._start_epoch()
        self._task = self._bar.add_task("", total=count, stage=self._place(), text="")

    def _start_epoch(self) -> None:
        self._recent.clear()
        self._recent.append((self._seconds, self._images))
        self._epoch_start, self._text = self._recent[0], ""

    def _place(self) -> str:
        return f"epoch {self._epoch}/{self._config.end}"

    def step(self, epoch_step: int, images: int, seconds: float) -> None:
        """Count a step of `images` images that took so long, with the wait for its images and nothing else."""
        self._images += images
        self._images_left -= images
        self._seconds += seconds
        self._recent.append((self._seconds, self._images))
        if self._task is not None and not self._bar.disable:
            done = min(epoch_step * self._config.batch_size, self._count)
            text = f"{self._text} {self.pace()}"
            self._bar.update(self._task, total=self._count, completed=done, stage=self._place(), text=text)

    def stage(self, name: str) -> None:
        """Show what is done between and after the epochs' steps."""
        if self._task is not None:
            self._bar.update(self._task, total=None, stage=name, text="")

    def pace(self) -> str:
        """Images a second lately and the time left, which goes on what happens between the epochs too."""
        rate = _rate(self._recent[0], self._recent[-1])
        if not rate:
            return "? images/s, ? left"
        left = max(self._images_left, 0) / rate + self._between * (self._config.end - self._epoch)
        return f"{rate:.0f} images/s, {duration(left)} left"

    def rate(self) -> float:
        """Images a second in the steps of this epoch that this session made; 0 where it made none."""
        return _rate(self._epoch_start, self._recent[-1])

    def elapsed(self) -> float:
        """Seconds that the run has taken, over all its sessions."""
        return self._earlier + time.monotonic() - self._began

    def line(self, row: dict[str, Any]) -> None:
        """Report the values logged at a step."""
        self._text = f"loss {row['train_loss']:.4f}, accuracy {row['train_top1']:.2%},"
        if not self.console.is_terminal:
            self.say(f"{self._place()} step {row['step']}: {self._text} lr {row['lr']:.2g}, {self.pace()}")

    def score(self, row: dict[str, Any]) -> None:
        """Report an evaluation of the whole training split."""
        self.say(
            f"epoch {row['epoch']:.4g}: training split error {1 - row['train_top1']:.2%}, loss {row['train_loss']:.4f}"
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Report a completed epoch."""
        val = f", val accuracy {row['val_top1']:.2%} (loss {row['val_loss']:.4f})" if "val_top1" in row else ""
        rate = f", {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
        self.say(
            f"{self._place()}: train loss {row['train_loss']:.4f}, accuracy {row['train_top1']:.2%}{val}{rate}",
        )
        self._epoch += 1
        # What an epoch takes beside its steps: validation, saving, drawing.
        self._between = (time.monotonic() - self._started - self._seconds) / (self._epoch - self._first)
        self._start_epoch()

    def note_once(self, text: str) -> None:
        """`note`, but the same text only once."""
        if text not in self._said:
            self._said.add(text)
            self.note(text)

    def finish(self, path: Path, result: Result, stopped: str | None = None) -> None:
        """Report the result, what `stopped` the run before its last epoch, and what to type next."""
        self._bar.stop()
        if stopped:
            self.say(stopped)
        low, high = result.interval
        self.say(
            f"{result.split} accuracy {result.top1:.2%} (95 % interval {low:.2%}-{high:.2%}), top-5 {result.top5:.2%}, "
            f"loss {result.loss:.4f}, {result.count} images",
        )
        session = duration(self.elapsed() - self._earlier)
        self.say(
            f"took {duration(self.elapsed())}, of which this session {session}" if self._earlier else f"took {session}"
        )
        source = self._config.data.source
        following = f"alexnet evaluate {path}"
        if known_to_programs_alone(source):
            following = f'alexnet.evaluate("{path}"{", data=..." if source == MEMORY else ""}), in Python'
        self.say(f"run folder: {path}\nnext: {following}\n      tensorboard --logdir {path.parent}")


def _planned(config: TrainConfig) -> str:
    """The epochs of a run: "30 epochs", "30 + 10 epochs", "5 of 30 epochs"."""
    part = f"{config.end} of " if config.end < config.horizon else ""
    legs = " + ".join(str(leg.epochs) for leg in config.legs)
    return f"{part}{legs} epoch{'' if legs == '1' else 's'}"


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float:
    """Images a second between two counts of (seconds, images)."""
    return (end[1] - start[1]) / (end[0] - start[0]) if end[0] > start[0] else 0.0
