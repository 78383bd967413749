"""Nearest neighbours: against plain numpy, and on a set in which the right answers are known."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.compute import resolve_compute
from alexnet.config import DataConfig
from alexnet.data.augment import central_views
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.inference import retrieval
from alexnet.inference.features import extract_features
from alexnet.inference.kernels import colour_shares, first_kernels
from alexnet.inference.neighbours import find_nearest, hidden_layer, rank_distances, split_features, split_pixels
from alexnet.inference.retrieval import retrieve
from alexnet.inference.trained import open_trained
from alexnet.paper.arms import error
from alexnet.paper.evaluations import answers_of_views, nearest_training_images
from alexnet.training.loop import train

FP32 = resolve_compute("cpu", "fp32")


def distances(a, b):
    return np.square(np.asarray(a, np.float64)[:, None] - np.asarray(b, np.float64)[None]).sum(axis=2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 8), st.integers(1, 9), st.booleans())
def test_nearest_in_any_batches(seed, count, wanted, batch, ties):
    rng = np.random.default_rng(seed)
    queries, index = (rng.integers(0, 2, (n, 4)) if ties else rng.standard_normal((n, 4)) for n in (3, count))
    found = find_nearest(torch.tensor(queries), torch.tensor(index).split(batch), wanted)
    expected = distances(queries, index)
    order = np.argsort(expected, axis=1, kind="stable")[:, :wanted]
    assert np.allclose(found.distances, np.take_along_axis(expected, order, axis=1))
    if ties:
        assert np.array_equal(found.rows, order)
    else:
        assert np.allclose(np.take_along_axis(expected, found.rows, axis=1), found.distances)


def test_distances_of_pixels_are_exact():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, 3072), dtype=np.uint8) for n in (3, 50))
    found = find_nearest(torch.from_numpy(a), [torch.from_numpy(b)], 50)
    assert np.array_equal(found.distances, np.sort(distances(a, b), axis=1))


def test_ranks_by_hand():
    """The index at 0, 1, 2, 2, 9 seen from 0: 1 is nearer than 2, and one of the other four is at the same distance."""
    index = torch.tensor([[0.0], [1.0], [2.0], [2.0], [9.0]])
    ranks = rank_distances(torch.tensor([[0.0]]), index, torch.tensor([[0, 1, 2, 4]]))
    assert ranks.tolist() == [[0, 1 / 4, 2.5 / 4, 1]]


def test_ranks_of_random_rows_are_a_half():
    rng = torch.Generator().manual_seed(0)
    index, queries = torch.rand(500, 3, generator=rng), torch.rand(130, 3, generator=rng)
    ranks = rank_distances(queries, index, torch.randint(0, 500, (130, 6), generator=rng))
    assert ranks.mean() == pytest.approx(0.5, abs=0.04)
    nearest = torch.from_numpy(find_nearest(queries, [index], 6).rows)
    assert torch.equal(rank_distances(queries, index, nearest), (torch.arange(6) / 499).expand(130, 6))


@pytest.fixture(scope="module")
def digits(finished):
    return load_dataset(finished.config.data)


def test_features_are_those_of_the_last_hidden_layer(finished, digits):
    trained = open_trained(finished)
    assert hidden_layer(trained.model) == "drop7"
    loader = open_split(digits.test, FP32.device, finished.config.data, trained.preprocessing)
    found = torch.cat(list(split_features(trained.model, loader, FP32))).numpy()
    images = torch.cat([views[:, 0] for views, _ in loader.evaluation_batches(500)])
    assert np.array_equal(found, extract_features(trained, images, "relu7")["relu7"])
    assert (found >= 0).all()


def test_pixels_are_the_crops_before_normalisation(digits):
    prep = open_split(digits.train, FP32.device, DataConfig(crop=5)).prep
    pixels = split_pixels(digits.test, prep, DataConfig(crop=5))
    assert torch.equal(pixels, central_views(torch.from_numpy(digits.test.images), 5)[:, 0])


def test_retrieved_images_are_those_that_numpy_finds(finished, digits):
    trained = open_trained(finished)
    found = retrieve(finished, queries=5, neighbours=4, seed=3, device="cpu")
    rows = np.sort(np.random.default_rng(3).permutation(len(digits.test))[:5])
    features, images = {}, {}
    for name, split in (("test", digits.test), ("train", digits.train)):
        loader = open_split(split, FP32.device, finished.config.data, trained.preprocessing)
        features[name] = torch.cat(list(split_features(trained.model, loader, FP32))).numpy()
        images[name] = loader.images.movedim(1, -1).numpy()
    nearest = np.argsort(distances(features["test"][rows], features["train"]), axis=1)[:, :4]
    assert len(found) == 5
    for row, near, retrieved in zip(rows, nearest, found, strict=True):
        answer = retrieved.answer
        assert np.array_equal(answer.image, images["test"][row])
        assert answer.truth == digits.names[digits.test.labels[row]]
        assert len(answer.bars) == 5
        assert [p for _, p in answer.bars] == sorted((p for _, p in answer.bars), reverse=True)
        assert [name for _, name in retrieved.neighbours] == [digits.names[digits.train.labels[r]] for r in near]
        for r, (image, _) in zip(near, retrieved.neighbours, strict=True):
            assert np.array_equal(image, images["train"][r])


def test_an_image_is_not_its_own_neighbour(finished):
    for retrieved in retrieve(finished, queries=5, neighbours=3, split="test", index="test", device="cpu"):
        assert len(retrieved.neighbours) == 3
        assert not any(np.array_equal(image, retrieved.answer.image) for image, _ in retrieved.neighbours)


def test_files_are_asked_about(finished, digits, tmp_path):
    """A training image as a file is its own nearest neighbour, and its folder says what it shows."""
    (tmp_path / "7").mkdir()
    row = int(np.flatnonzero(digits.train.labels == 7)[0])
    Image.fromarray(digits.train.images[row, 0]).save(tmp_path / "7" / "seven.png")
    (retrieved,) = retrieve(finished, [tmp_path], neighbours=1, device="cpu")
    assert (retrieved.answer.truth, retrieved.answer.title) == ("7", "seven.png")
    ((image, name),) = retrieved.neighbours
    assert name == "7"
    assert retrieved.answer.image.shape == (8, 8, 1)
    loader = open_split(digits.train, FP32.device, finished.config.data)
    assert np.array_equal(image, loader.images[row].movedim(0, -1))


def test_any_folder_can_be_searched(finished, digits, tmp_path):
    """Three test images among files of which one is the query itself, under a class's name and under another one."""
    for row, folder in enumerate(("0", "0", "strange")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(digits.test.images[row, 0]).save(tmp_path / folder / f"{row}.png")
    asked = tmp_path / "0" / "1.png"
    (retrieved,) = retrieve(finished, [asked], neighbours=5, index=tmp_path, device="cpu")
    trained = open_trained(finished)
    loader = open_split(digits.test, FP32.device, finished.config.data, trained.preprocessing)
    features = torch.cat(list(split_features(trained.model, loader, FP32))).numpy()[:3]
    order = [row for row in np.argsort(distances(features[1:2], features), axis=1)[0] if row != 1]
    assert [name for _, name in retrieved.neighbours] == [("0", "0", "strange")[row] for row in order]
    for row, (image, _) in zip(order, retrieved.neighbours, strict=True):
        assert np.abs(image.astype(int) - loader.images[row].movedim(0, -1).numpy()).max() <= 2
    (tmp_path / "0" / "broken.png").write_bytes(b"no image")
    (again,) = retrieve(finished, [asked], neighbours=5, index=tmp_path, device="cpu", skip_bad=True)
    assert [name for _, name in again.neighbours] == [name for _, name in retrieved.neighbours]
    with pytest.raises(DataError, match="broken"):
        retrieve(finished, [asked], neighbours=5, index=tmp_path, device="cpu")
    queries = [tmp_path / "0"]
    assert len(retrieve(finished, queries, neighbours=0, device="cpu", skip_bad=True)) == 2
    with pytest.raises(DataError, match="broken"):
        retrieve(finished, queries, neighbours=0, device="cpu")
    with pytest.raises(DataError, match="none of the 1 images that were named can be read"):
        retrieve(finished, [tmp_path / "0" / "broken.png"], neighbours=0, device="cpu", skip_bad=True)
    with pytest.raises(DataError, match="no image, folder or match for nowhere"):
        retrieve(finished, index="nowhere", device="cpu")


@pytest.fixture
def photographs(tmp_path, tiny, reporter, no_figures):
    """A run on light and dark photographs."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        for number in range(count):
            folder = tmp_path / "set" / part / ("dark" if number % 2 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 60, (40, 40, 3)) + (0 if number % 2 else 190)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    data = {"source": "folder", "root": str(tmp_path / "set"), "resize": 36, "crop": 32, "fraction": 1.0}
    config = tiny(name="folder", data=data, epochs=4, batch_size=4, **{"model.in_channels": 3})
    return train(config, tmp_path / "run", reporter=reporter)


def test_photographs_that_cannot_be_read_do_not_move_the_others(photographs, tmp_path):
    """With a damaged file in the index the neighbours are still the images that they are said to be."""
    (tmp_path / "set" / "train" / "dark" / "1.png").write_bytes(b"no image")
    found = retrieve(photographs, queries=6, neighbours=2, split="val", device="cpu", skip_bad=True)
    for retrieved in found:
        for image, name in retrieved.neighbours:
            assert ("light" if image.mean() > 127 else "dark") == name


def test_damaged_images_are_not_drawn(photographs, tmp_path):
    (tmp_path / "set" / "val" / "dark" / "1.png").write_bytes(b"no image")
    found = retrieve(photographs, queries=6, neighbours=1, split="val", device="cpu", skip_bad=True)
    assert len(found) == 5
    for retrieved in found:
        assert retrieved.answer.truth == ("light" if retrieved.answer.image.mean() > 127 else "dark")
    with pytest.raises(DataError, match=r"1\.png.*--skip-bad"):
        retrieve(photographs, queries=6, split="val", device="cpu")


def test_experiments_measure_what_can_be_read(photographs, tmp_path):
    whole = nearest_training_images(photographs, queries=6, close=0.5)
    assert whole["images"] == 6
    for part, name in (("train", "dark/3.png"), ("val", "light/0.png")):
        (tmp_path / "set" / part / name).write_bytes(b"no image")
    found, answers = nearest_training_images(photographs, queries=6, close=0.5), answers_of_views(photographs)
    assert found["images"] == len(answers["labels"]) == len(answers["10 views"]) == 5
    assert error("train")(photographs, lambda _, compute: compute()) >= 0


def test_colours_of_kernels(photographs, call, tmp_path):
    trained = open_trained(photographs)
    weights = trained.model.conv1.weight.detach().double().numpy()
    kernels = weights / np.array(trained.preprocessing.std)[:, None, None]
    assert np.allclose(first_kernels(trained), kernels)
    expected = colour_shares(kernels)
    code, out, _ = call("figure", "kernels", photographs.path, "--out", tmp_path / "k.png", "--json")
    assert code == 0
    assert np.concatenate(json.loads(out)["colour"]) == pytest.approx(expected)
    code, out, _ = call("figure", "kernels", photographs.path, "--out", tmp_path / "k.png")
    assert f"column 2: colour is {expected[8:].mean():.1%}" in out
    with Image.open(tmp_path / "k.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 200


def test_without_neighbours_nothing_is_searched(finished, monkeypatch):
    monkeypatch.setattr(retrieval, "split_features", lambda *_, **__: pytest.fail("the index was computed"))
    found = retrieve(finished, queries=2, neighbours=0, device="cpu")
    assert [(len(each.answer.bars), each.neighbours) for each in found] == [(5, []), (5, [])]


def test_more_files_than_a_figure_shows_are_refused(finished, tmp_path):
    for number in range(21):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(UsageError, match="21 images were named, and a figure has room for 20"):
        retrieve(finished, [tmp_path], device="cpu")
