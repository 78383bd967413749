"""What is measured of the training split on the way, what ends a run early by it or by validation, and milestones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.config import OptimConfig, TrainConfig
from alexnet.errors import UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.training import scoring, session
from alexnet.training.learner import Counters
from alexnet.training.loop import train
from alexnet.training.optim import Course, Schedule
from alexnet.training.signals import SignalGuard
from alexnet.training.stopping import count_epoch
from conftest import STEPS, assert_same_tensors, figures, tensors, text, timeless

pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")


def test_several_processes_save_before_they_evaluate(tiny, tmp_path, reporter, monkeypatch):
    """They hear no signal then, and whoever loses patience and kills them costs no step."""
    monkeypatch.setattr(SignalGuard, "deferred", property(lambda _: True, lambda *_: None), raising=False)

    def killed(*_, **__):
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score", killed)
        with pytest.raises(KeyError, match="killed"):
            train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    counters = load_checkpoint(Run(tmp_path / "run").last).meta["counters"]
    assert (counters["step"], counters["epoch"]) == (STEPS, 0)
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    whole = train(tiny(epochs=1), tmp_path / "whole", reporter=reporter)
    assert_same_tensors(run.last, whole.last)


def scores(run):
    return [row for row in run.metrics if row["kind"] == "train-score"]


# The training split.


def test_scores_are_what_evaluate_finds(tiny, tmp_path, reporter):
    """Of the averaged weights, on whole images: augmentation and dropout are for training alone."""
    config = tiny(score_train=4, keep="1,2", ema=0.9, **{"data.pad": 4, "model.dropout": 0.5})
    run = train(config, tmp_path / "run", reporter=reporter)
    rows = scores(run)
    assert [row["step"] for row in rows] == [2, 3, 5, 6, 8, 9, 11, 12]
    assert [row["epoch"] for row in rows] == pytest.approx([row["step"] / STEPS for row in rows])
    assert [path.name for path in run.milestones] == ["epoch-0001.safetensors", "epoch-0002.safetensors"]
    for number, path in enumerate(run.milestones, 1):
        found, row = evaluate(path, "train"), rows[4 * number - 1]
        assert row["train_loss"] == pytest.approx(found.loss, rel=1e-6)
        assert row["train_top1"] == found.top1
        (epoch,) = [epoch for epoch in run.epochs if epoch["epoch"] == number]
        assert evaluate(path, "val").loss == pytest.approx(epoch["val_loss"], rel=1e-6)
        assert epoch["train_loss"] != row["train_loss"]


def test_scoring_changes_nothing_that_is_learned(tiny, tmp_path, reporter):
    one = train(tiny(), tmp_path / "one", reporter=reporter)
    two = train(tiny(score_train=3, keep="log"), tmp_path / "two", reporter=reporter)
    assert_same_tensors(one.last, two.last)
    assert figures(one.test) == figures(two.test)


@pytest.mark.parametrize(
    ("times", "moments"),
    [(1, [6]), (2, [3, 6]), (4, [2, 3, 5, 6]), (5, [2, 3, 4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (50, [1, 2, 3, 4, 5, 6])],
)
def test_moments_are_evenly_spaced(times, moments):
    counters = Counters(step=99)
    learner = SimpleNamespace(counters=counters, steps_per_epoch=6)
    asker = SimpleNamespace(_config=TrainConfig(score_train=times))
    due = []
    for counters.epoch_step in range(1, 7):
        due += [counters.epoch_step] * scoring.Scores.due(asker, learner)
    assert due == moments


def test_a_training_error_ends_a_run_within_an_epoch(tiny, tmp_path, reporter):
    config = tiny(epochs=9, score_train=3, stop_train_error=0.6)
    run = train(config, tmp_path / "run", reporter=reporter)
    *before, last = scores(run)
    assert all(row["train_top1"] < 0.4 for row in before)
    assert last["train_top1"] >= 0.4
    assert last["step"] == run.status["step"] == load_checkpoint(run.last).meta["counters"]["step"]
    stopped = run.status["stopped"]
    assert stopped.startswith(f"stopped at {last['epoch']:.4g} of 9 epochs by a training error of ")
    assert stopped in text(reporter)
    assert run.test["measured"]["weights"] == "last.safetensors"  # those that reached it
    assert run.test["loss"] == pytest.approx(evaluate(run, "test").loss, rel=1e-6)  # and every verb takes them
    files = {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()}
    train(config, run.path, reporter=reporter)
    assert {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()} == files
    assert "stays as it is" in text(reporter)


def test_a_run_that_was_ended_goes_on_to_a_smaller_error(tiny, tmp_path, reporter):
    config = tiny(epochs=9, score_train=3, stop_train_error=0.6)
    run = train(config, tmp_path / "run", reporter=reporter)
    further = replace(config, stop_train_error=0.4)
    whole = train(further, tmp_path / "whole", reporter=reporter)
    train(further, run.path, reporter=reporter)
    assert_same_tensors(run.last, whole.last)
    assert timeless(run.metrics) == timeless(whole.metrics)
    assert run.status["stopped"] == whole.status["stopped"]


# Early stopping.


def reference(accuracies, patience, optim):
    """After which epoch a run stops, from the list of its accuracies: the first with `patience` epochs behind it that
    brought nothing better than all before, since the last drop of the rate."""
    last_drop, drops, bad = 0, 0, 0
    for epoch, accuracy in enumerate(accuracies, 1):
        better = all(accuracy > earlier for earlier in accuracies[: epoch - 1])
        if optim.schedule == "plateau":
            bad = 0 if better else bad + 1
            pending = drops < optim.max_drops
            if bad > optim.patience and pending:
                drops, bad = drops + 1, 0
        else:
            pending = any(drop >= epoch for drop in optim.drops if drop < len(accuracies))
        if pending:
            last_drop = epoch
        best = max(range(epoch), key=lambda i: (accuracies[i], -i)) + 1  # the first of the best
        if epoch - max(last_drop, best) >= patience:
            return epoch
    return None


@settings(deadline=None)
@given(
    accuracies=st.lists(st.integers(0, 5), min_size=1, max_size=25),
    patience=st.integers(1, 4),
    optim=st.sampled_from(
        [
            OptimConfig(),
            OptimConfig(schedule="plateau", patience=1, max_drops=2),
            OptimConfig(schedule="plateau", patience=0, max_drops=0),
            OptimConfig(schedule="step", drops=(3, 7)),
        ]
    ),
)
def test_early_stopping_is_what_a_list_of_accuracies_says(accuracies, patience, optim):
    config = TrainConfig(epochs=len(accuracies), optim=optim)
    learner = SimpleNamespace(counters=Counters(), schedule=Course(config.legs, 2))
    ended = None
    for epoch, accuracy in enumerate(accuracies, 1):
        learner.counters.step = 2 * epoch
        count_epoch(learner, accuracy / 5)
        learner.schedule.observe(accuracy / 5, 2 * epoch - 1)
        if learner.counters.waited >= patience:
            ended = epoch
            break
    assert ended == reference(accuracies, patience, optim)


def scripted(monkeypatch, accuracies):
    score, epochs = scoring.score, iter(accuracies)

    def scored(model, *arguments, name, **options):
        result = score(model, *arguments, name=name, **options)
        return replace(result, top1=next(epochs)) if name == "val" else result

    monkeypatch.setattr(scoring, "score", scored)


def test_early_stopping_waits_for_the_last_drop(tiny, tmp_path, reporter, monkeypatch):
    values = {"optim.schedule": "plateau", "optim.patience": 1, "optim.max_drops": 1, "optim.lr": 1e-9}
    scripted(monkeypatch, [0.5, 0.4, 0.4, 0.3, 0.3, 0.3])
    run = train(tiny(epochs=30, early_stop=2, **values), tmp_path / "run", reporter=reporter)
    assert [row["lr"] for row in run.epochs] == pytest.approx([1e-9, 1e-9, 1e-9, 1e-10, 1e-10])
    assert run.status["stopped"].startswith("stopped at 5 of 30 epochs by early stopping")
    assert (run.status["state"], run.status["best_epoch"]) == ("finished", 1)


def test_a_leg_that_is_added_takes_a_stopped_run_further(tiny, tmp_path, reporter, monkeypatch):
    scripted(monkeypatch, [0.5, 0.4, 0.4, 0.3, 0.6, 0.5, 0.5])
    run = train(tiny(epochs=3, early_stop=2), tmp_path / "run", reporter=reporter)
    assert "stopped" not in run.status  # its last epoch is the one that early stopping would end it with
    train(tiny(epochs=3, early_stop=2, then=["9 lr=1e-4"]), run.path, reporter=reporter)
    assert run.status["stopped"].startswith("stopped at 7 of 12 epochs by early stopping")


def test_a_drop_is_to_come_until_it_has():
    def to_come(optim, epochs):
        schedule = Schedule(optim, epochs, 2)
        return [schedule.drop_to_come(step) for step in range(2 * epochs)]

    assert to_come(OptimConfig(schedule="step", drops=(1, 2.5)), 4) == [True] * 5 + [False] * 3
    assert to_come(OptimConfig(schedule="step", drops=(9,)), 4) == [False] * 8
    assert to_come(OptimConfig(schedule="step", step_epochs=2), 3) == [True] * 4 + [False] * 2
    assert not any(to_come(OptimConfig(), 3))
    for schedule in ("cosine", "one-cycle", "triangular"):
        assert to_come(OptimConfig(schedule=schedule), 3) == [True] * 5 + [False], "it falls until its end"


@pytest.mark.parametrize(("drops", "factor"), [((2, 5), 0.1), ((0.5, 2.25), 0.5), ((30,), 0.1)])
def test_the_rate_drops_after_the_epochs_given(drops, factor):
    schedule = Schedule(OptimConfig(lr=1.0, schedule="step", drops=drops, factor=factor, step_epochs=1), 8, 4)
    expected = [factor ** sum(step / 4 >= drop for drop in drops) for step in range(32)]
    assert [schedule.lr(step) for step in range(32)] == pytest.approx(expected)


def test_drops_of_a_leg_count_from_its_beginning():
    config = TrainConfig(epochs=4, then=("4 drops=1,2.5 schedule=step",))
    course = Course(config.legs, 2)
    assert [course.lr(step) for step in range(16)] == pytest.approx([1e-2] * 10 + [1e-3] * 3 + [1e-4] * 3)


# Milestones.


def test_milestones_are_the_weights_of_their_epochs(tiny, tmp_path, reporter):
    run = train(tiny(epochs=5, keep="log", ema=0.5), tmp_path / "run", reporter=reporter)
    assert [path.name for path in run.milestones] == [f"epoch-000{n}.safetensors" for n in (0, 1, 2, 4)]
    shorter = train(tiny(epochs=2, ema=0.5), tmp_path / "shorter", reporter=reporter)
    expected, kept = load_checkpoint(shorter.last).evaluated, load_checkpoint(run.milestone(2))
    assert kept.weights.keys() == expected.keys()
    assert all(torch.equal(kept.weights[name], expected[name]) for name in expected)
    assert kept.epoch == 2


def test_the_first_milestone_is_before_training(tiny, tmp_path, reporter, monkeypatch):
    began = []
    monkeypatch.setattr(
        session, "freeze", lambda model, _: began.append({n: p.clone() for n, p in model.state_dict().items()})
    )
    run = train(tiny(epochs=1, keep="0"), tmp_path / "run", reporter=reporter)
    (path,) = run.milestones
    assert all(torch.equal(began[0][name], value) for name, value in tensors(path).items())
    assert evaluate(path, "test").loss == pytest.approx(2.3, abs=0.1)  # ln 10: all classes alike


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": "often"}, "--keep 'often'"),
        ({"keep": "1, 2"}, "--keep"),
        ({"keep": ""}, "--keep"),
        ({"early_stop": 0}, "--early-stop 0 is out of range"),
        ({"early_stop": 3, "data.val_fraction": 0.0}, "--early-stop watches validation"),
        ({"stop_train_error": 0.25}, "--stop-train-error needs --score-train"),
        ({"score_train": 1, "stop_train_error": 1.0}, "--stop-train-error 1.0 is out of range"),
        ({"optim.drops": [3, 2]}, "--optim.drops"),
        ({"optim.drops": [0]}, "--optim.drops"),
        ({"data.crop_chunk": 2, "data.random_resized_crop": True}, "--data.crop-chunk"),
    ],
)
def test_settings_that_make_no_sense(tiny, values, message):
    with pytest.raises(UsageError) as refused:
        tiny(**values)
    assert message in str(refused.value)
