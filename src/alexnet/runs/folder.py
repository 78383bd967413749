"""A run folder: configuration, metrics, status, checkpoints and figures of one training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from alexnet.config import TrainConfig, dump, load
from alexnet.errors import CheckpointError, UsageError, listed
from alexnet.files import write_atomically
from alexnet.runs.checkpoint import Checkpoint, holds_steps, load_checkpoint
from alexnet.runs.rows import append_row, read_rows

if TYPE_CHECKING:  # the network is built where it is asked for
    from alexnet.data.transforms import Transforms
    from alexnet.models.network import AlexNet

SCORE = "train-score"
"""The kind of a row that measures the whole training split as evaluation does (--score-train)."""
NUMBERS = {
    *("step", "epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5"),
    *("seconds", "images_per_second"),
}
"""What is a number in a line of metrics."""
LEDGER = "ledger.json"
LEDGER_FIELDS = {
    **dict.fromkeys(("name", "paper", "release", "effect", "this"), str),
    **dict.fromkeys(("departs_from_paper", "departs_from_release"), bool | None),
    "number": int,
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
        """status.json: state (running, stopped, failed, finished), epoch, step, best validation accuracy. Empty before
        training began, and where the file is damaged: training writes it anew."""
        return _read_object(self.path / "status.json") or {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one an epoch ("kind": "epoch"), one every log_every steps ("step"), one an
        evaluation of the training split ("train-score", whose epoch counts parts), one a step that was skipped
        ("skipped") and one a photograph that cannot be read ("unreadable"). Damaged lines are left out."""
        return [row for row in read_rows(self.path / "metrics.jsonl")[0] if _is_sound(row)]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """One record each time the run was started or resumed: command, machine, versions, arithmetic, data, the
        settings that may differ between sessions, and when and how it ended ("ended", "state"; a session without these
        is running or was killed). Of runs that older versions made, environment.json is the first record."""
        sessions: list[dict[str, Any]] = []
        for row in read_rows(self.path / "sessions.jsonl")[0]:
            if "started" in row:
                sessions.append(row)
            elif sessions:
                sessions[-1] |= row
        earlier = _read_object(self.path / "environment.json")
        return [earlier, *sessions] if earlier else sessions

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The epoch lines of `metrics`."""
        return [row for row in self.metrics if row["kind"] == "epoch"]

    @property
    def has_ended(self) -> bool:
        """Whether training came to its end, and has not gone on since."""
        return self.status.get("state") == "finished"

    @property
    def test(self) -> dict[str, Any] | None:
        """The test result that training ended with; None before, where the data has no test split or was not to be
        tested (--no-test), and where the file is damaged."""
        return _read_object(self.path / "test.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """What training ended with: the test result, or where the data has no test split (ImageNet), and with
        --no-test, the validation split's. None before, and where the file is damaged; while a run goes on after its end
        (`has_ended`) still that of the earlier end."""
        return _read_object(self.result_file)

    @property
    def result_file(self) -> Path:
        """Where `result` is: test.json, or val.json where the test split was not measured."""
        test, val = self.path / "test.json", self.path / "val.json"
        return val if val.exists() and not test.exists() else test

    @property
    def ledger(self) -> list[dict[str, Any]] | None:
        """What was done at the points where implementations part, one record a point (`alexnet.ledger.as_rows`). None
        for runs of earlier versions, and where the file is damaged."""
        points = (_read_object(self.path / LEDGER) or {}).get("points")
        whole = isinstance(points, list) and all(
            isinstance(point, dict) and all(isinstance(point.get(f, ...), kind) for f, kind in LEDGER_FIELDS.items())
            for point in points
        )
        return points if whole else None

    def write_ledger(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace ledger.json."""
        write_atomically(self.path / LEDGER, (json.dumps({"points": list(rows)}, indent=1) + "\n").encode())

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

    def milestone(self, epoch: int) -> Path:
        """The weights that were kept after so many epochs (--keep); 0 is before training."""
        return self.path / "milestones" / f"epoch-{epoch:04}.safetensors"

    @property
    def milestones(self) -> list[Path]:
        """All weights that were kept, in the order of their epochs."""
        return sorted(self.path.glob("milestones/epoch-*.safetensors"))

    def checkpoint(self) -> Path:
        """The checkpoint to evaluate: of a finished run the one that its result is of, before that the best, or
        the last where no epoch was completed."""
        measured = (self.result or {}).get("measured") if self.has_ended else None
        latest = isinstance(measured, dict) and measured.get("weights") == self.last.name
        for file in (self.last, self.best) if latest else (self.best, self.last):
            if file.exists():
                return file
        raise CheckpointError(f"{self.path} holds no checkpoint yet: train it first.")

    @property
    def may_begin_anew(self) -> bool:
        """Whether it was trained in and nothing was saved after the first step, so that other settings cost nothing."""
        begun = (self.path / "metrics.jsonl").exists()  # else config.yaml may be one that somebody wrote by hand
        files = [file for file in (self.last, self.previous, self.best, *self.milestones) if file.exists()]
        return begun and not any(map(holds_steps, files)) and not self.status.get("saved", self.status.get("epoch"))

    def model(self) -> AlexNet:
        """Its trained network, that of `checkpoint`, on the CPU in evaluation mode: an ordinary module of torch, for
        images as `preprocessing` makes them. Raises CheckpointError."""
        from alexnet.runs.restoring import restore

        return restore(self.checkpoint())[0].eval()

    def preprocessing(self) -> Transforms:
        """What makes of images what `model` takes: a module, for uint8 tensors [N, C, H, W], Pillow images and NumPy
        arrays. Raises CheckpointError."""
        from alexnet.data.transforms import Transforms
        from alexnet.runs.restoring import preprocessing_of, restore

        network, checkpoint = restore(self.checkpoint())
        return Transforms(preprocessing_of(checkpoint), network.variant.in_channels)

    def resume_point(self) -> tuple[Checkpoint | None, str | None]:
        """The newest checkpoint that can be read, and a warning if that is not the last one.

        A damaged `last` is set aside first, so that it does not take the place of `previous` at the next save. Raises
        CheckpointError if the run has been saved and neither of the two can be read.
        """
        lost: str | None = None
        for file in (self.last, self.previous):
            try:
                point = load_checkpoint(file)
                if point.epoch is None:
                    raise CheckpointError(f"{file} is whole but does not say where the run was.")
            except CheckpointError as problem:
                lost = lost or str(problem)
                continue
            if lost is None:
                return point, None
            kept = set_aside(self.last)
            return point, f"{lost} Going on from {file.name} before it{f'; kept as {kept.name}' if kept else ''}."
        if not (self.last.exists() or self.previous.exists() or self.status.get("saved", self.status.get("epoch"))):
            return None, None
        weights = f" --init {self.best}" if self.best.exists() else ""
        raise CheckpointError(
            f"{lost} Neither it nor {self.previous.name} can be read: bring one of them back, or start again in "
            f"another folder with --run DIR{weights}."
        )

    def write_config(self, config: TrainConfig) -> None:
        """Replace config.yaml."""
        text = yaml.safe_dump(dump(config), sort_keys=False)
        write_atomically(self.path / "config.yaml", text.encode())

    def append_session(self, row: dict[str, Any]) -> None:
        """Add to sessions.jsonl: a session's record as it begins ("started"), or how it ended ("ended")."""
        append_row(self.path / "sessions.jsonl", row)

    def write_status(self, **values: Any) -> None:
        """Replace status.json."""
        values = {**values, "pid": os.getpid(), "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_atomically(self.path / "status.json", (json.dumps(values, indent=1) + "\n").encode())


def load_run(path: str | Path) -> Run:
    """The run in a folder. Raises UsageError if there is none."""
    path = Path(path)
    if not has_config(path):
        family = [run.path.name for run in family_of(path)]
        holds = f", but it holds the runs {listed(family)}" if family else ""
        raise UsageError(f"{path} is not a run folder: it has no config.yaml{holds}.")
    return Run(path)


def family_of(path: Path) -> list[Run]:
    """The runs of several seeds (`alexnet train --seeds`) in a folder, in the order of the seeds; none where it is a
    run itself or something else. Raises UsageError for a path that cannot be looked at."""
    if has_config(path):
        return []
    folders = [folder for folder in path.glob("seed-*") if folder.name[5:].isdecimal() and has_config(folder)]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[5:]))]


def load_config(path: Path) -> TrainConfig:
    """A configuration from YAML, for example an earlier run's config.yaml. Raises UsageError."""
    try:
        values = yaml.load(path.read_bytes(), _Plain)
    except (OSError, RecursionError, yaml.YAMLError, *_IMPOSSIBLE) as problem:
        reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:300]
        raise UsageError(f"cannot read {path}: {reason}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a configuration: it holds no settings.")
    return load(values)


_IMPOSSIBLE = (ValueError, TypeError, AttributeError, OverflowError)  # the 31st of February, !!int x, !!timestamp y


class _Plain(yaml.SafeLoader):
    """YAML without references: a few lines of them can stand for gigabytes, and no configuration needs one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"references (*{event.anchor}) are not read", event.start_mark
            )
        return super().compose_node(parent, index)


def set_aside(file: Path) -> Path | None:
    """Give a damaged file another name, so that nothing takes it for a good one and nothing of it is lost, nor of one
    set aside before. Returns the new path, or None where the file is not there or cannot be renamed."""
    names = (f"{file.name}.damaged{n or ''}" for n in count())
    kept = next(path for path in map(file.with_name, names) if not path.exists())
    try:
        return file.replace(kept)
    except OSError:
        return None


def has_config(path: Path) -> bool:
    """Whether a folder is a run's. Raises UsageError for a path that cannot be looked at."""
    try:
        os.stat(path / "config.yaml")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as problem:  # no permission, a loop of links, a name too long or with a NUL
        reason = getattr(problem, "strerror", None) or problem
        raise UsageError(f"the folder {str(path)[:100]!r} cannot be read: {reason}; use --run DIR.") from None
    return (path / "config.yaml").is_file()


def _is_sound(row: dict[str, Any]) -> bool:
    """Whether a line of metrics says of what it is, and holds numbers where these belong."""
    named = isinstance(row.get("kind"), str) and isinstance(row.get("step"), int) and "epoch" in row
    return named and all(_is_number(value) for name, value in row.items() if name in NUMBERS)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)


def _read_object(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where the file is not there, cannot be read or holds something else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
