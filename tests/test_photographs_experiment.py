"""The experiment on photographs: its arms and rate, its verdicts on made-up measurements, and a real tiny run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet.config.values import flatten, override
from alexnet.paper.experiment import Row
from alexnet.paper.experiments import overfitting, photographs
from alexnet.paper.experiments.specialisation import judge_columns
from alexnet.paper.reporter import Reporter
from alexnet.paper.reproduce import reproduce
from alexnet.runs.folder import Run

ARMS = tuple(photographs.ARMS.arms)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch):
    """Permutations and resamples enough for figures that leave no doubt."""
    monkeypatch.setattr("alexnet.paper.statistics._DRAWS", 1000)


def ended(folder: Path, name: str, error: float) -> Run:
    """A run that has ended with this validation error, in percent."""
    run = Run(folder / name)
    run.path.mkdir()
    run.write_status(state="finished")
    row = {"kind": "epoch", "epoch": 1, "step": 1, "val_top1": 1 - error / 100}
    (run.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return run


def test_arms_wait_for_the_rate_and_share_it(tmp_path: Path):
    names = [f"rate{rate:g}" for rate in photographs.RATES]
    first = [job.name for job in photographs.plan({}, False)]
    assert first == [f"{photographs.WHOLE}-seed0", *names]
    finished = {name: ended(tmp_path, name, error) for name, error in zip(names, (30, 31, 29), strict=True)}
    best = photographs.RATES[2]
    beyond = f"rate{2 * best:g}"
    assert [job.name for job in photographs.plan(finished, False)] == [*first, beyond]
    finished[beyond] = ended(tmp_path, beyond, 32)
    jobs = {job.name: flatten(job.config) for job in photographs.plan(finished, False)}
    arms = {name: flat for name, flat in jobs.items() if name.rpartition("-seed")[0] in ARMS}
    assert len(arms) == len(ARMS) * 3
    assert len(jobs) == len(arms) + 5
    assert {flat["optim.lr"] for flat in arms.values()} == {best}
    # They differ in what their names say, from the run that chose the rate in nothing but the seed.
    both = jobs[f"rate{best:g}"]
    changes = {"model.dropout", "data.pad", "data.flip", "seed"}
    for name, flat in arms.items():
        differing = {key for key in flat if flat[key] != both[key]}
        assert differing <= changes
        if name.startswith(f"{photographs.BOTH}-seed"):
            assert differing == {"seed"}


def test_all_arms_are_tested_on_the_same_pixels():
    configs = [photographs.ARMS.config(arm).data for arm in ARMS]
    assert {(data.resize, data.crop) for data in configs} == {(112, 112)}
    padded = {data.pad for data in configs if data.flip}
    assert {(112, 112 + 2 * pad) for pad in padded} == {(112, 128)}  # 7/8, as 224 of 256


def chroma(seed: int, difference: float) -> list[float]:
    """Shares of 48 kernels of which the second half has more colour."""
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.concatenate([rng.uniform(0.1, 0.5, 24), rng.uniform(0.1, 0.5, 24) + difference])]


def made_up(gap: float = 8.0, slow: float = 4.0, views: tuple[int, int] = (60, 120)) -> list[Row]:
    """Rows of three seeds an arm and of the whole network: without dropout or crops the gap is larger by `gap`, with
    dropout the error halves every `slow` epochs and else every two; `views` are photographs that only one view, and
    only ten, have right."""
    rows: list[Row] = []
    for seed in (1, 2, 3):
        for arm in ARMS:
            lacking = {photographs.BOTH: 0, photographs.CROPS: 1, photographs.DROPOUT: 1}[arm]
            pace = slow if arm in (photographs.BOTH, photographs.DROPOUT) else 2
            curve = [20 + 70 * 0.5 ** (epoch / pace) for epoch in range(photographs.CONSTANT)]
            curve += [5.0] * (photographs.EPOCHS - photographs.CONSTANT)
            errors = {"test": 25 + gap * lacking + 0.1 * seed * lacking, "train": 10.0}
            more = {"validation errors": curve, "training errors": curve, "rate": 0.01}
            rows.append({"arm": arm, "seed": seed, **errors, **more})
    rng, (one, ten) = np.random.default_rng(0), views
    run: Any = SimpleNamespace(last=None)
    kernels = rng.normal(size=(8, 3, 5, 5))
    trained = SimpleNamespace(kernels=kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.inference.trained.open_trained", lambda _: trained)
        patch.setattr("alexnet.inference.kernels.first_kernels", lambda trained: trained.kernels)
        packed = photographs._pack_kernels(run)
    assert np.abs(photographs.unpack_kernels(packed) - kernels).max() < np.abs(kernels).max() / 200
    whole = {
        **rows[0],
        "arm": photographs.WHOLE,
        "seed": 0,
        "chroma": chroma(9, 0.4),
        "views": {"images": 3925, "one": 3000, "ten": 3000 + ten - one, "only one": one, "only ten": ten},
        "neighbours": {
            "images": 100,
            "mean rank": 0.2,
            "agree": [0.8, 0.3],
            "far": {"5": 50, "6": 50},
            "more agree": {"2": 50, "4": 50},
        },
        "kernels": packed,
    }
    return [*rows, whole]


def states(rows: list[Row]) -> dict[int, str]:
    return {claim: verdict.state for claim, verdict in photographs.judge(rows).items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, dict.fromkeys(photographs.EXPERIMENT.claims, "reproduced")),
        ({"gap": -8.0}, {17: "not reproduced", 21: "not reproduced"}),
        ({"slow": 2.0}, {20: "not reproduced"}),
        ({"views": (120, 60)}, {19: "not reproduced"}),
        ({"views": (60, 240)}, {19: "direction only"}),
        ({"views": (300, 335)}, {19: "inconclusive"}),
    ],
)
def test_verdicts(changes: dict[str, Any], expected: dict[int, str]):
    found = states(made_up(**changes))
    assert {claim: found[claim] for claim in expected} == expected


def test_what_follows_the_drop_of_the_rate_says_nothing_of_convergence():
    rows = made_up()
    numbers = photographs.judge(rows)[20].numbers
    for row in rows:
        row["validation errors"] = row["validation errors"][: photographs.CONSTANT]
    assert photographs.judge(rows)[20].numbers == numbers


def test_views_that_differ_have_a_test():
    verdict = photographs.judge_views({"images": 1000, "one": 500, "ten": 510, "only one": 10, "only ten": 20})
    assert verdict.numbers["difference"] == pytest.approx(1.0)
    assert verdict.numbers["p"] == pytest.approx(0.0987, abs=1e-4)  # of 30 images 20 or more, or 10 or fewer


def test_columns_need_a_control_that_finds_nothing():
    runs = [chroma(seed, 0.4) for seed in range(5)]
    assert judge_columns(runs).state == "reproduced"
    assert judge_columns([chroma(seed, 0.0) for seed in range(5)]).state == "not reproduced"
    assert judge_columns(runs[:4]).state == "inconclusive", "of too few runs"
    mixed = [[x for pair in zip(shares[24:], shares[:24], strict=True) for x in pair] for shares in runs]
    assert judge_columns(mixed).state == "inconclusive", "it is the kernels in even and odd places that differ"


def test_diverged_runs(tmp_path: Path):
    rows = made_up()
    figures = [name for name in rows[-1] if name not in ("arm", "seed")]
    rows[-1] = {"arm": photographs.WHOLE, "seed": 0, **dict.fromkeys(figures)}
    rows[0].update(dict.fromkeys(set(figures) & rows[0].keys()))
    found = states(rows)
    assert (found[19], found[31], found[17]) == ("inconclusive", "inconclusive", "reproduced")
    assert len(photographs.table(rows).lines) == len(ARMS)
    photographs.draw(rows).savefig(tmp_path / "figure.png", dpi=50)


def test_figure_and_table_show_the_whole_network_too(tmp_path: Path):
    rows = made_up()
    shown = photographs.table(rows)
    assert {line[0] for line in shown.lines} > set(ARMS)
    assert shown.lines[-1][2] == f"{100 * (1 - 3060 / 3925):.2f}"
    assert all(len(line) == len(shown.head) for line in shown.lines)
    photographs.draw(rows).savefig(tmp_path / "figure.png", dpi=50)
    photographs.draw([]).savefig(tmp_path / "empty.png", dpi=50)


def test_claims_of_s5_are_judged_as_s5_judges_them():
    rows = made_up()
    arms = [row | {"validation errors": row["validation errors"][: photographs.CONSTANT]} for row in rows[:-1]]
    found = photographs.judge(rows)
    assert {claim: found[claim] for claim in (17, 20, 21)} == overfitting.judge(arms)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of two classes, red and blue."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for name, channel in (("red", 0), ("blue", 2)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (130, 150, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.jpg")
    return tmp_path / "data"


@pytest.mark.slow
def test_a_tiny_run_ends_with_all_figures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arms = replace(
        photographs.ARMS, rehearsal={**photographs.ARMS.rehearsal, "data.fraction": 1.0, "model.width": 0.05}
    )
    monkeypatch.setattr(photographs, "ARMS", arms)
    monkeypatch.setattr(photographs, "NETWORK", override(photographs.NETWORK, {"batch_size": 16}))
    monkeypatch.setattr(photographs, "QUERIES", 5)
    full = photographs.plan

    def plan(finished: dict[str, Run], quick: bool) -> list[Any]:
        small = {"data.fraction": 1.0, "model.width": 0.05}
        return [replace(job, config=override(job.config, small)) for job in full(finished, quick)]

    experiment = replace(photographs.EXPERIMENT, plan=plan)
    outcome = reproduce(
        experiment, tmp_path / "there", root=str(folder), jobs=2, quick=True, reporter=Reporter(quiet=True)
    )
    assert [row["arm"] for row in outcome.rows] == [arm for arm in (*ARMS, photographs.WHOLE) for _ in range(2)][:-1]
    for row in outcome.rows:
        assert 0 <= row["test"] <= 100
        assert len(row["validation errors"]) == 2
    whole = outcome.rows[-1]
    assert whole["views"]["images"] == 16
    assert whole["neighbours"]["images"] == 5
    assert photographs.unpack_kernels(whole["kernels"]).shape == (len(whole["chroma"]), 3, 11, 11)
    assert set(outcome.verdicts(experiment)) == set(experiment.claims)
    assert (tmp_path / "there" / "figure.png").is_file()
