"""One training with several seeds: which ones, as real processes in turn and side by side, stopped and gone on."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from alexnet.cli.tables import show_family
from alexnet.config import TrainConfig
from alexnet.errors import AlexNetError, DataError, UsageError
from alexnet.runs.folder import Run, family_of, load_run
from alexnet.training.families import family_configs, parse_seeds, spread, train_family
from alexnet.training.loop import train
from alexnet.training.processes import Training
from alexnet.training.signals import SignalGuard
from conftest import Process, assert_same_run


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", (0, 1, 2, 3, 4)), ("0,1,2", (0, 1, 2)), ("7", (7,)), ("0-2, 7", (0, 1, 2, 7)), ("3,1", (3, 1))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "4-0", "1,,2", "-1", "0-99999999", "1.5", "1,1", "0-3,2", "0-900,1000-1900", "٣", "9" * 99]
)
def test_seeds_with_a_mistake(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_spread_is_that_of_a_sample():
    found = spread([0.5, 0.7, 0.9])
    assert (found.count, found.mean) == (3, pytest.approx(0.7))
    assert found.deviation == pytest.approx(statistics.pvariance([0.5, 0.7, 0.9]) ** 0.5 * (3 / 2) ** 0.5)
    assert spread([0.5]).deviation != spread([0.5]).deviation  # nan


def test_a_run_that_is_there_keeps_its_own_settings(tiny, tmp_path):
    run = Run(tmp_path / "seed-1")
    run.path.mkdir()
    run.write_config(tiny(seed=1, label_smoothing=0.2))
    recipe = tiny()
    configs, notes = family_configs(recipe, {"epochs": 3}, [0, 1], tmp_path)
    assert [(c.seed, c.epochs, c.label_smoothing) for c in configs.values()] == [(0, 3, 0.0), (1, 3, 0.2)]
    assert len(notes) == 1
    assert "--label-smoothing 0.2" in notes[0]
    configs, notes = family_configs(recipe, None, [1], tmp_path)  # a whole configuration
    assert (configs[run.path].label_smoothing, notes) == (0.0, [])


@pytest.mark.slow
def test_side_by_side_stopped_and_gone_on(tiny, tmp_path, reporter):
    """As a command whose process group gets Ctrl-C: both trainings save, and end as a run of their own does."""
    whole = train(tiny(epochs=8, seed=1), tmp_path / "whole", reporter=reporter)
    config = whole.path / "config.yaml"
    line = [sys.executable, "-m", "alexnet", "train", config, "--seeds", "0-1", "--jobs", "2", "--run", tmp_path / "f"]
    # An epoch ends long before the last one.
    first = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True)
    runs = [Run(tmp_path / "f" / f"seed-{seed}") for seed in (0, 1)]
    end = time.monotonic() + 120
    while not all(run.epochs for run in runs) and first.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) == 75
    assert {run.status["state"] for run in runs} == {"stopped"}
    second = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stdout + second.stderr
    assert_same_run(runs[1], whole)
    accuracies = [100 * run.test["top1"] for run in runs]
    said = f"{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %"
    assert said in second.stdout
    assert "going on from step" in (tmp_path / "f" / "jobs" / "seed-0.log").read_text()


@pytest.mark.usefixtures("no_figures", "no_processes")
def test_a_lost_result_of_a_family_is_measured_again(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "seed-0")
    run, lines = Run(tmp_path / "seed-0"), []
    run.result_file.unlink()
    for _ in range(2):
        train_family({run.path: run.config}, 1, SignalGuard(), lines.append)
    assert run.test["top1"] == finished.test["top1"]
    assert lines == ["finished before and left as it was: seed-0"]


@pytest.mark.usefixtures("no_figures", "no_processes")
def test_the_command_shows_mean_and_spread(finished, call, tmp_path):
    config = finished.path / "config.yaml"
    code, said, error = call("train", config, "--epochs", "1", "--seeds", "0-1", "--run", tmp_path / "f")
    assert code == 0, error
    runs = [Run(tmp_path / "f" / f"seed-{seed}") for seed in (0, 1)]
    assert [run.config.seed for run in runs] == [0, 1]
    accuracies = [100 * run.test["top1"] for run in runs]
    assert f"{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %" in said
    assert all(f"{accuracy:.2f}%" in said for accuracy in accuracies)


def test_the_table_says_what_ended_a_run_early(finished, tmp_path, capsys):
    shutil.copytree(finished.path, tmp_path / "early")
    early = Run(tmp_path / "early")
    early.write_status(**early.status | {"stopped": "stopped at 1 of 2 epochs by --stop-after"})
    show_family([early, finished])
    said = capsys.readouterr().out
    assert f"{early.path}: stopped at 1 of 2 epochs by --stop-after" in said
    assert said.count("stopped at") == 1


def test_validation_is_said_where_there_is_no_test_split(without_test, capsys):
    lines: list[str] = []
    train_family({without_test.path: without_test.config}, 2, SignalGuard(), lines.append)
    assert lines[-2:] == [
        f"{without_test.path.name}: val accuracy 62.50%",
        f"finished before and left as it was: {without_test.path.name}",
    ]
    show_family([without_test])
    said = capsys.readouterr().out
    assert "62.50%" in said
    assert "no result" not in said


def test_results_of_two_splits_have_no_mean(without_test, finished, capsys):
    show_family([without_test, finished])
    said = capsys.readouterr().out
    assert "no mean: some were measured on test and some on val" in said
    assert "±" not in said


def test_runs_of_other_settings_have_no_mean(finished, tmp_path, capsys):
    shutil.copytree(finished.path, tmp_path / "longer")
    longer = Run(tmp_path / "longer")
    longer.write_config(replace(finished.config, epochs=5, seed=1, optim=replace(finished.config.optim, lr=0.01)))
    show_family([finished, longer])
    said = capsys.readouterr().out.replace("\n", " ")
    settings = f"--epochs {finished.config.epochs}, 5; --optim.lr {finished.config.optim.lr}, 0.01"
    assert f"no mean: their settings differ ({settings})" in said
    assert "±" not in said


def test_the_result_of_an_earlier_end_does_not_count(finished, tmp_path, capsys):
    """As of a run that went on, and diverged."""
    shutil.copytree(finished.path, tmp_path / "lost")
    lost = Run(tmp_path / "lost")
    lost.write_status(**lost.status | {"state": "failed"})
    assert lost.result is not None
    show_family([finished, lost])
    said = capsys.readouterr().out
    assert f"{lost.path}: no result" in said
    assert "mean" not in said


def test_what_a_training_says_goes_where_our_own_output_goes(tmp_path):
    """--quiet sends it nowhere."""
    training = object.__new__(Training)
    training.threads = None
    with (tmp_path / "out").open("w") as out, redirect_stdout(out):
        training._open([sys.executable, "-c", "print('said')"]).wait()
    assert (tmp_path / "out").read_text() == "said\n"


@pytest.mark.parametrize(("code", "kind"), [(3, DataError), (2, UsageError), (1, AlexNetError)])
def test_an_error_stops_the_others_and_a_divergence_does_not(tmp_path, monkeypatch, code, kind):
    started = {"seed-0": Process(5), "seed-1": Process(None), "seed-2": Process(code)}

    def start(self, command):
        self.log.write_text("what it says\nerror: no such thing.\n")
        return started[self.run.path.name]

    monkeypatch.setattr(Training, "_open", start)
    said: list[str] = []
    with pytest.raises(kind, match=r"seed-2: no such thing\. All that it said: .*seed-2\.log"):
        train_family({tmp_path / name: TrainConfig() for name in started}, 2, SignalGuard(), said.append)
    assert [process.ended for process in started.values()] == [[], [signal.SIGTERM, "wait"], ["wait"]]
    assert "seed-0: its loss diverged" in said


def test_a_training_that_is_killed_starts_again_three_times(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(Training, "_open", lambda self, _: opened.append(self) or Process(-9))
    with pytest.raises(AlexNetError, match=r"run: was killed 3 times .*\(signal 9\)\. .* memory: fewer --jobs"):
        train_family({tmp_path / "run": TrainConfig()}, 1, SignalGuard())
    assert len(opened) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--seeds", "0-1", "--seed", "3"], "exclude"), (["--seeds", "x"], "write 0-4"), (["--seeds", "0-"], "write 0-4")],
)
def test_usage(call, arguments, message):
    code, _, error = call("train", "digits", *arguments)
    assert code == 2
    assert message in error


def test_a_run_is_no_place_for_a_family(call, finished):
    code, _, error = call("train", "digits", "--seeds", "0-1", "--run", finished.path)
    assert code == 2
    assert "holds a run: the runs of --seeds need a folder that is none" in " ".join(error.split())
    assert not (finished.path / "seed-0").exists()


def test_not_under_torchrun(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--jobs in the place of torchrun" in call("train", "digits", "--seeds", "0-1")[2]


def test_flags_that_go_with_seeds_or_against_them(call, tmp_path):
    (tmp_path / "x.yaml").write_text("epochs: 1\n")
    for recipe in ("digits", tmp_path / "x.yaml"):
        assert "--seed and --seeds exclude" in call("train", recipe, "--seed", "3", "--seeds", "0-1")[2]
    assert "--jobs 4 trains several seeds side by side: add --seeds" in call("train", "digits", "--jobs", "4")[2]


def test_no_code_is_loaded_from_the_folder_that_is_worked_in(tmp_path, monkeypatch):
    """Which may hold somebody else's yaml.py."""
    commands = []
    monkeypatch.setattr(Training, "_open", lambda self, command: commands.append(command) or Process(0))
    Training(TrainConfig(), tmp_path / "run", tmp_path / "run", None)
    (tmp_path / "yaml.py").write_text("print('theirs')")
    command = [*commands[0][: commands[0].index("-m")], "-m", "alexnet", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "theirs" not in done.stdout


def test_trainings_side_by_side_share_the_cores(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("alexnet.training.families.usable_cores", lambda: 8)
    monkeypatch.setattr(Training, "_open", lambda self, _: given.append(self.threads) or Process(0))
    train_family({tmp_path / name: TrainConfig() for name in "abc"}, 2, SignalGuard(), lambda _: None)
    assert given == [4, 4, 4]


def test_a_diverged_seed_ends_with_5_after_the_table(call, tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet.training.families.train_family", lambda configs, *_: {p: Run(p) for p in configs})
    mark = tmp_path / "family" / "jobs" / "seed-1.diverged"
    mark.parent.mkdir(parents=True)
    mark.touch()
    code, _, error = call("train", "digits", "--seeds", "0-1", "--run", tmp_path / "family")
    assert code == 5
    assert "the loss of seed-1 diverged" in error
    mark.unlink()
    code, _, error = call("train", "digits", "--seeds", "0-1", "--run", tmp_path / "family")
    assert code == 1
    assert "the result of seed-0, seed-1 could not be written: the same command measures it again." in error


def test_a_family_is_found_in_its_folder(tmp_path):
    for name in ("seed-10", "seed-2", "seed-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "seed-3.yaml").touch()
    assert [run.path.name for run in family_of(tmp_path)] == ["seed-2", "seed-10"]
    with pytest.raises(UsageError, match="but it holds the runs seed-2, seed-10"):
        load_run(tmp_path)
    assert family_of(tmp_path / "seed-2") == []
    with pytest.raises(UsageError, match="cannot be read"):
        family_of(tmp_path / ("x" * 300))
