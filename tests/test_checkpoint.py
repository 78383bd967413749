"""Checkpoints: every damage is found, every failure to write leaves the old file."""

import errno
import hashlib
import json
import os
import random
import stat
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alexnet import cli, evaluate, files, predict
from alexnet.errors import AlexNetError, CheckpointError
from alexnet.files import write_atomically
from alexnet.runs import checkpoint
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.training import session
from alexnet.training.loop import train
from conftest import STEPS, assert_consistent, assert_same_tensors, leftovers, tensors, text

resource = pytest.importorskip("resource")  # which Windows has not

CONTENT = Checkpoint(
    {"fc.weight": torch.arange(12.0).view(3, 4), "fc.bias": torch.tensor([1.5, -2.0, 0.25])},
    {
        "totals": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "optimizer/fc.bias/step": torch.tensor(3.0),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
        "bounds": torch.tensor([float("inf"), -float("inf")]),
        "flags": torch.tensor([True, False]),
    },
    {"classes": ["ä", "b"], "counters": {"epoch": 2, "best_top1": 0.1}},
)


@pytest.fixture
def file(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", CONTENT)
    return tmp_path / "last.safetensors"


@contextmanager
def full_disk(size=0):
    """While entered no file of this process may grow beyond `size` bytes; lifted even before a failure is reported."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if size is not None:
            limit_files(size)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def same(a, b):
    pairs = [(a.weights, b.weights), (a.extra, b.extra)]
    return all(
        x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x) for x, y in pairs
    ) and {**a.meta, "format": 2} == {**b.meta, "format": 2}


def test_round_trip(file):
    assert same(load_checkpoint(file), CONTENT)


def test_layout_in_memory_does_not_matter(tmp_path):
    images = torch.randn(4, 3, 5, 5)
    for name, value in {"plain": images, "last": images.contiguous(memory_format=torch.channels_last)}.items():
        save_checkpoint(tmp_path / name, Checkpoint({"w": value}, {}, {}))
    assert_same_tensors(tmp_path / "plain", tmp_path / "last")


def test_replaced_while_it_is_opened(file, monkeypatch):
    """As a run does that trains: `safe_open` then has the header of one file and the tensors of the next."""
    opened, following = checkpoint.safe_open, Checkpoint({"fc.weight": torch.zeros(3, 4)}, {}, {"step": 1})

    class Torn:
        def __init__(self, path, framework):
            with opened(path, framework) as header:
                self.described = header.metadata()
            monkeypatch.setattr(checkpoint, "safe_open", opened)
            save_checkpoint(path, following)
            self.tensors = opened(path, framework)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def metadata(self):
            return self.described

        def __getattr__(self, name):
            return getattr(self.tensors, name)

    monkeypatch.setattr(checkpoint, "safe_open", Torn)
    assert same(load_checkpoint(file), following)


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_flipped_bit_is_found_or_harmless(file, stride):
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), stride):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            loaded = load_checkpoint(file)
        except CheckpointError:
            continue
        assert same(loaded, CONTENT), f"bit {bit % 8} of byte {bit // 8} changes the content unnoticed"


def test_flipped_bit_in_a_real_checkpoint(finished, tmp_path):
    content, file = finished.last.read_bytes(), tmp_path / "last.safetensors"
    header = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    positions = [draw.randrange(header) for _ in range(10)] + [draw.randrange(header, len(content)) for _ in range(30)]
    found = []
    for position in [*positions, header, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            assert_same_tensors(file, finished.last)
        except CheckpointError as problem:
            found.append(str(problem))
    assert len(found) >= 32  # all of those in the tensors
    assert all(str(file) in problem for problem in found)


def test_truncated_anywhere(file):
    content = file.read_bytes()
    for length in range(0, len(content), 3):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"last\.safetensors"):
            load_checkpoint(file)


@pytest.mark.parametrize("tail", [b"\0", b"x" * 100])
def test_bytes_at_the_end(file, tail):
    file.write_bytes(file.read_bytes() + tail)
    with pytest.raises(CheckpointError):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", bytes(1000), os.urandom(1000)]
)
def test_not_a_checkpoint(tmp_path, content):
    file = tmp_path / "page.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.safetensors is not a checkpoint"):
        load_checkpoint(file)


def test_safetensors_of_another_program(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_newer_format(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", newer := checkpoint.FORMAT + 1)
        save_checkpoint(tmp_path / "new", CONTENT)
    with pytest.raises(CheckpointError, match=rf"format {newer}.*upgrade"):
        load_checkpoint(tmp_path / "new")


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_missing_file_and_folder(tmp_path, name):
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o022, 0o644), (0o077, 0o600)])
def test_mode_is_the_umasks(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "file", CONTENT)
        save_checkpoint(tmp_path / "file", CONTENT, keep=tmp_path / "previous")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("file", "previous")] == [mode, mode]


def test_keep_is_the_previous_generation(file, tmp_path):
    for step in (2, 3):
        save_checkpoint(file, Checkpoint(CONTENT.weights, {}, {"step": step}), keep=tmp_path / "previous")
    assert load_checkpoint(tmp_path / "previous").meta["step"] == 2
    assert load_checkpoint(file).meta["step"] == 3
    assert sorted(f.name for f in tmp_path.iterdir()) == ["last.safetensors", "previous"]


def test_full_disk_leaves_the_old_file(file, tmp_path):
    with full_disk(100), pytest.raises(OSError, match="File too large"):
        save_checkpoint(file, Checkpoint({}, {}, {"other": "x" * 1000}), keep=tmp_path / "previous")
    assert same(load_checkpoint(file), CONTENT)
    assert {f.name for f in tmp_path.iterdir()} <= {"last.safetensors", "previous"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_at_any_call_leaves_the_old_file(file, tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os if call == "fsync" else files.Path, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert same(load_checkpoint(file), CONTENT)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_folders_that_cannot_be_synchronised(file, tmp_path, monkeypatch, code):
    """As on some shares, where the content of files can be: what is written there is written."""
    fsync = os.fsync

    def of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", of_files)
    with pytest.raises(OSError, match="Input/output error") if code == errno.EIO else nullcontext():
        write_atomically(file, b"new")
    assert file.read_bytes() == b"new"


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """What os.fsync, rename and os.fsync of the folder are called with, in that order."""
    calls = []
    fsync, replace = os.fsync, files.Path.replace

    def synced(descriptor):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(part, target):
        calls.append(("rename", str(part)))
        return replace(part, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.Path, "replace", renamed)
    write_atomically(tmp_path / "file", b"content")
    (first, part), (second, source), third = calls
    assert (first, second, third) == ("fsync", "rename", ("fsync", str(tmp_path)))
    assert part == source != str(tmp_path / "file")


@pytest.mark.usefixtures("no_figures")
def test_training_goes_on_when_the_disk_fills(tiny, tmp_path, reporter, finished, monkeypatch):
    """Checkpoints fit until the first epoch is saved, small files always: one warning, and the run finishes."""
    save, saved = checkpoint.save_checkpoint, []

    def then_full(path, *rest, **options):
        save(path, *rest, **options)
        saved.append(path.name)
        if path.name == "last.safetensors":
            limit_files(100_000)

    monkeypatch.setattr("alexnet.runs.recorder.save_checkpoint", then_full)
    with full_disk(None):
        run = train(tiny(epochs=3), tmp_path / "run", reporter=reporter)
    assert saved == ["best.safetensors", "last.safetensors"]
    assert text(reporter).count("could not save") == 1
    assert run.status["state"] == "finished"
    assert load_checkpoint(run.last).meta["counters"]["epoch"] == 1
    assert [row["epoch"] for row in run.epochs] == [1, 2, 3]
    assert [row["train_loss"] for row in run.epochs[:2]] == [row["train_loss"] for row in finished.epochs]
    assert not leftovers(run)
    # The same command trains what no checkpoint has.
    assert f"is of step {STEPS} of {3 * STEPS}" in " ".join(text(reporter).split())
    monkeypatch.undo()
    train(tiny(epochs=3), run.path, reporter=reporter)
    assert load_checkpoint(run.last).meta["counters"]["epoch"] == 3


@pytest.mark.usefixtures("no_figures")
def test_training_goes_on_when_nothing_can_be_written_at_all(tiny, tmp_path, reporter):
    """The disk fills in the middle of the first epoch: metrics, events, checkpoints, figures and status all fail."""
    reporter.step = lambda *_: limit_files(1)
    with full_disk(None), pytest.raises(CheckpointError, match=r"not one checkpoint could be saved.*accuracy") as end:
        train(tiny(), tmp_path / "run", reporter=reporter)
    assert end.value.exit_code == 4
    assert str(tmp_path / "run") in str(end.value)
    assert "could not save" in text(reporter)
    assert "epoch 2/2" in text(reporter)
    assert "next: alexnet evaluate" not in text(reporter)
    assert not Run(tmp_path / "run").last.exists()


def test_full_disk_at_the_start_is_an_error_with_the_folder(tiny, tmp_path, capsys, finished):
    with full_disk(1), pytest.raises(SystemExit) as end:
        cli.main(["train", str(finished.path / "config.yaml"), "--run", str(tmp_path / "run")])
    assert end.value.code not in (0, None)
    assert str(tmp_path / "run") in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_damaged_last_goes_on_from_the_previous(tiny, tmp_path, reporter):
    whole = train(tiny(epochs=3), tmp_path / "whole", reporter=reporter)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    content = bytearray(run.last.read_bytes())
    content[len(content) // 2] ^= 1
    run.last.write_bytes(content)
    train(tiny(epochs=3), run.path, reporter=reporter)
    said = text(reporter)
    assert "last.safetensors is damaged" in said
    assert "previous.safetensors" in said
    assert_same_tensors(run.last, whole.last)
    assert_same_tensors(run.best, whole.best)


@pytest.mark.usefixtures("no_figures")
def test_both_generations_damaged(tiny, tmp_path, reporter):
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    for file in (run.last, run.previous):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"previous\.safetensors.*--run DIR --init .*best\.safetensors"):
        train(tiny(epochs=3), run.path, reporter=reporter)


@pytest.mark.usefixtures("no_figures")
def test_damaged_last_does_not_take_the_place_of_the_previous(tiny, tmp_path, reporter):
    """Were it kept as `previous` at the next save, a kill in the middle of that save would leave no good checkpoint."""
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    good = load_checkpoint(run.previous).meta["counters"]["step"]
    run.last.write_bytes(damaged := run.last.read_bytes()[:-1])
    point, warning = run.resume_point()
    assert point.meta["counters"]["step"] == good
    assert "last.safetensors.damaged" in warning
    assert (run.path / "last.safetensors.damaged").read_bytes() == damaged
    save_checkpoint(run.last, CONTENT, keep=run.previous)
    assert load_checkpoint(run.previous).meta["counters"]["step"] == good


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_all_checkpoints_gone(tiny, tmp_path, reporter):
    """A run that was saved does not silently begin again over what is left of it."""
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    metrics = run.metrics
    run.last.unlink()
    run.previous.unlink()
    with pytest.raises(CheckpointError, match="bring one of them back"):
        train(tiny(), run.path, reporter=reporter)
    assert run.metrics == metrics


# Best weights that are lost.


def break_best(run, how, other):
    match how:
        case "missing":
            run.best.unlink()
        case "cut":
            run.best.write_bytes(run.best.read_bytes()[:-7])
        case "empty":
            run.best.write_bytes(b"")
        case "nan":
            content = load_checkpoint(run.best)
            content.weights["fc8.bias"][0] = float("nan")
            save_checkpoint(run.best, content)
        case "another network":
            save_checkpoint(run.best, Checkpoint({"w": torch.ones(1)}, {}, load_checkpoint(run.best).meta))
        case "another epoch":
            content = load_checkpoint(run.best)
            content.meta["counters"]["epoch"] += 1
            save_checkpoint(run.best, content)
        case "another run":
            run.best.write_bytes(other.best.read_bytes())


DAMAGES = ["missing", "cut", "empty", "nan", "another network", "another epoch", "another run"]


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("how", DAMAGES)
def test_lost_best_is_said_and_the_last_is_tested(tiny, tmp_path, reporter, monkeypatch, how):
    """Killed before the test, after all epochs: the run finishes all the same, with the last epoch's weights."""
    other = train(tiny(epochs=1, **{"data.fraction": 0.2}), tmp_path / "other", reporter=reporter)
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_test", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny(), path, reporter=reporter)
    run = Run(path)
    break_best(run, how, other)
    left = run.best.read_bytes() if run.best.exists() else None
    train(tiny(), path, reporter=reporter)
    said = " ".join(text(reporter).split())
    assert "the best weights so far, of epoch" in said or how == "another network"
    assert "The test result is of the last epoch's weights" in said
    assert_consistent(run)
    measured = run.test["measured"]
    assert (measured["weights"], measured["epoch"]) == ("last.safetensors", 2)
    assert measured["sha256"] == hashlib.sha256(run.last.read_bytes()).hexdigest()
    assert run.test["loss"] == pytest.approx(evaluate(run.last).loss)
    kept = [f.read_bytes() for f in path.glob("best.safetensors*")]
    assert kept == ([left] if left is not None else [])


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_a_kill_between_best_and_last_loses_nothing(tiny, tmp_path, reporter):
    """The best weights are then of the epoch that is trained again."""
    config = tiny(epochs=2)
    whole = train(config, tmp_path / "whole", reporter=reporter)
    run = train(tiny(epochs=2, stop_after=1), tmp_path / "run", reporter=reporter)
    content = load_checkpoint(whole.best)
    assert content.epoch == 2, "a later epoch is the better one here"
    run.best.write_bytes(whole.best.read_bytes())
    train(config, run.path, reporter=reporter)
    assert "are lost" not in text(reporter)
    assert not list(run.path.glob("*.damaged*"))
    assert_same_tensors(run.best, whole.best)
    assert run.test["measured"]["epoch"] == 2


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_lost_best_is_chosen_anew_from_the_epochs_that_follow(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    run.best.unlink()
    train(tiny(epochs=3), run.path, reporter=reporter)
    assert text(reporter).count("are lost") == 1
    assert run.status["best_epoch"] > 1
    assert run.status["best_val_top1"] == max(row["val_top1"] for row in run.epochs[1:])
    measured = run.test["measured"]
    assert (measured["weights"], measured["epoch"]) == ("best.safetensors", run.status["best_epoch"])
    assert measured["sha256"] == hashlib.sha256(run.best.read_bytes()).hexdigest()


def test_weights_that_are_not_finite_are_refused(finished, tmp_path):
    content = load_checkpoint(finished.best)
    content.weights["conv1.weight"][0, 0, 0, 0] = float("inf")
    save_checkpoint(tmp_path / "w.safetensors", content)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    for use in (evaluate, lambda file: predict(file, [tmp_path / "black.png"])):
        with pytest.raises(CheckpointError, match=r"w\.safetensors.*conv1\.weight holds values that are not finite"):
            use(tmp_path / "w.safetensors")


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize(
    "meta",
    [
        {"counters": None},
        {"counters": {"epoch": "two"}},
        {"counters": {"epoch": 2}},
        {"counters": {"epoch": 1, "bogus": 1}},
        {"schedule": 3},
        {"schedule": {"bogus": 1}},
        {"lr": "high"},
        {"fingerprint": None},
    ],
    ids=str,
)
def test_malformed_description_of_a_whole_checkpoint(tiny, tmp_path, reporter, meta):
    """Its checksum is right, what it says is not: one line that names the file, and nothing else is touched."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    content = load_checkpoint(run.last)
    save_checkpoint(run.last, Checkpoint(content.weights, content.extra, content.meta | meta))
    run.previous.unlink(missing_ok=True)
    with pytest.raises(AlexNetError) as refused:
        train(tiny(epochs=3), run.path, reporter=reporter)
    assert refused.value.exit_code in (3, 4)
    assert len(str(refused.value).splitlines()) == 1
    assert len(run.epochs) == 1
    assert run.status["state"] == "finished"


def test_description_says_what_the_weights_are(finished):
    meta = load_checkpoint(finished.best).meta
    assert meta["classes"] == [str(d) for d in range(10)]
    assert {"size", "resize", "mean", "std"} <= meta["preprocessing"].keys()
    assert len(meta["fingerprint"]) == 64
    assert meta["model"]["name"] == "cifar"
    assert not [name for name in tensors(finished.best) if name.startswith("extra/")]
    json.dumps(meta)
