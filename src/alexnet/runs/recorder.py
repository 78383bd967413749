"""What a run's main process writes: a disk that is full or gone costs a warning, not the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alexnet.config import TrainConfig
from alexnet.errors import UsageError
from alexnet.figures import save_figure
from alexnet.figures.confusion import draw_confusion
from alexnet.metrics import Result
from alexnet.runs.checkpoint import Checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.runs.log import RunLog
from alexnet.runs.results import write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recorder:
    """Metrics, status, checkpoints and figures of `run`; in the other processes (`is_main` false) it writes nothing."""

    def __init__(self, run: Run, say: Callable[[str], None], is_main: bool) -> None:
        """`say` tells the user what could not be written; it is called with a whole sentence."""
        self.run, self._say, self._is_main = run, say, is_main
        self._log: RunLog | None = None

    def start(self, config: TrainConfig, step: int, epoch: int) -> None:
        """Write the configuration and open the metrics after so many steps and epochs. Raises UsageError."""
        if not self._is_main:
            return
        try:
            self.run.write_config(config)
            self._log = RunLog(self.run, step, epoch)
        except OSError as problem:
            raise UsageError(f"cannot write to {self.run.path}: {problem.strerror}.") from None

    @property
    def metrics_so_far(self) -> list[dict[str, Any]]:
        """The rows of this and earlier sessions; none in the other processes."""
        return self.run.metrics if self._is_main else []

    def metrics(self, row: dict[str, Any]) -> None:
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

    def status(self, **fields: Any) -> None:
        """Replace status.json."""
        if not self._is_main:
            return
        try:
            self.run.write_status(**fields)
        except OSError as problem:
            self._say(f"could not write status.json in {self.run.path} ({problem.strerror})")

    def last(self, checkpoint: Checkpoint) -> None:
        """Save where the run is, keeping the one before."""
        self._save(lambda: save_checkpoint(self.run.last, checkpoint, keep=self.run.previous))

    def best(self, checkpoint: Checkpoint) -> bool:
        """Save the best weights so far. Returns whether they could be written."""
        return self._save(lambda: save_checkpoint(self.run.best, checkpoint))

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

    def result(self, result: Result) -> None:
        """Write an evaluation's result, and its confusion matrix as a table and as a figure."""
        if not self._is_main:
            return
        try:
            write_result(result, self.run.path, result.split)
        except OSError as problem:
            self._say(f"could not write the result to {self.run.path} ({problem.strerror})")
        if self._log is not None:
            self._log.result(result)
            self._say_warnings(self._log)
        self.figure(f"{result.split}-confusion.png", lambda: draw_confusion(result))

    def figure(self, name: str, draw: Callable[[], Figure]) -> None:
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
