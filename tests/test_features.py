"""Activations of every layer: torchvision's own extractor on the same weights, and what the command writes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet.config.values import flatten
from alexnet.data.images import as_views, read_picture
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.inference.features import BATCH, extract_features, torchvision_layers
from alexnet.inference.trained import open_trained
from alexnet.models.ablations import resolve
from alexnet.models.network import build_model
from alexnet.models.summary import trace
from alexnet.models.variants import list_models
from alexnet.models.weights import TORCHVISION_LAYERS, TORCHVISION_NAMES
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import Checkpoint, save_checkpoint

THEIRS = [*(f"features.{i}" for i in range(13)), "avgpool", *(f"classifier.{i}" for i in range(7))]


@pytest.fixture(scope="module")
def pair():
    """Our network and torchvision's with the same weights; both only to be read."""
    torch.manual_seed(0)
    ours = build_model("torchvision", num_classes=4)
    theirs = torchvision.models.alexnet(num_classes=4).eval()
    names = {name: name.rpartition(".") for name in ours.state_dict()}
    theirs.load_state_dict({f"{TORCHVISION_NAMES[names[n][0]]}.{names[n][2]}": t for n, t in ours.state_dict().items()})
    return ours.eval(), theirs


@pytest.fixture
def tiny_model():
    """A function that builds a small network, the same each time."""

    def make(name="cifar", **fields):
        torch.manual_seed(0)
        return build_model(name, width=0.125, **fields).eval()

    return make


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of five small photographs."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((50 + i, 70 - i), Image.Resampling.BICUBIC).save(folder / f"ü {i}.png")
    return folder


@pytest.fixture
def checkpoint(tmp_path, tiny_model):
    """A checkpoint of a small network with LRN on crops of 32 from 40."""
    fields = {"name": "cifar", "width": 0.125, "num_classes": 3}
    meta = {
        "model": fields,
        "classes": ("a", "b", "c"),
        "preprocessing": {"size": 32, "resize": 40, "mean": (0.5,), "std": (0.25,)},
        "config": flatten(recipe("folder")),
    }
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, Checkpoint(tiny_model(num_classes=3).state_dict(), {}, meta))
    return path


def test_every_layer_is_torchvisions(pair):
    """What a layer itself gives: an in-place ReLU after it must not show. torchvision's extractor does not clone, so
    its own ReLUs are made not in-place."""
    ours, theirs = pair
    batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for module in theirs.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    with torch.inference_mode():
        wanted = create_feature_extractor(theirs, THEIRS)(batch)
    found = extract_features(ours, batch, THEIRS, torchvision_names=True, device="cpu")
    assert list(found) == THEIRS
    for name in THEIRS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wanted[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert found["features.0"].min() < 0  # before the ReLU
    assert found["features.1"].min() == 0


def test_names_are_ours_unless_asked(pair):
    ours, _ = pair
    batch = torch.zeros(1, 3, 224, 224)
    mixed = ["fc7", "features.10", "classifier.6"]
    plain = extract_features(ours, batch, mixed, device="cpu")
    named = extract_features(ours, batch, mixed, torchvision_names=True, device="cpu")
    assert list(plain) == ["fc7", "conv5", "fc8"]
    assert list(named) == ["classifier.4", "features.10", "classifier.6"]
    assert all(np.array_equal(a, b) for a, b in zip(plain.values(), named.values(), strict=True))
    layers = torchvision_layers(ours)
    assert {layers[our]: our for our in TORCHVISION_NAMES} == {t: o for o, t in TORCHVISION_NAMES.items()}
    assert set(layers.values()) == set(THEIRS)


def test_a_layer_that_torchvision_does_not_name(pair):
    """Its flattening is a function, not a module."""
    found = extract_features(pair[0], torch.zeros(1, 3, 224, 224), ["flatten"], device="cpu")
    assert found["flatten"].shape == (1, 9216)
    with pytest.raises(UsageError, match="flatten"):
        extract_features(pair[0], torch.zeros(1, 3, 224, 224), ["flatten"], torchvision_names=True, device="cpu")


def test_layers_of_a_network_with_normalisation(tiny_model):
    model = tiny_model("paper", input_size=127, num_classes=5)
    batch = torch.randn(2, 3, 127, 127)
    names = [name for name, _ in model.named_children()]
    assert {"norm1", "pool2", "relu5", "fc8"} <= set(names)
    seen, x = {}, batch
    with torch.inference_mode():
        for name, module in model.named_children():
            x = module(x.clone())
            seen[name] = x
    found = extract_features(model, batch, names, device="cpu")
    for name in names:
        np.testing.assert_allclose(found[name], seen[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    with pytest.raises(UsageError, match="torchvision's names"):
        extract_features(model, batch, ["fc7"], torchvision_names=True, device="cpu")
    with pytest.raises(UsageError, match=r"unknown layer 'features\.0'"):
        extract_features(model, batch, ["features.0"], device="cpu")


@pytest.mark.parametrize(("name", "near"), [("fc77", "'fc7'"), ("con5", "'conv5'"), ("features.14", "'features.")])
def test_unknown_layer(pair, name, near):
    with pytest.raises(UsageError, match=rf"unknown layer '{name}'\. Did you mean {near}"):
        extract_features(pair[0], torch.zeros(1, 3, 224, 224), [name], device="cpu")


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_restored(tiny_model, training):
    model = tiny_model(dropout=0.9).train(training)
    batch = torch.randn(3, 3, 32, 32)
    one, two = (extract_features(model, batch, ["fc8"], device="cpu")["fc8"] for _ in range(2))
    assert np.array_equal(one, two)  # without dropout
    assert all(module.training is training for module in model.modules())
    with pytest.raises(ValueError, match="takes images"):
        extract_features(model, torch.randn(1, 5, 32, 32), ["fc8"], device="cpu")
    with pytest.raises(ValueError, match="uint8 are pixels, and what goes in here is normalised"):
        extract_features(model, batch.byte(), ["fc8"], device="cpu")
    with pytest.raises(UsageError, match="not a ndarray: torch"):
        extract_features(model, batch.numpy(), ["fc8"], device="cpu")
    assert all(module.training is training for module in model.modules())


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, 2 * BATCH + 7])
def test_any_number_of_images_in_order(tiny_model, count):
    model = tiny_model()
    batch = torch.randn(count, 3, 32, 32)
    found = extract_features(model, batch, ["pool5", "fc8"], device="cpu")
    with torch.inference_mode():
        wanted = model(batch)
    assert len(found["pool5"]) == count
    np.testing.assert_allclose(found["fc8"], wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_many_files(checkpoint, images):
    paths = sorted(images.iterdir()) * (BATCH // 5 + 1)
    few = extract_features(checkpoint, [images], ["fc7"], device="cpu")["fc7"]
    many = extract_features(checkpoint, paths, ["fc7"], device="cpu")["fc7"]
    assert len(many) == len(paths) > BATCH
    np.testing.assert_allclose(many, np.tile(few, (BATCH // 5 + 1, 1)), rtol=1e-4, atol=1e-6)
    assert not np.allclose(few[0], few[1])


def test_files_and_tensors_agree(checkpoint, images):
    trained = open_trained(checkpoint)
    batch = torch.cat([as_views(read_picture(path), trained.preprocessing) for path in sorted(images.iterdir())])
    one, two = (extract_features(trained, given, ["conv1", "fc8"], device="cpu") for given in ([images], batch))
    assert all(np.array_equal(one[name], two[name]) for name in ("conv1", "fc8"))


def test_a_network_alone_takes_tensors(tiny_model, images):
    with pytest.raises(UsageError, match="give a tensor"):
        extract_features(tiny_model(), [images], device="cpu")


# The command.


def test_command_writes_an_archive(call, checkpoint, images, tmp_path):
    out = tmp_path / "features.npz"
    code, said, err = call(
        *("features", checkpoint, images, "--layers", "conv5, relu5,fc7", "--out", out, "--device", "cpu")
    )
    assert (code, err) == (0, "")
    wanted = extract_features(checkpoint, [images], ["conv5", "relu5", "fc7"], device="cpu")
    with np.load(out, allow_pickle=False) as saved:
        assert set(saved.files) == {"conv5", "relu5", "fc7", "paths"}
        assert saved["paths"].tolist() == [str(p) for p in sorted(images.iterdir())]
        for name, array in wanted.items():
            assert np.array_equal(saved[name], array)
            assert f"{name}: {'x'.join(map(str, array.shape))}\n" in said
    assert f"written: {out}" in said


def test_command_names_layers_as_torchvision(call, tmp_path, images):
    fields = {"name": "torchvision", "width": 0.125, "num_classes": 3, "input_size": 64}
    meta = {
        "model": fields,
        "classes": ("a", "b", "c"),
        "preprocessing": {"size": 64, "resize": 64, "mean": (0.5,), "std": (0.25,)},
        "config": flatten(recipe("folder")),
    }
    save_checkpoint(tmp_path / "tv.safetensors", Checkpoint(build_model(**fields).state_dict(), {}, meta))
    code, _, _ = call(
        *("features", tmp_path / "tv.safetensors", images, "--layers", "classifier.4,conv1", "--torchvision-names"),
        *("--out", tmp_path / "f.npz", "--device", "cpu"),
    )
    assert code == 0
    with np.load(tmp_path / "f.npz", allow_pickle=False) as saved:
        assert set(saved.files) == {"classifier.4", "features.0", "paths"}
        assert saved["classifier.4"].shape == (5, 512)


def test_archive_appears_whole_or_not_at_all(call, checkpoint, images, tmp_path, monkeypatch):
    """A full disk: the file that stood there is intact and nothing is left beside it."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "f.npz").write_bytes(b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alexnet.files.os.fsync", full)
    code, _, err = call("features", checkpoint, images, "--out", folder / "f.npz", "--device", "cpu")
    assert code == 2
    assert "No space left on device" in err
    assert [f.name for f in folder.iterdir()] == ["f.npz"]
    assert (folder / "f.npz").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--layers": "fc77"}, 2, "Did you mean 'fc7'?"),
        ({"--layers": ","}, 2, "--layers"),
        ({"images": "nothing.png"}, 3, "nothing.png"),
        ({"target": "nothing.safetensors"}, 4, "nothing.safetensors"),
        ({"--out": "/dev/null/f.npz"}, 2, "/dev/null/f.npz"),
    ],
    ids=str,
)
def test_command_errors(call, checkpoint, images, tmp_path, monkeypatch, change, code, message):
    monkeypatch.chdir(tmp_path)
    given = {"target": checkpoint, "images": images, "--layers": "fc7", "--out": "f.npz"} | change
    line = [given.pop("target"), given.pop("images"), *(part for pair in given.items() for part in pair)]
    found, _, err = call("features", *line, "--device", "cpu")
    assert found == code, err
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "f.npz").exists()


def test_unreadable_image_is_named(checkpoint, images, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"page\.jpg.*web page"):
        extract_features(checkpoint, [images, tmp_path / "page.jpg"], device="cpu")


def test_wrong_target(images):
    with pytest.raises(CheckpointError, match=r"nothing\.pth"):
        extract_features("nothing.pth", [images], device="cpu")


def test_the_documented_layers_are_those_of_the_networks():
    text = (Path(__file__).parents[1] / "docs" / "layers.md").read_text()
    rows = {
        name: layers.split() for name, layers in re.findall(r"^\| `([a-z0-9-]+)` \| (conv.*|pad.*) \|$", text, re.M)
    }
    assert rows == {name: [layer.name for layer in trace(resolve(name))] for name in list_models()}
    theirs = dict(re.findall(r"^\| (\w+) \| ((?:features|classifier)\.\d+|avgpool) \|", text, re.M))
    assert theirs == TORCHVISION_LAYERS


def test_archives_that_cannot_be_written_are_refused_first(call, images, tmp_path):
    """Before the weights are opened."""
    code, _, err = call("features", "nothing.pth", images, "--out", "/dev/null/f.npz")
    assert (code, "cannot write /dev/null/f.npz" in err) == (2, True)
    assert call("features", "nothing.pth", images, "--out", tmp_path / "new" / "f.npz")[0] == 4
