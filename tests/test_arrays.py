"""Data that a program hands over: arrays, tensors, datasets of torch and of Hugging Face, sources of one's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet
from alexnet.config import DataConfig
from alexnet.config.values import override
from alexnet.data import sources
from alexnet.data.arrays import is_settings, read_given
from alexnet.data.decode import decode
from alexnet.data.photos import Photos
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.runs.folder import load_run
from conftest import TINY, assert_same_run, text, without_figures

IN_MEMORY = DataConfig(source="memory")


def pictures(count=60, shape=(12, 12, 3), classes=3, seed=0):
    """Noise that is brighter the higher the class; images uint8 [N, H, W, C] and labels [N]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 100, (count, *shape)) + 70 * labels.reshape(-1, *[1] * len(shape))
    return images.astype(np.uint8), labels


class Pairs:
    """A dataset as torch has them: a length and items."""

    classes = ("ant", "bee", "cat")

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        return self.images[number], self.labels[number]


def same(a, b):
    """Whether two data sets are the same in all that a run sees of them."""
    return a.fingerprint == b.fingerprint and a.classes == b.classes and np.array_equal(a.train.images, b.train.images)


# What is taken.


def test_splits_are_those_of_every_source():
    images, labels = pictures(90)
    data = load_dataset(IN_MEMORY, (images, labels))
    assert (len(data.train), len(data.val), len(data.test)) == (72, 9, 9)
    rows = np.concatenate([data.train.sources, data.val.sources, data.test.sources])
    assert sorted(rows) == list(range(90))
    for split in (data.train, data.val, data.test):
        assert np.array_equal(split.images, images.transpose(0, 3, 1, 2)[split.sources])
        assert np.array_equal(split.labels, labels[split.sources])
        assert len(np.unique(split.labels)) == 3
    assert data.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "given",
    [
        lambda x, y: (x.transpose(0, 3, 1, 2), y),
        lambda x, y: [x, y.tolist()],
        lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
        lambda x, y: (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), y.astype(np.uint8)),
        lambda x, y: (x.astype(np.float32) / 255, y[:, None]),  # ToTensor's; MedMNIST's
        lambda x, y: (x, np.eye(3)[y]),
        lambda x, y: {"train": (x, y)},
        lambda x, y: Pairs(x, y),
        lambda x, y: Pairs([Image.fromarray(one) for one in x], y),
        lambda x, y: torch.utils.data.TensorDataset(torch.from_numpy(x).permute(0, 3, 1, 2) / 255, torch.from_numpy(y)),
        lambda x, y: torch.utils.data.Subset(Pairs(x, y), range(len(y))),
        lambda x, y: list(zip(x, y, strict=True)),
    ],
)
def test_whatever_holds_the_same_images_is_the_same_data(given):
    images, labels = pictures()
    plain = load_dataset(IN_MEMORY, {"train": (images, labels), "classes": ["ant", "bee", "cat"]})
    assert same(load_dataset(IN_MEMORY, given(images, labels), ["ant", "bee", "cat"]), plain)


def test_same_fingerprint_as_a_built_in_source():
    digits = sources.SOURCES["digits"].read(DataConfig())
    given = {name: (split.images, split.labels) for name, split in digits.parts.items()} | {"classes": digits.classes}
    assert same(load_dataset(IN_MEMORY, given), load_dataset(DataConfig()))


def test_grey_images_have_one_channel_unless_others_have_colours():
    images, labels = pictures(shape=(12, 12))
    assert load_dataset(IN_MEMORY, (images, labels)).train.channels == 1
    assert load_dataset(IN_MEMORY, Pairs([Image.fromarray(one) for one in images], labels)).train.channels == 1
    mixed = [Image.fromarray(one).convert("RGB" if n % 2 else "L") for n, one in enumerate(images)]
    data = load_dataset(IN_MEMORY, Pairs(mixed, labels))
    assert np.array_equal(data.train.images, np.repeat(images[data.train.sources][:, None], 3, axis=1))


def test_names_for_labels_are_the_classes_in_their_order():
    images, labels = pictures()
    words = np.array(["mouse", "cat", "ant"])[labels]
    data = load_dataset(IN_MEMORY, {"train": (images, words), "validation": (images, words[::-1].tolist())})
    assert data.classes == ("ant", "cat", "mouse")
    assert np.array_equal(np.array(data.classes)[data.val.labels], words[::-1])
    numbers = load_dataset(IN_MEMORY, (images, np.array(["10", "9", "2"])[labels]))
    assert numbers.classes == ("2", "9", "10")


def test_images_of_several_sizes_are_photographs_with_the_pixels_they_have():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (10 + n, 12, 3), dtype=np.uint8)) for n in range(12)]
    data = load_dataset(IN_MEMORY, {"train": Pairs(images, [0, 1, 2] * 4), "test": pictures()})
    assert isinstance(data.train, Photos)
    assert isinstance(data.test, Photos)
    for row in range(len(data.train)):
        number = int(data.train.rows[row])
        assert np.array_equal(decode(data.train.read(row)), np.array(images[number]))
        assert data.train.place(row) == f"image {number} of the train split"
    images[0] = Image.fromarray(np.array(images[0]) ^ 1)
    assert load_dataset(IN_MEMORY, {"train": Pairs(images, [0, 1, 2] * 4)}).fingerprint != data.fingerprint


def test_photographs_are_turned_upright():
    image = Image.fromarray(pictures(1, (10, 20, 3))[0][0])
    image.getexif()[0x0112] = 6
    (turned,) = read_given([(image, 0), (image, 1)]).parts["all"].images[:1]
    assert turned.shape == (3, 20, 10)


# What is refused.


def hostile(images=None, labels=None, **more):
    x, y = pictures()
    return (x if images is None else images(x), y if labels is None else labels(y))


def named_twice():
    """As ImageNet's classes by their first words."""
    x, y = pictures()
    items = type("Named", (list,), {"classes": ["crane", "crane", "ox"]})
    return items(zip(x, y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (hostile(lambda x: x.astype(np.int64)), "the images of the data are int64, not uint8"),
        (hostile(lambda x: x.astype(np.float32)), "are float32, not uint8 from 0 to 255"),
        (hostile(lambda x: x / 255 - 0.5), "are float64, not uint8"),
        (hostile(lambda x: np.where(x == 5, np.nan, x / 255)), "not finite"),
        (hostile(lambda x: torch.from_numpy(x).bfloat16()), "cannot be made an array"),
        (hostile(lambda x: x.astype(object)), "are object"),
        (hostile(lambda x: x[0, 0]), r"the images of the data are \[12, 3\]: give \[N, H, W\]"),
        (hostile(lambda x: x[..., None]), r"\[60, 12, 12, 3, 1\]: give"),
        (hostile(lambda x: x[:, :3, :3]), "may be the axis of 3 or of 3"),
        (hostile(lambda x: x[:0], lambda y: y[:0]), "the data holds no images"),
        (hostile(lambda x: x[:, :0]), "the data holds no images"),
        (hostile(lambda x: x[:50]), r"50 images, but its labels are \[60\]"),
        (hostile(labels=lambda y: y[0]), r"labels are \[\]"),
        (hostile(labels=lambda y: y - 1), "run from -1 to 1, but there are"),
        (hostile(labels=lambda y: y.astype(np.uint64) + 2**63), "they number the classes"),
        (hostile(labels=lambda y: y + 10**9), "they number the classes"),
        (hostile(labels=lambda y: y.astype(float)), r"labels of the data are float64 \[60\]"),
        (hostile(labels=lambda y: np.eye(3)[y] * 2), "not probabilities"),
        (hostile(labels=lambda y: np.full((60, 3), np.nan)), "not probabilities"),
        (hostile(labels=lambda y: [[0], [1, 2]] * 30), "labels of the data cannot be made an array"),
        ({"test": hostile(), "tset": hostile()}, "Did you mean 'test'"),
        ({"val": hostile(), "validation": hostile()}, "two splits val"),
        ({"classes": ["a"]}, "holds no split"),
        ({"train": hostile(), "classes": ["a", "b"]}, "run from 0 to 2, but there are 2 classes"),
        ({"train": hostile(), "classes": ["a", "b", "b"]}, "not a list of different names"),
        (named_twice(), "not a list of different names"),
        ({"train": hostile(), "classes": "abc"}, "not a list of different names"),
        ({"train": hostile(labels=lambda y: np.array(["a", "b", "c"])[y]), "classes": ["a", "b"]}, "name c, none of"),
        ({"train": hostile(), "test": pictures(shape=(12, 12, 2))}, "2 and 3 channels"),
        (pictures()[0], "item 0 of the data is not a pair"),
        ([], "the data holds no images"),
        (iter([1]), "of type list_iterator, which cannot be read; give a pair"),
        ("data.npz", "of type str"),
        (Pairs([b"no image"] * 3, [0, 1, 2]), "cannot decode image 0 of the data: it is not an image"),
        (Pairs([np.zeros((4, 4, 3))[:n] for n in (4, 2, 0)], [0, 1, 2]), "image 2 of the data is empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(IN_MEMORY, data)
    assert "\n" not in str(caught.value)


def test_settings_for_photographs_make_photographs_of_images_of_one_size():
    images, labels = pictures()
    data = load_dataset(DataConfig(source="memory", top_classes=2), (images, labels))
    assert isinstance(data.train, Photos)
    assert data.classes == ("0", "1")
    for row in range(5):
        assert np.array_equal(decode(data.train.read(row)), images[int(data.train.rows[row])])
    with pytest.raises(DataError, match="probabilities for labels, which photographs cannot have"):
        load_dataset(DataConfig(source="memory", resplit=True), (images, np.full((60, 3), 1 / 3)))


@pytest.mark.parametrize(
    ("data", "settings"),
    [({"root": "/elsewhere"}, True), ({}, True), ({"test": 1}, False), ({"validation": 1}, False), ([1], False)],
)
def test_two_meanings_of_a_dictionary(data, settings):
    assert is_settings(data) is settings


# Runs.


@pytest.fixture(scope="module")
def config():
    return _config({"data": {"fraction": 1.0}, "batch_size": 16})


def _config(changes):
    return override(TINY, changes)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A run on arrays; only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        data = {"train": pictures(shape=(32, 32, 3)), "test": pictures(30, (32, 32, 3), seed=1)}
        return alexnet.train(config, tmp_path_factory.mktemp("arrays") / "run", data=data)


def data_of_trained(seed=1):
    return {"train": pictures(shape=(32, 32, 3)), "test": pictures(30, (32, 32, 3), seed=seed)}


def test_a_run_on_arrays(trained):
    assert trained.status["state"] == "finished"
    assert trained.config.data.source == "memory"
    assert trained.sessions[0]["data"]["root"] is None
    assert trained.test["top1"] > 0.9


def test_evaluated_on_the_same_data_or_on_a_test_set_of_its_own(trained):
    again = alexnet.evaluate(trained, data=data_of_trained())
    assert (again.top1, again.loss, again.count) == (trained.test["top1"], trained.test["loss"], 30)
    alone = alexnet.evaluate(trained, data={"test": data_of_trained()["test"]})
    assert (alone.top1, alone.loss) == (again.top1, again.loss)
    other = alexnet.evaluate(trained, data={"test": pictures(9, (32, 32, 3), classes=2, seed=5)})  # not all classes
    assert other.count == 9
    assert other.classes == again.classes
    with pytest.raises(DataError, match=r"this data is not what .* was trained on .*fingerprint.*data=\{\"test\""):
        alexnet.evaluate(trained, data=data_of_trained(seed=2))
    with pytest.raises(UsageError, match="the val split is empty"):
        alexnet.evaluate(trained, "val", data={"test": data_of_trained()["test"]})
    with pytest.raises(UsageError, match=r"8-bit.* comes from training images"):
        alexnet.evaluate(trained, data={"test": data_of_trained()["test"]}, precision="int8")
    with pytest.raises(UsageError, match=r"Did you mean 'data\.root'"):
        alexnet.evaluate(trained, data={"rot": "/elsewhere"})


@pytest.mark.usefixtures("no_figures")
def test_a_recipe_for_photographs_trains_and_is_evaluated_on_arrays(tmp_path):
    photographs = override(_config({}), {"data": {"random_resized_crop": True, "resize": 32, "crop": 32}})
    run = alexnet.train(photographs, tmp_path / "run", data=data_of_trained())
    again = alexnet.evaluate(run, data={"test": data_of_trained()["test"]})
    assert (again.top1, again.loss) == (run.test["top1"], run.test["loss"])


def test_without_the_data_one_line_says_what_to_do(trained, call, tmp_path):
    for act in (lambda: alexnet.evaluate(trained), lambda: alexnet.train(trained.config, tmp_path / "run")):
        with pytest.raises(UsageError, match=r"a program held it.*data=\.\.\."):
            act()
    code, _, err = call("evaluate", trained.path)
    assert code == 2
    assert "alexnet.evaluate(run, data=...)" in err
    assert err.count("\n") <= 3


def test_going_on_needs_the_data_again(trained, config):
    with pytest.raises(UsageError, match=r"a program held: to go on there, hand it over again, .*data=\.\.\."):
        alexnet.train(config, trained.path)


def test_what_is_said_next_can_be_typed(config, tmp_path, reporter, no_figures):
    alexnet.train(override(config, {"epochs": 1}), tmp_path / "run", data=data_of_trained(), reporter=reporter)
    assert f'next: alexnet.evaluate("{tmp_path / "run"}", data=...), in Python' in text(reporter)
    assert ", 1 epoch, in " in text(reporter)


def test_nothing_to_train_on(config, tmp_path):
    with pytest.raises(UsageError, match="no training split"):
        alexnet.train(config, tmp_path / "run", data={"test": pictures()})
    assert not (tmp_path / "run").exists()


def test_soft_labels_are_what_training_aims_at(config, tmp_path, no_figures, reporter):
    """A network that is shown the same images with labels of two classes alike learns to answer both alike."""
    images, _ = pictures(64, (32, 32, 3), classes=2)
    soft = np.full((64, 3), 0.0)
    soft[:, :2] = 0.5
    few = _config({"epochs": 6, "batch_size": 16, "data": {"fraction": 1.0}, "model": {"dropout": 0.0}})
    run = alexnet.train(few, tmp_path / "run", data=(images, soft), reporter=reporter)
    losses = [row["train_loss"] for row in run.epochs]
    assert losses[-1] == pytest.approx(np.log(2), abs=0.05)
    mixed = _config({"epochs": 1, "batch_size": 16, "cutmix": 1.0, "mixup": 0.4, "data": {"fraction": 1.0}})
    assert (
        alexnet.train(mixed, tmp_path / "mixed", data=(images, soft), reporter=reporter).status["state"] == "finished"
    )


# Killed and resumed.

HELD = """
import numpy as np

def hold(kind):
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = (rng.integers(0, 100, (96, 16, 16, 3)) + 70 * labels[:, None, None, None]).astype(np.uint8)
    if kind == "arrays":
        return images, labels
    import datasets
    from PIL import Image
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    )
    held = {"picture": [Image.fromarray(image) for image in images], "kind": labels.tolist()}
    return datasets.Dataset.from_dict(held, features=features)
"""
TRAIN = (
    HELD
    + """
import sys, alexnet
from alexnet.runs.folder import load_config
from pathlib import Path
if __name__ == "__main__":
    alexnet.train(load_config(Path(sys.argv[1])), sys.argv[2], data=hold(sys.argv[3]))
"""
)


@pytest.mark.parametrize("kind", ["arrays", pytest.param("hugging face", marks=pytest.mark.slow)])
def test_killed_and_resumed_to_the_same_bits(kind, tmp_path, no_figures, no_fsync, reporter):
    if kind != "arrays":
        pytest.importorskip("datasets")
    held = {}
    exec(HELD, held)
    data = held["hold"](kind)
    config = _config({"epochs": 2, "batch_size": 8, "data": {"fraction": 1.0, "flip": True}, "save_minutes": 0.0005})
    whole = alexnet.train(config, tmp_path / "whole", data=data, reporter=reporter)
    file = tmp_path / "again.py"
    file.write_text(TRAIN)
    command = [sys.executable, str(file), str(whole.path / "config.yaml"), str(tmp_path / "killed"), kind]
    last = tmp_path / "killed" / "last.safetensors"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = load_run(tmp_path / "killed")
    assert killed.status["state"] == "running"
    x, y = pictures(96, (16, 16, 3), seed=1)
    with pytest.raises(DataError, match=r"fingerprint.*another --run DIR"):
        alexnet.train(config, killed.path, data=(x, y), reporter=reporter)
    alexnet.train(config, killed.path, data=data, reporter=reporter)
    assert len(killed.sessions) >= 2
    assert_same_run(whole, killed)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_are_seen_by_all_alike(tiny, tmp_path, reporter, channels):
    images, labels = pictures(shape=(16, 16, channels))
    run = alexnet.train(tiny(), tmp_path / "run", reporter=reporter, data=(images, labels))
    wanted = run.model()(run.preprocessing()(torch.from_numpy(images).movedim(-1, 1))).softmax(1).max(1).values
    found = [answer.probabilities[0] for answer in alexnet.predict(run, images, device="cpu")]
    assert np.allclose(found, wanted.detach().numpy(), atol=1e-5)
    flat = np.broadcast_to(images[:, :1, :1], (len(images), 32, 32, channels))
    small, large = (alexnet.predict(run, some, device="cpu") for some in (flat[:, :16, :16], flat))
    assert [answer.probabilities for answer in large] == [answer.probabilities for answer in small]  # after resizing
    Image.fromarray(images[0, :, :, 0]).save(tmp_path / "grey.png")
    (answer,) = alexnet.predict(run, tmp_path / "grey.png", device="cpu")
    assert f"takes images of {channels} channels, files have 1 or 3" in answer.error
    (tmp_path / "hub").mkdir()
    card = (alexnet.export_hub(run, tmp_path / "hub" / "x") / "README.md").read_text()
    assert f"Images of {channels} channels" in card
    assert "`recipe.yaml` has all settings; the images were handed over by a program." in card


def hugging(images, labels, names=("ant", "bee", "cat"), **columns):
    datasets = pytest.importorskip("datasets")
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
    held = {"picture": [Image.fromarray(image) for image in images], "kind": [int(label) for label in labels]}
    more = {name: kind for name, (kind, _) in columns.items()}
    values = {name: value for name, (_, value) in columns.items()}
    return datasets.Dataset.from_dict(held | values, features=datasets.Features(features | more))


def test_hugging_faces_datasets_are_the_same_data_whatever_their_format():
    images, labels = pictures()
    plain = load_dataset(IN_MEMORY, {"train": (images, labels), "classes": ["ant", "bee", "cat"]})
    found = hugging(images, labels)
    assert same(load_dataset(IN_MEMORY, found), plain)
    assert same(load_dataset(IN_MEMORY, found.with_format("torch")), plain)
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict({"train": found, "validation": found.select(range(9))})
    data = load_dataset(IN_MEMORY, both)
    assert (len(data.train), len(data.val), len(data.test)) == (60, 9, 0)


def test_hugging_faces_photographs_are_read_as_they_are_encoded():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (10 + n, 12, 3), dtype=np.uint8) for n in range(9)]
    data = load_dataset(IN_MEMORY, {"train": hugging(images, [0, 1, 2] * 3), "test": hugging(images, [0, 1, 2] * 3)})
    assert data.test.read(4)[:4] == b"\x89PNG"
    assert np.array_equal(decode(data.test.read(4)), images[4])


def test_columns_of_hugging_faces_datasets():
    datasets = pytest.importorskip("datasets")
    images, labels = pictures(9)
    fine = (datasets.ClassLabel(names=["x", "y"]), [0, 1, 1] * 3)
    two = hugging(images, labels, fine=fine)
    with pytest.raises(DataError, match=r"several ClassLabel column.*picture, kind, fine.*rename_column"):
        load_dataset(IN_MEMORY, two)
    assert load_dataset(IN_MEMORY, two.rename_column("fine", "label")).classes == ("x", "y")
    with pytest.raises(DataError, match=r"no Image column"):
        load_dataset(IN_MEMORY, two.remove_columns("picture"))
    with pytest.raises(DataError, match="a stream, which has no length"):
        load_dataset(IN_MEMORY, two.to_iterable_dataset())


class _Named(list):
    """Pairs of an image and a label, with the names of the classes, as torchvision's ImageFolder."""

    def __init__(self, classes, labels):
        super().__init__((np.full((8, 8, 3), label, np.uint8), label) for label in labels)
        self.classes = list(classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(("ant", "cat"), "missing bee, more none"), (("bee", "ant", "cat"), "in another order")],
)
def test_splits_with_other_classes_are_refused(classes, message):
    train = _Named(("ant", "bee", "cat"), (0, 1, 2))
    with pytest.raises(DataError, match=f"the classes of the val split are not those of the train split: {message}"):
        read_given({"train": train, "val": _Named(classes, (0, 1))})
    assert read_given({"train": train, "val": _Named(train.classes, (0, 1))}).classes == ("ant", "bee", "cat")
