"""A run folder: configuration, metrics, status, checkpoints and figures of one training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alexnet.config import TrainConfig, dump, load
from alexnet.config.values import flag, flatten, override
from alexnet.errors import CheckpointError, UsageError
from alexnet.files import LEFTOVERS, LOCK, holding, remove_leftovers, write_atomically
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet.runs.legs import check_legs
from alexnet.runs.provenance import environment

# How long a run goes on, which may change as far as that bends no schedule that is under way.
LENGTH = {"epochs", "then", "stop_after"}
# What may differ between a run and its continuation: none of these changes what is learned.
FREE = {
    *LENGTH,
    *("name", "device", "accumulate", "log_every", "save_minutes"),
    *("data.root", "data.download", "data.workers", "data.max_bad"),
}


@dataclass(frozen=True)
class Run:
    """A folder that `train` made; nothing is read before it is asked for."""

    path: Path

    @property
    def config(self) -> TrainConfig:
        """The configuration it was last trained with."""
        return load_config(self.path / "config.yaml")

    @property
    def status(self) -> dict[str, Any]:
        """status.json: state (running, stopped, failed, finished), epoch, step, best validation accuracy."""
        file = self.path / "status.json"
        status: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return status

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one an epoch ("kind": "epoch") and one every log_every steps ("step")."""
        return list(_read_lines(self.path / "metrics.jsonl"))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The epoch lines of `metrics`."""
        return [row for row in self.metrics if row["kind"] == "epoch"]

    @property
    def test(self) -> dict[str, Any] | None:
        """The test result that training ended with."""
        file = self.path / "test.json"
        return json.loads(file.read_text()) if file.exists() else None

    @property
    def best(self) -> Path:
        """Weights of the best validation epoch."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Everything needed to go on."""
        return self.path / "last.safetensors"

    @property
    def previous(self) -> Path:
        """The checkpoint before `last`."""
        return self.path / "previous.safetensors"

    def checkpoint(self) -> Path:
        """The checkpoint to evaluate: the best, or the last where no epoch was completed."""
        for file in (self.best, self.last):
            if file.exists():
                return file
        raise CheckpointError(f"{self.path} holds no checkpoint yet: train it first.")

    def resume_point(self) -> tuple[Checkpoint | None, str | None]:
        """The newest checkpoint that can be read, and a warning if that is not the last one."""
        if not self.last.exists() and not self.previous.exists():
            return None, None
        try:
            return load_checkpoint(self.last), None
        except CheckpointError as problem:
            try:
                return load_checkpoint(self.previous), f"{problem} Going on from {self.previous.name} before it."
            except CheckpointError:
                raise CheckpointError(
                    f"{problem} Neither it nor {self.previous.name} can be read: delete both to start "
                    "the run again, or train into another folder with --run DIR."
                ) from None

    def write_config(self, config: TrainConfig) -> None:
        """Replace config.yaml and environment.json."""
        text = yaml.safe_dump(dump(config), sort_keys=False)
        write_atomically(self.path / "config.yaml", text.encode())
        write_atomically(self.path / "environment.json", (json.dumps(environment(), indent=1) + "\n").encode())

    def write_status(self, **values: Any) -> None:
        """Replace status.json."""
        values = {**values, "pid": os.getpid(), "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_atomically(self.path / "status.json", (json.dumps(values, indent=1) + "\n").encode())


def load_run(path: str | Path) -> Run:
    """The run in a folder. Raises UsageError if there is none."""
    path = Path(path)
    if not (path / "config.yaml").is_file():
        raise UsageError(f"{path} is not a run folder: it has no config.yaml.")
    return Run(path)


def load_config(path: Path) -> TrainConfig:
    """A configuration from YAML, for example an earlier run's config.yaml. Raises UsageError."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise UsageError(f"cannot read {path}: {' '.join(str(problem).split())}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a configuration: it holds no settings.")
    return load(values)


def settled(config: TrainConfig, path: Path, given: Mapping[str, Any]) -> tuple[TrainConfig, str | None]:
    """What is trained in a folder when a user names a recipe and some settings, by dotted names: the recipe with these,
    or, where the folder holds a run of that recipe, the run's own configuration with these. The second value is a
    sentence that names what differs then from the recipe. Raises UsageError."""
    file = path / "config.yaml"
    stored = load_config(file) if file.is_file() else None
    if stored is None or stored.name != config.name:
        return override(config, given), None
    old, new = flatten(stored), flatten(config)
    differing = [n for n in new if n not in (*FREE - LENGTH, *given) and old[n] != new[n]]
    shown = ", ".join(f"{flag(n)} {old[n]} (the recipe has {new[n]})" for n in differing)
    return override(stored, given), f"{path} goes on with its own settings: {shown}." if shown else None


@contextmanager
def open_run(config: TrainConfig, path: Path) -> Iterator[Run]:
    """Hold a folder for this process: a new one, or one that holds the same run.

    Raises UsageError for a folder that belongs to another run or to something else, that cannot be written, or that
    another process trains in.
    """
    run = Run(path)
    if (path / "config.yaml").exists():
        old, new = flatten(run.config), flatten(config)
        changed = [n for n in new if n not in FREE and old[n] != new[n]]
        if changed:
            shown = ", ".join(f"{flag(n)} {old[n]} there and {new[n]} now" for n in changed)
            raise UsageError(f"{path} holds another run ({shown}); train into another folder with --run DIR.")
        if run.last.exists() or run.previous.exists():
            check_legs(path, run.config, config)
    elif path.exists() and (not path.is_dir() or any(_foreign(f) for f in path.iterdir())):
        raise UsageError(f"{path} exists and is not a run folder; train into another one with --run DIR.")
    begun = True
    try:
        with holding(path, "training in", "use --run DIR"):
            try:
                remove_leftovers(path)
                yield run
            finally:
                begun = (path / "config.yaml").exists()
    finally:
        if not begun:  # for want of data perhaps: leave no empty folder
            with suppress(OSError):
                path.rmdir()


def _foreign(file: Path) -> bool:
    """Whether it was not left by a run that was stopped before it began."""
    return file.name not in (LOCK, "status.json") and not file.match(LEFTOVERS)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # a line cut short by a kill
                return
