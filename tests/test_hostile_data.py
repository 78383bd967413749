"""Data that nobody can train on is refused at once, in one line, with the exit code of its kind."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.config import DataConfig
from alexnet.config.values import override
from alexnet.data import imagenet  # noqa: F401 (before the process gives up its rights)
from alexnet.data.images import find_images, read_picture
from alexnet.data.loading import open_split
from alexnet.data.packed import signed
from alexnet.data.packing import prepare
from alexnet.data.sources import SOURCES, load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.inference.trained import model_fields
from alexnet.recipes import recipe
from alexnet.training.loop import train
from test_packing import config, fill, pack, picture, rewrite, table

pytestmark = [
    pytest.mark.usefixtures("no_fsync"),
    pytest.mark.timeout(60),  # what is waited for would wait for ever
]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listener(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's whole name must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(place)


SPECIAL = {"pipe": pipe, "device": device, "socket": listener}
pytest_special = pytest.mark.parametrize("kind", SPECIAL)


def said(error: pytest.ExceptionInfo, *texts: object) -> None:
    assert "\n" not in str(error.value)
    for text in texts:
        assert str(text) in str(error.value)


# --- files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has none")
@pytest_special
def test_pipes_devices_and_sockets_in_class_folders(tmp_path, kind):
    fill(tmp_path, a=2, b=2)
    SPECIAL[kind](tmp_path / "b" / "x.jpg")
    for work in (load_dataset, lambda c: prepare(c, tmp_path.parent / f"{tmp_path.name}-out")):
        with pytest.raises(DataError) as error:
            work(config(tmp_path))
        said(error, tmp_path / "b" / "x.jpg", "a pipe, a socket or a device")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has none")
@pytest_special
def test_pipes_devices_and_sockets_among_imagenets_validation_images(tmp_path, kind):
    fill(tmp_path / "train", n00000001=1, n00000002=1)
    (tmp_path / "val").mkdir()
    SPECIAL[kind](tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\n")
    with pytest.raises(DataError) as error:
        load_dataset(DataConfig(source="imagenet", root=str(tmp_path)))
    said(error, "ILSVRC2012_val_00000001.JPEG", "a pipe, a socket or a device")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has none")
@pytest_special
@pytest.mark.parametrize("named", ["x.jpg", ".", "*.jpg"])
def test_predict_refuses_pipes_devices_and_sockets_and_answers_the_others(tmp_path, kind, named):
    picture(1).save(tmp_path / "a.jpg")
    SPECIAL[kind](tmp_path / "x.jpg")
    paths = find_images([tmp_path / named])
    assert tmp_path / "x.jpg" in paths
    with pytest.raises(DataError) as error:
        read_picture(tmp_path / "x.jpg")
    said(error, "cannot read", tmp_path / "x.jpg", "a pipe, a socket or a device")
    assert [p.name for p in paths if p.name != "x.jpg"] == ([] if named == "x.jpg" else ["a.jpg"])


# --- places that are none

LONG = "x" * 300


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "memory"])
@pytest.mark.parametrize("root", [LONG, f"{LONG}/y", "a\0b", "~no-such-user-here/x"])
def test_roots_that_no_system_has(source, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source == "digits":  # come with the package
        load_dataset(DataConfig(source=source)) if "\0" in root else load_dataset(DataConfig(source=source, root=root))
        return
    with pytest.raises(DataError) as error:
        load_dataset(DataConfig(source=source, root=root, download=False))
    said(error, "--data.root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [f"{LONG}.jpg", "a\0b.jpg", "~no-such-user-here/x.jpg"])
def test_pictures_that_no_system_has(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="there is no image"):
        find_images([name])
    with pytest.raises(DataError, match=r"there is no image|cannot read"):
        read_picture(Path(name))


@pytest.mark.parametrize("out", [LONG, "a\0b"])
def test_places_to_prepare_in_that_no_system_has(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DataError, UsageError), match="--out"):
        prepare(config(fill(tmp_path / "in", a=1, b=1)), Path(out))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def as_nobody(work) -> str:
    """What `work` says in a process without rights: tests run as root read everything otherwise."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            work()
            message = "nothing was raised"
        except BaseException as problem:
            message = f"{type(problem).__name__}: {problem}"
        os.write(into, message.encode()[:4000])
        os._exit(0)
    os.close(into)
    os.waitpid(child, 0)
    with os.fdopen(out) as stream:
        return stream.read()


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="only root may become another")
@pytest.mark.parametrize("source", [s for s in SOURCES if s not in ("digits", "memory")])
@pytest.mark.parametrize("inner", [".", "train"])
def test_roots_without_permission(source, inner, tmp_path):
    root = fill(tmp_path / "root" / "train", a=1, b=1).parent
    modes = {place: place.stat().st_mode for place in (root / inner, *tmp_path.parents[:2], tmp_path)}
    for place in modes:  # pytest's folders are root's own
        place.chmod(0o755)
    (root / inner).chmod(0)
    try:
        message = as_nobody(lambda: load_dataset(DataConfig(source=source, root=str(root), download=False)))
    finally:
        for place, mode in modes.items():
            place.chmod(mode)
    assert message.startswith("DataError: ")
    assert "\n" not in message
    if inner == "." or source in ("folder", "imagenet"):
        assert "Permission denied" in message


# --- data without a task


@pytest.mark.parametrize(("counts", "text"), [({"a": 9}, "single class"), ({"a": 1, "b": 1}, "split is empty")])
def test_one_class_or_nothing_held_out_is_refused_before_any_work(tmp_path, tiny, reporter, counts, text):
    fill(tmp_path / "photographs", **counts)
    settings = recipe(
        "folder", **{"data.root": str(tmp_path / "photographs"), "data.val_fraction": 0.0, "device": "cpu"}
    )
    with pytest.raises((DataError, UsageError)) as error:
        train(settings, tmp_path / "run", reporter=reporter)
    said(error, text)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["imagenet-paper", "imagenet-torchvision"])
def test_recipes_of_imagenet_take_the_classes_that_are_there(name, tmp_path):
    """A subset blames no flag that nobody gave."""
    for part in ("train", "val"):
        fill(tmp_path / part, n00000001=2, n00000002=2, n00000003=2)
    chosen = recipe(name, **{"data.root": str(tmp_path), "model.width": 0.05})
    data = load_dataset(chosen.data)
    prep = open_split(data.train, torch.device("cpu"), chosen.data).prep
    assert model_fields(chosen, data, prep)["num_classes"] == 3
    with pytest.raises(UsageError, match=r"--model\.num-classes 1000"):
        model_fields(override(chosen, {"model.num_classes": 1000}), data, prep)


# --- commands


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("train folder --data.root {root} --data.workers -1", 2, "--data.workers -1 is out of range: it must be"),
        ("train folder --data.root {root} --data.resize 100000", 2, "at least 1 and at most 4096"),
        ("preview folder --data.root {root} --images 99999999", 2, "at least 1 and at most 100"),
        ("prepare folder --data.root {root} --out {out} --workers -1", 2, "--workers -1 is out of range"),
        ("prepare folder --data.root {root} --out {out} --side 100000", 2, "at least 16 and at most 4096"),
        ("prepare folder --data.root {long} --out {out}", 3, "File name too long"),
        ("train folder --data.root {long}", 3, "File name too long"),
        ("verify {root}", 3, "holds no prepared photographs"),
        ("verify {long}", 4, "there is no run, checkpoint or weights file"),
    ],
)  # fmt: skip
def test_commands_refuse_in_one_line(tmp_path, call, monkeypatch, arguments, code, text):
    fill(tmp_path / "root", a=3, b=3)
    monkeypatch.chdir(tmp_path)
    found, out, err = call(*arguments.format(root="root", out="out", long=LONG).split())
    assert (found, out) == (code, "")
    assert text in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs" / "folder").exists()


# --- metadata of wrong types


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("prepared")
    fill(root, a=3, b=3)
    pack(root, out)
    return out


WRONG = [
    ("classes", ["a", 3]), ("classes", ["a", None]), ("classes", "ab"), ("classes", [["a"], ["b"]]), ("classes", ["a"]),
    ("names", ["x"]), ("names", [1, 2]), ("names", {"a": "b"}), ("parts", [1]), ("parts", "all"), ("side", "32"),
    ("side", 0), ("side", -5), ("side", 1.5), ("side", None), ("quality", "best"), ("source", 3), ("source", None),
    ("part", 7), ("fingerprint", 5), ("report", []), ("statistics", []), ("statistics", {}),
    ("statistics", {"mean": "x", "std": [1, 1, 1], "colour_axes": np.eye(3).tolist()}),
    ("statistics", {"mean": [1, 1], "std": [1, 1, 1], "colour_axes": np.eye(3).tolist()}),
    ("statistics", {"mean": [1, 1, 1], "std": [1, 1, float("nan")], "colour_axes": np.eye(3).tolist()}),
    ("statistics", {"mean": [1, 1, 1], "std": [1, 1, 1], "colour_axes": [1, 2, 3]}),
    ("format", None), ("format", []), ("format", "2"), ("format", 0), ("format", -1), ("format", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}", b'{"format": NaN}', b"2", b'"2"']
)
def test_arrow_metadata_that_no_program_writes(prepared, tmp_path, text):
    copy = Path(shutil.copytree(prepared, tmp_path / "copy"))
    rewrite(copy / "all.arrow", lambda metadata: metadata | {b"alexnet": text})
    with pytest.raises(DataError) as error:
        load_dataset(config(copy))
    said(error, copy)


@pytest.mark.parametrize(("key", "value"), WRONG, ids=str)
def test_arrow_metadata_of_wrong_types_under_right_checksums(prepared, tmp_path, call, key, value):
    copy = Path(shutil.copytree(prepared, tmp_path / "copy"))

    def change(metadata):
        described = json.loads(metadata[b"alexnet"]) | {key: value}
        metadata = metadata | {b"alexnet": json.dumps(described).encode()}
        return signed(metadata, batches)

    batches = table(copy / "all.arrow").combine_chunks().to_batches()
    rewrite(copy / "all.arrow", change)
    with pytest.raises(DataError) as error:
        load_dataset(config(copy))
    said(error, copy)
    code, _, err = call("verify", copy)
    assert code == 3
    assert len(err.splitlines()) == 1
