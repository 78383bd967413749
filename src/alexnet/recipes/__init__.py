"""Recipes: named configurations, each with the place that its settings come from (no torch here)."""

from __future__ import annotations

from typing import Any

from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.errors import UsageError, unknown
from alexnet.recipes import cifar, convnet, digits, dogs, imagenet, released

_MODULES = (digits, cifar, convnet, imagenet, released, dogs)
RECIPES: dict[str, TrainConfig] = {config.name: config for module in _MODULES for config in module.RECIPES}
ORIGINS: dict[str, str] = {name: origin for module in _MODULES for name, origin in module.ORIGINS.items()}


def recipe(name: str = "digits", **overrides: Any) -> TrainConfig:
    """The configuration called `name` with fields replaced, by dotted name or as nested dictionaries:
    `recipe("cifar10", seed=3, optim={"lr": 0.02}, **{"data.root": "/data"})`.

    Raises UsageError for an unknown recipe or field.
    """
    if name not in RECIPES:
        raise UsageError(unknown("recipe", name, RECIPES))
    return override(RECIPES[name], overrides)
