"""What a reproduction says while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from alexnet.paper.experiment import Experiment, Job, has_diverged
from alexnet.runs.folder import Run
from alexnet.terminal import Live, markup

_EVERY = 5.0  # seconds between two looks into the runs' logs, on a terminal
_SELDOM = 600.0  # elsewhere, where each look is a line


class Reporter(Live):
    """Shows how far the trainings of an experiment are; `quiet` shows nothing."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet, console, "{task.description}")
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._looked = self._began = time.monotonic()
        self._epochs_before = 0.0

    def start(self, experiment: Experiment, folder: Path, plan: Sequence[Job], ended: Mapping[str, Run]) -> None:
        """Say what is reproduced and where, and how much of it is there already."""
        there = f", {len(ended)} of them ended earlier" if ended else ""
        self.say(f"reproducing {experiment.id}: {experiment.title}, {len(plan)} trainings so far{there}, in {folder}")
        self._began, self._ended = time.monotonic(), set(ended)
        self._epochs_before = _epochs_made(plan, ended, [Run(folder / "runs" / job.name) for job in plan])

    def started(self, job: Job) -> None:
        """Say that a training begins or goes on."""
        self.say(f"training {job.name}: {job.config.end} epochs at most")

    def stage(self, name: str) -> None:
        """Show what is done after the trainings."""
        self._bar.stop()
        self.say(f"{name} ...")

    def look(self, plan: Sequence[Job], ended: Mapping[str, Run], running: Sequence[Run]) -> None:
        """Show where the trainings are, now and then, and each that has ended, at once."""
        new = [name for name in ended if name not in self._ended]
        now = time.monotonic()
        if not new and now - self._looked < (_SELDOM if self._bar.disable else _EVERY):
            return
        self._looked = now
        made = _epochs_made(plan, ended, running)
        planned = sum(job.config.end for job in plan)
        rate = (made - self._epochs_before) / max(now - self._began, 1e-9)
        left = _duration((planned - made) / rate) if rate > 0 else "?"
        summary = f"{len(ended)} of {len(plan)} trainings, at most {left} left"
        for name in new:
            self._ended.add(name)
            self._remove(name)
            run = ended[name]
            end = "its loss diverged" if has_diverged(run) else run.status.get("stopped") or "finished"
            self.say(f"ended {name}: {end}; {summary}")
        if self._bar.disable:
            if not new:
                self.say(summary)
            return
        self._show("all", made, planned, summary)
        ends = {job.name: job.config.end for job in plan}
        for run in running:
            epoch, last = _epoch(run), ends[run.path.name]
            self._show(run.path.name, epoch, last, f"epoch {epoch:.0f} of {last}")

    def _show(self, name: str, done: float, total: float, text: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(markup(name, 24), total=total, text="")
        self._bar.update(self._tasks[name], completed=done, total=total, text=text)

    def _remove(self, name: str) -> None:
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))


def _epochs_made(plan: Sequence[Job], ended: Mapping[str, Run], running: Sequence[Run]) -> float:
    """Epochs of the plan that need not be trained any more."""
    whole = sum(job.config.end for job in plan if job.name in ended)
    return whole + sum(_epoch(run) for run in running if run.path.name not in ended)


def _epoch(run: Run) -> float:
    with suppress(OSError):
        return float(max((row["epoch"] for row in run.epochs), default=0))
    return 0.0


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes} min"
