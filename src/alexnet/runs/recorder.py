"""What a run's main process writes: a disk that is full or gone costs a warning, not the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.errors import CheckpointError, UsageError
from alexnet.figures import save_figure
from alexnet.figures.confusion import draw_confusion
from alexnet.files import write_atomically
from alexnet.metrics import Result
from alexnet.runs.checkpoint import Checkpoint, in_streak, load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.runs.log import RunLog
from alexnet.runs.provenance import now
from alexnet.runs.results import write_result
from alexnet.runs.rows import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recorder:
    """Metrics, status, sessions, checkpoints and figures of `run`; the other processes of `world` write nothing."""

    def __init__(self, run: Run, say: Callable[[str], None], world: World) -> None:
        """`say` tells the user what could not be written; it is called with a whole sentence."""
        self.run, self._say, self._world = run, say, world
        self._is_main = world.is_main
        self._log: RunLog | None = None
        self._in_session = False
        self.saved_step = 0
        """The step of the latest checkpoint to go on from that could be written; 0 where there is none."""

    def start(self, config: TrainConfig, step: int, epoch: int, scored: int = 0) -> None:
        """Write the configuration and open the metrics after so many steps and epochs, and after the step at which the
        training split was `scored` last. Raises UsageError, in all processes."""
        self.saved_step = step
        self._world.from_main(lambda: self._open(config, step, epoch, scored))

    def _open(self, config: TrainConfig, step: int, epoch: int, scored: int) -> None:
        metrics = self.run.path / "metrics.jsonl"
        try:
            if self.run.has_ended:  # or, stopped before its first step, it would seem to have ended as it was asked now
                status = {name: value for name, value in self.run.status.items() if name != "stopped"}
                self.run.write_status(**status | {"state": "running"})
            self.run.write_config(config)
            if (self.run.path / "status.json").exists() and not self.run.status:
                self._say(f"{self.run.path / 'status.json'} is damaged; it is written anew.")
            _, damaged = read_rows(metrics)
            if damaged:
                kept = metrics.with_name("metrics.jsonl.damaged")
                write_atomically(kept, metrics.read_bytes())
                self._say(
                    f"{damaged} line(s) of {metrics} are damaged and left out; {kept.name} has the file as it was."
                )
            self._log = RunLog(self.run, step, epoch, scored)
        except OSError as problem:
            raise UsageError(f"cannot write to {self.run.path}: {problem.strerror}.") from None

    def begin_session(self, facts: dict[str, Any]) -> None:
        """Write how a session begins, to sessions.jsonl."""
        self._in_session = True
        self._append_session(facts)

    def end_session(self, state: str, **facts: Any) -> None:
        """Write when and how the session ended that began, and nothing if none did."""
        if self._in_session:
            self._in_session = False
            self._append_session({"ended": now(), "state": state, **facts})

    def _append_session(self, row: dict[str, Any]) -> None:
        self._write("sessions.jsonl", lambda: self.run.append_session(row))

    def write_ledger(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what the run does at the points where implementations part."""
        self._write("ledger.json", lambda: self.run.write_ledger(rows))

    @property
    def metrics_so_far(self) -> list[dict[str, Any]]:
        """The rows of this and earlier sessions; none in the other processes."""
        return self.run.metrics if self._is_main else []

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append a row with "kind", "epoch" and "step"."""
        if self._log is None:
            return
        try:
            self._log.write(row)
        except OSError as problem:
            self._log.warnings.append(f"could not write metrics to {self.run.path} ({problem.strerror})")
        self._say_warnings(self._log)

    def _say_warnings(self, log: RunLog) -> None:
        for warning in log.warnings:
            self._say(warning)
        log.warnings.clear()

    def write_status(self, **fields: Any) -> None:
        """Replace status.json."""
        self._write("status.json", lambda: self.run.write_status(**{"saved": self.saved_step} | fields))

    def _write(self, what: str, write: Callable[[], None]) -> None:
        if not self._is_main:
            return
        try:
            write()
        except OSError as problem:
            self._say(f"could not write {what} in {self.run.path} ({problem.strerror})")

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Save where the run is, keeping the one before; but one that was saved in a streak of losses that are not
        finite does not take the place of a good one."""
        keep = None if in_streak(self.run.last) else self.run.previous
        if self._save(lambda: save_checkpoint(self.run.last, checkpoint, keep)):
            self.saved_step = checkpoint.meta["counters"]["step"]

    def last_good(self) -> Path | None:
        """The newest checkpoint that can be read and was saved outside of any streak of losses that are not finite."""
        for file in (self.run.last, self.run.previous):
            try:
                load_checkpoint(file)
            except CheckpointError:
                continue
            if not in_streak(file):
                return file
        return None

    def save_best(self, checkpoint: Checkpoint) -> bool:
        """Save the best weights so far. Returns, in all processes, whether they could be written."""
        return self._world.from_main(lambda: self._save(lambda: save_checkpoint(self.run.best, checkpoint)))

    def save_milestone(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Keep weights under the number of completed epochs."""

        def save() -> None:
            file = self.run.milestone(epoch)
            file.parent.mkdir(exist_ok=True)
            save_checkpoint(file, checkpoint)

        self._save(save)

    def _save(self, save: Callable[[], None]) -> bool:
        if not self._is_main:
            return True
        try:
            save()
        except OSError as problem:
            self._say(
                f"could not save a checkpoint in {self.run.path} ({problem.strerror}); the ones before are intact and "
                "training goes on."
            )
            return False
        return True

    def write_result(self, result: Result) -> None:
        """Write what a run ends with, an evaluation's result, and its confusion matrix as a table and as a figure. What
        an earlier end of the run left of another split is of other weights, and goes."""

        def write() -> None:
            write_result(result, self.run.path, result.split)
            for split in {"test", "val"} - {result.split}:
                for name in (f"{split}.json", f"{split}-confusion.csv", f"{split}-confusion.png"):
                    (self.run.path / name).unlink(missing_ok=True)

        self._write("the result", write)
        if self._log is not None:
            self._log.result(result)
            self._say_warnings(self._log)
        self.save_figure(f"{result.split}-confusion.png", lambda: draw_confusion(result))

    def save_figure(self, name: str, draw: Callable[[], Figure]) -> None:
        """Save a figure under a name; a run does not end for want of one."""
        if not self._is_main:
            return
        try:
            save_figure(draw(), self.run.path / name)
        except UsageError as problem:
            self._say(f"no figures: {problem}")
        except Exception as problem:  # no picture may cost a result, whatever a plotting library makes of odd names
            self._say(f"no {name}: {problem!r}")

    def close(self) -> None:
        """Release the files."""
        if self._log is not None:
            self._log.close()
