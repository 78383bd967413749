"""The experiments that compare arms: what their arms differ in, and the verdict on made-up measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pytest

from alexnet.config.values import flatten
from alexnet.paper import experiments as room
from alexnet.paper.arms import Arms, judge_effect, paired
from alexnet.paper.experiment import Row, Verdict
from alexnet.paper.experiments import bias, experiments, overfitting, overlap

MODULES = [import_module(f"{room.__name__}.{module.name}") for module in iter_modules(room.__path__)]
ARMED = {module.EXPERIMENT.id: module for module in MODULES if isinstance(getattr(module, "ARMS", None), Arms)}


@pytest.mark.parametrize("id", ARMED)
def test_arms_differ_in_what_they_say_and_in_nothing_else(id: str):
    arms: Arms = ARMED[id].ARMS
    base = flatten(arms.base)
    for arm, changes in arms.arms.items():
        config = flatten(arms.config(arm))
        differing = {name for name in config if config[name] != base[name]}
        assert differing <= changes.keys()
        assert {name: config[name] for name in changes} == {
            name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()
        }
    named = [set(changes.items()) for changes in map(dict, arms.arms.values()) if not _unhashable(changes)]
    assert len({frozenset(pairs) for pairs in named}) == len(named), "two arms are the same"


def _unhashable(changes: Mapping[str, Any]) -> bool:
    return any(isinstance(value, list) for value in changes.values())


@pytest.mark.parametrize("id", ARMED)
@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_has_the_same_seeds(id: str, quick: bool):
    arms: Arms = ARMED[id].ARMS
    jobs = ARMED[id].EXPERIMENT.plan({}, quick)
    assert len({job.name for job in jobs}) == len(jobs)
    for arm in arms.arms:
        seeds = [job.config.seed for job in jobs if job.name.rpartition("-seed")[0] == arm]
        assert seeds == list(range(1, 1 + (2 if quick else arms.seeds)))
    assert [job.config.seed for job in jobs] == sorted(job.config.seed for job in jobs), "unequal parts if stopped"
    assert all(job.name.replace("-", "").isalnum() for job in jobs), "they are names of folders"


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


SPREAD = np.array([-0.2, -0.1, 0.0, 0.1, 0.2, -0.15, 0.15, 0.05, -0.05])


def differing(difference: float, spread: float = 1.0) -> Sequence[float]:
    """Nine numbers around it, to be compared with zeros."""
    return list(difference + spread * SPREAD)


@pytest.mark.parametrize(
    ("difference", "spread", "state"),
    [
        (0.4, 1, "reproduced"),
        (-0.4, 1, "not reproduced"),
        (0.05, 1, "direction only"),
        (-0.05, 1, "not reproduced"),
        (0.05, 5, "inconclusive"),
        (-0.05, 5, "inconclusive"),
    ],
)
def test_effect(difference: float, spread: float, state: str):
    verdict = judge_effect(differing(difference, spread), [0.0] * 9, 0.4, "errors")
    assert verdict.state == state
    assert verdict.numbers["difference"] == pytest.approx(difference)


def test_effect_without_pairs_or_spread():
    assert judge_effect([1.0], [0.0], 0.4, "errors").state == "inconclusive"
    assert judge_effect([1.0, 1.0], [0.0, 0.0], 0.4, "errors").state == "inconclusive"


def made_up(arms: Mapping[str, Mapping[str, Any]], count: int = 9) -> list[Row]:
    """Rows of arms: a list gives one value a seed, a function of the seed's number as well, else all seeds have it."""

    def pick(value: Any, i: int) -> Any:
        return value(i) if callable(value) else value[i] if isinstance(value, list) else value

    return [
        {"arm": arm, "seed": i + 1, **{name: pick(value, i) for name, value in figures.items()}}
        for i in range(count)
        for arm, figures in arms.items()
    ]


def overlap_rows(test: Sequence[float], train: Sequence[float]) -> list[Row]:
    return made_up(
        {
            overlap.OVERLAPPING: {"test": 15.0, "train": 10.0},
            overlap.APART: {"test": list(15 + np.array(test)), "train": list(10 + np.array(train))},
        }
    )


def states(verdicts: Mapping[int, Verdict]) -> dict[int, str]:
    return {number: verdict.state for number, verdict in verdicts.items()}


@pytest.mark.parametrize(
    ("test", "train", "expected"),
    [
        (differing(0.4), differing(-0.1, -1), {13: "reproduced", 14: "reproduced"}),
        (differing(-0.4), differing(0.1, 0.5), {13: "not reproduced", 14: "not reproduced"}),
        (differing(0.05), differing(0.0, 0.5), {13: "direction only", 14: "direction only"}),
        (differing(0.05, 5), differing(0.0), {13: "inconclusive", 14: "inconclusive"}),
    ],
)
def test_overlap(test: Sequence[float], train: Sequence[float], expected: dict[int, str]):
    assert states(overlap.judge(overlap_rows(test, train))) == expected


def test_overlap_of_diverged_runs():
    rows = overlap_rows(differing(0.4), differing(0.0))
    for row in rows[2:]:
        row.update(test=None, train=None)
    assert states(overlap.judge(rows)) == {13: "inconclusive", 14: "inconclusive"}
    assert overlap.table(rows).lines[0][:3] == (overlap.OVERLAPPING, "9", "15.00")
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
    shared: dict[str, Any] = {"train": 10.0, "training errors": falling(5)}
    quick, slower = ({"validation errors": lambda i, e=epochs: falling(e + 0.05 * i)} for epochs in (5, slow))
    return made_up(
        {
            overfitting.BOTH: {"test": 15.0, **shared, **slower},
            overfitting.CROPS: {"test": list(15 + np.array(gap)), **shared, **quick},
            overfitting.DROPOUT: {"test": list(15 + np.array(gap)), **shared, **slower},
            overfitting.NEITHER: {"test": 30.0, **shared, **quick},
        }
    )


@pytest.mark.parametrize(
    ("gap", "slow", "expected"),
    [
        (differing(8), 10, {17: "reproduced", 20: "reproduced", 21: "reproduced"}),
        (differing(-8), 11, {17: "not reproduced", 20: "reproduced", 21: "not reproduced"}),
        (differing(0.05), 5, {17: "direction only", 20: "not reproduced", 21: "direction only"}),
        (differing(0.5, 30), 3, {17: "inconclusive", 20: "not reproduced", 21: "inconclusive"}),
    ],
)
def test_overfitting(gap: Sequence[float], slow: float, expected: dict[int, str]):
    assert states(overfitting.judge(overfitting_rows(gap, slow))) == expected


def test_ratio():
    assert overfitting.judge_ratio([5, 10, 40, 12, 80], [10, 9, 30, 11, 12]).state == "inconclusive"
    assert overfitting.judge_ratio([5], [10]).state == "inconclusive"
    assert overfitting.judge_ratio([50, 51, 52], [10, 11, 12]).state == "direction only"


def bias_rows(later: Sequence[float], one: float) -> list[Row]:
    """Losses with biases of zero that are higher by `later` than with biases of one."""

    def curve(level: float) -> list[tuple[int, float]]:
        return [(step, 2.5 if step <= bias.FIRST else level) for step in range(50, 1001, 50)]

    arms = {f"{init}-{word}": extra for init in bias.INITS for word, extra in (("one", [0.0] * 9), ("zero", later))}
    return made_up({arm: {"losses": lambda i, e=extra: curve(one + e[i])} for arm, extra in arms.items()})


@pytest.mark.parametrize(
    ("later", "one", "state"),
    [
        (differing(0.3), 1.8, "reproduced"),
        (differing(-0.3), 1.8, "not reproduced"),
        (differing(0.005, 0.1), 1.8, "direction only"),
        (differing(0.005), 1.8, "inconclusive"),
        (differing(0.01, 0.01), 2.302, "inconclusive"),  # neither learns
    ],
)
def test_bias(later: Sequence[float], one: float, state: str):
    assert states(bias.judge(bias_rows(later, one))) == {24: state}


PAINTED = {
    "S3": overlap_rows(differing(0.4), differing(0.1)),
    "S4": bias_rows(differing(0.3), 1.8),
    "S5": overfitting_rows(differing(8), 10),
}


@pytest.mark.parametrize("id", ARMED)
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
