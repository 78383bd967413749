"""The preview shows what training really does: its crops are those that the loaders yield."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.batches import Steps
from alexnet.data.loading import open_split
from alexnet.data.preview import pipeline_stages
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.figures import save_figure
from alexnet.figures.stages import draw_stages
from alexnet.recipes import recipe
from conftest import Blank

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of six photographs in several sizes, one of them large enough to be decoded at a half."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    sizes = [(120, 90), (90, 120), (80, 80), (76, 300), (420, 360), (100, 101)]
    for number in range(12):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image = coarse.resize(sizes[number // 2], Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.jpg", quality=95)
    return root


def photographs(root, **values):
    data = {"root": str(root), "resize": 72, "crop": 64, "test_fraction": 0.0, "val_fraction": 0.0, "workers": 1}
    return recipe("folder", device="cpu", **{"data": data}, **values)


def small_images(**values):
    return recipe("digits", device="cpu", **values)


CONFIGS = {
    "random area": lambda root: photographs(root, seed=5),
    "plain": lambda root: photographs(root, seed=6, **{"data.random_resized_crop": False}),
    "padded, no noise": lambda root: photographs(
        root, **{"data.random_resized_crop": False, "data.colour_noise": 0.0, "data.pad": 4, "data.flip": False}
    ),
    "digits": lambda _: small_images(seed=2),
    "digits, cropped": lambda _: small_images(**{"data.crop": 24, "data.flip": True}),
    "digits as they are": lambda _: small_images(**{"data.resize": None, "data.pad": 0}),
}


@pytest.fixture
def drawn():
    """A function that gives a preview's rows of stages ({title: image}), class names and places."""

    def draw(config, count=4):
        shown = pipeline_stages(config, count)
        return (
            [{stage.title: stage.pixels for stage in s.stages} for s in shown],
            [s.name for s in shown],
            [s.place for s in shown],
        )

    return draw


def loaded(config):
    """What training and evaluation see: normalised images by row of the training split, and the order of epoch 0."""
    train = load_dataset(config.data).train
    loader = open_split(train, CPU, config.data)
    ((images, _, rows),) = loader.training_batches(Steps(config.seed, 0, len(train)))
    evaluated, _ = zip(*loader.evaluation_batches(100), strict=True)
    return train, loader.prep, images, rows.tolist(), torch.cat(evaluated)[:, 0]


def pixels(normalised, prep):
    """Undo the normalisation: [C, H, W] to [H, W, C], 0-255."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) * 255 for values in (prep.mean, prep.std))
    return (normalised * std + mean).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_are_those_of_training(drawn, photos, tmp_path, name):
    config = CONFIGS[name](photos)
    rows, names, places = drawn(config)
    train, prep, images, order, evaluated = loaded(config)
    dataset = load_dataset(config.data)
    assert len(rows) == 4
    assert list(names) == [dataset.names[train.labels[row]] for row in order[:4]]
    assert places == [str(place) for place in train.places(np.array(order[:4]))]
    shown = "colour noise" if config.data.colour_noise else "training crop"
    for stages, image, row in zip(rows, images, order, strict=False):
        crop = stages["training crop"]
        assert crop.shape == (prep.size, prep.size, train.channels)
        seen = pixels(image, prep)
        np.testing.assert_allclose(stages[shown], seen.clip(0, 255), atol=1)  # whole numbers are shown
        if config.data.colour_noise:  # one colour is added to the whole crop
            shift = seen - crop
            assert np.ptp(shift, axis=(0, 1)).max() < 0.01
            assert np.abs(shift).max() > 0.5
        np.testing.assert_allclose(stages["evaluation crop"], pixels(evaluated[row], prep), atol=0.01)
    assert any(not np.array_equal(stages["training crop"], stages["evaluation crop"]) for stages in rows) == (
        name != "digits as they are"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_first_and_last_stage(drawn, photos, tmp_path, name):
    """The original as it lies on the disk, and the network's input in contrast."""
    config = CONFIGS[name](photos)
    rows, _, places = drawn(config)
    for stages, place in zip(rows, places, strict=True):
        titles = list(stages)
        assert titles[0] == "original"
        assert titles[-2:] == ["as the network sees it", "evaluation crop"]
        assert ("colour noise" in titles) == bool(config.data.colour_noise)
        assert all(image.dtype == np.uint8 for image in stages.values())
        if config.data.source == "folder":
            reference = np.asarray(Image.open(place))
            assert np.abs(stages["original"].astype(int) - reference).max() <= 2
            assert min(stages["short side 72"].shape[:2]) == 72
        assert np.ptp(stages["as the network sees it"]) > 60  # not a grey patch


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_images_that_drew_no_colour_noise_say_so(photos, probability):
    config = photographs(photos, **{"data.noise_probability": probability})
    noisy = [next(stage for stage in s.stages if stage.title == "colour noise") for s in pipeline_stages(config, 12)]
    plain = [next(stage for stage in s.stages if stage.title == "training crop") for s in pipeline_stages(config, 12)]
    for before, after in zip(plain, noisy, strict=True):
        assert (after.remark == "no noise drawn") == np.array_equal(before.pixels, after.pixels)
    assert sum(bool(stage.remark) for stage in noisy) in {0.0: [12], 0.5: range(1, 12), 1.0: [0]}[probability]


@pytest.mark.parametrize("name", ["random area", "digits"])
def test_writes_a_picture(photos, tmp_path, name):
    shown = pipeline_stages(CONFIGS[name](photos), 2)
    save_figure(draw_stages([s.stages for s in shown], [s.name for s in shown]), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height > 300
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 30


def test_seed_draws_the_images(photos):
    one, same, other = ([s.place for s in pipeline_stages(photographs(photos, seed=s), 6)] for s in (1, 1, 2))
    assert one == same != other
    assert len(set(one)) == 6


def test_more_images_than_there_are(photos):
    assert len(pipeline_stages(photographs(photos), 100)) == 12


@pytest.mark.parametrize("count", [0, -1])
def test_no_images_at_all(photos, count):
    with pytest.raises(UsageError, match="--images"):
        pipeline_stages(photographs(photos), count)


def test_unreadable_image_is_named(tmp_path):
    for number in range(2):
        (tmp_path / "data" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "cat" / f"{number}.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"\.jpg"):
        pipeline_stages(photographs(tmp_path / "data"), 2)


def test_long_thin_photograph(drawn, tmp_path):
    """1x5000 resized to a short side of 72 would have 26 million pixels, at 256 a thousand times a photograph's."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    Image.new("RGB", (1, 5000), (9, 99, 200)).save(tmp_path / "data" / "cat" / "thin.png")
    rows, _, _ = drawn(photographs(tmp_path / "data"), 1)
    assert max(image.size for image in rows[0].values()) < 3 * 10**6


# The command.


@pytest.fixture
def call(call, tmp_path, monkeypatch):
    """The same in a folder of its own, where preview.png goes."""
    monkeypatch.chdir(tmp_path)
    return call


SMALL = ["--data.resize", "72", "--data.crop", "64", "--device", "cpu"]


def test_command_draws_and_says_where_the_images_lie(call, photos, tmp_path):
    code, out, err = call("preview", "folder", "--data.root", photos, *SMALL, "--images", "3")
    assert (code, err) == (0, "")
    *places, last = out.splitlines()
    assert last == "written: preview.png"
    assert len(places) == 3
    assert all(place.startswith(str(photos)) for place in places)
    assert Image.open(tmp_path / "preview.png").format == "PNG"


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_command_takes_a_recipe_and_its_settings(call, photos, monkeypatch, source):
    given = []
    monkeypatch.setattr("alexnet.data.preview.pipeline_stages", lambda *given_: given.append(given_) or [])
    monkeypatch.setattr("alexnet.figures.stages.draw_stages", lambda *_: Blank())
    call("preview", source, "--data.root", photos, "--seed", "9")
    call("preview", "folder", "--recipe", "dogs-sgd", "--data.root", photos, "--data.no-flip", "--images", "7")
    (first, count), (second, other) = given
    assert (first.name, first.data.source, first.seed, count) == (source, source, 9, 4)
    assert (second.name, second.data.source, second.data.flip, other) == ("dogs-sgd", "folder", False, 7)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fodler"], 2, "Did you mean 'folder'?"),
        (["folder", "--recipe", "flder"], 2, "Did you mean 'folder'?"),
        (["folder", "--data.root", "nowhere"], 3, "nowhere"),
        (["digits", "--images", "0"], 2, "--images"),
        (["digits", "--out", "/dev/null/p.png"], 2, "/dev/null/p.png"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_command_errors(call, arguments, code, message):
    found, _, err = call("preview", *arguments)
    assert (found, err.startswith("error: "), message in err) == (code, True, True), json.dumps(err)
