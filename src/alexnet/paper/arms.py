"""Experiments that compare arms: trainings that differ in a few named settings, each repeated with the same seeds.

Seed by seed two arms see the same images in the same order and, where all layers have the same shapes, begin with the
same weights: so differences are taken pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.paper.experiment import Job, Recall, Row, Table, has_diverged, missing
from alexnet.paper.plots import draw_strips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

MOST_RATES = 5  # tried in one search, those beyond the first because the best was at an end
WHERE10, WHERE100 = (
    f"--data.root is the folder that holds {folder}, or receives the download."
    for folder in ("cifar-10-batches-py", "cifar-100-python")
)
Figures = Mapping[str, Callable[["Run", Recall], Any]]
"""What is measured of a run that has ended, by the name that it has in the rows."""


@dataclass(frozen=True)
class Arms:
    """Trainings to compare."""

    base: TrainConfig
    arms: Mapping[str, Mapping[str, Any]]
    """What differs from `base` in each arm: settings by dotted name."""
    seeds: int
    rehearsal: Mapping[str, Any] = field(default_factory=dict)
    """Settings for all arms of the rehearsal, which has two seeds."""

    def plan(self, _: Mapping[str, Run], quick: bool) -> list[Job]:
        """All arms with the first seed, then all with the second: wherever it is stopped, the arms have equal parts."""
        return [
            Job(f"{arm}-seed{seed}", replace(self.config(arm, quick), seed=seed))
            for seed in range(1, (2 if quick else self.seeds) + 1)
            for arm in self.arms
        ]

    def config(self, arm: str, quick: bool = False) -> TrainConfig:
        """The settings of an arm, but for the seed."""
        return override(override(self.base, self.rehearsal if quick else {}), self.arms[arm])

    def measure(self, figures: Figures, runs: Mapping[str, Run], recall: Recall) -> list[Row]:
        """One row a run: "arm", "seed" and the figures, which are null where it diverged."""
        rows: list[Row] = []
        for arm in self.arms:
            for name, run in runs.items():
                if name.rpartition("-seed")[0] == arm:
                    lost = has_diverged(run)
                    found = {figure: None if lost else take(run, recall) for figure, take in figures.items()}
                    rows.append({"arm": arm, "seed": run.config.seed, **found})
        return rows

    def draw(self, rows: Sequence[Row], labels: Mapping[str, str]) -> Figure:
        """Figures of every run, arm by arm, a panel for each figure, by its label."""
        return draw_strips(
            {label: {arm: values(rows, arm, name) for arm in self.arms} for name, label in labels.items()}
        )

    def measuring(self, figures: Figures) -> Callable[[Mapping[str, Run], Recall], list[Row]]:
        """`measure` of these figures, as an experiment wants it."""
        return partial(self.measure, figures)


def error(split: str, weights: Path | None = None) -> Callable[[Run, Recall], float]:
    """The top-1 error of a run's last weights, or of other `weights` that it kept, on a whole split, in percent, as
    evaluation sees it."""

    def take(run: Run, recall: Recall) -> float:
        def compute() -> float:
            from alexnet.inference.evaluation import evaluate

            return 100 * evaluate(file, split, skip_bad=True).top1_error

        file = weights or run.last
        found: float = recall(f"{run.path.name}-{file.stem}-{split}", compute)
        return found

    return take


def final_error(run: Run, _: Recall) -> float:
    """The top-1 error that a run ended with, in percent."""
    assert run.test is not None
    return 100 * (1 - float(run.test["top1"]))


def top5_error(run: Run, _: Recall) -> float:
    """The top-5 error that a run ended with, in percent."""
    assert run.test is not None
    return 100 * (1 - float(run.test["top5"]))


def lowest_validation_error(run: Run) -> float:
    """In percent, of the epoch whose weights are tested; infinite for a run that diverged: the best of several learning
    rates is the one for which this is lowest."""
    return inf if has_diverged(run) else 100 * (1 - max(float(row["val_top1"]) for row in run.epochs))


def search_rate(
    job: Callable[[float], Job],
    rates: Sequence[float],
    finished: Mapping[str, Run],
    most: int = MOST_RATES,
    rank: Callable[[Run], Any] = lowest_validation_error,
) -> tuple[list[Job], float | None]:
    """The jobs that try learning rates, and the best rate (the lowest `rank`) once all of these have ended, else None.

    While the best lies at an end of the rates tried, so that a better one may lie beyond, one more is tried there, half
    as large as the smallest or twice as large as the largest, up to `most` in all.
    """
    while True:
        rates = sorted(rates)
        tried = [job(rate) for rate in rates]
        if missing(tried, finished):
            return tried, None
        best = min(tried, key=lambda job: rank(finished[job.name])).config.optim.lr
        beyond = {rates[0]: rates[0] / 2, rates[-1]: 2 * rates[-1]}.get(best)
        if beyond is None or len(rates) >= most:
            return tried, best
        rates = [*rates, beyond]


def values(rows: Sequence[Row], arm: str, figure: str) -> list[float]:
    """A figure of all runs of an arm that have it."""
    return [row[figure] for row in rows if row["arm"] == arm and row[figure] is not None]


def with_gap(rows: Sequence[Row]) -> list[Row]:
    """The rows with the "gap", the test error less that on the training split."""
    return [row | {"gap": None if row["test"] is None else row["test"] - row["train"]} for row in rows]


def paired(rows: Sequence[Row], first: str, second: str, figure: str) -> tuple[list[float], list[float]]:
    """A figure of two arms, of the seeds for which both have it, in the order of the seeds."""
    a, b = (
        {row["seed"]: row[figure] for row in rows if row["arm"] == arm and row[figure] is not None}
        for arm in (first, second)
    )
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def table_of(rows: Sequence[Row], figures: Mapping[str, str]) -> Table:
    """One line an arm: how many runs, and the mean and standard deviation of each figure, by its heading; where not all
    runs have a figure, of how many it is."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        runs = sum(row["arm"] == arm for row in rows)
        lines.append((arm, str(runs), *(_spread(values(rows, arm, figure), runs) for figure in figures)))
    return Table(("arm", "runs", *figures.values()), tuple(lines))


def _spread(numbers: Sequence[float], runs: int) -> str:
    if not numbers:
        return "none"
    digits = 2 if abs(mean(numbers)) < 100 else 0
    spread = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    part = f" ({len(numbers)} of {runs})" if len(numbers) < runs else ""
    return f"{mean(numbers):.{digits}f}{spread}{part}"
