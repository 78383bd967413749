"""Training error over the epochs, read from what a run has logged."""

from __future__ import annotations

from alexnet.errors import UsageError
from alexnet.figures.errors import ErrorCurve
from alexnet.runs.folder import SCORE, Run


def training_errors(run: Run, name: str | None = None) -> ErrorCurve:
    """A run's training error over its epochs: of the whole training split, as evaluation measures it, where the run has
    such rows (--score-train); else the mean over the batches of each epoch as they were trained on, which lags behind
    and is measured on augmented images with dropout. `ErrorCurve.measured` says which.

    Raises UsageError for a run that has neither.
    """
    rows = [row for row in run.metrics if row["kind"] == SCORE and "train_top1" in row]
    measured = "of the whole training split, as evaluated"
    if not rows:
        rows = [row for row in run.epochs if "train_top1" in row]
        measured = "mean of each epoch's batches while training"
    if not rows:
        raise UsageError(f"{run.path} has no training error yet: train it for an epoch.")
    return ErrorCurve(
        name or run.path.resolve().name,
        [row["epoch"] for row in rows],
        [1 - row["train_top1"] for row in rows],
        measured,
    )
