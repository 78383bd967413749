"""The ladder from 2012 to today: its rungs, how rates are chosen, and what is said of made-up measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alexnet.config.values import flatten
from alexnet.paper.document import render
from alexnet.paper.experiment import Row
from alexnet.paper.experiments import ladder
from alexnet.paper.statistics import successive
from alexnet.runs.folder import Run


def ended(folder: Path, name: str, error: float, state: str = "finished") -> Run:
    """A run that has ended with this validation error, in percent."""
    run = Run(folder / name)
    run.path.mkdir(exist_ok=True)
    run.write_status(state=state)
    rows = [
        {"kind": "epoch", "epoch": i + 1, "step": i + 1, "val_top1": 1 - e / 100} for i, e in enumerate((99, error))
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, Run]:
    """All runs of the stages that choose a rate, of which the second is the best."""
    runs = {}
    for rung in ladder.RUNGS:
        for rate, error in zip(rung.rates, (50, 40, 45), strict=False):
            name = f"{rung.name}-rate{rate:g}"
            runs[name] = ended(tmp_path, name, error)
    return runs


def planned(finished: dict[str, Run], quick: bool = False) -> dict[str, dict[str, Any]]:
    return {job.name: flatten(job.config) for job in ladder.plan(finished, quick)}


def test_nothing_but_rates_before_rates_are_known():
    assert all("-rate" in name for name in planned({}))
    assert {flat["seed"] for flat in planned({}).values()} == {0}


def test_a_rung_changes_what_it_says_and_nothing_else(finished: dict[str, Run]):
    jobs = planned(finished)
    assert len(jobs) == len(ladder.RUNGS) * ladder.SEEDS + sum(len(rung.rates) for rung in ladder.RUNGS)
    before = flatten(ladder.BASE)
    for rung in ladder.RUNGS:
        for seed in range(1, ladder.SEEDS + 1):
            config = jobs[f"{rung.name}-seed{seed}"]
            differing = {name for name in config if config[name] != before[name]} - {"seed"}
            assert differing - {"optim.lr"} == set(rung.settings)
            assert rung.rates or "optim.lr" not in differing
        before = config


def test_the_best_rate_stays_until_another_is_chosen(finished: dict[str, Run], tmp_path: Path):
    jobs, rate = planned(finished), 0.0
    for rung in ladder.RUNGS:
        rate = rung.rates[1] if rung.rates else rate
        assert jobs[f"{rung.name}-seed1"]["optim.lr"] == rate
    paper = ladder.RUNGS[0]
    lost = f"{paper.name}-rate{paper.rates[1]:g}"
    finished[lost] = ended(tmp_path, lost, 1, state="failed")  # it diverged, whatever it had reached before
    beyond = f"{paper.name}-rate{2 * paper.rates[2]:g}"  # for the best is now at an end of those tried
    assert beyond in planned(finished)
    assert "paper-seed1" not in planned(finished)
    finished[beyond] = ended(tmp_path, beyond, 99)
    assert planned(finished)["paper-seed1"]["optim.lr"] == paper.rates[2]
    del finished[lost]
    waiting = planned(finished)
    assert not {"paper-seed1", "bf16-seed1"} & waiting.keys()  # their rate is not known
    assert "inputs-seed1" in waiting


def test_every_rung_is_as_large_and_as_long_as_the_first(finished: dict[str, Run]):
    jobs = planned(finished)
    for name in ("epochs", "model.width", "model.variant", "data.crop", "data.fraction", "data.val_fraction"):
        assert len({str(config[name]) for config in jobs.values()}) == 1, name


def made_up(changes: dict[str, float], spread: float = 0.1) -> list[Row]:
    """Rows of a ladder that begins at 40 % and whose rungs add so many points."""
    rows: list[Row] = [{"arm": "paper", "stage": "rates", "seed": 0, "rate": 0.01, "validation": 1.0, "test": 1.0}]
    error = 40.0
    for rung in ladder.RUNGS:
        error += changes.get(rung.name, 0.0)
        for seed in range(1, ladder.SEEDS + 1):
            test = error + spread * (seed - 2)
            row = {"stage": "seeds", "seed": seed, "rate": 0.01, "validation": test - 0.5, "test": test}
            rows.append({"arm": rung.name} | row)
    return rows


def test_what_helps_and_what_does_not():
    found = ladder.effects(made_up({"inputs": -9.0, "no-lrn": 1.0, "padding": -0.05}))
    assert list(found) == [rung.name for rung in ladder.RUNGS[1:]]
    said = {name: ladder.finding(effect) for name, effect in found.items()}
    assert said.pop("inputs") == ladder.HELPS
    assert said.pop("no-lrn") == ladder.HURTS
    assert set(said.values()) == {ladder.OPEN}


def test_diverged_runs_are_no_measurements(tmp_path: Path):
    rows = made_up({"average": -3.0})
    for row in rows:
        if row["arm"] == "smoothing":
            row.update(validation=None, test=None)
    found = ladder.effects(rows)
    assert "smoothing" not in found
    assert found["average"].value == pytest.approx(-3)  # less that of the rung before the one that diverged
    cells = {line[0]: line for line in ladder.table(rows).lines}
    change = next(rung.change for rung in ladder.RUNGS if rung.name == "smoothing")
    assert cells[change][3:] == ("diverged", "diverged", "", "")
    ladder.draw(rows).savefig(tmp_path / "figure.png", dpi=50)
    ladder.draw([]).savefig(tmp_path / "empty.png", dpi=50)


def test_table_names_each_change_and_its_settings():
    shown = ladder.table(made_up({"inputs": -9.0}))
    assert [line[0] for line in shown.lines] == [rung.change for rung in ladder.RUNGS]
    settings = {line[0]: line[1] for line in shown.lines}
    assert settings[ladder.RUNGS[2].change] == "without --data.std, --data.no-mean-image, --model.init modern"
    assert all(len(line) == len(shown.head) for line in shown.lines)
    assert shown.lines[2][5:] == ("-9.00 (-9.17 to -8.83)", ladder.HELPS)


def test_measure_reads_runs(tmp_path: Path):
    run = ended(tmp_path, "inputs-seed2", 30)
    run.write_config(ladder.BASE)
    (run.path / "test.json").write_text('{"top1": 0.68}')
    assert ladder.measure({"inputs-seed2": run}, lambda name, compute: compute()) == [
        {"arm": "inputs", "stage": "seeds", "seed": 0, "rate": 0.01, "validation": 30.0, "test": 32.0}
    ]


def test_successive_is_students_t_where_there_are_two_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(0.5, 1, 4)
    estimate = successive({"a": a, "none": [], "one": [3.0], "b": b})["b"]
    reference = stats.ttest_ind(b, a)
    interval = reference.confidence_interval()
    assert estimate.p == pytest.approx(reference.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_successive_shares_one_variance():
    samples = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [1.0, 2.5, 4.0]}
    estimates = successive(samples)
    anova_error = np.mean([np.var(sample, ddof=1) for sample in samples.values()])
    half = stats.t.ppf(0.975, 6) * np.sqrt(anova_error * 2 / 3)
    assert (estimates["b"].low, estimates["b"].high) == pytest.approx((-half, half))
    assert estimates["c"].high - estimates["c"].low == pytest.approx(2 * half)


def test_the_page_has_it_though_it_is_about_no_claim():
    page = render()
    assert ladder.EXPERIMENT.title in page
    assert "alexnet reproduce ladder --data.root FOLDER" in page
