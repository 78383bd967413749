"""The command itself, and what its verbs share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from cyclopts import App, ArgumentCollection

from alexnet.config.values import get
from alexnet.errors import TrainingStopped
from alexnet.training.signals import Interrupt

app = App(
    name="alexnet",
    help="AlexNet (2012): train it, evaluate it, look into it. Every command takes --help; --debug shows tracebacks.",
    version=lambda: version("alexnet"),
)
_given: list[str] = []


def _remember_given(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Keep the names of the settings that stand on the command line: only these override the recipe's."""
    _given[:] = [".".join(a.keys) for a in arguments if a.tokens and a.keys]


def given_values(config: Any) -> dict[str, Any]:
    """The settings of a TrainConfig that stand on the command line, by dotted name."""
    return {name: get(config, name) for name in _given}


app.config = (_remember_given,)


def given_fields(config: Any) -> dict[str, Any]:
    """The fields of a ModelConfig that stand on the command line."""
    known = asdict(config)
    return {name: known[name] for name in _given if name in known}


def start_computing() -> None:
    """Set this process up for training and inference. Every verb that computes begins with it; it imports torch."""
    from alexnet.compute import configure_process

    configure_process()


def print_json(value: Any) -> None:
    """For scripts."""
    print(json.dumps(value, indent=1))


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """Turn a signal into the message that the same command goes on."""
    try:
        yield
    except Interrupt as signal:
        raise TrainingStopped(f"{what} was stopped by {signal}; the same command goes on from where it was.") from None
