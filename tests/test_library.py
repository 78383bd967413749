"""The package in somebody else's program: a trained network as a module, its preprocessing, weights in and out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as vision

import alexnet
from alexnet.data import sources
from alexnet.data.augment import Preprocessing
from alexnet.data.sources import load_dataset
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.models.network import build_model
from alexnet.models.table import Linear
from alexnet.models.variants import VARIANTS
from alexnet.models.weights import torchvision_weights
from conftest import tensors, text


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    monkeypatch.setattr(sources, "_REGISTERED", set())


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model("cifar", width=0.125, num_classes=10, init="he").eval()


# A run as a module.


def test_a_runs_network_answers_as_its_evaluation_does(finished):
    """In one line, and without anything of ours around it."""
    model, preprocessing = finished.model(), finished.preprocessing()
    assert isinstance(model, nn.Module)
    assert not any(module.training for module in model.modules())
    split = load_dataset(finished.config.data).test
    with torch.no_grad():
        logits = model(preprocessing(torch.from_numpy(split.images)))
    labels = torch.from_numpy(split.labels)
    result = alexnet.evaluate(finished, device="cpu")
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(result.top1)
    assert float(F.cross_entropy(logits, labels)) == pytest.approx(result.loss, rel=1e-4)


def test_a_runs_network_is_one_to_train_further(finished):
    model = finished.model()
    images = finished.preprocessing()(torch.from_numpy(load_dataset(finished.config.data).train.images[:20]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in tensors(finished.best).items() if name in before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(images).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_release_of_memory_is_the_callers(finished):
    """Two networks of one run share nothing."""
    one, other = finished.model(), finished.model()
    with torch.no_grad():
        one.conv1.weight.zero_()
    assert other.conv1.weight.abs().sum() > 0


# Preprocessing.


def photograph(width=90, height=70, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


PREP = Preprocessing(48, 56, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def theirs(image):
    """torchvision's steps for `PREP`."""
    square = vision.center_crop(vision.resize(image, 56), 48)
    return vision.normalize(vision.to_tensor(square), PREP.mean, PREP.std)


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (57, 57), (91, 33)])
def test_preprocessing_is_torchvisions(size):
    image, transforms = photograph(*size), alexnet.Transforms(PREP, channels=3)
    wanted = theirs(image)
    pixels = np.array(image)
    assert torch.allclose(transforms(image), wanted, atol=1e-5)
    assert torch.equal(transforms(pixels), transforms(image))
    assert torch.equal(transforms([image, pixels])[1], transforms(image))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    on_device = transforms(planes)
    assert (on_device - wanted).abs().max() <= 2.01 / 255 / min(PREP.std)
    assert torch.equal(transforms(planes[None].repeat(2, 1, 1, 1))[1], on_device)


def test_preprocessing_with_a_mean_image():
    centre = torch.rand(3, 48, 48) * 255
    image = photograph()
    square = vision.center_crop(vision.resize(image, 56), 48)
    wanted = (vision.pil_to_tensor(square) - centre) / (torch.tensor(PREP.std)[:, None, None] * 255)
    prep = Preprocessing(48, 56, PREP.mean, PREP.std, mean_image=centre)
    assert torch.allclose(alexnet.Transforms(prep, channels=3)(image), wanted, atol=1e-5)


def test_preprocessing_in_grey():
    prep = Preprocessing(48, 56, (0.5,), (0.2,))
    grey = alexnet.Transforms(prep, channels=1)(photograph())
    wanted = vision.to_tensor(vision.center_crop(vision.resize(photograph().convert("L"), 56), 48))
    assert torch.allclose(grey, (wanted - 0.5) / 0.2, atol=1.01 / 255 / 0.2)  # grey before the resize or after


def test_preprocessing_goes_with_the_network_through_export(small):
    whole = nn.Sequential(alexnet.Transforms(Preprocessing(32, 36, (0.5,), (0.25,)), channels=3), small)
    images = torch.randint(0, 256, (2, 3, 50, 40), dtype=torch.uint8)
    program = torch.export.export(whole, (images,)).module()
    assert torch.allclose(program(images), whole(images), atol=1e-5)
    assert whole.state_dict().keys() == {f"1.{name}" for name in small.state_dict()}  # constants are no weights


def test_preprocessing_refuses_what_it_would_spoil():
    transforms = alexnet.Transforms(PREP, channels=3)
    for wrong in (torch.rand(2, 3, 60, 60), torch.zeros(2, 60, 60, 3, dtype=torch.uint8), torch.zeros(3, 3).byte()):
        with pytest.raises(ValueError, match=r"takes uint8 \[N, 3, H, W\]"):
            transforms(wrong)
    with pytest.raises(DataError, match="the image has 2 channel"):
        transforms(np.zeros((60, 60, 2), np.uint8))
    for none in ("photo.jpg", 3, None):
        with pytest.raises(DataError, match="the image is of type"):
            transforms(none)
    assert repr(transforms) == f"Transforms(channels=3, resize={PREP.resize}, size={PREP.size})"


# Predictions without files.


def answers(found):
    return [(each.classes, each.probabilities) for each in found]


def test_images_in_memory_are_answered_as_their_files(finished, tmp_path):
    images = [photograph(seed=seed) for seed in range(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    wanted = answers(alexnet.predict(finished, tmp_path, device="cpu"))
    assert len({str(each) for each in wanted}) == 3
    arrays = [np.array(image) for image in images]
    batch = torch.from_numpy(np.stack(arrays))
    for given in (images, arrays, tuple(arrays), np.stack(arrays), batch, batch.permute(0, 3, 1, 2), batch / 255):
        found = alexnet.predict(finished, given, device="cpu")
        assert [each.path for each in found] == ["image 0", "image 1", "image 2"]
        assert answers(found) == wanted
    for given in (images[1], arrays[1], batch[1], [tmp_path / "1.png"], images[1].convert("RGBA")):
        assert answers(alexnet.predict(finished, given, device="cpu")) == wanted[1:2]
    mixed = alexnet.predict(finished, [images[0], str(tmp_path / "1.png"), arrays[2]], device="cpu")
    assert [each.path for each in mixed] == ["image 0", str(tmp_path / "1.png"), "image 2"]
    assert answers(mixed) == wanted


def test_an_image_that_is_none_says_so_and_the_others_are_answered(finished):
    good = np.array(photograph())
    found = alexnet.predict(finished, [good, good * 1.0, good[:0], good], device="cpu")
    assert [each.error is None for each in found] == [True, False, False, True]
    assert "the pixels of image 1 are float64, not uint8" in found[1].error
    assert "image 2 is empty" in found[2].error
    (number,) = alexnet.predict(finished, 42, device="cpu")
    assert number.error.startswith("image 0 is of type int: give an image")
    with pytest.raises(DataError, match="no image was named"):
        alexnet.predict(finished, [], device="cpu")


def test_pillows_image_is_turned_upright_and_it_is_said(finished):
    image = photograph()
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    (plain,), (upright,) = (alexnet.predict(finished, each, device="cpu") for each in (image, turned))
    assert upright.notes == ("turned upright (EXIF orientation)",)
    assert answers([upright]) == answers([plain])


def test_small_images_are_cut_as_in_evaluation(tiny, tmp_path, reporter, no_figures):
    """A network on crops of 24 of images of 32 sees the middle of such an image, not all of it made smaller."""
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    images = (rng.integers(0, 100, (30, 32, 32, 3)) + 70 * labels[:, None, None, None]).astype(np.uint8)
    config = tiny(epochs=1, data={"crop": 24, "fraction": 1.0}, model={"variant": "cifar"})
    run = alexnet.train(config, tmp_path / "run", data=(images, labels), reporter=reporter)
    framed = images.copy()
    framed[:, :4] = framed[:, -4:] = 0
    framed[:, :, :4] = framed[:, :, -4:] = 255
    assert answers(alexnet.predict(run, framed, device="cpu")) == answers(alexnet.predict(run, images, device="cpu"))


# Weights.


def test_weights_from_a_dictionary(small):
    other = build_model("cifar", width=0.125, num_classes=10)
    for state in (
        small.state_dict(),
        {f"module.{name}": value for name, value in small.state_dict().items()},
        {"state_dict": {name: nn.Parameter(value.double()) for name, value in small.state_dict().items()}},
    ):
        nn.init.zeros_(other.conv1.weight)
        alexnet.load_weights(other, state)
        assert all(torch.equal(value, small.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc7.bias"), r"the dictionary of weights does not fit.*'fc7\.bias'"),
        (lambda state: state["conv1.bias"].fill_(torch.nan), "the dictionary of weights cannot be used.*not finite"),
        (lambda state: state.clear(), "it holds no state dict of tensors"),
        (lambda state: state.update({"conv1.bias": 3}), "it holds no state dict of tensors"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(small, change, message):
    model = build_model("cifar", width=0.125, num_classes=10)
    state = {name: value.clone() for name, value in small.state_dict().items()}
    change(state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        alexnet.load_weights(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_under_torchvisions_names():
    torch.manual_seed(0)
    ours = build_model("torchvision", num_classes=7, input_size=64).eval()
    other = torchvision.models.alexnet(num_classes=7).eval()
    other.load_state_dict(torchvision_weights(ours))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(images), other(images), atol=1e-5)
    again = build_model("torchvision", num_classes=7, input_size=64)
    alexnet.load_weights(again, torchvision_weights(ours))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cifar", {}),
        ("torchvision", {"width": 0.125}),
        ("torchvision", {"in_channels": 1, "width": 0.5}),
        ("torchvision", {"activation": "tanh", "input_size": 63}),
        ("torchvision", {"overlap": False, "input_size": 99}),
    ],
)
def test_other_networks_have_no_weights_of_torchvisions(name, fields):
    with pytest.raises(UsageError, match="not of torchvision's shape"):
        torchvision_weights(alexnet.models.network.blank_model(name, **fields))


# Parts of the network, by timm's names.


@pytest.mark.parametrize("name", ["paper", "torchvision", "cifar", "convnet-13pct", "net145"])
def test_features_and_head_are_the_network(name):
    model = build_model(name, width=0.125, num_classes=6, init="he", dropout=0.0).eval()
    images = torch.randn(2, 3, model.variant.input_size, model.variant.input_size)
    with torch.no_grad():
        features = model.forward_features(images)
        before = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.forward_head(features), model(images))
        assert torch.equal(model.get_classifier()(before), model(images))
    assert features.shape[:2] == (2, model.num_features)
    assert features.ndim == 4
    assert before.shape == (2, model.head_hidden_size)


def test_features_refuse_other_images(small):
    with pytest.raises(ValueError, match="takes images of"):
        small.forward_features(torch.zeros(1, 3, 31, 31))


def test_reset_classifier_gives_other_classes_and_leaves_the_rest(small):
    torch.manual_seed(1)
    model = build_model("cifar", width=0.125, num_classes=10).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reset_classifier(4)
    assert (model.num_classes, model.variant.num_classes, model.fc8.out_features) == (4, 4, 4)
    assert model.fc8.weight.dtype == torch.float64
    assert model.fc8.training
    assert list(model.state_dict()) == list(before)
    same = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert same == [name for name in before if not name.startswith("fc8")]
    assert model(torch.zeros(2, 3, 32, 32).double()).shape == (2, 4)
    fresh = build_model("cifar", width=0.125, num_classes=4)
    assert model.fc8.weight.std().item() == pytest.approx(fresh.fc8.weight.std().item(), rel=0.2)
    alexnet.load_weights(fresh, {name: value.float() for name, value in model.state_dict().items()})
    with pytest.raises(UsageError, match="num_classes = 0"):
        model.reset_classifier(0)


def test_the_classifier_need_not_be_the_last_layer():
    """As in ports with a ReLU behind fc8."""
    table = replace(VARIANTS["cifar"], output=Linear(10, then=("relu",), positive_bias=False))
    model = build_model(table, width=0.125)
    model.reset_classifier(4)
    x = torch.randn(2, 3, 32, 32)
    assert model.eval()(x).shape == (2, 4)
    assert model.get_classifier().out_features == 4
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size) == (2, model.get_classifier().in_features)


# Sources of one's own.


def read_mine(config):
    labels = np.arange(40) % 2
    return (np.full((40, 8, 8), 100, np.uint8) + labels[:, None, None].astype(np.uint8) * 50, labels)


def test_a_registered_source_is_one_like_all_others(registry, tiny, tmp_path, reporter, no_figures, call):
    alexnet.register_source("mine", read_mine, about="squares")
    run = alexnet.train(tiny(epochs=1, data={"source": "mine", "fraction": 1.0}), tmp_path / "run", reporter=reporter)
    assert run.test["count"] == 4
    assert f'next: alexnet.evaluate("{run.path}"), in Python' in text(reporter)
    assert alexnet.evaluate(run).count == 4
    assert "squares" in call("list", "data")[1]


def test_a_name_is_given_once(registry):
    alexnet.register_source("mine", read_mine)
    with pytest.raises(UsageError, match=r"'mine' already; replace=True"):
        alexnet.register_source("mine", read_mine)
    alexnet.register_source("mine", lambda config: read_mine(config), replace=True)
    for taken in ("digits", "memory"):
        with pytest.raises(UsageError, match=f"'{taken}' already; choose another name"):
            alexnet.register_source(taken, read_mine, replace=True)
    for odd in ("", " x", "a\nb"):
        with pytest.raises(UsageError, match="cannot be called"):
            alexnet.register_source(odd, read_mine)


def test_an_unknown_source_says_where_it_may_be_known():
    with pytest.raises(UsageError, match=r"Known: digits.*alexnet\.register_source"):
        load_dataset(alexnet.DataConfig(source="mine"))


def test_a_damaged_image_that_a_program_opened_has_an_error(finished, tmp_path):
    """Pillow decodes an image when its pixels are asked for, and knows no way from some of its modes."""
    good = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    good.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    given = [Image.open(tmp_path / "cut.jpg"), Image.new("La", (8, 8)), good]
    cut, unknown, answered = alexnet.predict(finished, given, device="cpu")
    assert cut.error.startswith("cannot decode image 0: image file is truncated")
    assert unknown.error.startswith("cannot decode image 1: La has no way to RGB")
    assert (answered.error, len(answered.classes)) == (None, 5)
