"""Files that version 0.1.0 wrote (revision 758db2c) open, resume to the same bits and evaluate to the same numbers.

tests/old_files.tar.gz holds what that revision left: two runs on a part of the digits (paper-sgd with plateau, an
average and a rate of the head's own; AdamW with one-cycle, smoothing and accumulation), each once finished and once
killed in the middle of its seventh epoch; a prepared folder of photographs with a run on it; weights in torchvision's
layout; and what it measured with all of them.
"""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from alexnet import build_model, evaluate, extract_features, load_run, load_weights
from alexnet.config import FORMAT, DataConfig, ModelConfig, TrainConfig, dump, load
from alexnet.config.values import override
from alexnet.data.augment import Preprocessing
from alexnet.data.sources import load_dataset
from alexnet.errors import UsageError
from alexnet.inference.trained import open_trained
from alexnet.recipes import RECIPES, recipe
from alexnet.runs import checkpoint
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet.runs.folder import load_config
from alexnet.runs.opening import settled
from alexnet.runs.provenance import environment
from alexnet.training.loop import train
from conftest import TIMES, assert_consistent, tensors

RECORDS = sorted((Path(__file__).parents[1] / "records").rglob("config.yaml"))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).parent / "old_files.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(old):
    return json.loads((old / "expected.json").read_text())


@pytest.fixture
def in_old(old, monkeypatch):
    """The run on photographs names its data relative to this folder."""
    monkeypatch.chdir(old)


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_killed_run_goes_on(old, tmp_path, reporter, name):
    finished = load_run(old / f"{name}-finished")
    path = tmp_path / "run"
    shutil.copytree(old / f"{name}-killed", path)
    assert load_checkpoint(path / "last.safetensors").meta["counters"]["epoch_step"] == 3
    run = train(load_run(path).config, path, reporter=reporter)
    assert_consistent(run)
    there, here = json.loads((finished.path / "environment.json").read_text()), environment()
    same_machine = all(there[key] == here[key] for key in ("processor", "torch", "platform", "threads"))
    for file in ("last", "best"):
        a, b = tensors(path / f"{file}.safetensors"), tensors(finished.path / f"{file}.safetensors")
        assert a.keys() == b.keys()
        for key in a:
            tolerance = {"atol": 0, "rtol": 0} if same_machine else {"atol": 1e-3, "rtol": 1e-2}
            torch.testing.assert_close(a[key], b[key], **tolerance)
    for mine, theirs in zip(run.epochs, finished.epochs, strict=True):
        for key in theirs.keys() - {"kind", *TIMES}:
            assert mine[key] == pytest.approx(theirs[key], rel=0 if same_machine else 1e-2)
    assert run.test["loss"] == pytest.approx(finished.test["loss"], rel=1e-6 if same_machine else 1e-2)


@pytest.mark.usefixtures("in_old")
@pytest.mark.parametrize("name", ["sgd-finished", "adam-finished", "photos-finished"])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("views", [1, 10])
def test_evaluates_to_the_same_numbers(expected, name, split, views):
    result = evaluate(load_run(name), split, views=views)
    top1, loss, count = expected[f"{name} {split} {views}"]
    assert result.count == count
    assert result.top1 == pytest.approx(top1, abs=1.5 / count)  # an image at the edge
    assert result.loss == pytest.approx(loss, rel=1e-4)


def test_prepared_photographs(old):
    dataset = load_dataset(DataConfig(source="folder", root=str(old / "prepared")))
    assert dataset.classes == ("blue", "red")
    assert (len(dataset.train), len(dataset.val)) == (12, 6)
    assert dataset.train.store.statistics.mean[0] == pytest.approx(0.5, abs=0.1)
    trained_on = load_checkpoint(old / "photos-finished" / "best.safetensors").meta["fingerprint"]
    assert dataset.fingerprint == trained_on


def test_torchvision_weights(old, expected):
    model = build_model("torchvision", width=0.001, num_classes=7)
    load_weights(model, old / "torchvision.pth")
    images = torch.linspace(-1, 1, 2 * 3 * 224 * 224).view(2, 3, 224, 224)
    found = extract_features(model, images, ["conv3", "fc8"], device="cpu")
    np.testing.assert_allclose(found["fc8"], expected["logits"], rtol=1e-4, atol=1e-6)
    assert np.abs(found["conv3"]).sum() == pytest.approx(expected["conv3"], rel=1e-4)


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.parent.name)
def test_configurations_under_records(path):
    """What they say holds, and what they leave out has its default."""
    config = load_config(path)
    said = yaml.safe_load(path.read_text())
    of_experiment = re.fullmatch(r"(.+-)?(seed|rate)[\d.]+", config.name)  # whose runs bear the names of arm and seed
    assert of_experiment or config.name in (*RECIPES, "plain")  # by benchmarks/levers.py
    for group in ("data", "model", "optim"):
        for key, value in said[group].items():
            if (group, key) == ("model", "init"):  # whose words have changed: test_starts_of_earlier_formats
                continue
            found = getattr(getattr(config, group), key)
            assert (list(found) if isinstance(found, tuple) else found) == value


STARTS = [
    ("cifar", None, "he"), ("cifar", "modern", "he"), ("cifar", "torch", "torch"), ("cifar-resized", None, "he"),
    ("torchvision", "modern", "he"), ("torchvision", None, None), ("paper", None, None),
    ("bvlc", None, None), ("caffenet", None, "text"), ("caffenet", "caffe", "caffe"),
]  # fmt: skip


@pytest.mark.parametrize("form", [{"format": 1}, {"format": 2}], ids=str)
@pytest.mark.parametrize(("variant", "init", "meant"), STARTS)
def test_starts_of_earlier_formats(variant, init, meant, form):
    """Where a word or a table's own start has changed, the file means what it meant; today's means what it says."""
    written = {"epochs": 3, "model": {"variant": variant, "init": init}}
    upgraded = load({**written, **form})
    assert upgraded.model == ModelConfig(variant=variant, init=meant)
    assert load({"model.variant": variant, "model.init": init, **form}).model == upgraded.model
    assert load(dump(upgraded)) == upgraded
    assert load({**written, "format": FORMAT}).model.init == init


@pytest.mark.parametrize("form", [{"format": 1}, {"format": 2}, {"format": 3}], ids=str)
def test_owt_of_earlier_formats_is_the_network_that_it_was(form, tmp_path):
    """Padding of 2 and normalisation behind the ReLU, in configurations and in checkpoints."""
    for written in ({"model": {"variant": "owt", "width": 0.5}}, {"model.variant": "owt", "model.width": 0.5}):
        upgraded = load({**written, **form})
        assert upgraded.model == ModelConfig(variant="owt-padded", width=0.5)
        assert load(dump(upgraded)) == upgraded
    assert load({"model": {"variant": "owt"}, "format": FORMAT}).model.variant == "owt"


@pytest.mark.parametrize("name", ["sgd-finished", "adam-finished"])
def test_a_whole_configuration_without_a_format_is_of_the_first(old, name):
    """As run folders (nested) and checkpoints (by dotted names) of the first version hold them."""
    nested = yaml.safe_load((old / name / "config.yaml").read_text())
    for whole in (nested, load_checkpoint(old / name / "last.safetensors").meta["config"]):
        assert "format" not in whole
        assert load(whole) == load({**whole, "format": 1})
    nested["model"] |= {"variant": "cifar", "init": None}
    assert load(nested).model.init == "he"


def test_a_configuration_that_was_written_by_hand_means_what_its_words_mean_today():
    written = {"epochs": 3, "model": {"variant": "owt"}, "data": {"source": "cifar10", "mean_image": True}}
    for values in (written, {**written, "model.init": "modern"}):
        config = load(values)
        assert config == override(TrainConfig(), values)
        assert config.data.mean_image


def test_a_checkpoint_of_owt_of_earlier_formats(tiny, tmp_path, monkeypatch):
    config = tiny(**{"model.variant": "owt-padded"})
    model = build_model("owt-padded", num_classes=3, width=0.25, input_size=64, init="he")
    meta = {
        "model": {"name": "owt", "num_classes": 3, "width": 0.25, "input_size": 64},
        "config": {**dump(config), "format": 3},
        "classes": ["a", "b", "c"],
        "preprocessing": Preprocessing(64, 64, (0.5,), (0.25,)).to_dict(),
    }
    now, before = tmp_path / "now.safetensors", tmp_path / "before.safetensors"
    save_checkpoint(now, Checkpoint(model.state_dict(), {}, meta))
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save_checkpoint(before, Checkpoint(model.state_dict(), {}, meta))
    monkeypatch.undo()
    opened = {path: open_trained(path) for path in (now, before)}
    assert [trained.network for trained in opened.values()] == ["owt", "owt-padded"]
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(opened[before].model(x), model.eval()(x))
    assert not torch.allclose(opened[now].model(x), model(x))


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.parent.name)
def test_starts_under_records(path):
    """In files of before, networks of today's default, and today's "modern", start with all of He's weights."""
    config, whole = load_config(path), yaml.safe_load(path.read_text())
    said, old = whole["model"], whole.get("format", 1) < 3
    if old and (said["init"] == "modern" or (said["init"] is None and said["variant"].startswith("cifar"))):
        assert config.model.init == "he"
    else:
        assert config.model.init == said["init"]


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("imagenet-paper", {"optim": {"decay_biases": True}}, ["--optim.decay-biases True (the recipe has False)"]),
        ("digits", {"model": {"init": None}}, ["--model.init he (the recipe has None)"]),
        ("dogs", {"model": {"init": "modern"}}, ["--model.init he (the recipe has modern)"]),
        ("imagenet-torchvision", {}, []),
    ],
)
def test_a_run_of_an_earlier_format_keeps_its_settings_and_says_so(tmp_path, name, written, said):
    """The recipe has changed since: the paper's biases are not decayed, and a head starts near zero."""
    stored = dump(recipe(name)) | {"format": 2}
    for group, values in written.items():
        stored[group] |= values
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    config, note = settled(recipe(name), tmp_path, {"epochs": 200})
    assert config == override(load(stored), {"epochs": 200})
    assert note == (f"{tmp_path} goes on with its own settings: {', '.join(said)}." if said else None)
    config, note = settled(recipe(name), tmp_path, {"model.init": "text", "optim.decay_biases": False})
    assert (config.model.init, config.optim.decay_biases, note) == ("text", False, None)  # the user's word counts


def test_formats(tiny):
    config = tiny(**{"data.mean": [0.5]})
    assert load(dump(config)) == config
    assert dump(config)["format"] == FORMAT
    assert load({"epochs": 3, "optim.lr": 0.5}).optim.lr == 0.5
    assert load({}) == TrainConfig()
    for newer in (FORMAT + 1, "two", True, 0):
        with pytest.raises(UsageError, match="format"):
            load({"format": newer})
