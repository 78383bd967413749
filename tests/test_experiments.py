"""The experiments that compare arms: what their arms differ in, and the verdict on made-up measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import combinations
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet.config import DataConfig
from alexnet.config.values import flatten, override
from alexnet.data import sources
from alexnet.data.splits import Published, Split
from alexnet.paper import experiments as room
from alexnet.paper.arms import Arms, paired
from alexnet.paper.experiment import Row, missing
from alexnet.paper.experiments import bias, experiments, overfitting, overlap
from alexnet.paper.rules import judge_effect
from alexnet.paper.statistics import detectable, interval_of_mean
from alexnet.runs.folder import Run
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from made_up import around, made_up, states

MODULES = [import_module(f"{room.__name__}.{module.name}") for module in iter_modules(room.__path__)]
ARMED = {module.EXPERIMENT.id: module for module in MODULES if isinstance(getattr(module, "ARMS", None), Arms)}


@pytest.mark.parametrize("id", ARMED)
def test_arms_differ_in_what_they_say_and_in_nothing_else(id: str):
    arms: Arms = ARMED[id].ARMS
    base = flatten(arms.base)
    configs = {arm: flatten(arms.config(arm)) for arm in arms.arms}
    for arm, config in configs.items():
        changes = {name: list(new) if isinstance(new, tuple) else new for name, new in arms.arms[arm].items()}
        assert {name: config[name] for name in changes} == changes
        assert {name for name in config if config[name] != base[name]} <= changes.keys()
    for (first, a), (second, b) in combinations(configs.items(), 2):
        assert a != b, f"{first} and {second} are the same"


@pytest.mark.parametrize("id", ARMED)
@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_has_the_same_seeds(id: str, quick: bool):
    arms: Arms = ARMED[id].ARMS
    jobs = arms.plan({}, quick)
    assert len({job.name for job in jobs}) == len(jobs)
    for arm in arms.arms:
        seeds = [job.config.seed for job in jobs if job.name.rpartition("-seed")[0] == arm]
        assert seeds == list(range(1, 1 + (2 if quick else arms.seeds)))
    assert [job.config.seed for job in jobs] == sorted(job.config.seed for job in jobs), "unequal parts if stopped"
    assert all(job.name.replace("-", "").replace(".", "").isalnum() for job in jobs), "they are names of folders"


def test_rehearsal_changes_all_arms_alike():
    arms = overlap.ARMS
    full, quick = (flatten(arms.config(overlap.APART, quick)) for quick in (False, True))
    assert {name for name in full if full[name] != quick[name]} == set(arms.rehearsal)


def test_pairs_are_of_one_seed_and_whole():
    rows: list[Row] = [
        {"arm": "a", "seed": 2, "x": 1.0},
        {"arm": "b", "seed": 1, "x": 5.0},
        {"arm": "a", "seed": 1, "x": 2.0},
        {"arm": "b", "seed": 2, "x": 6.0},
        {"arm": "a", "seed": 3, "x": 9.0},
        {"arm": "b", "seed": 3, "x": None},
    ]
    assert paired(rows, "a", "b", "x") == ([2.0, 1.0], [5.0, 6.0])


@pytest.mark.parametrize(
    ("difference", "spread", "state"),
    [
        (0.4, 1, "reproduced"),
        (-0.4, 1, "not reproduced"),
        (0.05, 1, "not reproduced"),  # these seeds would have shown 0.4
        (0.2, 1, "direction only"),  # there, and smaller than 0.4 by its whole interval
        (0.3, 1, "reproduced"),
        (-0.05, 1, "not reproduced"),
        (0.05, 5, "inconclusive"),
        (-0.05, 5, "inconclusive"),
    ],
)
def test_effect(difference: float, spread: float, state: str):
    verdict = judge_effect(around(difference, spread), [0.0] * 9, 0.4, "errors")
    assert verdict.state == state
    assert verdict.numbers["difference"] == pytest.approx(difference)


def test_detectable_difference_is_found_four_times_in_five():
    differences = [0.3, -0.1, 0.4, 0.0, -0.6]
    smallest = detectable(differences, [0.0] * 5)
    drawn = np.random.default_rng(0).normal(smallest, np.std(differences, ddof=1), size=(20_000, 5))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / np.sqrt(5))
    assert np.mean(np.abs(t) > 2.776) == pytest.approx(0.8, abs=0.01)  # Student's t, 4 degrees of freedom
    assert detectable([1.0, 2.0], [0.0, 1.0]) == 0.0


def test_interval_of_a_mean():
    low, high = interval_of_mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.776 * np.sqrt(0.5), 3 + 2.776 * np.sqrt(0.5)), rel=1e-3)


def test_effect_without_pairs_or_spread():
    assert judge_effect([1.0], [0.0], 0.4, "errors").state == "inconclusive"
    assert judge_effect([1.0, 1.0], [0.0, 0.0], 0.4, "errors").state == "inconclusive"


def overlap_rows(test: Sequence[float], train: Sequence[float]) -> list[Row]:
    return made_up(
        {
            overlap.OVERLAPPING: {"test": [15.0] * 9, "train": [10.0] * 9},
            overlap.APART: {"test": [15 + more for more in test], "train": [10 + more for more in train]},
        }
    )


@pytest.mark.parametrize(
    ("test", "train", "expected"),
    [
        (around(0.4), around(-0.1, -1), {13: "reproduced", 14: "reproduced"}),
        (around(-0.4), around(0.1, 0.5), {13: "not reproduced", 14: "not reproduced"}),
        (around(0.05), around(0.0, 0.5), {13: "not reproduced", 14: "not reproduced"}),
        (around(0.05, 5), around(0.0), {13: "inconclusive", 14: "inconclusive"}),
    ],
)
def test_overlap(test: Sequence[float], train: Sequence[float], expected: dict[int, str]):
    assert states(overlap.judge(overlap_rows(test, train))) == expected


def test_overlap_of_diverged_runs():
    rows = overlap_rows(around(0.4), around(0.0))
    for row in rows:
        if row["seed"] > 1:
            row.update(test=None, train=None)
    assert states(overlap.judge(rows)) == {13: "inconclusive", 14: "inconclusive"}
    assert overlap.table(rows).lines[0][:3] == (overlap.OVERLAPPING, "9", "15.00 (1 of 9)")
    overlap.draw(rows)


def falling(epochs: float, to: float = 30.0) -> list[float]:
    """Errors that fall by half every `epochs`, a hundred of them, and twenty at lower rates."""
    return [to + 60 * 0.5 ** (epoch / epochs) for epoch in range(100)] + [to - 2.0] * 20


def test_epochs_to_converge():
    steps = [50.0] * 20 + [20.0] * 80
    # Means over five epochs are within a point of 20 from the one on that holds no more of the first part.
    assert overfitting.epochs_to_converge(steps) == 25
    assert overfitting.epochs_to_converge([*steps, *[10.0] * 20]) == 25, (
        "what follows the drop of the rate does not count"
    )
    assert overfitting.epochs_to_converge([3.0, 2.0, 1.0]) == 3


def overfitting_rows(gap: Sequence[float], slow: float) -> list[Row]:
    def arm(test: Sequence[float], epochs: float) -> dict[str, Sequence[Any]]:
        curves = [falling(epochs + 0.05 * i) for i in range(9)]
        return {"test": test, "train": [10.0] * 9, "validation errors": curves, "training errors": curves}

    worse = [15 + more for more in gap]
    return made_up(
        {
            overfitting.BOTH: arm([15.0] * 9, slow),
            overfitting.CROPS: arm(worse, 5),
            overfitting.DROPOUT: arm(worse, slow),
        }
    )


@pytest.mark.parametrize(
    ("gap", "slow", "expected"),
    [
        (around(8), 10, {17: "reproduced", 20: "reproduced", 21: "reproduced"}),
        (around(-8), 11, {17: "not reproduced", 20: "reproduced", 21: "not reproduced"}),
        (around(0.05), 5, {17: "not reproduced", 20: "not reproduced", 21: "not reproduced"}),
        (around(0.5), 5, {17: "direction only", 20: "not reproduced", 21: "direction only"}),
        (around(0.5, 30), 3, {17: "inconclusive", 20: "not reproduced", 21: "inconclusive"}),
    ],
)
def test_overfitting(gap: Sequence[float], slow: float, expected: dict[int, str]):
    assert states(overfitting.judge(overfitting_rows(gap, slow))) == expected


def test_ratio():
    assert overfitting.judge_ratio([5, 10, 40, 12, 80], [10, 9, 30, 11, 12]).state == "inconclusive"
    assert overfitting.judge_ratio([5], [10]).state == "inconclusive"
    assert overfitting.judge_ratio([50, 51, 52], [10, 11, 12]).state == "direction only"
    assert overfitting.judge_ratio([20, 21, 22], [10, 10, 11]).state == "reproduced"
    assert overfitting.judge_ratio([20, 21, 82], [10, 10, 11]).state == "direction only", "up to eight times"


def test_ratio_that_too_few_epochs_could_not_show():
    """Twice as many epochs as 63 are more than 80: whatever dropout does, it was never to be seen."""
    slow, fast = [62, 61, 69, 75, 58], [63, 62, 64, 70, 62]
    assert overfitting.judge_ratio(slow, fast).state == "not reproduced"
    verdict = overfitting.judge_ratio(slow, fast, 80)
    assert (verdict.state, verdict.sentence.endswith("80 epochs could show 1.27 at most.")) == ("inconclusive", True)
    assert overfitting.judge_ratio(slow, fast, 95).state == "not reproduced"
    assert overfitting.judge_ratio([78, 79, 80], [60, 61, 62], 80).state == "direction only", "longer it does take"
    rows = overfitting_rows(around(8), 60)  # as many epochs at the constant rate with the one as with the other
    late = [row | {"validation errors": falling(60)} for row in rows]
    assert states(overfitting.judge(late))[20] == "inconclusive"


def bias_rows(later: Sequence[float], one: float) -> list[Row]:
    """Losses with biases of zero that are higher by `later` than with biases of one."""

    def curve(level: float) -> list[tuple[int, float]]:
        return [(step, 2.5 if step <= bias.FIRST else level) for step in range(50, 1001, 50)]

    arms = {f"{word}-{rate:g}": extra for rate in bias.RATES for word, extra in (("one", [0.0] * 9), ("zero", later))}
    return made_up({arm: {"losses": [curve(one + more) for more in extra]} for arm, extra in arms.items()})


@pytest.mark.parametrize(
    ("later", "one", "state"),
    [
        (around(0.3), 1.8, "reproduced"),
        (around(-0.3), 1.8, "not reproduced"),
        (around(0.005, 0.1), 1.8, "not reproduced"),
        (around(0.005), 1.8, "inconclusive"),
        (around(0.01, 0.01), 2.302, "inconclusive"),  # neither learns
    ],
)
def test_bias(later: Sequence[float], one: float, state: str):
    assert states(bias.judge(bias_rows(later, one))) == {24: state}


@pytest.mark.parametrize(
    ("half", "full", "state"),
    [
        ((around(0.3), 1.8), (around(0.02, 0.002), 1.8), "direction only"),
        ((around(0.3), 1.8), (around(-0.3), 1.8), "inconclusive"),
        ((around(0.3), 1.8), (around(0.01, 0.01), 2.302), "inconclusive"),  # neither learns at the paper's rate
    ],
)
def test_bias_at_two_rates(half: Any, full: Any, state: str):
    rows = [
        row
        for rate, levels in zip(bias.RATES, (half, full), strict=True)
        for row in bias_rows(*levels)
        if row["arm"].endswith(f"-{rate:g}")
    ]
    assert states(bias.judge(rows)) == {24: state}


def test_bias_tells_how_many_started():
    rows = bias_rows(around(0.3), 1.5)
    for row in rows:
        if row["arm"] == "zero-0.01" and row["seed"] > 4:
            row["losses"] = [(step, 2.3) for step, _ in row["losses"]]
    sentence = bias.judge(rows)[24].sentence
    assert "The loss came below 2.25 in 9 of 9 (median step 250) with biases of 1 and 9 of 9" in sentence
    assert "9 of 9 (median step 250) with biases of 1 and 4 of 9 (median step 250) with biases of 0" in sentence


def test_losses_between_logged_steps():
    """The log has means since the epoch began, in epochs of 120 steps."""
    means = [(1, 50, 2.0), (1, 100, 1.5), (2, 150, 1.0), (2, 200, 0.7)]
    steps = [{"kind": "step", "epoch": e, "step": s, "train_loss": m} for e, s, m in means]
    run: Any = SimpleNamespace(epochs=[{"step": 120}, {"step": 240}], metrics=steps)
    assert bias.losses(run) == [(50, 2.0), (100, 1.0), (150, 1.0), (200, pytest.approx(0.7 - 30 / 50 * 0.3, abs=1e-5))]


PAINTED = {
    "S3": overlap_rows(around(0.4), around(0.1)),
    "S4": bias_rows(around(0.3), 1.8),
    "S5": overfitting_rows(around(8), 10),
}


@pytest.mark.parametrize("id", PAINTED)
def test_figures_and_tables_show_every_arm(id: str, tmp_path: Any):
    experiment = experiments()[id]
    rows = PAINTED[id]
    shown = experiment.table(rows)
    assert {line[0] for line in shown.lines} == set(ARMED[id].ARMS.arms)
    assert all(len(line) == len(shown.head) for line in shown.lines)
    experiment.draw(rows).savefig(tmp_path / "figure.png", dpi=50)


def texts() -> Iterator[tuple[str, str]]:
    for id in ARMED:
        experiment = experiments()[id]
        yield from ((id, text) for text in (experiment.method, experiment.rule, experiment.data))


def test_texts_are_whole_sentences():
    for id, text in texts():
        assert text.strip().endswith("."), (id, text)
        assert "{" not in text, (id, text)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures in the place of both data sets."""

    def read(_: DataConfig) -> Published:
        rng = np.random.default_rng(0)
        parts = {}
        for part, count in (("train", 3000), ("test", 40)):
            images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
            parts[part] = Split(images, np.arange(count) % 10, np.arange(count))
        return Published(tuple("abcdefghij"), dict(parts))

    for source in ("cifar10", "cifar100"):
        monkeypatch.setitem(sources.SOURCES, source, sources.Source("made up", read))


ON_CIFAR = [id for id in ARMED if id != "photographs"]  # which has a test of its own, on photographs


@pytest.mark.parametrize(
    "id", [id if id in ("S5", "S7") else pytest.param(id, marks=pytest.mark.slow) for id in ON_CIFAR]
)
def test_from_trainings_to_verdicts(id: str, tmp_path: Path, pictures: None, no_fsync: None, no_figures: None):
    experiment = experiments()[id]
    runs: dict[str, Run] = {}
    while jobs := missing((job for job in experiment.plan(runs, True) if job.config.seed < 2), runs):
        for job in jobs:
            config = override(job.config, {"model.width": min(job.config.model.width or 1, 0.0625)})
            runs[job.name] = train(config, tmp_path / job.name, reporter=Reporter(quiet=True))
    asked: dict[str, Any] = {}

    def recall(name: str, compute: Callable[[], Any]) -> Any:
        assert name not in asked, "two measurements of one name"
        return asked.setdefault(name, compute())

    rows = json.loads(json.dumps(experiment.measure(runs, recall), allow_nan=False))
    assert {row["arm"] for row in rows} >= set(ARMED[id].ARMS.arms)
    assert all(number is not None for row in rows for number in row.values())
    verdicts = experiment.judge(rows)
    assert set(verdicts) == set(experiment.claims)
    assert {verdict.state for verdict in verdicts.values()} == {"inconclusive"}, "of one seed"
    assert experiment.table(rows).lines
    experiment.draw(rows)
