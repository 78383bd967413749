"""The command itself, and what its verbs share."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from operator import attrgetter
from typing import Annotated, Any, get_args

from cyclopts import (
    UNSET,
    App,
    Argument,
    ArgumentCollection,
    CycloptsError,
    Group,
    Parameter,
    UnknownOptionError,
    ValidationError,
)

from alexnet.config.ranges import Range
from alexnet.errors import UsageError
from alexnet.terminal import Terminal, printable

# What `alexnet --help` groups its verbs by: what somebody wants.
TRAIN, LOOK, DATA, PAPER, HAND_ON, MACHINE, OPTIONS = (
    Group.create_ordered(name)
    for name in ("Train and measure", "Look", "Data", "The paper", "Hand on", "This machine", "Options")
)
QUICK = ("info", "list", "claims", "doctor")  # verbs that answer, or begin to, before torch is imported

app = App(
    name="alexnet",
    help="AlexNet (2012): train it, evaluate it, look into it. Every command takes --help; --quiet leaves only files, "
    "JSON and errors; --debug shows tracebacks.",
    version=lambda: version("alexnet"),
    console=Terminal(),
    group_commands=OPTIONS,
    result_action="return_value",
    default_parameter=Parameter(consume_multiple=True),  # --data.mean .5 .5 .5
)
app.register_install_completion_command(help="Complete verbs and flags in this shell: bash, zsh, fish or PowerShell.")
_given: list[str] = []


def _read_given(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Keep the names of the settings that stand on the command line: only these override the recipe's.

    Raises UsageError for a fraction where a whole number belongs, which the parser would round.
    """
    for argument in arguments:
        for token in argument.tokens:
            if (
                token.value == "" and token.implicit_value is UNSET
            ):  # "$UNSET"; as a path it would be the current folder
                raise UsageError(f"{token.keyword or argument.name} is empty: give it a value.")
        if int in (argument.hint, *get_args(argument.hint)):
            _check_whole(argument)
    _given[:] = [".".join(a.keys) for a in arguments if a.tokens and a.keys]


def _check_whole(argument: Argument) -> None:
    for token in argument.tokens:
        try:
            whole = float(token.value).is_integer()
        except (ValueError, OverflowError):  # no number at all, or a hexadecimal one: the parser's to judge
            continue
        if not whole:
            raise UsageError(f"{token.keyword or argument.name} {token.value} must be a whole number.")


def explain(problem: CycloptsError) -> str:
    """What is wrong with a command line, in one line."""
    if isinstance(problem, UnknownOptionError):
        option = (problem.token.keyword or problem.token.value).partition("=")[0]
        last = option.lstrip("-").replace("_", "-")
        names = [name for argument in problem.argument_collection for name in argument.names]
        longer = [name for name in names if name.rpartition(".")[2] == last]
        if longer:  # --lr is --optim.lr
            return f"Unknown option: {option}. Did you mean {' or '.join(longer)}?"
    if isinstance(problem, ValidationError) and problem.argument and problem.argument.tokens:
        token = problem.argument.tokens[0]
        return f"{token.keyword or problem.argument.name} {token.value} {problem.exception_message}"
    return " ".join(str(problem).split())


def within(allowed: Range) -> Parameter:
    """A flag's range, checked before the verb begins and named where it is left."""

    def check(_: type, value: float | None) -> None:
        if value is not None and value not in allowed:
            raise ValueError(f"is out of range: it must be {allowed}.")

    return Parameter(validator=check)


def _check_views(_: type, value: int) -> None:
    if value not in (1, 2, 9, 10):
        raise ValueError(
            "cannot be used: 1 (centre), 2 (and its mirror image), 9 (a grid of three by three) or 10 (corners and "
            "centre, mirrored)."
        )


Count = Annotated[int, within(Range(least=1))]
Views = Annotated[int, Parameter(validator=_check_views)]


def given_values(config: Any) -> dict[str, Any]:
    """The settings of a configuration that stand on the command line, by dotted name."""
    return {name: attrgetter(name)(config) for name in _given}


app.config = (_read_given,)


def announce(verb: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Say what begins before torch is imported, which takes seconds. JSON stays alone, and so does what is quick, and
    of several processes one says it."""
    ours = getattr(verb, "__module__", "").startswith("alexnet.")  # and not the help
    if ours and arguments[0] not in QUICK and "--json" not in arguments and os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # training goes on where nobody listens
            print(f"alexnet {version('alexnet')}: {printable(shlex.join(arguments), 200)}", flush=True)


def start_computing(shared: bool = False) -> None:
    """Set this process up for training and inference. Every verb that computes begins with it; it imports torch.

    Raises UsageError under torchrun for a verb whose work is not `shared` by its processes: each would do all of it.
    """
    if not shared and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("torchrun's processes share training alone: start this without torchrun.")
    from alexnet.compute import configure_process

    configure_process()


def print_json(value: Any) -> None:
    """For scripts."""
    print(json.dumps(value, indent=1))


def note_load() -> None:
    """Say so where other work keeps all of this machine's cores busy, because that costs more than its share."""
    busy, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if busy > cores and os.environ.get("RANK", "0") == "0":  # one of torchrun's processes says it
        fewer = "" if "OMP_NUM_THREADS" in os.environ else "; with OMP_NUM_THREADS=1 it may be faster"
        note = f"other work keeps this machine busy (load {busy:.1f} on {cores} core(s)), so this is slower{fewer}."
        with suppress(OSError):  # training goes on where nobody listens
            print(f"note: {note}", flush=True)


def data_of(root: str | None) -> dict[str, str]:
    """The setting of data that --data.root names."""
    return {} if root is None else {"root": root}


@dataclass(frozen=True)
class Elsewhere:
    """Data in the place of a run's own, as flags."""

    root: Annotated[str | None, Parameter(name="--data.root")] = None
    """Folder that holds the data set, where it is not the one that the run was trained from."""
    source: Annotated[str | None, Parameter(name="--data.source")] = None
    """Another data set with the same classes, or the one of weights that do not name theirs."""
    path_column: Annotated[str | None, Parameter(name="--data.path-column")] = None
    """Source table: the column of paths, where it is called otherwise than in training."""
    label_column: Annotated[str | None, Parameter(name="--data.label-column")] = None
    """Source table: the column of labels."""
    split_column: Annotated[str | None, Parameter(name="--data.split-column")] = None
    """Source table: the column that says train, val or test."""

    def settings(self) -> dict[str, str]:
        """The settings of data that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


OfElsewhere = Annotated[Elsewhere, Parameter(name="*")]
