"""How far a run goes: what may change about its end when it goes on, and what to type for that.

A schedule's rates depend on its length. A run that has begun keeps its legs, so that its configuration, which the same
training could be repeated with, tells of the run that was.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from alexnet.config import TrainConfig
from alexnet.config.values import flag
from alexnet.errors import UsageError


def check_legs(path: Path, old: TrainConfig, new: TrainConfig, begun: int | None) -> None:
    """Raise UsageError if the legs of a run whose epochs have `begun`, or all where that is not known, are not the
    first of those that it should go on with. What is to come may be planned anew."""
    starts = accumulate(leg.epochs for leg in old.legs)
    then = (text for text, start in zip(old.then, starts, strict=False) if begun is None or start < begun)
    old = replace(old, then=tuple(then), stop_after=None)  # which may lie in a leg that has not begun
    common = min(len(old.then), len(new.then))
    same_length = old.epochs == new.epochs or not (old.legs[0].has_horizon or old.then or new.then)
    if same_length and old.then[:common] == new.then[:common]:
        return
    message = f"{path} was planned as {_typed(old)}, and {_typed(new)} would bend its learning rate after the fact. "
    if new.horizon > old.horizon:
        more = _then((*old.then, str(new.horizon - old.horizon)))
        message += f"To go on beyond its {old.horizon} epochs with a schedule of their own: {more}. "
    else:
        message += f"To stop earlier: {flag('stop_after')} {new.horizon}. "
    raise UsageError(message + "To train another run: --run DIR.")


def check_end(path: Path, config: TrainConfig, begun: int) -> None:
    """Raise UsageError if a run that has begun so many epochs is to end before: it would be recorded as a shorter run
    than it was."""
    if begun > config.end:
        raise UsageError(
            f"{path} is in its epoch {begun} already and cannot end after {config.end}: {flag('stop_after')} {begun} "
            "ends it with that one."
        )


def describe_end(path: Path, config: TrainConfig, epochs: int, stopped: str | None = None) -> str:
    """What is said of a finished run that is asked for nothing new, with what to type for more; `stopped` is what its
    status says ended it before its last epoch."""
    if stopped and epochs < config.end:
        more = f"another {flag('early_stop')} or {flag('stop_train_error')}"
    elif config.end < config.horizon:
        more = f"{flag('stop_after')} {config.horizon}"
    elif config.then or config.legs[0].has_horizon:  # which another length would bend
        more = _then((*config.then, str(config.legs[-1].epochs)))
    else:
        more = f"{flag('epochs')} {2 * epochs}"
    done = stopped or f"{epochs} epoch{'' if epochs == 1 else 's'}"
    measure = "" if config.test else f"To measure it on the test split: {flag('test')}. "
    return f"{path} is finished ({done}) and stays as it is. To go on: {more}. {measure}To start another: --run DIR."


def _typed(config: TrainConfig) -> str:
    return f"{flag('epochs')} {config.epochs} {_then(config.then)}".strip()


def _then(legs: tuple[str, ...]) -> str:
    return " ".join(f"{flag('then')} {shlex.quote(leg)}" for leg in legs)
