"""What an experiment found, as a file: its rows, and where and from what they were made (no torch here).

Two kinds of files hold it: result.json in the folder of a reproduction, and the results that come with the package,
`published/ID.json`. Verdicts are never read from a file: the experiment judges the rows anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet.errors import DataError, UsageError, unknown
from alexnet.files import write_atomically
from alexnet.paper.experiment import Experiment, Row, Verdict
from alexnet.paper.experiments import experiments, experiments_on
from alexnet.paper.imagenet import STUDIES, imagenet_experiment

PUBLISHED = Path(__file__).parent / "published"
REPRODUCTIONS = Path("runs") / "reproduce"


@dataclass(frozen=True)
class Outcome:
    """What came of one experiment."""

    experiment: str
    quick: bool
    """Whether it was a rehearsal, whose figures say nothing about the paper."""
    rows: list[Row]
    made: dict[str, Any]
    """When, by which revision, on which machine, with which versions, of how many runs that took how many hours."""

    def verdicts(self, experiment: Experiment) -> dict[int, Verdict]:
        """What these rows say of the experiment's claims. Raises UsageError without SciPy."""
        return experiment.judge(self.rows)

    def write(self, file: Path, **more: Any) -> None:
        """Write it as JSON, with `more` in its place or beside it for whoever reads the file. Raises OSError."""
        fields = []
        for name, value in {**asdict(self), **more}.items():
            rows = [json.dumps(row, allow_nan=False) for row in value] if name == "rows" else None
            text = json.dumps(value, allow_nan=False) if rows is None else "[\n  " + ",\n  ".join(rows) + "\n ]"
            fields.append(f' "{name}": {text}')
        write_atomically(file, ("{\n" + ",\n".join(fields) + "\n}\n").encode())


def read_outcome(file: Path) -> Outcome:
    """The outcome in a file. Raises DataError where it holds none."""
    try:
        content = json.loads(file.read_bytes())
        kinds = {"experiment": str, "quick": bool, "rows": list, "made": dict}
        whole = all(isinstance(content[name], kind) for name, kind in kinds.items())
        if whole and all(isinstance(row, dict) for row in content["rows"]):
            return Outcome(**{name: content[name] for name in kinds})
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        pass
    raise DataError(f"{file} holds no result of an experiment: delete it and run alexnet reproduce again.")


def published_outcome(experiment: str) -> Outcome | None:
    """The result that comes with the package; None where there is none yet."""
    file = PUBLISHED / f"{experiment}.json"
    return read_outcome(file) if file.is_file() else None


def own_outcome(experiment: str) -> Outcome | None:
    """The result of `alexnet reproduce` in the current folder; None where it has not ended, or was a rehearsal."""
    file = REPRODUCTIONS / experiment / "result.json"
    outcome = read_outcome(file) if file.is_file() else None
    return None if outcome is None or outcome.quick else outcome


def default_folder(experiment: str, quick: bool) -> Path:
    """Where a reproduction is when no folder is named."""
    return REPRODUCTIONS / f"{experiment}{'-quick' if quick else ''}"


@dataclass(frozen=True)
class Finding:
    """What one experiment says of one claim."""

    experiment: Experiment
    verdict: Verdict
    outcome: Outcome | None
    """What the verdict follows from; None where the experiment has not been run."""
    own: bool = False
    """Whether it was run in the current folder, and does not come with the package."""


def findings(claim: int, own: bool = True) -> list[Finding]:
    """What the small experiments say of the claim with this number, or that they have not been run, with the command
    and the hours; with `own` the results in the current folder too, and first. Raises UsageError without SciPy, and
    DataError for a damaged result."""
    found = []
    for experiment in experiments_on(claim):
        known = _known(experiment, claim, own)
        found += known or [Finding(experiment, Verdict("not yet run", command_and_time(experiment)), None)]
    return found


def on_imagenet(claim: int, own: bool = True) -> list[Finding]:
    """What trainings on ImageNet say of the claim with this number; nothing where none was run. Raises as `findings`
    does."""
    return _known(imagenet_experiment(claim), claim, own) if claim in STUDIES else []


def _known(experiment: Experiment, claim: int, own: bool) -> list[Finding]:
    results = [(own_outcome(experiment.id), True)] if own else []
    results.append((published_outcome(experiment.id), False))
    return [
        Finding(experiment, outcome.verdicts(experiment)[claim], outcome, mine)
        for outcome, mine in results
        if outcome is not None
    ]


def runnable(claim: int) -> list[Experiment]:
    """The experiments on a claim: the small ones, and the one on ImageNet."""
    return [*experiments_on(claim), *([imagenet_experiment(claim)] if claim in STUDIES else [])]


def experiment_called(id: str) -> Experiment:
    """An experiment by its id, with capitals or without: S1, or imagenet-11. Raises UsageError if there is none."""
    known = {name.lower(): experiment for name, experiment in experiments().items()}
    kind, _, number = id.lower().partition("imagenet-")
    if not kind and number.isdecimal():
        return imagenet_experiment(int(number))
    if id.lower() not in known:
        raise UsageError(unknown("experiment", id, experiments()))
    return known[id.lower()]


def command_and_time(experiment: Experiment) -> str:
    """What to type for an experiment, and how long it takes."""
    return f"{command_of(experiment)} ({time_of(experiment)})"


def command_of(experiment: Experiment) -> str:
    """The command that runs an experiment."""
    return f"alexnet reproduce {experiment.id}{' --data.root FOLDER' if experiment.data else ''}"


def time_of(experiment: Experiment) -> str:
    """How long an experiment takes, and where."""
    return f"about {experiment.hours:g} h on {experiment.machine}"
