"""When a run ends, by its length or by what it has measured; from what is saved alone, so that a run that was killed
ends at the same place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet.config import TrainConfig
from alexnet.config.values import flag
from alexnet.runs.folder import Run
from alexnet.runs.legs import describe_end
from alexnet.runs.opening import LENGTH
from alexnet.training.learner import Learner


def count_epoch(learner: Learner, accuracy: float) -> None:
    """Count the epoch that the last step closed for early stopping, by its validation accuracy; before the schedule is
    told of it. While a drop of the rate is to come nothing is counted: no waiting may keep it from coming."""
    counters = learner.counters
    waiting = accuracy <= counters.watched_top1 and not learner.schedule.drop_to_come(counters.step - 1)
    counters.waited = counters.waited + 1 if waiting else 0
    counters.watched_top1 = max(accuracy, counters.watched_top1)


def reached_train_error(learner: Learner) -> bool:
    """Whether the present weights have as small an error on the training split as was asked for."""
    counters, limit = learner.counters, learner.config.stop_train_error
    return limit is not None and counters.scored_step == counters.step > 0 and counters.train_error <= limit


def is_over(learner: Learner) -> bool:
    """Whether training is over; an epoch whose steps are all made is finished first."""
    if learner.counters.epoch >= learner.config.end:
        return True
    return learner.counters.epoch_step < learner.steps_per_epoch and _reason(learner) is not None


def note_end(run: Run, config: TrainConfig, meta: Mapping[str, Any]) -> str | None:
    """What is said of a run that was finished and that nothing is left to do for; None where something is. `meta` is
    the description of its last checkpoint."""
    status, counters = run.status, meta["counters"]
    same = all(getattr(run.config, name) == getattr(config, name) for name in LENGTH)
    ended_before = same and "stopped" in status and status.get("step") == counters["step"]
    if (config.test and not run.config.test) or run.result is None:
        return None  # an attempt, of which the test result is asked for now, or a result that was lost
    if not run.has_ended or not (counters["epoch"] >= config.end or ended_before):
        return None
    return describe_end(run.path, run.config, counters["epoch"], status.get("stopped"))


def describe_stop(learner: Learner) -> str | None:
    """What ended a run before its last epoch, such as "stopped at 12 of 30 epochs by ..."; None if nothing did."""
    if learner.counters.epoch >= learner.config.horizon:
        return None
    by = _reason(learner) or flag("stop_after")
    return f"stopped at {learner.epochs:.4g} of {learner.config.horizon} epochs by {by}"


def _reason(learner: Learner) -> str | None:
    config, counters = learner.config, learner.counters
    if reached_train_error(learner):
        return f"a training error of {counters.train_error:.2%} ({flag('stop_train_error')})"
    if config.early_stop is not None and counters.waited >= config.early_stop:
        return f"early stopping after {counters.waited} epochs without a better validation accuracy"
    return None
