"""Families of runs: one training with several seeds, in turn or side by side, and the spread of what comes out."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet.compute import usable_cores
from alexnet.config import TrainConfig
from alexnet.errors import UsageError, listed
from alexnet.runs.folder import Run
from alexnet.runs.opening import settled
from alexnet.training.processes import GLANCE, SideBySide
from alexnet.training.signals import SignalGuard, stoppable

MOST = 1000  # seeds of a family


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that "0-4", "0,1,2" or "0-2,7" asks for, in that order. Raises UsageError for any other text."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first < MOST:
            raise UsageError(f"--seeds {text[:80]}: write 0-4, or 0,1,2; at most {MOST} seeds.")
        seeds += range(first, last + 1)
        if len(seeds) > MOST:
            raise UsageError(f"--seeds {text[:80]} asks for more than {MOST} seeds.")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text[:80]} names a seed twice.")
    return tuple(seeds)


def family_configs(
    recipe: TrainConfig, given: Mapping[str, Any] | None, seeds: Iterable[int], folder: Path
) -> tuple[dict[Path, TrainConfig], list[str]]:
    """What is trained in folder/seed-N for every seed N: the recipe with the settings `given`, or where there is a run
    of that recipe already, its own configuration with these; the sentences say what differs then from the recipe.
    Without `given` the recipe is a whole configuration, of which nothing is left to the runs that are there."""
    configs: dict[Path, TrainConfig] = {}
    notes = []
    for seed in seeds:
        path = folder / f"seed-{seed}"
        if given is None:
            configs[path] = replace(recipe, seed=seed)
        else:
            configs[path], note = settled(recipe, path, {**given, "seed": seed})
            notes += [note] if note else []
    return configs, notes


def _say(text: str) -> None:
    """Print a line, also into a file at once; trainings go on where nobody reads it any more."""
    with suppress(OSError):
        print(text, flush=True)


def train_family(
    configs: Mapping[Path, TrainConfig], jobs: int, guard: SignalGuard, say: Callable[[str], None] = _say
) -> dict[Path, Run]:
    """Train every configuration in its folder, or go on there, `jobs` at a time, each in a process of its own.

    What a training says is shown, or where several run side by side stands in jobs/FOLDER.log beside its folder; they
    share the cores. A run whose loss diverges leaves the others alone. Raises TrainingStopped when a signal ended it
    and the error that a training ended with, in both cases after all of them have saved.
    """
    threads = None if jobs == 1 else max(1, usable_cores() // min(jobs, len(configs)))
    waiting, runs = list(configs), {path: Run(path) for path in configs}
    before = {path: run.status for path, run in runs.items()}
    with stoppable(), SideBySide(jobs, guard) as trainings:
        while waiting or trainings.running:
            while waiting and not trainings.is_full:
                path = waiting.pop(0)
                training = trainings.start(path, configs[path], path, beside(path), threads)
                if threads is not None:
                    say(f"training {path.name}, which says more in {training.log}")
            for training in trainings.take_ended().values():
                name, result = training.run.path.name, training.run.result
                if training.diverged:
                    say(f"{name}: its loss diverged")
                elif threads is not None and result:
                    say(f"{name}: {result['split']} accuracy {result['top1']:.2%}")
            time.sleep(GLANCE)
    if idle := [path.name for path, run in runs.items() if run.has_ended and run.status == before[path]]:
        say(f"finished before and left as it was: {listed(idle)}")
    return runs


def beside(run: Path) -> Path:
    """Where the settings of a family's run lie, and what it said (`Training`)."""
    return run.parent / "jobs" / run.name


@dataclass(frozen=True)
class Spread:
    """Of several numbers: how many, their mean, and their sample standard deviation, nan for a single one."""

    count: int
    mean: float
    deviation: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one number or more."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return Spread(len(values), statistics.fmean(values), deviation)
