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
from alexnet.paper.experiment import Job, Recall, Row, Table, Verdict, has_diverged, missing
from alexnet.paper.statistics import detectable, paired_t

if TYPE_CHECKING:
    from alexnet.runs.folder import Run

LEVEL = 0.05  # two-sided
MOST_RATES = 5  # tried in one search, those beyond the first because the best was at an end
EFFECT = (
    "By the paired t-test over the seeds, two-sided, with a 95 % interval of the difference: where p < 0.05, "
    '"reproduced" if the difference has the paper\'s sign and its interval reaches {least}, "direction only" if it '
    'has the sign and is smaller, "not reproduced" if it has the other sign. Where p is larger, the spread of the '
    'pairs says how small a difference these seeds would show with a probability of 80 %: "inconclusive" if that is '
    'more than {least}, and else "not reproduced".'
)
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


def paired(rows: Sequence[Row], first: str, second: str, figure: str) -> tuple[list[float], list[float]]:
    """A figure of two arms, of the seeds for which both have it, in the order of the seeds."""
    a, b = (
        {row["seed"]: row[figure] for row in rows if row["arm"] == arm and row[figure] is not None}
        for arm in (first, second)
    )
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def judge_effect(more: Sequence[float], less: Sequence[float], least: float, what: str, claimed: str = "") -> Verdict:
    """The verdict on a claim that `more` is larger than `less`, pair by pair, by the rule `EFFECT`, where a difference
    of `least` is the smallest that would matter.

    `what` says what the difference is of, with its unit, and `claimed` what the paper has for it.
    """
    what = what[0].upper() + what[1:]
    if len(more) < 2:
        return Verdict("inconclusive", f"{what}: fewer than two pairs of runs ended.")
    smallest = detectable(more, less)
    numbers = {"difference": mean(more) - mean(less), "smallest": smallest, "pairs": float(len(more))}
    if smallest < 1e-9:  # of rounding
        return Verdict(
            "inconclusive", f"{what}: {numbers['difference']:.2f} in every pair of runs, no spread.", numbers
        )
    found = paired_t(more, less)
    assert found.p is not None
    numbers |= {"low": found.low, "high": found.high, "p": found.p}
    paper = f"; the paper has {claimed}" if claimed else ""
    sentence = (
        f"{what}: {found}, p = {found.p:.2g}, {len(more)} pairs, at whose spread a difference of {smallest:.2g} is "
        f"found four times in five{paper}."
    )
    if found.p < LEVEL and found.value > 0:
        return Verdict("reproduced" if found.high >= least else "direction only", sentence, numbers)
    weak = found.p >= LEVEL and smallest > least
    return Verdict("inconclusive" if weak else "not reproduced", sentence, numbers)


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
