"""What a report of a run says, gathered from its folder and, where the data is at hand, from measuring it again."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from alexnet.compute import resolve_compute
from alexnet.config import TrainConfig, dump
from alexnet.config.values import flag, flatten
from alexnet.errors import AlexNetError, CheckpointError
from alexnet.figures.bitmaps import data_uri, encode, sheet
from alexnet.figures.kernels import ACROSS, kernel_tiles
from alexnet.inference.kernels import colour_shares, count_columns, first_kernels
from alexnet.inference.trained import Trained, open_trained
from alexnet.metrics import Result
from alexnet.models.summary import trace
from alexnet.recipes import RECIPES
from alexnet.report.measuring import Measured, Pair, describe_pair, measure, most_confused
from alexnet.runs.folder import Run
from alexnet.runs.opening import OF_SEEDS, differing_settings
from alexnet.training.facts import ledger_of_run
from alexnet.training.families import Spread, spread

FIGURES = ("top1", "top5", "loss")


@dataclass(frozen=True)
class Kernels:
    """The first layer's kernels: a picture of each column (a data URI, of `width` pixels), and its kernels' mean share
    of colour (None where they do not see three channels)."""

    shape: tuple[int, ...]
    pictures: tuple[str, ...]
    width: int
    shares: tuple[float, ...] | None


@dataclass(frozen=True)
class RunContents:
    """All that a report says of one run."""

    run: Run
    name: str
    config: TrainConfig
    result: Result | None
    """Measured for this report, or as training ended with; None of a run that has not been tested yet."""
    measured: Measured | None
    """None where the data is not at hand."""
    pairs: tuple[Pair, ...] = ()
    kernels: Kernels | None = None
    parameters: int | None = None
    ledger: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    """What is missing, and why."""

    @cached_property
    def departures(self) -> list[dict[str, Any]]:
        """The points of the ledger at which the run departs from the paper."""
        return [row for row in self.ledger or () if row["departs_from_paper"]]

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """What the run wrote down each time it was started or resumed."""
        return self.run.sessions

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of its epochs."""
        return self.run.epochs

    @property
    def settings(self) -> str:
        """The configuration as YAML: saved as config.yaml it repeats the run."""
        return str(yaml.safe_dump(dump(self.config), sort_keys=False))

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from those of the recipe of its name, by flag: this run's and the recipe's."""
        recipe = RECIPES.get(self.config.name)
        if recipe is None:
            return {}
        own, usual = flatten(self.config), flatten(recipe)
        return {flag(name): (own[name], usual[name]) for name in own if own[name] != usual[name]}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without pictures."""
        measured = self.measured
        return {
            "name": self.name,
            "path": str(self.run.path),
            "status": self.run.status,
            "config": dump(self.config),
            "result": self.result.to_dict() if self.result else None,
            "measured_for_this_report": measured is not None,
            "confused": [_without_pictures(asdict(pair)) for pair in self.pairs],
            "mistakes": [_without_pictures(asdict(mistake)) for mistake in measured.mistakes] if measured else None,
            "calibration": measured.calibration.to_dict() if measured else None,
            "kernels": {"shape": self.kernels.shape, "colour": self.kernels.shares} if self.kernels else None,
            "parameters": self.parameters,
            "epochs": self.epochs,
            "ledger": self.ledger,
            "sessions": self.sessions,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Family:
    """Several runs side by side: which settings tell them apart, and, where that is the seed alone, how their results
    spread, of those that were measured on one split."""

    split: str
    spreads: dict[str, Spread]
    differing: dict[str, list[Any]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: that of its folder, or the whole path where two folders have the same."""
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def gather(
    run: Run,
    name: str,
    split: str | None = None,
    *,
    data: dict[str, Any] | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> RunContents:
    """Read a run's folder, and measure its best weights on a split (`measure`, whose arguments these are).

    What cannot be had, for want of the data for example, is left out with a note. Raises UsageError for a folder whose
    configuration cannot be read and for a device that cannot be used, and where a split was named and cannot be
    measured what says why.
    """
    config, notes = run.config, []
    trained: Trained | None = None
    measured: Measured | None = None
    resolve_compute(device, "auto")
    try:
        trained = open_trained(run)
        measured = measure(run, split or config.measured_on, data=data, device=device, skip_bad=skip_bad)
    except AlexNetError as problem:
        if split is not None:
            raise
        missing = "No pictures and no calibration" if trained else "No pictures, kernels or calibration"
        mend = "" if isinstance(problem, CheckpointError) else " (--data.root names the images.)"
        notes.append(f"{missing}: {problem}{mend}")
    result = measured.result if measured else _stored_result(run)
    if measured:
        pairs = measured.pairs
        notes += list(measured.result.notes)
    else:
        pairs = tuple(describe_pair(result, *pair) for pair in most_confused(result)) if result else ()
    return RunContents(
        run=run,
        name=name,
        config=config,
        result=result,
        measured=measured,
        pairs=pairs,
        kernels=_draw_kernels(trained) if trained else None,
        parameters=sum(layer.parameters for layer in trace(trained.model.variant)) if trained else None,
        ledger=run.ledger or (ledger_of_run(config, trained.model, prep=trained.preprocessing) if trained else None),
        notes=tuple(notes),
    )


def compare_runs(runs: Sequence[RunContents]) -> Family | None:
    """Several runs as a family; None of a single one."""
    if len(runs) < 2:
        return None
    tested = [run.result for run in runs if run.result is not None]
    split = tested[0].split if tested else ""
    alike = [result for result in tested if result.split == split]
    differing = differing_settings([run.config for run in runs])
    has_mean = alike and differing.keys() <= OF_SEEDS
    spreads = {name: spread([getattr(r, name) for r in alike]) for name in FIGURES} if has_mean else {}
    return Family(split, spreads, {flag(name): values for name, values in differing.items()})


def finite(value: Any) -> Any:
    """A value for JSON in which numbers that it does not know, nan and infinity, are null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_pictures(values: dict[str, Any]) -> dict[str, Any]:
    examples = {"examples": [_without_pictures(one) for one in values["examples"]]} if "examples" in values else {}
    return {name: value for name, value in values.items() if name != "picture"} | examples


def _draw_kernels(trained: Trained) -> Kernels | None:
    try:
        weights = first_kernels(trained)
    except StopIteration:  # a network without convolutions
        return None
    blocks = np.array_split(np.arange(len(weights)), count_columns(trained))
    tiles = kernel_tiles(weights)
    sheets = [sheet(tiles[block], ACROSS) for block in blocks]
    coloured = colour_shares(weights) if weights.shape[1] == 3 else None
    shares = None if coloured is None else tuple(float(coloured[block].mean()) for block in blocks)
    pictures = tuple(data_uri(encode(pixels)) for pixels in sheets)
    return Kernels(weights.shape, pictures, sheets[0].shape[1], shares)


def _stored_result(run: Run) -> Result | None:
    """The result that training ended with, on the test split or, where the data has none, on the validation split;
    None where there is none that can be read."""
    return next((found for split in ("test", "val") if (found := _read_result(run, split))), None)


def _read_result(run: Run, split: str) -> Result | None:
    try:
        values = json.loads((run.path / f"{split}.json").read_bytes())
        with (run.path / f"{split}-confusion.csv").open(newline="", encoding="utf-8") as stream:
            (_, *classes), *rows = csv.reader(stream)
        confusion = np.array([[int(count) for count in counts] for _, *counts in rows], dtype=np.int64)
        if confusion.shape != (len(classes), len(classes)) or not 0 < confusion.sum() == values["count"]:
            return None
        top1, top5, loss = (float(values[name]) for name in ("top1", "top5", "loss"))
        if not (0 <= top1 <= 1 and 0 <= top5 <= 1 and math.isfinite(loss)):
            return None
        return Result(
            split=split,
            top1=top1,
            top5=top5,
            loss=loss,
            count=int(values["count"]),
            views=int(values["views"]),
            classes=tuple(classes),
            confusion=confusion,
            measured=dict(values.get("measured") or {}),
            notes=tuple(map(str, values.get("notes") or ())),
        )
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, RecursionError, csv.Error):
        return None
