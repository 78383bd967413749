"""Who may go on in a run's folder: the same run, or one that has learned nothing yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet.config import TrainConfig
from alexnet.config.values import dotted, flag, flatten, override
from alexnet.data.sources import MEMORY
from alexnet.errors import UsageError
from alexnet.files import CLUTTER, LEFTOVERS, LOCK, holding, remove_leftovers
from alexnet.runs.checkpoint import epochs_begun
from alexnet.runs.folder import Run, has_config, load_config
from alexnet.runs.legs import check_legs

# How long a run goes on, which may change as far as that bends no schedule that is under way.
LENGTH = {"epochs", "then", "stop_after", "early_stop", "stop_train_error"}
# What may differ between a run and its continuation: none of these changes what is learned, but that `accumulate` and
# another `device` have dropout draw other masks.
FREE = {
    *LENGTH,
    *("name", "device", "columns", "accumulate", "log_every", "save_minutes", "score_train", "keep", "test"),
    *("data.root", "data.download", "data.workers", "data.cache", "data.max_bad"),
}
# What may differ between runs that have a mean: over other data or networks it means nothing.
OF_SEEDS = (FREE - LENGTH - {"data.root"}) | {"seed"}


def default_folder(name: str) -> Path:
    """Where a run is when no folder is named: runs/NAME. Raises UsageError for a name, perhaps out of somebody's
    config.yaml, that is no plain folder name and would lead elsewhere."""
    if (
        name.strip() in ("", ".", "..")
        or any(not c.isprintable() or c in "/\\" for c in name)
        or Path(name).drive
        or len(os.fsencode(name)) > 255
    ):
        raise UsageError(f"the run's name {name[:50]!r} is no folder name: set name, or train with --run DIR.")
    return Path("runs") / name


def settled(config: TrainConfig, path: Path, given: Mapping[str, Any]) -> tuple[TrainConfig, str | None]:
    """What is trained in a folder when a user names a recipe and some settings, by dotted names: the recipe with these,
    or, where the folder holds a run of that recipe that has learned something, the run's own configuration with these.
    The second value is a sentence that names what differs then from the recipe. Raises UsageError."""
    stored = load_config(path / "config.yaml") if has_config(path) else None
    names = (config.name, given.get("name", config.name))
    if stored is None or stored.name not in names or Run(path).may_begin_anew:
        return override(config, given), None
    old, new = flatten(stored), flatten(config)
    named = tuple(f"{name}." for name in dotted(given))
    differing = [n for n in new if n not in FREE - LENGTH and old[n] != new[n] and not f"{n}.".startswith(named)]
    shown = ", ".join(f"{flag(n)} {old[n]} (the recipe has {new[n]})" for n in differing)
    return override(stored, given), f"{path} goes on with its own settings: {shown}." if shown else None


def differences(there: TrainConfig, now: TrainConfig) -> str:
    """Which settings differ that a run must keep, such as "--optim.lr 0.1 there and 0.5 now"; empty if none do."""
    old, new = flatten(there), flatten(now)
    return ", ".join(f"{flag(n)} {old[n]} there and {new[n]} now" for n in new if n not in FREE and old[n] != new[n])


def differing_settings(configs: Sequence[TrainConfig]) -> dict[str, list[Any]]:
    """The settings, by dotted names, that are not the same in all of several runs, each run's value."""
    flat = [flatten(config) for config in configs]
    values = {name: [settings[name] for settings in flat] for name in flatten(TrainConfig())}
    return {name: those for name, those in values.items() if any(value != those[0] for value in those)}


@contextmanager
def open_run(config: TrainConfig, path: Path) -> Iterator[Run]:
    """Hold a folder for this process: a new one, one that holds the same run, or one whose run has learned nothing yet,
    which begins anew.

    Raises UsageError for a folder that belongs to another run or to something else, that cannot be written, or that
    another process trains in.
    """
    run = Run(path)
    if has_config(path):
        there = run.config
        if not run.may_begin_anew:
            _check_same(run, there, config)
    elif path.exists():
        try:
            foreign = any(_foreign(file) for file in path.iterdir())
        except OSError:  # a file, or a folder that may not be listed
            foreign = True
        if foreign:
            raise UsageError(f"{path} exists and is not a run folder; train into another one with --run DIR.")
    begun = True
    try:
        with holding(path, "training in", "train into another folder with --run DIR"):
            try:
                remove_leftovers(path)
                remove_leftovers(path / "milestones")
                if run.may_begin_anew:  # what was saved before the first step may be another network's
                    for file in (run.last, run.previous, *run.milestones):
                        file.unlink(missing_ok=True)
                yield run
            finally:
                begun = (path / "config.yaml").exists()
    finally:
        if not begun:  # for want of data perhaps: leave no empty folder
            with suppress(OSError):
                path.rmdir()


def _check_same(run: Run, there: TrainConfig, config: TrainConfig) -> None:
    """Raise UsageError if a run whose configuration is `there` cannot go on with another one."""
    if there.data.source == MEMORY != config.data.source:
        raise UsageError(
            f"{run.path} was trained on data that a program held: to go on there, hand it over again, "
            "alexnet.train(config, run, data=...); else train into another folder with --run DIR."
        )
    if changed := differences(there, config):
        raise UsageError(
            f"{run.path} holds another run ({changed}); train into another folder with --run DIR, from this one's "
            f"weights with --init {run.path}."
        )
    if run.last.exists() or run.previous.exists():
        check_legs(run.path, there, config, epochs_begun(run.last))


def _foreign(file: Path) -> bool:
    """Whether it was not left by a run that was stopped before it began."""
    return file.name not in (LOCK, "status.json", *CLUTTER) and not file.match(LEFTOVERS)
