"""What an experiment is: the runs it wants, what it measures of them, and the rule by which it judges (no torch here).

An experiment tests claims of the paper with runs of minutes or hours. It is one file under `paper/experiments`, which
ends in a constant `EXPERIMENT`; nothing else has to know of it. `alexnet reproduce ID` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

from alexnet.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

State = Literal["reproduced", "direction only", "inconclusive", "not reproduced", "not testable here", "not yet run"]
STATES: tuple[State, ...] = get_args(State)
Row = dict[str, Any]
"""One line of an experiment's measurements: plain JSON, for example {"arm": "tanh", "seed": 3, "epochs": 31.5}."""
Recall = Callable[[str, Callable[[], Any]], Any]
"""`recall(name, compute)` gives what `compute()` returned, plain JSON, the first time that this was asked for under
`name` in the experiment's folder: for evaluations that take minutes, which a kill shall not repeat."""


@dataclass(frozen=True)
class Job:
    """One training that an experiment wants."""

    name: str
    """Its name within the experiment, which is its folder's too: "relu-0.001-seed3"."""
    config: TrainConfig
    """All of its settings but where the data lie: `reproduce` sets data.root."""


@dataclass(frozen=True)
class Verdict:
    """What an experiment says of one claim."""

    state: State
    sentence: str
    """The finding in one or two sentences, with its figures and how many seeds they come from."""
    numbers: dict[str, float] = field(default_factory=dict)
    """The figures that the state follows from, by name; those that are not finite are left out, as of samples without
    any spread."""

    def __post_init__(self) -> None:
        assert self.state in STATES, self.state
        object.__setattr__(self, "numbers", {name: value for name, value in self.numbers.items() if isfinite(value)})


@dataclass(frozen=True)
class Table:
    """Measurements as text: a head and lines of as many cells."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Experiment:
    """A test of claims of the paper, or of something beside them; its texts are for a student of the paper.

    The order of work: `plan` is asked for jobs until all of them are finished, `measure` makes rows of the runs, and
    from these rows alone, which are published, come `judge`, `draw` and `table`.
    """

    id: str
    """What `alexnet reproduce` calls it: "S1"."""
    title: str
    claims: tuple[int, ...]
    """The numbers of the claims that it judges, each of which `judge` must have a verdict on; there may be none."""
    method: str
    """What is trained and measured: network, settings, seeds, and where they differ from the paper's."""
    rule: str
    """When a claim counts as reproduced and when not: written before the run, and what `judge` computes."""
    data: str
    """Which data, whose substitute they are if they are not the paper's, and how --data.root finds them."""
    hours: float
    """How long it takes, roughly, on `machine`."""
    plan: Callable[[Mapping[str, Run], bool], list[Job]]
    """All jobs wanted given those that have ended, by name: `plan(finished, quick)`.

    Called anew whenever a job has ended. What depends on results (the best of several rates) is asked for once the jobs
    it depends on are all among `finished`, so that the same jobs are run in whichever order they end. A finished run
    may have diverged: see `has_diverged`. With `quick` the plan is a rehearsal of a few minutes. An experiment without
    training returns no jobs.
    """
    measure: Callable[[Mapping[str, Run], Recall], list[Row]]
    """Rows from the runs of the whole plan, or, with `run_by_run`, of any part of it: from their metrics and test
    results, or from evaluations of its own, which go through `recall`."""
    judge: Callable[[Sequence[Row]], dict[int, Verdict]]
    """A verdict on each of `claims`. An experiment without the power to see the claimed effect must end "inconclusive",
    never "not reproduced"; without rows for a claim: "not yet run"."""
    draw: Callable[[Sequence[Row]], Figure]
    table: Callable[[Sequence[Row]], Table]
    run_by_run: bool = False
    """Whether what `measure` evaluates of a run follows from that run alone: then it is evaluated as soon as the run
    has ended, and whoever carries the folder to another machine may leave the weights behind."""
    machine: str = "two cores"
    open_questions: tuple[str, ...] = ()
    """What remains unknown, in sentences."""


def seeded(name: str, config: TrainConfig, seeds: Iterable[int]) -> list[Job]:
    """The same training with several seeds: jobs NAME-seed0, NAME-seed1 ..."""
    return [Job(f"{name}-seed{seed}", replace(config, seed=seed)) for seed in seeds]


def has_diverged(run: Run) -> bool:
    """Whether a run that has ended did so because its loss left the range of finite numbers."""
    return run.status.get("state") != "finished"


def missing(jobs: Iterable[Job], finished: Mapping[str, Run]) -> list[Job]:
    """The jobs that have not ended yet; none of them: a stage is complete."""
    return [job for job in jobs if job.name not in finished]
