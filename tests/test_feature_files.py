"""Features of whole splits as files: the same as in memory, continued after a kill, and refused where others lie."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.inference import feature_files
from alexnet.inference.feature_files import write_features
from alexnet.inference.features import BATCH, extract_features
from alexnet.inference.pictures import file_pictures, open_data, split_pictures
from alexnet.inference.trained import open_trained

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def pictures(finished):
    return split_pictures(finished, "test", device="cpu")


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """All layers of the test split; only to be read."""
    out = tmp_path_factory.mktemp("features") / "whole"
    write_features(pictures, out, "all")
    return out


FEW = ("conv1", "fc7")


@pytest.fixture(scope="module")
def few(pictures, tmp_path_factory):
    """FEW layers of the test split; only to be read."""
    out = tmp_path_factory.mktemp("features") / "few"
    write_features(pictures, out, FEW)
    return out


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def test_arrays_are_what_the_layers_give(finished, whole):
    """The reference goes layer by layer over the whole split in float64."""
    trained = open_trained(finished)
    dataset = load_dataset(trained.config.data)
    loader = open_split(dataset.test, torch.device("cpu"), trained.config.data, trained.preprocessing)
    x = next(loader.evaluation_batches(64))[0][:, 0].double()
    described = json.loads((whole / "features.json").read_text())
    checked = 0
    with torch.inference_mode():
        for name, module in trained.model.double().eval().named_children():
            x = module(x)
            if name not in described["layers"]:
                assert name.startswith(("flatten", "drop", "pad")), name
                continue
            found = np.load(whole / f"{name}.npy", mmap_mode="r")
            assert found.dtype == np.float32
            assert list(found.shape) == described["layers"][name] == [len(dataset.test), *x.shape[1:]]
            np.testing.assert_allclose(found[:64], x.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
            checked += 1
    assert checked == len(described["layers"]) > 15
    assert np.load(whole / "conv1.npy").min() < 0 == np.load(whole / "relu1.npy").min()
    assert np.array_equal(np.load(whole / "labels.npy"), dataset.test.labels)
    with (whole / "images.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["image"]) for row in rows] == dataset.test.sources.tolist()
    assert [dataset.classes[int(row["label"])] for row in rows] == [row["class"] for row in rows]


def test_description_says_what_it_is(finished, whole):
    described = json.loads((whole / "features.json").read_text())
    test = finished.test
    assert described["weights"]["sha256"] == test["measured"]["sha256"]
    assert described["images"]["fingerprint"] == test["measured"]["data"]["fingerprint"]
    assert (described["images"]["split"], described["dtype"], described["unreadable"]) == ("test", "float32", {})
    assert described["preprocessing"]["size"] == open_trained(finished).preprocessing.size


def test_same_bits_as_in_memory_and_one_by_one(finished, whole):
    """Whatever else is asked for with an image."""
    trained = open_trained(finished)
    dataset = load_dataset(trained.config.data)
    loader = open_split(dataset.test, torch.device("cpu"), trained.config.data, trained.preprocessing)
    x = torch.cat([views[:, 0] for views, _ in loader.evaluation_batches(64)])
    for rows in ([5], list(range(BATCH + 3)), [40, 2, 17]):
        found = extract_features(trained, x[rows], ["conv2", "fc7", "fc8"], device="cpu")
        for name, array in found.items():
            assert np.array_equal(array, np.load(whole / f"{name}.npy")[rows]), name


@pytest.mark.parametrize("piece", [1, 10**12])
def test_goes_on_where_it_was(pictures, few, tmp_path, monkeypatch, piece):
    """Stopped at any synchronisation or between two of them: the same bytes in the end."""
    monkeypatch.setattr(feature_files, "_PIECE", piece)

    class Stop(Exception):
        pass

    for stop in (1, 3, 8):
        calls = 0

        def count(part, done, total, stop=stop):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Stop

        with pytest.raises(Stop):
            write_features(pictures, tmp_path / "out", FEW, on_progress=count)
        assert not (tmp_path / "out" / "features.json").exists()
    begun = []
    write_features(pictures, tmp_path / "out", FEW, on_progress=lambda part, done, total: begun.append(done))
    assert (begun[0] > BATCH) == (piece == 1)
    assert contents(tmp_path / "out") == contents(few)
    again = []
    write_features(pictures, tmp_path / "out", FEW, on_progress=lambda *told: again.append(told))
    assert again == []


def test_a_kill_while_files_are_moved(pictures, few, tmp_path, monkeypatch):
    def fail(_, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(feature_files.shutil, "rmtree", fail)
    with pytest.raises(KeyboardInterrupt):
        write_features(pictures, tmp_path / "out", FEW)
    monkeypatch.undo()
    out = tmp_path / "out"
    (out / "features.json").unlink()
    (out / "fc7.npy").replace(out / ".features" / "fc7.npy")
    (out / ".features" / ".progress.json.k3j2h1g0").write_text("{")  # of a write that a kill had cut off
    write_features(pictures, out, FEW)
    assert contents(out) == contents(few)


@pytest.mark.slow
def test_killed_processes_end_with_the_same_bytes(finished, few, tmp_path):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "alexnet", "features", finished.path, "--split", "test", "--layers", ",".join(FEW)]
    line = [*map(str, line), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (out / ".features" / "progress.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"written: {out}" in done.stdout
    assert contents(out) == contents(few)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, r"features of other layers|features of other splits"),
        ({"layers": "fc8"}, r"features of other layers \([\w, ]+ there, fc8 now\)"),
        ({"dtype": "float16"}, "features of other number formats"),
        ({"weights": "last"}, "features of other weights"),
    ],
    ids=str,
)
@pytest.mark.parametrize("finish", [True, False])
def test_other_features_are_refused(finished, tmp_path, change, message, finish):
    out = tmp_path / "out"
    stop = (lambda *_: None) if finish else (lambda *_: 1 / 0)
    given = {"split": "test", "layers": "fc7", "dtype": "float32", "weights": "best"}

    def write(arguments):
        shown = split_pictures(getattr(finished, arguments["weights"]), arguments["split"], device="cpu")
        write_features(shown, out, arguments["layers"], dtype=arguments["dtype"], on_progress=stop)

    with nullcontext() if finish else pytest.raises(ZeroDivisionError):
        write(given)
    with pytest.raises(UsageError, match=message) as problem:
        write(given | change)
    assert "\n" not in str(problem.value)


def test_a_folder_with_other_things_is_refused(pictures, tmp_path):
    others = {"thesis.tex", ".travis.yml.disabled"}
    for name in others:
        (tmp_path / name).write_text("...")
    with pytest.raises(UsageError, match="not empty"):
        write_features(pictures, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == others


def test_a_disk_that_is_too_small(pictures, tmp_path, monkeypatch):
    usage = feature_files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UsageError, match="GB left"):
        write_features(pictures, tmp_path / "out")


def test_a_description_that_is_damaged(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "features.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        write_features(pictures, tmp_path / "out")


def test_float16(pictures, whole, tmp_path, monkeypatch):
    write_features(pictures, tmp_path / "half", "fc7", dtype="float16")
    half = np.load(tmp_path / "half" / "fc7.npy")
    assert half.dtype == np.float16
    assert np.array_equal(half, np.load(whole / "fc7.npy").astype(np.float16))
    monkeypatch.setattr(feature_files, "answers", lambda *_: iter([{"fc7": torch.full((BATCH, half.shape[1]), 7e4)}]))
    with pytest.raises(UsageError, match=r"fc7.*float16 cannot hold"):
        write_features(pictures, tmp_path / "large", "fc7", dtype="float16")


@pytest.fixture
def photographs(tmp_path):
    """A folder of two classes of photographs, one of which is damaged."""
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "pictures" / "test" / ("cat", "dog")[number % 2]
        for part in ("train", "val", "test"):
            at = folder.parents[1] / part / folder.name
            at.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
            coarse.resize((60, 50)).convert("RGB").save(at / f"{number:02}.png")
    (tmp_path / "pictures" / "test" / "dog" / "07.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_unreadable_photographs(finished, photographs, tmp_path, monkeypatch):
    """Another data set, whose classes are not the network's; a grey network."""
    from alexnet import build_model
    from alexnet.config.values import flatten
    from alexnet.recipes import recipe
    from alexnet.runs.checkpoint import Checkpoint, save_checkpoint

    meta = {
        "model": {"name": "cifar", "width": 0.125, "num_classes": 3},
        "classes": ("a", "b", "c"),
        "preprocessing": {"size": 32, "resize": 40, "mean": (0.5,), "std": (0.25,), "upright": False},
        "config": flatten(recipe("folder")),
    }
    model = build_model("cifar", width=0.125, num_classes=3)
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(model.state_dict(), {}, meta))
    data = {"source": "folder", "root": str(photographs)}

    def write(out, skip_bad):
        shown = split_pictures(tmp_path / "c.safetensors", "test", data=data, device="cpu", skip_bad=skip_bad)
        return write_features(shown, tmp_path / out, "fc7")

    with pytest.raises(DataError, match=r"07\.png.*--skip-bad"):
        write("one", False)
    described = write("two", True)
    found = np.load(tmp_path / "two" / "fc7.npy")
    rows = list(csv.DictReader((tmp_path / "two" / "images.csv").open(newline="")))
    (bad,) = (int(row["row"]) for row in rows if row["image"].endswith("07.png"))
    assert list(described["unreadable"]) == [str(bad)]
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [bad]
    good = [row["image"] for row in rows if int(row["row"]) != bad]
    files = [path for path in sorted((photographs / "test").rglob("*.png")) if any(path.match(f"*{g}") for g in good)]
    assert len(files) == len(good)
    write_features(file_pictures(tmp_path / "c.safetensors", files, device="cpu"), tmp_path / "three", "fc7")
    np.testing.assert_allclose(np.load(tmp_path / "three" / "fc7.npy"), np.delete(found, bad, 0), rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "three" / "labels.npy").exists()


def test_images_that_do_not_suit_the_network(finished, photographs):
    with pytest.raises(UsageError, match=r"images of 1 channel"):
        split_pictures(finished, "test", data={"source": "folder", "root": str(photographs)}, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name images"),
        (("x.png", "--split", "test"), "not both"),
        (("--split", "test", "--out", "f.npz"), "go to a folder"),
        (("x.png", "--skip-bad"), "--skip-bad is for the images of a split"),
    ],
    ids=str,
)
def test_what_the_command_refuses(call, tmp_path, finished, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in arguments else ("--out", "out")
    code, _, err = call("features", finished.path, *arguments, *out)
    assert code == 2
    assert message in err
    assert os.listdir() == []


def test_bare_weights_name_no_data(finished):
    bare = replace(open_trained(finished), config=None)
    with pytest.raises(UsageError, match=r"--data\.source"):
        open_data(bare, None)
    _, dataset = open_data(bare, {"source": "digits"})
    assert dataset.name == "digits"
