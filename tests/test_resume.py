"""Kills and signals at any moment: the same command goes on and ends with the same bits."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet import cli
from alexnet.config.values import override
from alexnet.errors import TrainingStopped
from alexnet.inference import evaluation
from alexnet.runs import folder as run_module
from alexnet.runs import recorder
from alexnet.runs.checkpoint import load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.training import scoring, session
from alexnet.training.learner import Learner
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from alexnet.training.signals import SignalGuard
from conftest import STEPS, TINY, Blank, assert_consistent, assert_same_run, leftovers, text, without_figures

OVERRIDES = {
    "epochs": 6,
    "log_every": 2,
    "save_minutes": 0.0005,
    "ema": 0.9,
    "ema_after": 0.7,
    "model.dropout": 0.5,
    "optim.name": "paper-sgd",
    "optim.lr": 0.02,
    "optim.schedule": "plateau",
    "optim.patience": 0,
    "start": ["whiten", "identity", "lsuv"],
    "cutmix": 1.0,
    "mixup": 0.4,
    "mix_probability": 0.8,
    "mix_until": 4,
    "grow_from": 24,
    "grow_epochs": 1.4,
    "data.flip": True,
    "data.alternate_flips": True,
    "data.reshuffle": False,
    "data.mean_image": True,
    "score_train": 2,
    "keep": "log",
    "early_stop": 50,
}
LIMIT = 120  # seconds, on a machine that is busy with something else


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The uninterrupted run that the killed ones must equal; its config.yaml is the recipe of all of them."""
    return uninterrupted(tmp_path_factory, OVERRIDES)


def uninterrupted(tmp_path_factory, overrides):
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        return train(override(TINY, overrides), tmp_path_factory.mktemp("run") / "run", reporter=Reporter(quiet=True))


def real(arguments, log):
    """`alexnet ARGS` as a process of its own."""
    with log.open("a") as stream:
        return subprocess.Popen([sys.executable, "-m", "alexnet", *arguments], stdout=stream, stderr=subprocess.STDOUT)


class Forked:
    """`alexnet ARGS` forked from a process that has imported everything and done nothing: starts in no time."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["alexnet.training.loop", "torch.utils.tensorboard", "alexnet.data.digits", "matplotlib.backends.backend_agg"]
    )

    def __init__(self, arguments, log):
        self.process = self.context.Process(target=Forked.main, args=(arguments, str(log)))
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    @staticmethod
    def main(arguments, log):
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
        session.draw_curves = lambda *_: Blank()  # takes longer than an epoch
        cli.main(arguments)

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode


def wait_for(condition, process):
    end = time.monotonic() + LIMIT
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_for_progress(path, process):
    """Until a session has written more metrics than an earlier one left."""
    count = len(Run(path).metrics)
    wait_for(lambda: len(Run(path).metrics) > count, process)


def catches(pid, number):
    """Whether a process has installed a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)
    return bool(mask >> (number - 1) & 1)


def command(whole, path):
    return ["train", str(whole.path / "config.yaml"), "--run", str(path)]


def finish(launch, whole, path):
    log = path.parent / "log"
    assert launch(command(whole, path), log).wait(LIMIT) == 0, log.read_text()
    assert_consistent(Run(path))
    assert_same_run(Run(path), whole)


def kill_and_resume(launch, whole, path, kills, draw):
    for _ in range(kills):
        process = launch(command(whole, path), path.parent / "log")
        if draw.random() < 0.8:  # else anywhere, the start included
            wait_for_progress(path, process)
        time.sleep(draw.uniform(0, 0.7))
        process.kill()
        process.wait()
    finish(launch, whole, path)


@pytest.mark.slow
def test_kill_at_random_moments(whole, tmp_path):
    kill_and_resume(Forked, whole, tmp_path / "run", 5, random.Random(0))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_twenty_times(whole, tmp_path, seed):
    kill_and_resume(real, whole, tmp_path / "run", 20, random.Random(seed))


def test_signals_to_the_process(whole, tmp_path):
    """SIGTERM and SIGINT while training: each ends in 75 within ten seconds, then the run is finished."""
    path, log = tmp_path / "run", tmp_path / "log"
    for number in (signal.SIGTERM, signal.SIGINT):
        process = Forked(command(whole, path), log)
        wait_for_progress(path, process)
        os.kill(process.pid, number)
        began = time.monotonic()
        wait_for(lambda: Run(path).status["state"] == "stopped", process)
        assert time.monotonic() - began < 10
        code, said = process.wait(LIMIT), log.read_text()
        assert code == 75, said
        assert said.splitlines()[-1].startswith(f"stopped: stopped by {number.name}")
        assert "Traceback" not in said
        assert Run(path).status["state"] == "stopped"
    finish(Forked, whole, path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_the_process_imports(whole, tmp_path, number):
    path, log = tmp_path / "run", tmp_path / "log"
    process = real(command(whole, path), log)
    wait_for(lambda: catches(process.pid, signal.SIGTERM), process)
    process.send_signal(number)
    code, said = process.wait(LIMIT), log.read_text()
    assert code == 75, said
    assert "same command" in said
    assert "Traceback" not in said
    assert not path.exists()


# In this process from here on: the signal strikes at a chosen place.

PLACES = ["load_dataset", "build_for", "write_config", "train_step", "validation", "training split"]
PLACES += ["save_checkpoint", "test"]
PLACES += [pytest.param(place, marks=pytest.mark.slow) for place in ("apply_step", "epoch's end", "write_result")]


def test_a_handler_of_the_program_around_python_is_left_alone(monkeypatch):
    """Python cannot put it back."""
    own = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else signal.SIG_DFL)
    with SignalGuard():
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler


def strike(monkeypatch, place, number=signal.SIGTERM, at=2):
    """Send this process a signal the `at`-th time that it comes by a place."""
    passed = 0

    def hit():
        nonlocal passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), number)

    def around(owner, name, after=False, when=lambda *_, **__: True):
        inner = getattr(owner, name)

        def wrapped(*arguments, **options):
            if not after and when(*arguments, **options):
                hit()
            result = inner(*arguments, **options)
            if after and when(*arguments, **options):
                hit()
            return result

        monkeypatch.setattr(owner, name, wrapped)

    match place:
        case "load_dataset" | "build_for":
            at = 1
            around(session, place, after=True)
        case "write_config":
            at = 1
            around(run_module.Run, place)
        case "train_step" | "apply_step":
            at = STEPS + 3
            around(Learner, place, after=True)
        case "validation":
            around(scoring, "score", when=lambda *_, name, **__: name == "val")
        case "training split":
            around(scoring, "score", when=lambda *_, name, **__: name == "train")
        case "test":
            at = 1
            around(scoring, "score", when=lambda *_, name, **__: name == "test")
        case "save_checkpoint":
            at = 4
            around(recorder, place)
        case "epoch's end":
            around(Reporter, "epoch", after=True)
        case "write_result":
            at = 1
            around(recorder, place)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """An uninterrupted run of two epochs."""
    return uninterrupted(tmp_path_factory, OVERRIDES | {"epochs": 2})


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("place", PLACES)
def test_signal_anywhere_then_the_same_command(pair, tmp_path, reporter, monkeypatch, place):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        strike(patch, place)
        with pytest.raises(TrainingStopped, match="SIGTERM") as stop:
            train(pair.config, path, reporter=reporter)
    assert stop.value.exit_code == 75
    assert Run(path).status.get("state") in ("stopped", None)
    if place not in ("load_dataset", "build_for", "write_config"):
        assert Run(path).status["state"] == "stopped"
        assert Run(path).last.exists()
    run = train(pair.config, path, reporter=reporter)
    assert_consistent(run)
    assert_same_run(run, pair)


ENDING = {"epochs": 9, "score_train": 3, "stop_train_error": 0.7, "save_minutes": 10.0, "optim.schedule": "constant"}
ENDING |= {"cutmix": 0.0, "mixup": 0.0, "mix_until": None}  # with them nothing is learnt so soon


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """An uninterrupted run that ends between the steps of an epoch."""
    return uninterrupted(tmp_path_factory, OVERRIDES | ENDING)


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("place", ["its evaluation", "the test"])
def test_stop_at_the_step_that_ends_a_run(ended, tmp_path, reporter, monkeypatch, place):
    """Between the steps of an epoch: stopped in the evaluation that finds the error, or in the test after it."""
    config = ended.config
    scores = [row for row in ended.metrics if row["kind"] == "train-score"]
    assert ended.status["stopped"].startswith(f"stopped at {scores[-1]['epoch']:.4g} of 9 epochs by a training error")
    with monkeypatch.context() as patch:
        at = len(scores) if place == "its evaluation" else 1
        strike(patch, "training split" if place == "its evaluation" else "test", at=at)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", reporter=reporter)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert_same_run(run, ended)
    assert run.status["stopped"] == ended.status["stopped"]


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("place", ["train_step", "validation"])
def test_early_stopping_counts_on_where_a_run_was_stopped(tmp_path, reporter, monkeypatch, place):
    """Nothing is learned, so that two epochs are waited after the first, whose accuracy none of them exceeds."""
    config = override(TINY, {"epochs": 6, "early_stop": 2, "optim.lr": 1e-12})
    whole = train(config, tmp_path / "whole", reporter=reporter)
    assert whole.status["stopped"].startswith("stopped at 3 of 6 epochs by early stopping after 2 epochs")
    with monkeypatch.context() as patch:
        strike(patch, place)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", reporter=reporter)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert_same_run(run, whole)
    assert run.status["stopped"] == whole.status["stopped"]


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_stop_within_an_epoch_is_saved_there(pair, tmp_path, reporter, monkeypatch):
    config = replace(pair.config, save_minutes=10.0)
    with monkeypatch.context() as patch:
        strike(patch, "apply_step")
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", reporter=reporter)
    counters = load_checkpoint(tmp_path / "run" / "last.safetensors").meta["counters"]
    assert (counters["epoch"], counters["epoch_step"], counters["step"]) == (1, 3, STEPS + 3)
    train(pair.config, tmp_path / "run", reporter=reporter)
    assert f"going on from step {STEPS + 3} (epoch 2)" in text(reporter)


class Killed(BaseException):
    """Stands for SIGKILL where the moment matters."""


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("at", [1, 2, 3, 5, *(pytest.param(at, marks=pytest.mark.slow) for at in (4, 6, 7))])
def test_kill_at_any_save(pair, tmp_path, reporter, monkeypatch, at):
    """Between the best and the last checkpoint of an epoch, too."""
    saves = 0

    def save(*arguments, **options):
        nonlocal saves
        saves += 1
        if saves == at:
            raise Killed
        save_checkpoint(*arguments, **options)

    config = replace(pair.config, save_minutes=10.0) if at < 4 else pair.config
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", save)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", reporter=reporter)
    run = train(pair.config, tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert_same_run(run, pair)


@pytest.mark.usefixtures("no_figures")
def test_what_a_killed_save_left_is_removed(tiny, tmp_path, reporter):
    """A temporary checkpoint of the full network is hundreds of megabytes, one for each kill."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    (run.path / ".last.safetensors.abcdefgh").write_bytes(b"half")
    train(tiny(), run.path, reporter=reporter)
    assert not leftovers(run)


@pytest.mark.usefixtures("no_figures")
def test_kill_while_the_first_file_is_written(pair, tmp_path, reporter):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".config.yaml.abcdefgh").write_bytes(b"epo")
    assert_same_run(train(pair.config, tmp_path / "run", reporter=reporter), pair)


@pytest.mark.usefixtures("no_figures")
def test_line_cut_short_by_a_kill(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    whole = run.metrics
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "epo')
    assert run.metrics == whole
    train(tiny(), run.path, reporter=reporter)
    assert [row["epoch"] for row in run.epochs] == [1, 2]
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("second", "ends"), [(signal.SIGINT, 130), (signal.SIGTERM, None)])
def test_second_signal_while_saving(pair, tmp_path, reporter, monkeypatch, second, ends):
    """A second Ctrl-C leaves at once; a second SIGTERM (a cluster's habit) lets the save complete."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)

    def save(*arguments, **options):
        if "stopped" in stopping:
            os.kill(os.getpid(), second)
        save_checkpoint(*arguments, **options)

    stopping = []
    step = Learner.train_step

    def train_step(self, *arguments):
        if self.counters.step == 2:
            stopping.append("stopped")
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(recorder, "save_checkpoint", save)
    monkeypatch.setattr(Learner, "train_step", train_step)
    with pytest.raises(TrainingStopped):
        train(pair.config, tmp_path / "run", reporter=reporter)
    assert left[:1] == ([ends] if ends else [])


def test_handlers_are_restored(finished, reporter):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(finished.config, finished.path, reporter=reporter)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_command_before_any_folder(tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alexnet.recipes.recipe", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        cli.main(["train"])
    assert end.value.code == 75
    assert "same command" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_evaluate(finished, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "score", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT) or time.sleep(1))
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", str(finished.path)])
    assert end.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
