"""Whether the files of a run, and weights from anywhere, are still what was written, and what weights score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet.compute import resolve_compute
from alexnet.data.loading import open_split
from alexnet.errors import AlexNetError, CheckpointError
from alexnet.inference.evaluation import fit_classes, score
from alexnet.inference.pictures import open_data
from alexnet.inference.trained import Trained, read_weights
from alexnet.metrics import Result
from alexnet.models.weights import unusable
from alexnet.runs.checkpoint import is_checkpoint, load_checkpoint
from alexnet.runs.folder import Run
from alexnet.runs.rows import read_rows


@dataclass(frozen=True)
class FileState:
    """What is known of one file."""

    path: Path
    damaged: str | None = None
    """What is wrong with it; None where nothing was found."""
    known: str = "whole"
    """How much is known of a file with which nothing is wrong."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path), "known": None if self.damaged else self.known}


def verify_weights(file: Path) -> FileState:
    """Read all of a checkpoint or weights file: a checkpoint of ours has a SHA-256 over all of it; of others it can be
    said that they hold finite tensors."""
    try:
        if is_checkpoint(file):
            epoch = load_checkpoint(file).epoch
            return FileState(file, known=f"whole, as its SHA-256 says{'' if epoch is None else f'; epoch {epoch}'}")
        weights = read_weights(file)
    except CheckpointError as problem:
        return FileState(file, str(problem))
    for name, tensor in weights.items():
        if problem_ := unusable(tensor):
            return FileState(file, f"{file} is of no use: {name} {problem_}.")
    return FileState(file, known=f"{len(weights)} tensors, all finite; it has no checksum that would tell more")


def verify_run(run: Run) -> list[FileState]:
    """Read all of a run: its configuration, its records and every checkpoint."""
    states = []
    try:
        _ = run.config
        states.append(FileState(run.path / "config.yaml", known="can be read"))
    except AlexNetError as problem:
        states.append(FileState(run.path / "config.yaml", str(problem)))
    for record in (run.path / "metrics.jsonl", run.path / "sessions.jsonl"):
        rows, damaged = read_rows(record)
        if rows or damaged:
            problem_ = f"{record}: {damaged} of {damaged + len(rows)} lines are damaged." if damaged else None
            states.append(FileState(record, problem_, f"{len(rows)} lines, all can be read"))
    for name, content in (("status.json", run.status), (run.result_file.name, run.result), ("ledger.json", run.ledger)):
        if (run.path / name).exists():
            states.append(
                FileState(run.path / name, None if content else f"{run.path / name} is damaged.", "can be read")
            )
    files = [file for file in (run.best, run.last, run.previous) if file.exists()]
    return states + [verify_weights(file) for file in (*files, *run.milestones)]


@dataclass(frozen=True)
class Scored:
    """What weights score on data, beside the score of an answer that looks at no image."""

    result: Result
    chance: float
    """The share of the most frequent class: what the same answer to every image scores."""

    @property
    def above_chance(self) -> bool:
        """Whether the 95 % interval of the accuracy lies above chance."""
        return self.result.interval[0] > self.chance


def score_weights(
    trained: Trained, split: str | None = None, *, data: dict[str, Any] | None = None, device: str = "auto"
) -> Scored:
    """The accuracy of weights on a split of the data that they were trained on, or of other data with their classes
    ({"source": ..., "root": ...}). Raises UsageError, DataError or CheckpointError."""
    config, dataset = open_data(trained, data)
    dataset = fit_classes(trained, dataset)
    name, chosen = dataset.split(split)
    compute = resolve_compute(device, "fp32")
    loader = open_split(chosen, compute.device, config.data, trained.preprocessing)
    with compute.settings():
        result = score(trained.model, loader, compute, name=name, classes=dataset.names)
    return Scored(result, float(result.confusion.sum(axis=1).max()) / result.count)
