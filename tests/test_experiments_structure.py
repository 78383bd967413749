"""Experiments on the network's structure, its decay and its colours: verdicts, figures and tables of made-up rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alexnet.paper.experiment import Row
from alexnet.paper.experiments import colours, columns, decay, depth, experiments, normalisation, specialisation
from made_up import around, made_up, states


def normalisation_rows(gain: Sequence[float]) -> list[Row]:
    """Three seeds: normalisation takes `gain` off, the wider layer half a point, the drops three."""
    plain = np.array([15.0, 15.1, 14.9])
    tests = {"neither": plain, "lrn": plain - gain, "wide": plain - 0.5, "both": plain - 0.5 - np.array(gain)}
    return made_up({arm: {"test": list(test), "before": list(test + 3)} for arm, test in tests.items()})


@pytest.mark.parametrize(
    ("gain", "state"),
    [
        ([1.9, 2.0, 2.2], "reproduced"),
        ([0.5, 0.6, 0.7], "direction only"),
        ([-0.1, 0.0, 0.1], "not reproduced"),
        ([-3.0, 0.0, 4.0], "inconclusive"),
    ],
)
def test_normalisation(gain: Sequence[float], state: str):
    rows = normalisation_rows(gain)
    assert states(normalisation.judge(rows)) == {12: state}
    found = normalisation.effects(rows)
    assert found["normalisation"].value == pytest.approx(np.mean(gain))
    assert found["wider layer, other decay"].value == pytest.approx(0.5)
    assert found["two drops of the rate"].value == pytest.approx(3.0)


def columns_rows(more: Sequence[float]) -> list[Row]:
    fixed = around(50, 0)
    return made_up(
        {
            columns.TWO: {"test": fixed, "top5": around(20)},
            columns.ONE: {"test": list(50 + np.array(more)), "top5": around(21)},
            columns.WHOLE: {"test": around(49), "top5": around(19)},
        }
    )


@pytest.mark.parametrize(
    ("more", "state"),
    [
        (around(1.5), "reproduced"),
        (around(0.03), "not reproduced"),
        (around(0.5), "direction only"),
        (around(-0.03), "not reproduced"),
        (around(-1), "not reproduced"),
        (around(0.03, 20), "inconclusive"),
    ],
)
def test_columns(more: Sequence[float], state: str):
    assert states(columns.judge(columns_rows(more))) == {10: state}


def depth_rows(losses: Sequence[float], spread: float = 1.0) -> list[Row]:
    """Five seeds; how much worse it is without each of the four layers."""
    arms = {depth.FULL: 0.0, **{f"without-{layer}": loss for layer, loss in zip(depth.REMOVED, losses, strict=True)}}
    return made_up(
        {
            arm: {"test": list(np.roll(around(50 + loss, spread, 5), i)), "top5": around(20, 1, 5)}
            for i, (arm, loss) in enumerate(arms.items())
        }
    )


@pytest.mark.parametrize(
    ("losses", "spread", "state"),
    [
        ((2, 2.05, 1.9, 2.1), 1, "reproduced"),
        ((2, 1, 1.5, 3), 1, "direction only"),
        ((2, 0, 0, 0), 1, "direction only"),
        ((2, 0, 0, -2), 1, "not reproduced"),
        ((0, 0, 0, 0), 1, "not reproduced"),
        ((0, 0, 0, 0), 20, "inconclusive"),
    ],
)
def test_depth(losses: Sequence[float], spread: float, state: str):
    assert states(depth.judge(depth_rows(losses, spread))) == {32: state}


def test_depth_of_diverged_runs():
    rows = [row | {"test": None} if row["arm"] == "without-conv3" else row for row in depth_rows((1, 1, 1, 1))]
    assert states(depth.judge(rows)) == {32: "inconclusive"}
    two = [row for row in depth_rows((1, 1, 1, 1)) if (row["seed"] < 2) == (row["arm"] == "without-conv3")]
    assert states(depth.judge(two)) == {32: "inconclusive"}, "no seed of both"


def decay_rows(more: Sequence[float]) -> list[Row]:
    base = np.array(around(40, 0))
    trained = {decay.NONE: base + more, decay.SMALL: base, decay.PAPER: base}
    return made_up({arm: {"train": list(train), "test": around(45)} for arm, train in trained.items()})


@pytest.mark.parametrize(
    ("more", "state"),
    [
        (around(1), "reproduced"),
        (around(-1), "not reproduced"),
        (around(0.05), "not reproduced"),
        (around(0.2), "direction only"),
        (around(0.05, 9), "inconclusive"),
    ],
)
def test_decay(more: Sequence[float], state: str):
    assert states(decay.judge(decay_rows(more))) == {23: state}


def colours_rows(more: Sequence[float]) -> list[Row]:
    moved = {f"shifted {times:g}": around(30 + times) for times in colours.SHIFTS}
    worse = {name: list(np.array(errors) + 3) for name, errors in moved.items()}
    return made_up(
        {
            colours.WITHOUT: {"test": list(30 + np.array(more)), **worse},
            colours.WITH: {"test": around(30, 0), **moved},
        }
    )


@pytest.mark.parametrize(
    ("more", "state"),
    [
        (around(1.2), "reproduced"),
        (around(-1), "not reproduced"),
        (around(0.05), "not reproduced"),
        (around(0.2), "direction only"),
        (around(0.05, 9), "inconclusive"),
    ],
)
def test_colours(more: Sequence[float], state: str):
    assert states(colours.judge(colours_rows(more))) == {18: state}


def kernels(apart: bool) -> list[float]:
    """Shares of colour of 48 kernels, a half of which sees colour: one column's, or every second one."""
    shares = np.tile(np.linspace(0.5, 0.9, 24), 2)
    shares[slice(24) if apart else slice(0, None, 2)] -= 0.45
    return list(shares)


def specialisation_rows(columns: int, control: int, runs: int = 10) -> list[Row]:
    """Rows in which so many runs of either arm have halves that differ."""
    return made_up(
        {
            specialisation.TWO_COLUMNS: {"chroma": [kernels(i < columns) for i in range(runs)]},
            specialisation.CONTROL: {"chroma": [kernels(i < control) for i in range(runs)]},
        }
    )


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.paper.statistics._DRAWS", 300)


@pytest.mark.parametrize(
    ("columns", "control", "runs", "state"),
    [
        (8, 1, 10, "reproduced"),
        (4, 1, 10, "direction only"),
        (2, 0, 10, "not reproduced"),
        (10, 3, 10, "inconclusive"),
        (4, 0, 4, "inconclusive"),
    ],
)
def test_specialisation(columns: int, control: int, runs: int, state: str):
    assert states(specialisation.judge(specialisation_rows(columns, control, runs))) == {30: state}


def test_columns_that_could_not_have_been_seen():
    """Shares near nothing, but of one kernel in six: twice as much of that is lost in what they differ by."""
    shares = [0.9 if i % 12 in (5, 6) else 0.01 for i in range(48)]
    verdict = specialisation.judge_columns([shares] * 10)
    assert verdict.state == "inconclusive"
    assert "found in 0%" in verdict.sentence


def test_columns_that_differ_a_little_specialise_in_direction_only():
    shares = [0.6 + 0.001 * i for i in range(24)] + [0.5 + 0.001 * i for i in range(24)]
    assert specialisation.p_value(shares) < 0.01
    assert specialisation.judge_specialisation([shares] * 10)[0] == "direction only"
    assert specialisation.judge_specialisation([kernels(apart=True)] * 10)[0] == "reproduced"


def test_p_value_is_that_of_the_halves():
    assert specialisation.p_value(kernels(apart=True)) < 0.01
    assert specialisation.p_value(kernels(apart=False)) > 0.2


PAINTED = {
    "S2": normalisation_rows([1.9, 2.0, 2.2]),
    "S6": decay_rows(around(1)),
    "S7": colours_rows(around(1.2)),
    "S9": specialisation_rows(8, 1),
    "S10": columns_rows(around(1.5)),
    "S11": depth_rows((2, 1, 1.5, 3)),
}


@pytest.mark.parametrize("id", PAINTED)
def test_figures_and_tables_show_every_arm(id: str, tmp_path: Path):
    experiment, rows = experiments()[id], PAINTED[id]
    shown = experiment.table(rows)
    assert {line[0] for line in shown.lines} == {row["arm"] for row in rows}
    assert all(len(line) == len(shown.head) for line in shown.lines)
    experiment.draw(rows).savefig(tmp_path / "figure.png", dpi=50)
