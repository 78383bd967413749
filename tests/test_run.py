"""Run folders: whose they are, what is in them, and that they stay consistent."""

import csv
import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from alexnet import evaluate
from alexnet.config import load
from alexnet.data.augment import Preprocessing
from alexnet.errors import AlexNetError, CheckpointError, DataError, NumericsError, TrainingStopped, UsageError
from alexnet.metrics import Result
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run, load_config, load_run, set_aside
from alexnet.runs.log import RunLog
from alexnet.runs.opening import FREE, open_run, settled
from alexnet.runs.rows import append_row
from alexnet.training import saves, scoring, session
from alexnet.training.learner import Learner
from alexnet.training.loop import train
from alexnet.training.signals import Interrupt
from conftest import (
    STEPS,
    TINY,
    assert_consistent,
    assert_same_run,
    assert_same_tensors,
    figures,
    tensors,
    text,
    timeless,
)

pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")
CURVES = {"curves.png", "test-confusion.png"}


def test_everything_is_there(finished):
    names = {f.name for f in finished.path.iterdir() if not f.name.startswith((".", "events."))}
    assert names == CURVES | {
        "best.safetensors",
        "config.yaml",
        "last.safetensors",
        "ledger.json",
        "metrics.csv",
        "metrics.jsonl",
        "previous.safetensors",
        "sessions.jsonl",
        "status.json",
        "tensorboard",
        "test-confusion.csv",
        "test.json",
    }


def test_status_of_a_finished_run(finished):
    status = finished.status
    assert (status["state"], status["epoch"], status["epochs"], status["step"]) == ("finished", 2, 2, 2 * STEPS)
    assert status["best_val_top1"] == max(row["val_top1"] for row in finished.epochs)
    assert status["skipped"] == 0


def test_status_while_it_runs(tiny, tmp_path, reporter):
    seen = []
    reporter.epoch = lambda row: seen.append(Run(tmp_path / "run").status)
    train(tiny(), tmp_path / "run", reporter=reporter)
    assert [(s["state"], s["epoch"], s["step"]) for s in seen] == [("running", 1, STEPS), ("running", 2, 2 * STEPS)]


def test_csv_repeats_the_epoch_rows(finished):
    with (finished.path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(r["val_loss"]) for r in rows] == [r["val_loss"] for r in finished.epochs]
    assert [int(r["step"]) for r in rows] == [STEPS, 2 * STEPS]


def test_csv_has_a_column_for_whatever_an_epoch_has(tmp_path):
    """The rate is missing from an epoch whose end a signal cut off."""
    rows = [
        {"kind": "epoch", "epoch": 1, "step": 3},
        {"kind": "epoch", "epoch": 2, "step": 6, "images_per_second": 9.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    RunLog(Run(tmp_path), 6, 2, 0).close()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,images_per_second", "1,3,", "2,6,9.5"]


def test_what_is_set_aside_stays_when_more_is(tmp_path):
    for content in (b"first", b"second"):
        (tmp_path / "best.safetensors").write_bytes(content)
        set_aside(tmp_path / "best.safetensors")
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"first", b"second"}
    assert set_aside(tmp_path / "best.safetensors") is None


def test_metrics_hold_steps_and_epochs(finished):
    kinds = [(row["kind"], row["step"]) for row in finished.metrics]
    assert kinds == [(k, s) for s in (3, 6, 9, 12) for k in (["step", "epoch"] if s % STEPS == 0 else ["step"])]
    for row in finished.metrics:
        assert {"train_loss", "train_top1", "lr", "epoch"} <= row.keys()


# TensorBoard.


def events(run, split):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.path / "tensorboard" / split))
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


def test_tensorboard_reads_the_events(tiny, tmp_path, reporter):
    """Also those of a run in two sessions: no step twice."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    time.sleep(1.1)  # event files go by second, then by a number that is sorted as text
    train(tiny(), run.path, reporter=reporter)
    read = {split: events(run, split) for split in ("train", "val")}
    for split, tag, name in (
        ("train", "loss", "train_loss"),
        ("train", "top1", "train_top1"),
        ("train", "lr", "lr"),
        ("train", "images_per_second", "images_per_second"),
        ("val", "loss", "val_loss"),
        ("val", "top1", "val_top1"),
        ("val", "top5", "val_top5"),
    ):
        values = {e.step: e.value for e in read[split][tag]}
        assert values == pytest.approx({row["step"]: row[name] for row in run.epochs}, rel=1e-6)
        assert len(read[split][tag]) == 2
    assert [e.step for e in read["train"]["within the epoch/loss"]] == [3, 6, 9, 12]
    assert not [tag for tags in read.values() for tag in tags if tag.endswith(("epoch", "step", "seconds"))]


def test_tensorboard_draws_the_splits_into_one_chart(finished):
    """What bears the same tag under different folders is one chart; the test result is a point at the last step."""
    tags = {split: set(events(finished, split)) for split in ("train", "val", "test")}
    assert tags["train"] & tags["val"] == {"loss", "top1"}
    assert tags["test"] == {"loss", "top1", "top5"} == tags["val"]
    for name, (event,) in events(finished, "test").items():
        assert (event.step, event.value) == (2 * STEPS, pytest.approx(finished.test[name], rel=1e-6))


def test_tensorboard_tables_the_settings(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    accumulator = EventAccumulator(str(finished.path / "tensorboard" / "test"))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["optim.lr"].number_value == finished.config.optim.lr
    assert settings["model.variant"].string_value == finished.config.model.variant


def test_tensorboard_not_installed(tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    assert run.status["state"] == "finished"
    assert text(reporter).count("TensorBoard") == 1
    assert "pip install 'alexnet[tensorboard]'" in text(reporter)


@pytest.mark.parametrize("call", ["__init__", "add_scalar", "flush", "close"])
def test_tensorboard_cannot_write(tiny, tmp_path, reporter, monkeypatch, call):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, call, fail)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert text(reporter).count("TensorBoard") == 1


def test_matplotlib_not_installed(tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert run.test["count"] == 359
    assert text(reporter).count("pip install 'alexnet[figures]'") == 1


@pytest.mark.parametrize("name", ["with space", "ümläut", "[red]brackets", "[/b]", "a" * 200])
def test_odd_folder_names(tiny, tmp_path, reporter, name):
    run = train(tiny(epochs=1), tmp_path / name, reporter=reporter)
    assert run.status["state"] == "finished"
    assert str(tmp_path / name) in text(reporter).replace("\n", "")


# Whose folder it is.


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"optim.lr": 0.5}, ["--optim.lr 0.002 there and 0.5 now"]),
        ({"batch_size": 32, "seed": 1}, ["--batch-size 64 there and 32 now", "--seed 0 there and 1 now"]),
        ({"model.lrn": "off"}, ["--model.lrn None there and off now"]),
        ({"data.mean": [0.5]}, ["--data.mean"]),
    ],
)
def test_another_runs_folder_is_refused(tiny, finished, reporter, values, flags):
    before = {f.name: f.stat().st_mtime_ns for f in finished.path.iterdir() if f.name != ".lock"}
    with pytest.raises(UsageError, match="holds another run") as refused:
        train(tiny(**values), finished.path, reporter=reporter)
    assert all(part in str(refused.value) for part in [*flags, "--run DIR"])
    assert {f.name: f.stat().st_mtime_ns for f in finished.path.iterdir() if f.name != ".lock"} == before


def test_settings_that_may_change_on_the_way(tiny, tmp_path):
    other = {
        "name": "other",
        "epochs": 9,
        "then": ["10"],
        "stop_after": 8,
        "early_stop": 3,
        "score_train": 2,
        "stop_train_error": 0.1,
        "keep": "0,4",
        "device": "auto",
        "columns": 2,
        "accumulate": 2,
        "log_every": 1,
        "save_minutes": 1.0,
        "test": False,
        "data.root": "/elsewhere",
        "data.download": False,
        "data.workers": 1,
        "data.cache": 0.0,
        "data.max_bad": 0.5,
    }
    assert set(other) == FREE
    with open_run(tiny(), tmp_path / "run") as run:
        run.write_config(tiny())
    with open_run(tiny(**other), tmp_path / "run"):
        pass


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_a_run_folder_is_refused(tiny, tmp_path, reporter, kind):
    path = tmp_path / "thesis"
    if kind == "folder":
        path.mkdir()
        (path / "chapter.tex").write_text("dear")
    else:
        path.write_text("dear")
    with pytest.raises(UsageError, match="is not a run folder"):
        train(tiny(), path, reporter=reporter)
    assert (path / "chapter.tex" if kind == "folder" else path).read_text() == "dear"


def test_empty_folder_is_taken(tiny, tmp_path):
    """Also one that somebody has looked into on a Mac."""
    (tmp_path / ".DS_Store").touch()
    with open_run(tiny(), tmp_path) as run:
        assert run.path == tmp_path


def test_second_process_is_refused(tiny, tmp_path):
    """The first one holds the lock without having imported torch, which takes seconds."""
    code = "import sys; from pathlib import Path; from alexnet.files import holding\n"
    code += "with holding(Path(sys.argv[1]), '', ''): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process is training in"), open_run(tiny(), tmp_path / "run"):
            pass
    with open_run(tiny(), tmp_path / "run"):
        pass


def test_folder_that_cannot_be_made(tiny, tmp_path, reporter):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--run DIR"):
        train(tiny(), tmp_path / "file" / "run", reporter=reporter)


def test_refused_run_leaves_no_folder(tiny, tmp_path, reporter):
    with pytest.raises(UsageError):
        train(tiny(**{"data.source": "digitz"}), tmp_path / "run", reporter=reporter)
    assert not (tmp_path / "run").exists()


# Going on.


def test_finished_run_is_not_trained_over(finished, reporter):
    before = {f: f.read_bytes() for f in finished.path.rglob("*") if f.is_file() and f.name != ".lock"}
    train(finished.config, finished.path, reporter=reporter)
    said = " ".join(text(reporter).split())
    assert "is finished" in said
    assert "--epochs 4" in said
    assert "--run DIR" in said
    assert {f: f.read_bytes() for f in finished.path.rglob("*") if f.is_file() and f.name != ".lock"} == before


def test_more_epochs_go_on(tiny, tmp_path, reporter):
    whole = train(tiny(epochs=3), tmp_path / "whole", reporter=reporter)
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    train(tiny(epochs=3), run.path, reporter=reporter)
    assert "going on from step 6 (epoch 2)" in text(reporter)
    assert_consistent(run)
    assert_same_run(run, whole)


def test_fewer_epochs_than_done_change_nothing(tiny, finished, reporter):
    train(tiny(epochs=1), finished.path, reporter=reporter)
    assert finished.config.epochs == 2
    assert "is finished (2 epochs)" in " ".join(text(reporter).split())


# Legs: what goes on beyond a schedule's end.


def test_run_of_two_legs_is_the_run_planned_so(tiny, tmp_path, reporter):
    """A finished run that is given a second leg equals, to the bit, one that had it from the beginning."""
    values = {"optim.schedule": "one-cycle", "epochs": 2}
    whole = train(tiny(then=["2 lr=1e-3"], **values), tmp_path / "whole", reporter=reporter)
    run = train(tiny(**values), tmp_path / "run", reporter=reporter)
    train(tiny(then=["2 lr=1e-3"], **values), run.path, reporter=reporter)
    assert "2 + 2 epochs" in text(reporter)
    assert_consistent(run)
    assert_same_run(run, whole)
    assert (run.config.epochs, run.config.then) == (2, ("2 lr=1e-3",))


def test_first_leg_is_not_bent_by_the_second(tiny, tmp_path, reporter):
    values = {"optim.schedule": "cosine", "epochs": 2}
    run = train(tiny(**values), tmp_path / "run", reporter=reporter)
    before = [row["lr"] for row in run.metrics]
    train(tiny(then=["1 schedule=constant lr=1e-4"], **values), run.path, reporter=reporter)
    rates = [row["lr"] for row in run.metrics]
    assert rates[: len(before)] == before
    assert set(rates[len(before) :]) == {1e-4}


def test_stop_before_the_horizon_bends_nothing(tiny, tmp_path, reporter):
    values = {"optim.schedule": "one-cycle", "epochs": 3}
    whole = train(tiny(**values), tmp_path / "whole", reporter=reporter)
    run = train(tiny(stop_after=1, **values), tmp_path / "run", reporter=reporter)
    assert (run.status["state"], run.status["epoch"], run.status["epochs"]) == ("finished", 1, 1)
    assert run.test["count"] == 359
    assert [row["lr"] for row in run.metrics] == [row["lr"] for row in whole.metrics if row["step"] <= STEPS]
    train(tiny(stop_after=1, **values), run.path, reporter=reporter)
    assert "To go on: --stop-after 3." in " ".join(text(reporter).split())
    train(tiny(stop_after=3, **values), run.path, reporter=reporter)
    assert_consistent(run)
    assert timeless(run.metrics) == timeless(whole.metrics)
    assert_same_tensors(run.last, whole.last)
    assert_same_tensors(run.best, whole.best)


def test_a_stop_in_a_leg_that_has_not_begun(tiny, tmp_path, reporter, monkeypatch):
    config = tiny(epochs=2, then=["2"], stop_after=3)
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "line", lambda row: os.kill(os.getpid(), signal.SIGTERM) if row["step"] == 3 else None)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", reporter=reporter)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert (len(run.epochs), run.config) == (3, config)
    assert_consistent(run)


def test_a_result_that_was_lost_is_measured_again(finished, tmp_path, reporter):
    shutil.copytree(finished.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.result_file.unlink()
    train(run.config, run.path, reporter=reporter)
    assert figures(run.test) == figures(finished.test)
    assert_same_tensors(run.best, finished.best)
    train(run.config, run.path, reporter=reporter)
    assert "stays as it is" in " ".join(text(reporter).split())


def test_what_can_no_longer_be_kept_is_said(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1, keep="0"), tmp_path / "run", reporter=reporter)
    assert "--keep" not in text(reporter)
    train(tiny(epochs=2, keep="log"), run.path, reporter=reporter)
    train(tiny(epochs=4, keep="log"), run.path, reporter=reporter)
    assert "--keep:" not in text(reporter)
    assert [file.name for file in run.milestones] == [f"epoch-{n:04}.safetensors" for n in (0, 1, 2, 4)]
    train(tiny(epochs=5, keep="0,3"), run.path, reporter=reporter)
    said = "--keep: training is past epoch 3, whose weights are not to be had again."
    assert said in " ".join(text(reporter).split())


def test_what_can_no_longer_be_kept_within_an_epoch(tiny, tmp_path, reporter, monkeypatch):
    end = Learner.apply_step

    def stop(self, *arguments):
        end(self, *arguments)
        raise Interrupt("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "apply_step", stop)
        with pytest.raises(TrainingStopped):
            train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    train(tiny(epochs=1, keep="0"), tmp_path / "run", reporter=reporter)
    said = "--keep: training is past epoch 0, whose weights are not to be had again."
    assert said in " ".join(text(reporter).split())


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_longer_run_that_is_stopped_before_its_first_step_goes_on(tiny, tmp_path, reporter, monkeypatch, problem):
    run = train(tiny(epochs=3, stop_after=1), tmp_path / "run", reporter=reporter)

    def strike(*_):
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr("alexnet.runs.recorder.RunLog", strike)
        with pytest.raises((KeyboardInterrupt, TrainingStopped, UsageError)):
            train(tiny(epochs=3, stop_after=2), run.path, reporter=reporter)
    assert not run.has_ended
    run = train(tiny(epochs=3, stop_after=2), run.path, reporter=reporter)
    assert (len(run.epochs), run.has_ended) == (2, True)
    assert_consistent(run)


@pytest.mark.parametrize(
    ("schedule", "advice", "more"),
    [("one-cycle", "--then 2", {"then": ("2",)}), ("constant", "--epochs 4", {"epochs": 4})],
)
def test_a_stop_that_was_reached_does_not_hold_back_what_comes_after(tiny, tmp_path, reporter, schedule, advice, more):
    recipe, path = tiny(**{"optim.schedule": schedule, "epochs": 2}), tmp_path / "run"
    run = train(recipe, path, given={"stop_after": 1}, reporter=reporter)
    train(recipe, path, given={"stop_after": 2}, reporter=reporter)
    train(recipe, path, given={}, reporter=reporter)
    assert f"is finished (2 epochs) and stays as it is. To go on: {advice}." in " ".join(text(reporter).split())
    train(replace(run.config, **more), path, reporter=reporter)
    assert len(run.epochs) == 4
    assert_consistent(run)


@pytest.mark.parametrize("schedule", ["constant", "step", "plateau"])
def test_schedules_without_a_horizon_simply_go_on(tiny, tmp_path, reporter, schedule):
    values = {"optim.schedule": schedule, "optim.patience": 0, "optim.step_epochs": 1}
    whole = train(tiny(epochs=3, **values), tmp_path / "whole", reporter=reporter)
    run = train(tiny(epochs=2, **values), tmp_path / "run", reporter=reporter)
    train(tiny(epochs=2, **values), run.path, reporter=reporter)
    assert "To go on: --epochs 4." in " ".join(text(reporter).split())
    train(tiny(epochs=3, **values), run.path, reporter=reporter)
    assert_same_run(run, whole)


def test_a_leg_that_has_not_begun_may_be_planned_anew(tiny, tmp_path, reporter):
    """A slip, `lr=2` for 0.002, that was stopped at once. Once a step of it is made, it stays."""
    values = {"optim.schedule": "cosine", "epochs": 1}
    train(tiny(**values), tmp_path / "run", reporter=reporter)
    step = Learner.train_step
    for slip, steps in (("1 lr=2", 0), ("1 lr=0.01", 1)):
        left = itertools.count(steps, -1)

        def stopped(learner, *batch, left=left):
            if not next(left):
                signal.raise_signal(signal.SIGTERM)
            return step(learner, *batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "train_step", stopped)
            with pytest.raises(TrainingStopped):
                train(tiny(then=[slip], **values), tmp_path / "run", reporter=reporter)
    with pytest.raises(UsageError, match="would bend its learning rate after the fact"):
        train(tiny(then=["1 lr=0.02"], **values), tmp_path / "run", reporter=reporter)
    run = train(tiny(then=["1 lr=0.01"], **values), tmp_path / "run", reporter=reporter)
    planned = train(tiny(then=["1 lr=0.01"], **values), tmp_path / "planned", reporter=reporter)
    assert_same_tensors(run.last, planned.last)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "triangular"])
@pytest.mark.parametrize(
    ("then", "asked", "mend"),
    [
        ([], {"epochs": 5}, "--then 2."),
        ([], {"epochs": 2}, "--stop-after 2."),
        (["2 lr=0.1"], {"epochs": 3, "then": ["9"]}, "--then '2 lr=0.1' --then 7."),
        (["2"], {"epochs": 4, "then": ["2"]}, "--then 2 --then 1."),
    ],
)
def test_bending_is_refused_with_what_to_type(tiny, tmp_path, schedule, then, asked, mend):
    values = {"optim.schedule": schedule, "epochs": 3}
    with open_run(tiny(then=then, **values), tmp_path / "run") as run:
        run.write_config(tiny(then=then, **values))
        run.last.touch()
    with (
        pytest.raises(UsageError, match="would bend its learning rate after the fact") as refused,
        open_run(tiny(**(values | asked)), run.path),
    ):
        pass
    assert mend in str(refused.value)
    assert "--run DIR" in str(refused.value)
    assert run.config == tiny(then=then, **values)


def test_what_has_learned_nothing_yet_may_change(tiny, tmp_path):
    """A slip of the pen that was stopped before the first checkpoint costs no new folder."""
    values = {"optim.schedule": "cosine", "epochs": 3}
    with open_run(tiny(**values), tmp_path / "run") as run:
        run.write_config(tiny(**values))
    with open_run(tiny(**(values | {"epochs": 30})), run.path):
        pass


@pytest.mark.parametrize("problem", [RuntimeError("too large"), DataError("no such image")])
def test_what_failed_at_its_first_step_is_corrected(tiny, tmp_path, reporter, monkeypatch, problem):
    """Also where the beginning was saved, with a network of another form."""

    def fail(*_):
        raise problem

    path, recipe = tmp_path / "run", tiny(epochs=1)
    wrong = {"batch_size": 128, "model.width": 0.25, "keep": "0"}
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", fail)
        for _ in range(2):
            with pytest.raises(type(problem)):
                train(recipe, path, given=wrong, reporter=reporter)
    assert Run(path).last.exists() == isinstance(problem, DataError)
    assert settled(recipe, path, {}) == (recipe, None)
    run = train(recipe, path, given={}, reporter=reporter)
    assert run.config == recipe
    assert run.milestones == []
    assert_same_tensors(run.last, train(recipe, tmp_path / "new", reporter=reporter).last)
    with pytest.raises(UsageError, match="holds another run"):
        train(recipe, path, given={"batch_size": 128}, reporter=reporter)


@pytest.mark.parametrize("name", ["last.safetensors", "previous.safetensors", "best.safetensors", "milestones"])
def test_what_a_full_disk_left_of_a_run_stays(finished, tiny, tmp_path, name):
    """One checkpoint that could be saved is something learned."""
    with open_run(tiny(), tmp_path / "run") as run:
        run.write_config(tiny())
        run.write_status(state="failed", saved=0, epoch=1)
        (run.path / "metrics.jsonl").touch()
    assert run.may_begin_anew
    kept = run.milestone(1) if name == "milestones" else run.path / name
    kept.parent.mkdir(exist_ok=True)
    shutil.copy(finished.best, kept)
    assert not run.may_begin_anew
    with pytest.raises(UsageError, match="holds another run"), open_run(tiny(batch_size=128), run.path):
        pass
    assert kept.exists()


def test_a_config_that_nobody_trained_with_stays(tiny, tmp_path):
    (tmp_path / "config.yaml").write_text("batch_size: 32\n")
    with pytest.raises(UsageError, match="holds another run"), open_run(tiny(), tmp_path):
        pass
    (tmp_path / "config.yaml").write_text("backbone: resnet\n")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match="unknown setting"), open_run(tiny(), tmp_path):
        pass
    assert (tmp_path / "config.yaml").read_text() == "backbone: resnet\n"


def test_what_is_typed_goes_on(tiny, tmp_path, reporter):
    """The refusal's own words, and then the bare command, which resumes what was asked for."""
    path = tmp_path / "run"
    recipe, given = tiny(**{"optim.schedule": "cosine", "epochs": 1}), {}
    run = train(recipe, path, given=given, reporter=reporter)
    with pytest.raises(UsageError, match=r"own: --then 2\. "):
        train(recipe, path, given={"epochs": 3}, reporter=reporter)
    train(recipe, path, given={"then": ("2",)}, reporter=reporter)
    assert len(run.epochs) == 3
    said = len(text(reporter))
    train(recipe, path, given={}, reporter=reporter)
    assert "is finished (3 epochs)" in " ".join(text(reporter)[said:].split())
    assert "To go on: --then 2 --then 2." in " ".join(text(reporter)[said:].split())
    train(recipe, path, given={"then": ("2", "1")}, reporter=reporter)
    assert len(run.epochs) == 4
    assert_consistent(run)


@pytest.mark.parametrize(
    ("values", "given"),
    [
        ({"epochs": 3}, {"stop_after": 3}),
        ({"score_train": 1}, {"stop_train_error": 0.1}),
        ({"batch_size": 128}, {"accumulate": 128}),
    ],
)
def test_what_goes_with_the_run_need_not_go_with_the_recipe(tiny, tmp_path, values, given):
    recipe, stored = tiny(), tiny(**values)
    with pytest.raises(UsageError):
        settled(recipe, tmp_path / "new", given)
    with open_run(stored, tmp_path / "run") as run:
        run.write_config(stored)
        run.last.touch()
    config, _ = settled(recipe, run.path, given)
    assert config == tiny(**values | given)


def test_a_flag_that_does_not_go_with_the_recipe_goes_on(finished, tiny, tmp_path, reporter):
    """And where the run is new it is refused before anything is made."""
    shutil.copytree(finished.path, tmp_path / "run")
    run = train(tiny(epochs=1), tmp_path / "run", given={"stop_after": 2, "device": "cpu"}, reporter=reporter)
    assert "is finished (2 epochs)" in " ".join(text(reporter).split())
    assert run.config == finished.config
    with pytest.raises(UsageError, match=r"--stop-after 2 lies beyond the run's 1 epochs"):
        train(tiny(epochs=1), tmp_path / "new", given={"stop_after": 2}, reporter=reporter)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("values", [{"epochs": 1}, {"stop_after": 1}])
def test_end_that_lies_in_the_past_is_refused(tiny, tmp_path, reporter, monkeypatch, values):
    """Else config.yaml would tell of a shorter run than it was."""
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "line", lambda row: os.kill(os.getpid(), signal.SIGTERM) if row["step"] == 9 else None)
        with pytest.raises(TrainingStopped):
            train(tiny(), tmp_path / "run", reporter=reporter)
    run = load_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"in its epoch 2 already.* --stop-after 2 ends it"):
        train(tiny(**values), run.path, reporter=reporter)
    assert run.config == tiny()


def test_smaller_parts_may_go_on(tiny, tmp_path, reporter):
    """Out of memory in the second session: --accumulate goes on where it was."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    train(tiny(accumulate=4), run.path, reporter=reporter)
    assert_consistent(run)


# Reading it back.


def test_load_run(finished, tmp_path):
    run = load_run(str(finished.path))
    assert run == finished
    assert timeless(run.epochs) == timeless(finished.epochs)
    with pytest.raises(UsageError, match=r"not a run folder.*config\.yaml"):
        load_run(tmp_path)


def test_result_without_a_test_split_is_validations(without_test, finished):
    """And the weights that every verb takes are those that it is of."""
    assert (without_test.test, without_test.result["split"]) == (None, "val")
    assert without_test.checkpoint() == without_test.last
    assert finished.result == finished.test
    without_test.result_file.write_bytes(b"{")
    assert without_test.result is None


def test_empty_run_reads_as_nothing(tmp_path):
    run = Run(tmp_path)
    assert (run.status, run.metrics, run.epochs, run.test, run.result) == ({}, [], [], None, None)
    assert run.resume_point() == (None, None)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run.checkpoint()


def test_best_comes_before_last(finished, tmp_path):
    assert finished.checkpoint() == finished.best
    (tmp_path / "last.safetensors").write_bytes(finished.last.read_bytes())
    assert Run(tmp_path).checkpoint() == tmp_path / "last.safetensors"


def test_config_comes_back_from_yaml(tiny, tmp_path):
    config = tiny(
        **{"data.mean": [0.5], "data.std": [0.25], "optim.lr": 1e-8, "init": "x.pth", "optim.betas": [0.8, 0.9]}
    )
    Run(tmp_path).write_config(config)
    assert load_config(tmp_path / "config.yaml") == config


def test_a_configuration_that_is_not_there_is_named_once(call):
    code, _, err = call("train", "nowhere/config.yaml")
    assert (code, err) == (2, "error: cannot read nowhere/config.yaml: No such file or directory.\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epocs: 3", r"unknown setting 'epocs'.*Did you mean 'epochs'"),
        ("optim: {lrr: 1}", r"'optim\.lrr'.*Did you mean 'optim\.lr'"),
        ("epochs: many", "--epochs takes int"),
        ("optim: 3", "optim is a group"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
        ("a: [", "cannot read"),
        ("model: {lrn: cod}", r"Did you mean 'code'"),
        ("epochs: -1", "--epochs -1"),
    ],
)
def test_config_with_a_mistake(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "config.yaml")


def test_config_with_rates_as_people_write_them(tmp_path):
    (tmp_path / "c.yaml").write_text("optim: {lr: 1e-3, weight_decay: 0}\ndata.pad: 2\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.optim.lr, config.optim.weight_decay, config.data.pad) == (1e-3, 0.0, 2)


def test_edited_config_trains_something_else(finished, tmp_path, reporter):
    values = yaml.safe_load((finished.path / "config.yaml").read_text())
    run = train(load({**values, "seed": 9}), tmp_path / "run", reporter=reporter)
    assert any(not value.equal(tensors(finished.best)[name]) for name, value in tensors(run.best).items())


# Damage, and files of somebody else.


def test_damaged_line_in_the_middle_of_the_metrics(tiny, tmp_path, reporter):
    """The rows after it are kept, and the file as it was too; it is said once."""
    run = train(tiny(epochs=2), tmp_path / "run", reporter=reporter)
    whole, file = run.metrics, run.path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = [lines[0], b'{"kind": "st\xff\n', *lines[1:4], b"[1, 2]\n", b"7\n", *lines[4:]]
    file.write_bytes(b"".join(damaged))
    assert run.metrics == whole
    train(tiny(epochs=3), run.path, reporter=reporter)
    assert "3 line(s) of" in text(reporter)
    assert timeless(run.metrics[: len(whole)]) == timeless(whole)
    assert [row["epoch"] for row in run.epochs] == [1, 2, 3]
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == b"".join(damaged)


def test_metrics_of_rows_without_a_kind_or_a_step(tmp_path):
    whole = {"kind": "epoch", "epoch": 1, "step": 1}
    rows = [whole, *({k: v for k, v in whole.items() if k != name} for name in whole), {**whole, "step": "x"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Run(tmp_path).metrics == rows[:1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"state": NaN'])
def test_damaged_status(tiny, tmp_path, reporter, content):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    (run.path / "status.json").write_bytes(content)
    (run.path / "test.json").write_bytes(content)
    assert (run.status, run.test) == ({}, None)
    train(tiny(epochs=1), run.path, reporter=reporter)
    assert "status.json is damaged" in text(reporter)
    assert run.status["state"] == "finished"
    assert run.test["count"] == 359


@pytest.mark.parametrize("name", ["status.json", "test.json", "metrics.jsonl", "best.safetensors", "sessions.jsonl"])
def test_folders_and_links_in_the_place_of_files(tiny, tmp_path, reporter, name):
    """Whatever stands there: an error of ours, or the run goes on."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    (run.path / name).unlink()
    (run.path / name).mkdir()
    with suppress(AlexNetError):
        train(tiny(epochs=2), run.path, reporter=reporter)
    assert run.status.get("state") != "running"


def forbid(monkeypatch, *paths):
    """As mode 000 does for whoever is not root."""
    for call in ("stat", "open", "listdir", "scandir", "mkdir"):
        inner = getattr(os, call)

        def guarded(path=".", *rest, inner=inner, **options):
            if isinstance(path, str | Path) and any(Path(path).is_relative_to(p) and Path(path) != p for p in paths):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return inner(path, *rest, **options)

        monkeypatch.setattr(os, call, guarded)


@pytest.mark.parametrize("use", [lambda path: train(TINY, path), evaluate, load_run], ids=["train", "evaluate", "load"])
def test_folder_that_may_not_be_read(finished, monkeypatch, use):
    forbid(monkeypatch, finished.path)
    with pytest.raises(UsageError, match=r"cannot be read: Permission denied") as refused:
        use(finished.path)
    assert str(finished.path) in str(refused.value)


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "nul\0byte", "x/" + "b" * 300])
def test_names_that_no_file_can_have(tiny, tmp_path, reporter, name):
    for use in (lambda path: train(tiny(), path, reporter=reporter), load_run):
        with pytest.raises(UsageError, match=r"cannot (be read|write)|is not a run folder") as refused:
            use(f"{tmp_path}/{name}")
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", "a/b", "/tmp/x", "a\\b", "nul\0", "line\nbreak", "a" * 256, "ä" * 128]
)
def test_name_of_a_config_does_not_lead_out_of_runs(tiny, tmp_path, monkeypatch, reporter, name):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(UsageError, match=r"is no folder name.*--run DIR"):
        train(tiny(name=name), reporter=reporter)
    assert [p for p in tmp_path.rglob("*") if p.name != "inner"] == []


def test_name_is_free_where_the_folder_is_given(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1, name="../x"), tmp_path / "run", reporter=reporter)
    assert run.config.name == "../x"
    assert [f.name for f in tmp_path.iterdir()] == ["run"]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrstuvwxyz")
)


@pytest.mark.parametrize(
    "content",
    [
        b"epochs: 2024-99-99",
        b"epochs: 2024-02-31T25:61:61",
        b"epochs: !!int many",
        b"epochs: !!timestamp soon",
        b"epochs: !!float {}",
        b"epochs: " + b"9" * 5000,
        b"epochs: .inf",
        b"epochs: !!python/object/apply:os.system [id]",
        b"epochs: !custom 3",
        b"epochs: !!binary 3",
        b"? [a, b]\n: 3",
        b"? {a: 1}\n: 3",
        b"a: " + b"[" * 20_000,
        b"epochs: \x00",
        b"\xff\xfe\xff",
        b"epochs: *nothing",
        b"<<: 3",
        BOMB.encode(),
        b"a: &a [*a]",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_yaml_of_somebody_who_means_harm(tmp_path, content):
    """One line, that names the file or the setting, in no time."""
    (tmp_path / "config.yaml").write_bytes(content)
    began = time.monotonic()
    with pytest.raises(UsageError) as refused:
        load_config(tmp_path / "config.yaml")
    assert time.monotonic() - began < 5
    assert len(str(refused.value)) < 6000
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "id").exists()


# How it ends.


@pytest.mark.parametrize("moment", ["train_step", "apply_step", "validation", "test"])
@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (MemoryError(), "failed"),
        (RuntimeError("no kernel image"), "failed"),
        (OSError(errno.EIO, "Input/output error"), "failed"),
        (KeyboardInterrupt(), "stopped"),
        (SystemExit(3), "failed"),
    ],
    ids=repr,
)
def test_whatever_ends_a_run_it_is_not_said_to_be_running(
    tiny, tmp_path, reporter, monkeypatch, moment, problem, state
):
    path, whole = tmp_path / "run", tiny()

    def strike(*_, name=None, **__):
        if name == "val" and moment == "test":
            return Result("val", 0.5, 1.0, 1.0, 1, 1, ("a",), np.ones((1, 1), np.int64))
        raise problem

    with monkeypatch.context() as patch:
        if moment in ("train_step", "apply_step"):
            patch.setattr(Learner, moment, strike)
        else:
            patch.setattr(scoring, "score", strike)
        with pytest.raises(type(problem)):
            train(whole, path, reporter=reporter)
    run = Run(path)
    assert run.status["state"] == state
    assert run.status["message"]
    assert run.sessions[-1]["state"] == state
    train(whole, path, reporter=reporter)
    assert_consistent(run)
    assert [s["state"] for s in run.sessions] == [state, "finished"]


def test_refusal_before_training_leaves_a_killed_run_no_longer_running(tiny, tmp_path, reporter, monkeypatch):
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    finished = run.status
    run.write_status(**finished | {"state": "running"})
    monkeypatch.setattr(session, "load_dataset", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(epochs=3), run.path, reporter=reporter)
    assert run.status["state"] == "failed"
    assert run.status["step"] == finished["step"]
    run.write_status(**finished)
    with pytest.raises(ZeroDivisionError):
        train(tiny(epochs=3), run.path, reporter=reporter)
    assert run.status["state"] == "finished"


def test_checkpoints_in_a_streak_are_not_the_last_good_one(tiny, tmp_path, reporter, monkeypatch):
    """Saved at every step; the second epoch's steps 2, 3 and 4 lose their footing."""
    normalise, called = Preprocessing.normalise, 0

    def poisoned(self, images, *more):
        nonlocal called
        called += 1
        bad = called - STEPS - 1 in (2, 3, 4)  # the first epoch's, and one of validation
        return normalise(self, images, *more) * (math.nan if bad else 1.0)

    monkeypatch.setattr(Preprocessing, "normalise", poisoned)
    with pytest.raises(NumericsError, match="is the last good checkpoint") as end:
        train(tiny(save_minutes=1e-9), tmp_path / "run", reporter=reporter)
    run = Run(tmp_path / "run")
    assert str(run.previous) in str(end.value)
    assert load_checkpoint(run.last).meta["counters"]["bad_in_a_row"] == 2
    good = load_checkpoint(run.previous).meta["counters"]
    assert (good["bad_in_a_row"], good["step"]) == (0, STEPS + 1)


def test_another_number_format_is_said(tiny, tmp_path, reporter, monkeypatch):
    """As after a move to another processor, where --precision auto means something else."""
    with monkeypatch.context() as patch:
        patch.setattr(saves, "number_format", lambda _: "bf16")
        train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    assert "bf16 until now" not in text(reporter)
    train(tiny(epochs=1, then=["1"]), tmp_path / "run", reporter=reporter)
    assert "the run was trained in bf16 until now, and goes on in fp32" in text(reporter)


def test_lines_are_not_added_to_what_a_link_leads_to(tmp_path):
    (tmp_path / "profile").write_text("mine\n")
    (tmp_path / "sessions.jsonl").symlink_to(tmp_path / "profile")
    with pytest.raises(OSError, match="symbolic links"):
        append_row(tmp_path / "sessions.jsonl", {"started": "now"})
    assert (tmp_path / "profile").read_text() == "mine\n"


@pytest.mark.parametrize("value", ["x", None, 10**400, [1]], ids=str)
def test_a_line_of_metrics_without_numbers_is_left_out(tmp_path, value):
    rows = [{"kind": "epoch", "epoch": 1, "step": 2, "val_top1": value}, {"kind": [], "epoch": 1, "step": 2}]
    rows.append({"kind": "epoch", "epoch": 1, "step": 2, "val_top1": 0.5, "val_loss": float("inf")})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Run(tmp_path).metrics == rows[2:]


def test_an_error_of_the_disk_costs_no_step(tiny, tmp_path, reporter, monkeypatch):
    step = Learner.train_step

    def strike(self, *batch):
        if self.counters.step == 3:
            raise OSError(errno.EIO, "Input/output error")
        return step(self, *batch)

    monkeypatch.setattr(Learner, "train_step", strike)
    with pytest.raises(OSError, match="Input/output"):
        train(tiny(), tmp_path / "run", reporter=reporter)
    assert load_checkpoint(Run(tmp_path / "run").last).meta["counters"]["step"] == 3


def test_want_of_gpu_memory_is_told_of_the_run_as_it_is(tiny, tmp_path, reporter, monkeypatch):
    """Not of the recipe that the command named."""

    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Learner, "train_step", fail)
    with pytest.raises(UsageError, match="--batch-size 96 in --accumulate 2 parts: double"):
        train(tiny(), tmp_path / "run", given={"batch_size": 96, "accumulate": 2}, reporter=reporter)
