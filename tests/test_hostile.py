"""Tries of a hostile user: each ends in one clear line and the exit code of its kind, and loses nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import alexnet
from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.errors import CheckpointError, UsageError
from alexnet.runs.folder import load_config
from alexnet.runs.rows import read_rows
from alexnet.training import loop, session
from conftest import TINY, assert_same_tensors, text

resource = pytest.importorskip("resource")  # which Windows has not

pytestmark = pytest.mark.usefixtures("no_fsync", "no_figures")


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run of one's own."""
    return alexnet.load_run(shutil.copytree(finished.path, tmp_path / "run"))


def picture(path):
    Image.fromarray(np.zeros((20, 20), dtype=np.uint8)).save(path)
    return path


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "{run}", ""], 2, "IMAGES is empty"),
        (["train", "digits", "--run", ""], 2, "--run is empty"),
        (["prepare", "folder", "--data.root", "", "--out", "x"], 2, "--data.root is empty"),
        (["evaluate", "{run}", "--out="], 2, "--out is empty"),
        (["train", "digits", "--then", "9" * 5000], 2, "--then '9999"),
        (["train", "digits", "--then", f"2 patience={'9' * 5000}"], 2, "--then '2 patience="),
        (["train", "digits", "--name", "   "], 2, "the run's name '   ' is no folder name"),
        (["predict", "{run}", "{run}/curves.png", "--sheet", "/"], 2, "--sheet /: figures are PNG files"),
        (["benchmark", "cifar", "--batch-size", "1000000000000"], 2, "more memory than there is"),
        (["train", "digits", "--epochs", "--seed", "1"], 2, "--epochs requires an argument"),
        (["evaluate", "{run}/config.yaml"], 4, "is not a checkpoint"),
        (["verify", "{run}/missing"], 4, "there is no run, checkpoint or weights file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_commands_end_in_one_line(call, finished, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    found, _, err = call(*(argument.format(run=finished.path) for argument in arguments))
    assert (found, len(err.splitlines())) == (code, 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_flags_without_a_value_are_not_empty(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("info", "cifar", "--json", "--model.no-overlap")
    assert code == 0
    json.loads(out)


@pytest.mark.parametrize("value", ["abc", "", "0", "2", "-1"])
def test_a_world_that_torchrun_did_not_make(call, tmp_path, monkeypatch, value):
    """Left behind by a batch system, for example."""
    monkeypatch.setenv("WORLD_SIZE", value)
    settings = ("--epochs", "1", "--data.fraction", "0.1", "--device", "cpu")
    code, _, err = call("train", "digits", *settings, "--run", tmp_path / "run")
    assert code == (0 if value == "" else 2)
    assert ("WORLD_SIZE" in err, len(err.splitlines())) == ((False, 0) if value == "" else (True, 1))


def test_a_current_folder_that_was_deleted(call, finished, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = call("evaluate", finished.path, "--json")
    os.chdir(tmp_path)
    assert (code, err) == (2, "error: the current folder was deleted: change to one that exists.\n")


def test_the_result_of_published_weights_is_in_no_folder(call, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = alexnet.evaluate(finished)
    monkeypatch.setattr("alexnet.inference.evaluation.evaluate", lambda *_, **__: result)
    assert call("evaluate", "torchvision", "--recipe", "digits")[0] == 0
    assert list(tmp_path.iterdir()) == []
    assert call("evaluate", "torchvision", "--recipe", "digits", "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_no_folder_for_temporary_files(call, tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")  # as tempfile does

    monkeypatch.setattr("alexnet.inference.evaluation.evaluate", nowhere)
    code, _, err = call("evaluate", tmp_path)
    said = "error: No usable temporary directory found in ['/tmp']: name a folder that can be written with TMPDIR.\n"
    assert (code, err) == (1, said)


def test_configurations_are_utf8_whatever_the_locale(tmp_path, run_cli):
    (tmp_path / "c.yaml").write_bytes("\ufeffname: für\nepochs: 0\n".encode())
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = run_cli("train", "c.yaml", env=os.environ | plain)
    assert (done.returncode, done.stderr) == (2, "error: --epochs 0 is out of range: it must be at least 1.\n")
    (tmp_path / "c.yaml").write_bytes("name: für\n".encode())
    assert load_config(tmp_path / "c.yaml").name == "für"


def test_a_backend_that_matplotlib_does_not_know(run_cli):
    done = run_cli("preview", "digits", env=os.environ | {"MPLBACKEND": "nonsense"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: matplotlib does not start: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has none")
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(call, finished, tmp_path):
    """Root could: /dev/null would be a file from then on."""
    image = picture(tmp_path / "a.png")
    for name, *command in (("f.npz", "features", finished.path, image), ("p.png", "preview", "digits")):
        os.mkfifo(out := tmp_path / name)
        code, _, err = call(*command, "--out", out)
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"cannot write {out}: it is a pipe, a socket or a device" in err
        assert out.is_fifo()


# --- settings made in Python


@pytest.mark.parametrize(
    "make",
    [
        lambda: OptimConfig(schedule="cosin"),
        lambda: OptimConfig(name="sdg"),
        lambda: OptimConfig(betas=(0.9,)),
        lambda: TrainConfig(precision="fp16"),
        lambda: TrainConfig(epochs=1.5),
        lambda: TrainConfig(epochs="3"),
        lambda: TrainConfig(epochs=True),
        lambda: TrainConfig(then="10"),
        lambda: TrainConfig(data={"source": "digits"}),
        lambda: DataConfig(mean=0.5),
        lambda: ModelConfig(lrn="of"),
    ],
)
def test_wrong_types_and_misspelt_choices_are_refused_wherever_they_are_made(make):
    """A schedule that nobody knows would otherwise be a constant one, without a word."""
    with pytest.raises(UsageError, match=r"--(optim|data|model|precision|epochs|then)"):
        make()


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    config = TrainConfig(
        epochs=np.int64(2),
        data=DataConfig(root=tmp_path, mean=[0.5]),
        optim=OptimConfig(lr=np.float32(0.5), betas=[0.5, 0.25]),
    )
    plain = TrainConfig(
        epochs=2, data=DataConfig(root=str(tmp_path), mean=(0.5,)), optim=OptimConfig(lr=0.5, betas=(0.5, 0.25))
    )
    assert config == plain
    assert yaml.safe_dump(alexnet.config.dump(config)) == yaml.safe_dump(alexnet.config.dump(plain))


def test_a_single_image_needs_no_list(finished, tmp_path):
    image = picture(tmp_path / "a.png")
    for name in (str(image), image):
        assert [answer.path for answer in alexnet.predict(finished, name)] == [str(image)]
        assert alexnet.extract_features(finished, name, "fc7")["fc7"].shape[0] == 1


def test_precisions_are_checked_where_they_are_used(finished):
    with pytest.raises(UsageError, match="unknown precision 'fp61'"):
        alexnet.evaluate(finished, precision="fp61")


# --- what surrounds a training


def test_training_within_no_grad_and_inference_mode(finished, tmp_path, reporter):
    for number, surrounding in enumerate((torch.no_grad(), torch.inference_mode())):
        with surrounding:
            run = loop.train(TINY, tmp_path / str(number), reporter=reporter)
        assert_same_tensors(run.last, finished.last)


def test_a_second_training_in_the_same_process_is_refused(finished, tmp_path, monkeypatch, reporter, tiny):
    """Two threads share torch's random numbers: neither run could be repeated."""
    problems = []

    def second():
        try:
            loop.train(tiny(), tmp_path / "b")
        except UsageError as problem:
            problems.append(str(problem))

    finish = session.Session._finish_epoch

    def finish_epoch(session, learner):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        finish(session, learner)

    monkeypatch.setattr(session.Session, "_finish_epoch", finish_epoch)
    run = loop.train(tiny(), tmp_path / "a", reporter=reporter)
    assert_same_tensors(run.last, finished.last)
    assert len(problems) == 2
    assert "another thread of this process trains already" in problems[0]
    assert not (tmp_path / "b").exists()


# --- run folders


def after_the_first_epoch(monkeypatch, work):
    finish, done = session.Session._finish_epoch, []

    def finish_epoch(session, learner):
        finish(session, learner)
        if not done:
            done.append(work())

    monkeypatch.setattr(session.Session, "_finish_epoch", finish_epoch)


@pytest.mark.parametrize("how", ["moved", "deleted", "deleted before the test"])
def test_a_folder_that_goes_while_it_is_trained_in(tiny, tmp_path, monkeypatch, reporter, how):
    """What is told at the end is not that all is well."""
    path = tmp_path / "run"
    work = (lambda: path.rename(tmp_path / "elsewhere")) if how == "moved" else lambda: shutil.rmtree(path)
    after_the_first_epoch(monkeypatch, work)
    with pytest.raises(CheckpointError, match=r"was moved or deleted while it was trained in.*a test accuracy of"):
        loop.train(tiny(epochs=1 if "before" in how else 2), path, reporter=reporter)
    assert "next: alexnet" not in text(reporter)
    if how == "moved":
        monkeypatch.undo()
        (tmp_path / "elsewhere").rename(path)
        assert loop.train(tiny(), path, reporter=reporter).status["state"] == "finished"


@pytest.mark.parametrize(
    ("name", "value", "said"), [("seed", 5, "--seed 0 there and 5"), ("batch_size", 16, "--batch-size 64 there and 16")]
)
def test_an_edited_configuration_does_not_go_on_silently(copy, reporter, name, value, said):
    values = yaml.safe_load((copy.path / "config.yaml").read_text())
    (copy.path / "config.yaml").write_text(yaml.safe_dump({**values, name: value}))
    before = copy.last.read_bytes()
    with pytest.raises(CheckpointError, match=said):
        loop.train(dataclasses.replace(copy.config, epochs=3), copy.path, reporter=reporter)
    assert copy.last.read_bytes() == before


def test_a_checkpoint_of_another_run_is_not_gone_on_from(copy, tiny, tmp_path, reporter):
    other = loop.train(tiny(seed=7), tmp_path / "other", reporter=reporter)
    shutil.copy(other.last, copy.last)
    with pytest.raises(CheckpointError, match=r"other settings than config\.yaml has \(--seed 7 there and 0 now\)"):
        loop.train(tiny(epochs=3), copy.path, reporter=reporter)


@pytest.mark.parametrize("elapsed", ["NaN", "Infinity", "-5.0", '"x"'])
def test_impossible_times_in_the_status(copy, tiny, reporter, elapsed):
    (copy.path / "status.json").write_text(f'{{"state": "stopped", "elapsed": {elapsed}}}')
    assert loop.train(tiny(epochs=3), copy.path, reporter=reporter).status["state"] == "finished"


@pytest.mark.parametrize("epoch", ["", ', "epoch": null', ', "epoch": "x"', ', "epoch": [1]'])
def test_metrics_without_a_number_of_the_epoch(copy, tiny, reporter, epoch):
    with (copy.path / "metrics.jsonl").open("a") as stream:
        stream.write(f'{{"kind": "epoch", "step": 3{epoch}}}\n')
    run = loop.train(tiny(epochs=3), copy.path, reporter=reporter)
    assert [row["epoch"] for row in run.epochs] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits of files there")
def test_a_disk_that_fills_amid_a_line_costs_that_line_alone(tiny, tmp_path, monkeypatch, reporter):
    path, steps = tmp_path / "run" / "metrics.jsonl", []
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = session.Recorder.append_metrics

    def metrics(record, row):
        if row["step"] == 9 and row["kind"] == "step":
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
        try:
            write(record, row)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        steps.append((row["kind"], row["step"]))

    monkeypatch.setattr(session.Recorder, "append_metrics", metrics)
    try:
        loop.train(tiny(), tmp_path / "run", reporter=reporter)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    rows, damaged = read_rows(path)
    assert damaged == 1
    assert [(row["kind"], row["step"]) for row in rows] == [found for found in steps if found != ("step", 9)]
    assert "could not write metrics" in text(reporter)


def test_a_run_is_found_through_links_and_from_within(copy, tmp_path, call, monkeypatch):
    (tmp_path / "link").symlink_to(copy.path)
    monkeypatch.chdir(copy.path)
    measured = [json.loads(call("evaluate", place, "--json")[1])["top1"] for place in (".", "../link/", Path("../run"))]
    assert measured == [copy.test["top1"]] * 3
