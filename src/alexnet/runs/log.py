"""The log of a run: its metrics as JSON lines, as a table and as TensorBoard events."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from alexnet.config.values import flatten
from alexnet.files import write_atomically
from alexnet.metrics import Result
from alexnet.runs.folder import SCORE, Run
from alexnet.runs.rows import append_row


class RunLog:
    """Writes a run's metrics: metrics.jsonl, metrics.csv (epochs) and TensorBoard events."""

    def __init__(self, run: Run, step: int, epoch: int, scored: int) -> None:
        """Open the logs after so many steps and epochs, and after the step at which the training split was `scored`
        last; later lines, from before a kill, will be written again."""
        self.run = run
        latest = {"epoch": ("epoch", epoch), SCORE: ("step", scored)}

        def stays(row: dict[str, Any]) -> bool:
            count, last = latest.get(row["kind"], ("step", step))
            return bool(row["step"] <= step and row[count] <= last)

        kept = [row for row in run.metrics if stays(row)]
        write_atomically(self._jsonl, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._write_csv([row for row in kept if row["kind"] == "epoch"])
        self._step = step
        self._board: _Board | None = None
        self.warnings: list[str] = []
        """What could not be written, for the caller to say and to clear."""
        with self._events():
            self._board = _Board(run.path / "tensorboard", step)

    @property
    def _jsonl(self) -> Path:
        return self.run.path / "metrics.jsonl"

    def write(self, row: dict[str, Any]) -> None:
        """Append a row with "kind", "epoch" and "step"; an epoch's row goes to the CSV too."""
        append_row(self._jsonl, row)
        if row["kind"] == "epoch":
            self._write_csv(self.run.epochs)
        self._step = row["step"]
        with self._events():
            if self._board is not None:
                self._board.write(row)

    def result(self, result: Result) -> None:
        """Show a test result beside the metrics so far and the run's configuration (TensorBoard)."""
        with self._events():
            if self._board is not None:
                self._board.result(result, flatten(self.run.config), self._step)

    @contextmanager
    def _events(self) -> Iterator[None]:
        """Leave off TensorBoard's events where writing them fails: the run goes on."""
        try:
            yield
        except ImportError:
            self.warnings.append("no TensorBoard events: pip install 'alexnet[tensorboard]'")
        except Exception as problem:  # a full disk, or whatever a protocol makes of odd names
            self._board = None
            self.warnings.append(f"no TensorBoard events from here on: {problem}")

    def _write_csv(self, rows: list[dict[str, Any]]) -> None:
        text = StringIO()
        if rows:
            names = dict.fromkeys(name for row in rows for name in row if name != "kind")  # a row may lack some
            writer = csv.DictWriter(text, list(names), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        write_atomically(self.run.path / "metrics.csv", text.getvalue().encode())

    def close(self) -> None:
        """Release the files."""
        if self._board is not None:
            self._board.close()


class _Board:
    """TensorBoard events. The splits write under the same tags but in folders of their own, which is how TensorBoard
    draws their curves into one chart."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after a step. Raises ImportError without TensorBoard, and OSError as the other methods do."""
        from torch.utils.tensorboard import SummaryWriter

        self._new: Any = partial(SummaryWriter, purge_step=step + 1)
        self._folder, self._writers = folder, {"train": self._new(folder / "train")}

    def write(self, row: dict[str, Any]) -> None:
        """Show an epoch's row, one of the steps within it, whose means begin anew with each epoch, or an evaluation of
        the whole training split."""
        shown = {"epoch": "", "step": "within the epoch/", SCORE: "whole split/"}.get(row["kind"])
        if shown is None:
            return
        for name, value in row.items():
            split, _, quantity = name.partition("_")
            if split in ("train", "val"):
                self._scalar(split, shown + quantity, value, row["step"])
            elif name in ("lr", "images_per_second"):
                self._scalar("train", shown + name, value, row["step"])
        for writer in self._writers.values():
            writer.flush()

    def _scalar(self, split: str, tag: str, value: float, step: int) -> None:
        if split not in self._writers:
            self._writers[split] = self._new(self._folder / split)
        self._writers[split].add_scalar(tag, value, step)

    def result(self, result: Result, settings: dict[str, Any], step: int) -> None:
        """Show what a run ended with as the last point of the curves, and in the table of settings (HPARAMS)."""
        shown = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in settings.items()}
        scores = {figure: getattr(result, figure) for figure in ("loss", "top1", "top5")}
        name = "test" if result.split == "test" else f"{result.split}-end"  # beside the curve of validation
        self._writers["train"].add_hparams(shown, scores, run_name=f"../{name}", global_step=step)

    def close(self) -> None:
        """Release the files."""
        for writer in self._writers.values():
            with suppress(OSError):  # what could not be written has been said
                writer.close()
