"""Photographs on their way to the network: batches, shards, bad ones, colour noise, and prepared copies."""

from __future__ import annotations

import gc
import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import DataConfig
from alexnet.config.colours import IMAGENET
from alexnet.data.augment import ColourNoise, Preprocessing, epoch_plan
from alexnet.data.batches import Steps
from alexnet.data.decode import Square
from alexnet.data.loading import open_split, typical_images
from alexnet.data.packing import prepare
from alexnet.data.photos import FileStore, Photos
from alexnet.data.resident import ResidentSplit
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Split
from alexnet.data.streamed import StreamedSplit
from alexnet.errors import DataError, UsageError
from alexnet.inference import forward
from alexnet.inference.forward import collect_logits
from alexnet.models.int8 import _Quantize
from alexnet.models.onednn import Grid
from alexnet.training.loop import train

CPU = torch.device("cpu")
N = 37
PLAIN = DataConfig(resize=32, crop=24, mean=(0.0,), std=(1 / 255,))  # normalised pixels are 0-255
FULL = DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1, random_resized_crop=True)
WAYS = [PLAIN, DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1, noise_probability=0.5), FULL]


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Smooth, and different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def write_photos(root: Path, count: int, seed: int = 0) -> Path:
    """Class folders with JPEGs of several sizes and a few PNGs."""
    sizes = [(48, 64), (64, 48), (40, 40), (33, 90), (150, 140)]
    for i in range(count):
        folder = root / ("cat" if i % 3 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        image = picture(*sizes[i % len(sizes)], seed=seed + i)
        if i % 7 == 6:
            image.save(folder / f"{i:03d}.JPEG", "PNG")
        else:
            image.save(folder / f"{i:03d}.JPEG", quality=92, subsampling=0)
    return root


def photos_under(root: Path) -> Photos:
    paths = sorted(root.rglob("*.JPEG"), key=lambda p: p.name)
    store = FileStore(root, [str(p.relative_to(root)) for p in paths], [p.stat().st_size for p in paths])
    return Photos.whole(store, [int(p.stem) for p in paths])  # a label of its own for each


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """37 good photographs, only to be read; labels are their rows."""
    return photos_under(write_photos(tmp_path_factory.mktemp("photos"), N))


@pytest.fixture
def spoilt(tmp_path):
    """A function that gives 37 photographs of which some have other bytes, or none (None)."""

    def spoil(contents: dict[int, bytes | None]) -> Photos:
        found = photos_under(write_photos(tmp_path, N))
        for row, content in contents.items():
            path = Path(found.place(row))
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        return found

    return spoil


def streamed(photos: Photos, workers: int = 2, data: DataConfig = PLAIN) -> StreamedSplit:
    return StreamedSplit(photos, CPU, replace(data, workers=workers))


def epoch(split: StreamedSplit, batch_size: int = 6, number: int = 0, **options):
    return list(split.training_batches(Steps(3, number, batch_size, **options)))


def by_row(batches) -> dict[int, bytes]:
    """Labels are rows in these photographs."""
    return {int(y): x.numpy().tobytes() for images, labels, _ in batches for x, y in zip(images, labels, strict=True)}


def evaluated(split: StreamedSplit, batch_size: int = 6, **options):
    images, labels = zip(*split.evaluation_batches(batch_size, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


# --- what a batch holds


@pytest.mark.parametrize("data", WAYS, ids=["plain", "noise", "area"])
@pytest.mark.parametrize("batch_size", [1, 6, 20, 100])
def test_every_photograph_once_an_epoch(photos, data, batch_size):
    split = streamed(photos, 2, data)
    batches = epoch(split, batch_size)
    rows = torch.cat([rows for *_, rows in batches])
    assert torch.equal(rows, epoch_plan(N, 3, 0, CPU).order)
    assert sorted(rows.tolist()) == list(range(N))
    assert [len(rows) for *_, rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for images, labels, rows in batches:
        assert images.shape == (len(rows), 3, 24, 24)
        assert images.dtype == torch.float32
        assert torch.equal(labels, rows)
    assert split.bad == {}


@pytest.mark.parametrize("data", WAYS, ids=["plain", "noise", "area"])
def test_neither_threads_nor_batches_change_a_picture(photos, data):
    alone = epoch(streamed(photos, 1, data), 20)
    for workers in (2, 5):
        assert same(epoch(streamed(photos, workers, data), 20), alone)
    assert by_row(epoch(streamed(photos, 2, data), 5)) == by_row(alone)
    views = [evaluated(streamed(photos, workers, data), views=10) for workers in (1, 2, 5)]
    assert same([views[0]], [views[1]])
    assert same([views[0]], [views[2]])


@pytest.mark.parametrize("data", [WAYS[1], FULL], ids=["noise", "area"])
def test_a_start_in_the_middle_gives_the_rest(photos, data):
    split = streamed(photos, 2, data)
    whole = epoch(split)
    for start in range(len(whole) + 1):
        assert same(epoch(split, start=start), whole[start:])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("data", [WAYS[1], FULL], ids=["noise", "area"])
def test_shards_partition_every_batch(photos, data, size):
    whole = epoch(streamed(photos, 1, data))
    shards = [World(rank, size).shard for rank in range(size)]
    parts = [epoch(streamed(photos, 1, data), shard=shard) for shard in shards]
    for step, (images, labels, rows) in enumerate(whole):
        for shard, part in zip(shards, parts, strict=True):
            ours, our_labels, all_rows = part[step]
            assert torch.equal(ours, images[shard])
            assert torch.equal(our_labels, labels[shard])
            assert torch.equal(all_rows, rows)
        assert sum(len(part[step][1]) for part in parts) == len(rows)


@pytest.mark.parametrize("size", [1, 2, 3, N + 3])
@pytest.mark.parametrize("views", [1, 10])
def test_shards_partition_the_evaluation(photos, size, views):
    images, labels = evaluated(streamed(photos), views=views)
    assert labels.tolist() == list(range(N))
    assert images.shape == (N, views, 3, 24, 24)
    for rank in range(size):
        shard = World(rank, size).shard
        part = list(streamed(photos, 1).evaluation_batches(6, views, shard))
        assert torch.equal(torch.cat([x for x, _ in part]), images[shard])
        assert torch.equal(torch.cat([y for _, y in part]), labels[shard])


PREP = Preprocessing(24, 32, PLAIN.mean, PLAIN.std)


def test_epochs_differ_in_order_and_in_crops(photos):
    for data in (FULL, PLAIN):
        split = streamed(photos, 2, data)
        epochs = [epoch(split, number=number) for number in range(3)]
        assert len({tuple(torch.cat([rows for *_, rows in e]).tolist()) for e in epochs}) == 3
        first, second = by_row(epochs[0]), by_row(epochs[1])
        assert sum(first[row] != second[row] for row in first) > 0.8 * N
    again = epoch(streamed(photos), number=2)
    assert same(again, epoch(split, number=2))


def test_evaluation_is_the_square_of_each_photograph(photos):
    images, _ = evaluated(streamed(photos))
    views, _ = evaluated(streamed(photos), views=10)
    assert torch.equal(views[:, 4:5], images)
    for row in range(N):
        expected = PREP.normalise(torch.from_numpy(Square(32, 24, 24)(photos.read(row)).copy()).permute(2, 0, 1))
        assert torch.equal(images[row, 0], expected)


@pytest.mark.parametrize("flip", [False, True])
def test_training_crops_are_windows_of_the_resized_square(photos, flip):
    data = DataConfig(resize=32, crop=24, flip=flip, mean=PLAIN.mean, std=PLAIN.std)
    places, mirrored = set(), 0
    for number in range(3):
        for images, labels, _ in epoch(streamed(photos, 2, data), number=number):
            for image, row in zip(images, labels.tolist(), strict=True):
                square = torch.from_numpy(Square(32, 32, 24, exact=False)(photos.read(row)).copy()).permute(2, 0, 1)
                windows = PREP.normalise(square).unfold(1, 24, 1).unfold(2, 24, 1)  # [3, 9, 9, 24, 24]
                found = [
                    (turned, *place)
                    for turned, crop in enumerate((image, image.flip(-1)))
                    for place in (windows == crop[:, None, None]).all(dim=(0, 3, 4)).nonzero().tolist()
                ]
                assert len(found) == 1
                places.add(tuple(found[0][1:]))
                mirrored += found[0][0]
    assert len(places) > 40  # of 81; 111 draws
    assert mirrored > 30 if flip else mirrored == 0


def test_padding_surrounds_the_square(photos):
    data = DataConfig(resize=32, crop=32, pad=6, mean=PLAIN.mean, std=PLAIN.std)
    images = torch.cat([x for x, *_ in epoch(streamed(photos, 2, data))])
    black = (images == 0).all(dim=1)
    assert images.shape[-2:] == (32, 32)
    assert (black.all(dim=1).any(dim=1) | black.all(dim=2).any(dim=1)).sum() > 0.8 * N


# --- bad photographs


HTML = b"<!DOCTYPE html><title>404</title>"
BAD = {4: b"", 11: HTML, 12: b"\xff\xd8\xff\xe0 not much of a JPEG", 30: None}
REASONS = {4: "the file is empty", 11: "it is a web page", 12: "cannot decode", 30: "No such file"}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 6, 50])
def test_bad_photographs_are_left_out_and_noted(photos, spoilt, workers, batch_size):
    split = streamed(spoilt(BAD), workers)
    batches = epoch(split, batch_size)
    seen = by_row(batches)
    clean = by_row(epoch(streamed(photos, 1)))
    assert seen == {row: image for row, image in clean.items() if row not in BAD}
    assert sum(len(labels) for _, labels, _ in batches) == N - len(BAD)
    assert torch.equal(torch.cat([rows for *_, rows in batches]), epoch_plan(N, 3, 0, CPU).order)  # the whole batch
    assert split.bad.keys() == BAD.keys()
    for row, why in split.bad.items():
        assert split.photos.place(row) in why
        assert REASONS[row] in why
        assert why.endswith(".")
        assert not why.endswith("..")


def test_noise_goes_to_the_right_photographs_next_to_bad_ones(photos, spoilt):
    data = DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1)
    seen = by_row(epoch(streamed(spoilt(BAD), 2, data)))
    clean = by_row(epoch(streamed(photos, 2, data)))
    assert all(clean[row] == image for row, image in seen.items())


@pytest.mark.usefixtures("no_figures", "no_fsync")
@pytest.mark.parametrize(("allowed", "said"), [(2, None), (1, f"2 of {N} "), (None, f" of {N} ")])
def test_training_stops_above_the_part_allowed(tmp_path, tiny, reporter, allowed, said):
    """Of the training photographs alone; hardly any may be bad unless it is said otherwise."""
    write_photos(tmp_path / "data" / "train", N)
    write_photos(tmp_path / "data" / "val", 6, seed=1000)
    found = photos_under(tmp_path / "data" / "train")
    for row in (4, 11):
        Path(found.place(row)).write_bytes(HTML)
    data = {"source": "folder", "root": str(tmp_path / "data"), "fraction": 1.0, "resize": 32, "crop": 32}
    if allowed is not None:
        data["max_bad"] = (allowed + 0.5) / N
    config = tiny(epochs=1, batch_size=4, data=data)
    with nullcontext() if said is None else pytest.raises(DataError, match=rf"{said}.*--data\.max-bad"):
        train(config, tmp_path / "run", reporter=reporter)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    noted = [row["reason"] for row in rows if row["kind"] == "unreadable"]
    places = {found.place(row) for row in (4, 11)}
    assert {place for place in places if any(place in why for why in noted)} == places or allowed is None
    assert len(noted) == len(set(noted)) >= 1


@pytest.mark.parametrize("row", sorted(BAD))
@pytest.mark.parametrize("batch_size", [4, 50])
def test_evaluation_stops_at_a_bad_photograph(photos, spoilt, row, batch_size):
    split = streamed(spoilt({row: BAD[row]}))
    seen = []
    with pytest.raises(DataError, match=rf"{row:03d}\.JPEG.*--skip-bad") as caught:
        seen += [y for _, labels in split.evaluation_batches(batch_size) for y in labels.tolist()]
    assert REASONS[row] in str(caught.value)
    images, labels = evaluated(split, batch_size=batch_size, skip_bad=True)
    assert labels.tolist() == [y for y in range(N) if y != row]
    assert torch.equal(images, evaluated(streamed(photos, 1))[0][labels])
    assert list(split.bad) == [row]


def test_the_first_of_several_is_named(spoilt):
    for _ in range(5):
        with pytest.raises(DataError, match=r"004\.JPEG"):
            evaluated(streamed(spoilt(BAD), 1))


def test_a_batch_of_nothing_but_bad_photographs(spoilt):
    split = streamed(spoilt(dict.fromkeys(range(6, 12), HTML)))
    batches = list(split.evaluation_batches(6, skip_bad=True))
    assert [len(labels) for _, labels in batches] == [6, 0, 6, 6, 6, 6, 1]
    assert batches[1][0].shape == (0, 1, 3, 24, 24)
    images, labels, rows = next(split.training_batches(Steps(3, 0, 1)))
    assert len(images) == len(labels) == (0 if int(rows) in range(6, 12) else 1)


def test_a_file_that_goes_while_it_is_waited_for(spoilt):
    found = spoilt({})
    split = streamed(found, 1)
    last = int(epoch_plan(N, 3, 0, CPU).order[-1])
    labels = []
    for step, (_, ours, _) in enumerate(split.training_batches(Steps(3, 0, 2))):
        if step == 2:
            Path(found.place(last)).unlink()
        labels += ours.tolist()
    assert sorted(labels) == [row for row in range(N) if row != last]
    assert list(split.bad) == [last]
    assert found.place(last) in split.bad[last]


# --- threads


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def ways_to_iterate(split):
    yield "training", lambda: split.training_batches(Steps(0, 0, 4))
    yield "evaluation", lambda: split.evaluation_batches(4)


@pytest.mark.usefixtures("three_threads")
def test_no_thread_is_left_behind(photos):
    """Whether read to the end, left early, closed, or left by an exception."""
    before = set(threading.enumerate())
    for _, start in ways_to_iterate(streamed(photos, 4, FULL)):
        for _ in start():
            assert len(set(threading.enumerate()) - before) == 4
            assert torch.get_num_threads() == 3
        assert set(threading.enumerate()) == before
        for _ in start():
            break
        gc.collect()
        assert set(threading.enumerate()) == before
        batches = start()
        next(batches)
        batches.close()
        assert set(threading.enumerate()) == before
        with pytest.raises(KeyboardInterrupt):
            interrupt(start())
        gc.collect()
        assert set(threading.enumerate()) == before
        start()  # never asked for a batch
        assert set(threading.enumerate()) == before
        assert torch.get_num_threads() == 3


def interrupt(batches):
    for _ in batches:
        raise KeyboardInterrupt


def test_no_thread_is_left_behind_by_bad_photographs(spoilt):
    before = set(threading.enumerate())
    split = streamed(spoilt(BAD), 4)
    epoch(split)
    with pytest.raises(DataError):
        evaluated(split)
    gc.collect()
    assert set(threading.enumerate()) == before


def test_threads_compute_on_one_core_each(photos, three_threads, monkeypatch):
    """Four threads of three each would be in each other's way."""
    counts = []
    original = Square.__call__

    def counted(self, content, row=0):
        counts.append(torch.get_num_threads())
        return original(self, content, row)

    monkeypatch.setattr(Square, "__call__", counted)
    epoch(streamed(photos, 4))
    assert counts == [1] * N


def test_evaluation_within_inference_mode(photos):
    outside = evaluated(streamed(photos))
    with torch.inference_mode():
        inside = evaluated(streamed(photos))
    assert same([inside], [outside])


def test_evaluation_within_inference_mode_next_to_bad_ones(spoilt):
    found = spoilt(BAD)
    with torch.inference_mode():
        images, labels = evaluated(streamed(found), skip_bad=True)
    assert len(images) == len(labels) == N - len(BAD)


# --- settings


def test_without_settings_256_224_and_imagenets_statistics(photos):
    prep = StreamedSplit(photos, CPU, DataConfig()).prep
    assert prep == Preprocessing(224, 256, IMAGENET.mean, IMAGENET.std, upright=False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crop": 257}, r"--data\.crop 257"),
        ({"resize": 100}, r"--data\.crop 224"),
        ({"mean": (0.1, 0.2)}, r"--data\.mean has 2 values"),
        ({"std": (0.1, 0.2, 0.3, 0.4)}, r"--data\.std has 4 values"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(photos, fields, said):
    with pytest.raises(UsageError, match=said):
        StreamedSplit(photos, CPU, DataConfig(**fields))


# --- colour noise


AXES = np.array(IMAGENET.colour_axes)


def test_imagenets_axes():
    """cuda-convnet2's standard deviations, along axes at right angles of which the widest is brightness: in any set of
    photographs red, green and blue rise and fall together. (Elsewhere published: -0.5675, -0.5808, -0.5836.)"""
    norms = np.linalg.norm(AXES, axis=0)
    np.testing.assert_allclose(norms, [19.7208, 37.0939, 121.7801], rtol=1e-4)
    unit = AXES / norms
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-4)
    assert abs(unit[:, 2].sum()) / np.sqrt(3) > 0.99
    assert abs(unit[1, 1]) < 0.05  # the next sets red against blue, and green aside


SKEWED = ((3.0, -1.0, 5.0), (0.5, 2.0, 7.0), (-4.0, 0.0, 1.0))


@pytest.mark.parametrize("axes", [IMAGENET.colour_axes, SKEWED], ids=["imagenet", "skewed"])
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_noise_has_the_covariance_of_its_axes(axes, probability):
    n, alpha = 100_000, 0.1
    shifts = ColourNoise(alpha, probability, axes).draw(n, torch.Generator().manual_seed(0)).double().numpy()
    moved = (shifts != 0).any(axis=1)
    assert abs(moved.mean() - probability) < 5 * np.sqrt(probability * (1 - probability) / n) + 1e-12
    shifts = shifts[moved]
    exact = alpha**2 * np.array(axes) @ np.array(axes).T
    error = np.sqrt((exact**2 + np.outer(exact.diagonal(), exact.diagonal())) / len(shifts))  # of a normal covariance
    assert (np.abs(np.cov(shifts.T) - exact) < 5 * error).all()
    assert (np.abs(shifts.mean(axis=0)) < 5 * np.sqrt(exact.diagonal() / len(shifts))).all()
    standard = shifts @ np.linalg.inv(np.array(axes)).T / alpha  # back to the alphas: normal, none bounded
    assert abs((standard**4).mean() - 3) < 0.15


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """Flat grey photographs; labels are rows."""
    root = tmp_path_factory.mktemp("grey")
    for i in range(40):
        Image.new("RGB", (36, 40), (128, 128, 128)).save(root / f"{i:03d}.JPEG", "PNG")
    return photos_under(root)


def shifts_of(split: Photos | Split, data: DataConfig, number: int = 0) -> dict[int, np.ndarray]:
    """What noise added to each image, from the images themselves, on the 0-255 scale."""
    prep = Preprocessing(24, 32, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    plain = DataConfig(resize=32, crop=24, flip=True)
    runs = [list(open_split(split, CPU, d, prep).training_batches(Steps(3, number, 7))) for d in (data, plain)]
    shifts = {}
    for (noisy, labels, rows), (images, plain_labels, plain_rows) in zip(*runs, strict=True):
        assert torch.equal(labels, plain_labels)  # noise changes neither order nor crops
        assert torch.equal(rows, plain_rows)
        added = (noisy - images) * torch.tensor(prep.std)[:, None, None] * 255
        assert (added.amax(dim=(2, 3)) - added.amin(dim=(2, 3))).max() < 1e-3
        shifts |= dict(zip(labels.tolist(), added.mean(dim=(2, 3)).numpy(), strict=True))
    return shifts


@pytest.mark.parametrize("area", [False, True])
def test_noise_is_one_shift_an_image_and_epoch(grey, area):
    data = DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1, random_resized_crop=area)
    epochs = [shifts_of(grey, data, number) for number in range(2)]
    for number, shifts in enumerate(epochs):
        assert len({tuple(s.round(2)) for s in shifts.values()}) == 40
        drawn = epoch_plan(40, 3, number, CPU, ColourNoise(0.1, 1.0, IMAGENET.colour_axes)).shifts
        np.testing.assert_allclose(np.stack([shifts[row] for row in range(40)]), drawn, atol=2e-3)
    assert all(np.abs(epochs[0][row] - epochs[1][row]).max() > 0.01 for row in range(40))


def test_noise_for_half_of_the_images(grey):
    data = DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1, noise_probability=0.5)
    shifts = [s for number in range(5) for s in shifts_of(grey, data, number).values()]
    moved = sum(np.abs(s).max() > 1e-6 for s in shifts)
    assert 0.5 - 0.125 < moved / 200 < 0.5 + 0.125  # 3.5 standard errors


def test_evaluation_has_no_noise(photos):
    """The same batches whatever the training's augmentation: it is not told of it."""
    images, _ = evaluated(streamed(photos, 2, FULL))
    assert torch.equal(images, evaluated(streamed(photos, 2, DataConfig(resize=32, crop=24)))[0])


def test_noise_of_images_in_memory_follows_their_own_colours():
    """Alpha 1 adds shifts with the covariance of the pixels themselves."""
    n, rng = 20_000, np.random.default_rng(0)
    mixed = rng.normal(size=(n, 3)) @ np.array([[20, 18, 15], [0, 6, -3], [1, -2, 4]]) + 128
    images = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)[:, :, None, None].repeat(2, axis=2)
    split = Split(images, np.arange(n, dtype=np.int64), np.arange(n))
    prep = Preprocessing(1, None, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    sets = []
    for noise in (1.0, 0.0):
        loader = ResidentSplit(split, CPU, DataConfig(colour_noise=noise, crop=1), prep)
        sets.append(torch.cat([x for x, *_ in loader.training_batches(Steps(0, 0, 5000))]))
    shifts = ((sets[0] - sets[1])[..., 0, 0] * torch.tensor(prep.std) * 255).double().numpy()
    exact = np.cov(images[..., 0, 0].T)
    error = np.sqrt((exact**2 + np.outer(exact.diagonal(), exact.diagonal())) / n)
    assert (np.abs(np.cov(shifts.T) - exact) < 5 * error).all()


def test_noise_of_images_in_memory_is_one_shift_each():
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    split = Split(images, np.arange(30), np.arange(30))
    data = DataConfig(resize=32, crop=24, flip=True, colour_noise=0.1)
    assert len({tuple(s.round(2)) for s in shifts_of(split, data).values()}) == 30


def test_noise_needs_colours():
    split = Split(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64), np.arange(4))
    loader = ResidentSplit(split, CPU, DataConfig(colour_noise=0.1))
    with pytest.raises(UsageError, match=r"--data\.colour-noise needs RGB"):
        next(loader.training_batches(Steps(0, 0, 2)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 5), height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 1000))
def test_normalise_adds_the_shift_whatever_the_layout(layout, n, height, width, seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8)).to(memory_format=layout)
    shift = torch.from_numpy(rng.normal(0, 30, (n, 3)).astype(np.float32))
    before = images.clone(), shift.clone()
    prep = Preprocessing(4, None, (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    result = prep.normalise(images, shift)
    moved = images.numpy() / 255 + shift.numpy()[:, :, None, None] / 255
    exact = (moved - np.reshape(prep.mean, (3, 1, 1))) / np.reshape(prep.std, (3, 1, 1))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(images, before[0])
    assert torch.equal(shift, before[1])


# --- prepared photographs


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same data set from its folder and prepared at 64."""
    root, out = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("prepared")
    write_photos(root / "train", 30)
    write_photos(root / "val", 24, seed=1000)
    given_ = DataConfig(source="folder", root=str(root), resize=64, crop=56)
    prepare(given_, out, side=64, quality=95, workers=2)
    return load_dataset(given_), load_dataset(DataConfig(source="folder", root=str(out), resize=64, crop=56))


@pytest.mark.parametrize("part", ["train", "val"])
def test_prepared_photographs_have_the_same_order_and_labels(both, part):
    folder, prepared = (getattr(data, part) for data in both)
    assert both[0].classes == both[1].classes == ("cat", "dog")
    assert np.array_equal(folder.labels, prepared.labels)
    for row in range(len(folder)):
        assert prepared.place(row).endswith(folder.place(row))


@pytest.mark.parametrize("views", [1, 10])
def test_prepared_photographs_evaluate_alike(both, views):
    """The second JPEG compression, quality 95 here, is all that differs."""
    prep = Preprocessing(56, 64, IMAGENET.mean, IMAGENET.std)
    sets = []
    for dataset in both:
        batches = StreamedSplit(dataset.val, CPU, DataConfig(workers=2), prep).evaluation_batches(7, views)
        images, labels = zip(*batches, strict=True)
        sets.append((torch.cat(images), torch.cat(labels)))
    assert torch.equal(sets[0][1], sets[1][1])
    difference = (sets[0][0] - sets[1][0]).abs() * torch.tensor(prep.std)[:, None, None] * 255
    assert difference.mean() < 1.5  # of 255
    assert difference.max() < 24
    torch.manual_seed(0)
    network = nn.Sequential(
        *[nn.Conv2d(3, 16, 7, 4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()],
        nn.LazyLinear(5),
    )
    with torch.inference_mode():
        scores = [(10 * network(x.flatten(0, 1))).softmax(dim=1) for x, _ in sets]
    assert (scores[0] - scores[1]).abs().max() < 0.04
    assert scores[0].std(dim=0).max() > 0.1  # the pictures matter to the network


def test_prepared_photographs_train_alike(both):
    """The same order, draws and crops; the statistics are the prepared set's own unless they are set."""
    data = DataConfig(resize=64, crop=56, flip=True, mean=PLAIN.mean, std=PLAIN.std)
    epochs = [epoch(streamed(dataset.train, 2, data)) for dataset in both]
    for (a, a_labels, a_rows), (b, b_labels, b_rows) in zip(*epochs, strict=True):
        assert torch.equal(a_labels, b_labels)
        assert torch.equal(a_rows, b_rows)
        assert (a - b).abs().mean() < 2


def test_prepared_photographs_bring_their_statistics(both):
    prepared = both[1].train
    prep = streamed(prepared, 2, DataConfig(resize=64, crop=64)).prep
    squares = np.stack([Square(64, 64, 64)(both[0].train.read(row)) for row in range(30)]) / 255.0
    np.testing.assert_allclose(prep.mean, squares.mean(axis=(0, 1, 2)), atol=0.005)
    np.testing.assert_allclose(prep.std, squares.std(axis=(0, 1, 2)), atol=0.005)
    axes = np.array(prepared.store.statistics.colour_axes)
    np.testing.assert_allclose(axes @ axes.T, np.cov(255 * squares.reshape(-1, 3).T), rtol=0.02, atol=10)
    noise = DataConfig(resize=64, crop=64, colour_noise=1.0, mean=PLAIN.mean, std=PLAIN.std)
    plain = DataConfig(resize=64, crop=64, mean=PLAIN.mean, std=PLAIN.std)
    drawn = epoch_plan(30, 3, 0, CPU, ColourNoise(1.0, 1.0, prepared.store.statistics.colour_axes)).shifts
    epochs = [epoch(streamed(prepared, 2, data)) for data in (noise, plain)]
    for (noisy, _, rows), (images, _, _) in zip(*epochs, strict=True):
        torch.testing.assert_close((noisy - images).mean(dim=(2, 3)), drawn[rows], rtol=1e-3, atol=1e-2)


def test_a_larger_resize_than_was_prepared_is_refused(both):
    with pytest.raises(UsageError, match=r"--data\.resize 65.*prepared at 64"):
        StreamedSplit(both[1].val, CPU, DataConfig(resize=65, crop=56))


@pytest.mark.parametrize("views", [1, 10])
def test_networks_of_small_images_see_photographs_at_their_crop(photos, views):
    """Their checkpoints bring no resize."""
    without, with_ = (
        StreamedSplit(photos, CPU, PLAIN, Preprocessing(24, resize, (0.0,), (1 / 255,))) for resize in (None, 24)
    )
    assert same(evaluated(without, views=views), evaluated(with_, views=views))
    assert by_row(epoch(without)) == by_row(epoch(with_))
    assert without.sides() == (24, 24)


@pytest.mark.parametrize(("workers", "batch_size", "ahead"), [(2, 4, 8), (2, 16, 2), (1, 1, 16)])
def test_small_batches_keep_all_threads_busy(photos, workers, batch_size, ahead):
    split, taken = streamed(photos, workers), []
    decoded = split._decoded(map(counted_by(taken), torch.arange(N).split(batch_size)), split.evaluation_cut())
    next(decoded)
    decoded.close()
    assert len(taken) == min(ahead + 1, -(-N // batch_size))


@pytest.mark.parametrize(("fitting", "decoded"), [(0, N), (10, N - 10), (10**6, 1)])
def test_kept_in_memory_from_the_second_epoch_on(spoilt, monkeypatch, fitting, decoded):
    """As many as fit; one that cannot be read is tried anew each time. The pixels are those of a fresh split."""
    photos, counts = spoilt({3: b"no image"}), []
    original = Square.__call__
    monkeypatch.setattr(Square, "__call__", lambda self, *given: counts.append(self) or original(self, *given))
    split = streamed(photos, data=replace(PLAIN, cache=fitting * 32 * 32 * 3 / 2**30))
    for number in range(2):
        epoch(split, number=number)
    assert len(counts) == 2 * N
    third = by_row(epoch(split, number=2))
    assert len(counts) == 2 * N + decoded
    assert third == by_row(epoch(streamed(photos), number=2))
    assert len(split.bad) == 1


def test_ways_to_cut_are_kept_beside_each_other(photos, monkeypatch):
    """The training split is trained on and scored in turn with --score-train; both share the memory."""
    split, counts = streamed(photos, data=replace(PLAIN, cache=(N * 32**2 + 5 * 24**2) * 3 / 2**30)), []
    for number in range(2):
        epoch(split, number=number), evaluated(split)
    original = Square.__call__
    monkeypatch.setattr(Square, "__call__", lambda self, *given: counts.append(self) or original(self, *given))
    third = by_row(epoch(split, number=2)), evaluated(split), evaluated(split, views=10)
    assert counts == [split.evaluation_cut()] * (N - 5) + [split.evaluation_cut(10)] * N
    fresh = streamed(photos)
    assert third[0] == by_row(epoch(fresh, number=2))
    assert same(third[1:], [evaluated(fresh), evaluated(fresh, views=10)])


def counted_by(taken):
    return lambda rows: taken.append(len(rows)) or rows


class NeverEmpty(nn.Module):
    def forward(self, images):
        assert len(images)
        return images.flatten(1)[:, :3]


def test_a_batch_without_a_readable_photograph_is_passed_over(spoilt, monkeypatch):
    monkeypatch.setattr(forward, "batch_size", lambda *_: 6)
    split = streamed(spoilt(dict.fromkeys(range(6), b"no image")))
    logits, labels = collect_logits(NeverEmpty(), split, resolve_compute("cpu", "fp32"), skip_bad=True)
    assert (len(logits), labels.tolist()) == (N - 6, list(range(6, N)))


def test_no_images_are_no_integers():
    """In 8 bits too."""
    assert _Quantize(Grid(0.1, 3))(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_no_readable_photograph_at_all(spoilt):
    split = streamed(spoilt(dict.fromkeys(range(N), b"no image")))
    with pytest.raises(DataError, match="no image of the split can be read"):
        collect_logits(NeverEmpty(), split, resolve_compute("cpu", "fp32"), skip_bad=True)


def test_random_areas_are_those_asked_for(photos):
    """Without flips and noise, which would hide it."""
    area = replace(PLAIN, random_resized_crop=True)
    drawn = ((3, 0), (3, 1), (4, 0))
    first, *others = (by_row(streamed(photos, 2, area).training_batches(Steps(s, e, 6))) for s, e in drawn)
    for other in others:
        assert sum(first[row] != other[row] for row in first) > 0.8 * N
    for turn in ("apply", "ignore"):
        cut = streamed(photos, 2, replace(area, min_area=0.9, orientation=turn)).training_cut(3, 0)
        assert (cut.min_area, cut.upright) == (0.9, turn == "apply")


def test_nine_views_of_photographs_are_a_grid(photos):
    nine, ten = (evaluated(streamed(photos), views=views)[0] for views in (9, 10))
    assert torch.equal(nine[:, [0, 2, 6, 8, 4]], ten[:, :5])
    assert len({view.numpy().tobytes() for view in nine[0]}) == 9


def test_typical_images_are_of_all_parts():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    train, data = Split(images, np.arange(10), np.arange(10)), DataConfig(mean=(0.0,), std=(1 / 255,))
    prep = open_split(train, CPU, data).prep
    assert typical_images(train, data, prep, 5)[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 9]
