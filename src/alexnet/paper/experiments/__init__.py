"""The experiments, one file each: whatever module here holds an `EXPERIMENT` is one (no torch here)."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from alexnet.paper.experiment import Experiment


@cache
def experiments() -> dict[str, Experiment]:
    """All experiments by their ids, in the order of these: S0, S1, ... S11."""
    found = [import_module(f"{__name__}.{module.name}").EXPERIMENT for module in iter_modules(__path__)]
    return {experiment.id: experiment for experiment in sorted(found, key=_order)}


def experiments_on(claim: int) -> list[Experiment]:
    """The experiments that judge the claim with this number."""
    return [experiment for experiment in experiments().values() if claim in experiment.claims]


def _order(experiment: Experiment) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", experiment.id)]
