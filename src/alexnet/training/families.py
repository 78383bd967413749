"""Families of runs: one training with several seeds, in turn or side by side, and the spread of what comes out."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from alexnet.compute import usable_cores
from alexnet.config import TrainConfig, dump
from alexnet.errors import AlexNetError, CheckpointError, DataError, NumericsError, TrainingStopped, UsageError
from alexnet.files import write_atomically
from alexnet.runs.folder import Run, settled
from alexnet.training.signals import Interrupt, SignalGuard

MOST = 1000  # seeds of a family
GLANCE = 0.2  # seconds between two looks at the trainings
PATIENCE = 60.0  # seconds for a training to save and leave


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that "0-4", "0,1,2" or "0-2,7" asks for, in that order. Raises UsageError for any other text."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first < MOST:
            raise UsageError(f"--seeds {text[:80]}: write 0-4, or 0,1,2; at most {MOST} seeds.")
        seeds += range(first, last + 1)
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


def train_family(
    configs: Mapping[Path, TrainConfig], jobs: int, guard: SignalGuard, say: Callable[[str], None] = print
) -> dict[Path, Run]:
    """Train every configuration in its folder, or go on there, `jobs` at a time, each in a process of its own.

    What a training says is shown, or where several run side by side stands in FOLDER.log beside its folder; they share
    the cores. A run whose loss diverges leaves the others alone. Raises TrainingStopped when a signal ended it and the
    error that a training ended with, in both cases after all of them have saved.
    """
    waiting, running = list(configs), dict[Path, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.pop(0)
                if jobs > 1:
                    say(f"training {path.name}, which says more in {_beside(path, 'log')}")
                with guard.critical():  # a process that nobody knows of could not be ended
                    running[path] = _start(path, configs[path], jobs)
            for path in [path for path, process in running.items() if process.poll() is not None]:
                _judge(path, running.pop(path).returncode, jobs, say)
            time.sleep(GLANCE)
    except Interrupt as signal:
        raise TrainingStopped(f"stopped by {signal}; the same command goes on from where it was.") from None
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            _wait(process)
    return {path: Run(path) for path in configs}


def _start(path: Path, config: TrainConfig, jobs: int) -> subprocess.Popen[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = _beside(path, "yaml")
    write_atomically(settings, yaml.safe_dump(dump(config), sort_keys=False).encode())
    command = [sys.executable, "-m", "alexnet", "train", str(settings), "--run", str(path)]
    if jobs == 1:
        return subprocess.Popen(command)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // jobs))
    with _beside(path, "log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}")


def _judge(path: Path, code: int, jobs: int, say: Callable[[str], None]) -> None:
    """Say how a training ended. Raises its error, unless its loss diverged, which is a result."""
    if code == 0:
        test = Run(path).test or {}
        if jobs > 1:
            say(f"{path.name}: {test.get('split', 'test')} accuracy {test.get('top1', float('nan')):.2%}")
    elif code == NumericsError.exit_code:
        say(f"{path.name}: its loss diverged")
    else:
        kinds = {kind.exit_code: kind for kind in (UsageError, DataError, CheckpointError, TrainingStopped)}
        why = f"see {_beside(path, 'log')}" if jobs > 1 else "as it says above"
        raise kinds.get(code, AlexNetError)(f"{path} ended with code {code}, {why}; the same command goes on.")


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
