"""Crops, mirrors, views, normalisation and batches of a resident split, against numpy, Pillow and torchvision."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from alexnet.compute.distributed import World
from alexnet.config import DataConfig
from alexnet.data.augment import (
    DRAWS,
    ColourNoise,
    Preprocessing,
    _picked,
    central_views,
    epoch_plan,
    principal_axes,
    random_crops,
)
from alexnet.data.batches import Steps
from alexnet.data.resident import ResidentSplit, resize_short_side
from alexnet.data.splits import Split
from alexnet.errors import UsageError

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(0)


def pictures(*shape: int) -> torch.Tensor:
    return torch.from_numpy(PIXELS.integers(0, 256, shape, dtype=np.uint8))


def resident(n: int = 23, channels: int = 3, side: int = 8, data: DataConfig | None = None) -> ResidentSplit:
    images = pictures(n, channels, side, side).numpy()
    return ResidentSplit(
        Split(images, np.arange(n, dtype=np.int64) % 10, np.arange(n) + 1000), CPU, data or DataConfig()
    )


# --- crops


@settings(deadline=None)
@given(data=st.data(), flip=st.booleans(), pad=st.integers(0, 3), channels=st.integers(1, 4))
def test_each_crop_is_the_slice_its_draws_say(data, flip, pad, channels):
    n, height, width = (data.draw(st.integers(1, 9)) for _ in range(3))
    size = data.draw(st.integers(1, min(height, width) + 2 * pad))
    images = pictures(n, channels, height, width)
    edge = 1 - 2**-24  # the largest that torch.rand draws
    draws = data.draw(st.lists(st.tuples(*[st.floats(0, edge, width=32)] * DRAWS), min_size=n, max_size=n))
    crops = random_crops(images, torch.tensor(draws), size, pad, flip)
    assert crops.shape == (n, channels, size, size)
    assert crops.dtype == torch.uint8
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    for crop, image, (top, left, mirror) in zip(crops.numpy(), padded, np.float32(draws), strict=True):
        y, x = (int(draw * np.float32(side + 2 * pad - size + 1)) for draw, side in ((top, height), (left, width)))
        expected = image[:, y : y + size, x : x + size]
        assert np.array_equal(crop, expected[..., ::-1] if flip and mirror < 0.5 else expected)


def test_every_offset_is_reached_alike_and_half_are_mirrored():
    """A picture whose value at a place is the place: a crop's first pixel tells its offset."""
    n, side, size = 6000, 6, 4
    image = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side)
    draws = epoch_plan(n, seed=0, epoch=0, device=CPU).draws
    crops = random_crops(image.expand(n, -1, -1, -1), draws, size, pad=0, flip=True)
    mirrored = crops[:, 0, 0, 0] > crops[:, 0, 0, 1]
    assert 0.47 < mirrored.float().mean() < 0.53
    corner = torch.where(mirrored, crops[:, 0, 0, -1], crops[:, 0, 0, 0])
    places, counts = corner.unique(return_counts=True)
    assert places.tolist() == [y * side + x for y in range(3) for x in range(3)]
    assert counts.min() > 0.85 * n / 9


def test_draws_are_per_image_not_per_batch():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, -1, -1, -1)
    draws = epoch_plan(64, 0, 0, CPU).draws
    crops = random_crops(image, draws, 8, 0, True)
    assert len({crop.numpy().tobytes() for crop in crops}) > 32


def test_crops_are_channels_last():
    crops = random_crops(pictures(4, 3, 12, 12), torch.rand(4, DRAWS), 8, 2, True)
    assert crops.is_contiguous(memory_format=torch.channels_last)


def test_without_room_or_mirror_nothing_changes():
    images = pictures(5, 3, 7, 7)
    assert torch.equal(random_crops(images, torch.rand(5, DRAWS), 7, 0, False), images)


@pytest.mark.parametrize(("height", "width", "size"), [(9, 9, 4), (8, 11, 5), (7, 7, 7), (12, 7, 6)])
def test_ten_views_are_corners_centre_and_mirrors(height, width, size):
    """In the order of torchvision's five_crop, then each of them mirrored."""
    images = pictures(3, 3, height, width)
    views = central_views(images, size, 10)
    five = torch.stack(v2.functional.five_crop(images, [size, size]), dim=1)
    assert views.shape == (3, 10, 3, size, size)
    assert torch.equal(views, torch.cat([five, five.flip(-1)], dim=1))
    corners = [images[..., y, x] for y in (slice(size), slice(-size, None)) for x in (slice(size), slice(-size, None))]
    assert torch.equal(views[:, :4], torch.stack(corners, dim=1))
    assert torch.equal(central_views(images, size), views[:, 4:5])
    assert torch.equal(central_views(images, size, 2), views[:, [4, 9]])
    grid = central_views(images, size, 9)
    assert torch.equal(grid[:, [0, 2, 6, 8, 4]], views[:, :5])
    y, x = round((height - size) / 2), round((width - size) / 2)
    assert torch.equal(grid[:, 1], images[..., :size, x : x + size])
    assert torch.equal(grid[:, 3], images[..., y : y + size, :size])


@pytest.mark.parametrize("views", [0, 3, 5, 11])
def test_other_numbers_of_views_are_refused(views):
    with pytest.raises(UsageError, match=f"--views {views}"):
        central_views(pictures(1, 1, 4, 4), 2, views)


# --- the plan of an epoch


@settings(deadline=None)
@given(count=st.integers(1, 200), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_epoch_plan_is_a_permutation_of_seed_and_epoch_alone(count, seed, epoch):
    plan = epoch_plan(count, seed, epoch, CPU)
    order, draws = plan.order, plan.draws
    assert sorted(order.tolist()) == list(range(count))
    assert draws.shape == (count, DRAWS)
    assert draws.min() >= 0
    assert draws.max() < 1
    torch.rand(7)  # the global generator has no part in it
    again = epoch_plan(count, seed, epoch, CPU)
    assert torch.equal(order, again.order)
    assert torch.equal(draws, again.draws)


def test_epochs_and_seeds_differ():
    plans = [epoch_plan(100, seed, epoch, CPU) for seed in range(6) for epoch in range(6)]
    assert len({tuple(order.tolist()) for order in (p.order for p in plans)}) == 36
    assert len({tuple(draws.flatten().tolist()) for draws in (p.draws for p in plans)}) == 36


def test_no_seed_repeats_another_seeds_epochs():
    """Also seeds that a shift or a sum would run into each other, or drop the high bits of."""
    pairs = [(0, 1), (1, 0), (0, 2**20), (2**20, 0), (2**44, 0), (0, 0), (2**60, 0), (12, 3), (1, 23)]
    assert len({tuple(epoch_plan(50, seed, epoch, CPU).order.tolist()) for seed, epoch in pairs}) == len(pairs)


def test_alternate_flips_take_turns():
    """Half of the images are mirrored in an epoch, the others in the next, the same again in the one after; order and
    places of the crops are those without alternation."""
    plans = [epoch_plan(1000, 3, epoch, CPU, data=DataConfig(flip=True, alternate_flips=True)) for epoch in range(4)]
    mirrored = [plan.draws[:, 2] < 0.5 for plan in plans]
    assert 0.45 < mirrored[0].float().mean() < 0.55
    assert all(torch.equal(a, ~b) for a, b in itertools.pairwise(mirrored))
    assert not torch.equal(
        mirrored[0], epoch_plan(1000, 4, 0, CPU, data=DataConfig(flip=True, alternate_flips=True)).draws[:, 2] < 0.5
    )
    for epoch, plan in enumerate(plans):
        usual = epoch_plan(1000, 3, epoch, CPU)
        assert torch.equal(plan.order, usual.order)
        assert torch.equal(plan.draws[:, :2], usual.draws[:, :2])


def test_training_shows_both_sides_in_two_epochs():
    split = resident(data=DataConfig(flip=True, alternate_flips=True))
    shown = []
    for epoch in range(2):
        batches = list(split.training_batches(Steps(0, epoch, 6)))
        rows = torch.cat([batch.rows for batch in batches])
        shown.append(torch.cat([batch.images for batch in batches])[rows.argsort()])
    assert torch.equal(shown[0], shown[1].flip(-1))


def test_epoch_plan_leaves_the_global_generator():
    state = torch.get_rng_state()
    epoch_plan(10, 0, 0, CPU)
    assert torch.equal(state, torch.get_rng_state())


# --- normalisation


@settings(deadline=None)
@given(
    mean=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    lead=st.sampled_from([(), (2,), (2, 3)]),
)
def test_normalise(mean, std, lead):
    images = pictures(*lead, 3, 4, 5)
    result = Preprocessing(4, None, tuple(mean), tuple(std)).normalise(images)
    exact = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-5, atol=1e-4)


def test_normalise_is_torchvisions_and_keeps_layout_and_input():
    images = pictures(2, 3, 6, 6).to(memory_format=torch.channels_last)
    before = images.clone()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = Preprocessing(6, None, mean, std).normalise(images)
    expected = torchvision.transforms.functional.normalize(images.float() / 255, mean, std)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_one_value_serves_all_channels():
    images = pictures(2, 3, 4, 4)
    assert torch.equal(
        Preprocessing(4, None, (0.5,), (0.25,)).normalise(images),
        Preprocessing(4, None, (0.5,) * 3, (0.25,) * 3).normalise(images),
    )


def test_preprocessing_survives_json():
    prep = Preprocessing(28, 32, (0.1, 1 / 3, 0.3), (0.2, 0.2, 0.7))
    assert Preprocessing.from_dict(json.loads(json.dumps(prep.to_dict()))) == prep


# --- a resident split


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 12), channels=st.integers(1, 3), side=st.integers(1, 6))
def test_statistics(n, channels, side):
    split = resident(n, channels, side)
    values = split.images.numpy().astype(np.float64) / 255
    mean, std = split.statistics()
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, np.maximum(values.std(axis=(0, 2, 3)), 1 / 255), rtol=1e-6)


def test_statistics_over_several_chunks(monkeypatch):
    split = resident(23)
    whole = split.statistics()
    monkeypatch.setattr("alexnet.data.resident.CHUNK", 5)
    assert max(map(len, split._pieces())) == 5
    np.testing.assert_allclose(split.statistics(), whole, rtol=1e-12)
    monkeypatch.setattr("alexnet.data.resident.VALUES", 2 * split.images[0].numel() + 1)
    assert max(map(len, split._pieces())) == 2
    np.testing.assert_allclose(split.statistics(), whole, rtol=1e-12)


def test_flat_pictures_stay_finite():
    flat = Split(np.full((3, 1, 4, 4), 9, np.uint8), np.zeros(3, np.int64), np.arange(3))
    split = ResidentSplit(flat, CPU, DataConfig())
    assert split.prep.normalise(split.images).abs().max() < 1e-4


def test_preprocessing_from_config_or_data():
    split = resident(side=8)
    own = split.prep
    assert (own.size, own.resize) == (8, 8)  # what a larger picture is brought to
    assert (own.mean, own.std) == split.statistics()
    configured = resident(side=8, data=DataConfig(crop=5, resize=8, mean=(0.5,) * 3, std=(0.2, 0.3, 0.4)))
    assert configured.prep == Preprocessing(5, 8, (0.5,) * 3, (0.2, 0.3, 0.4))


def test_a_given_preprocessing_counts_and_not_the_configuration():
    """Of the training split, or of a trained network: its size too."""
    images = Split(pictures(9, 3, 8, 8).numpy(), np.arange(9), np.arange(9))
    prep = Preprocessing(5, 6, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    split = ResidentSplit(images, CPU, DataConfig(crop=40, resize=7, mean=(0.1,) * 2), prep)
    assert split.prep == prep
    expected = prep.normalise(central_views(resize_short_side(torch.from_numpy(images.images), 6), 5))
    assert torch.equal(next(split.evaluation_batches(9))[0], expected)
    assert next(split.training_batches(Steps(0, 0, 9))).images.shape == (9, 3, 5, 5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crop": 9}, "--data.crop 9"),
        ({"crop": 10, "pad": 1}, "--data.crop 10"),  # training would have room for it, evaluation has no padding
        ({"mean": (0.1, 0.2)}, "--data.mean has 2 values"),
        ({"std": (0.1, 0.2)}, "--data.std has 2 values"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_images(fields, said):
    with pytest.raises(UsageError, match=said):
        resident(side=8, data=DataConfig(**fields))


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_an_epoch_holds_every_image_once(batch_size):
    split = resident(data=DataConfig(pad=2, flip=True, crop=6))
    batches = list(split.training_batches(Steps(3, 1, batch_size)))
    rows = torch.cat([rows for *_, rows in batches])
    assert sorted(rows.tolist()) == list(range(23))
    assert [len(rows) for *_, rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(rows, epoch_plan(23, 3, 1, CPU).order)
    for images, labels, rows in batches:
        assert images.shape == (len(rows), 3, 6, 6)
        assert images.dtype == torch.float32
        assert torch.equal(labels, split.labels[rows])


def test_a_training_image_depends_on_neither_batch_nor_start():
    """So a resumed run and several processes see the same pictures."""
    split = resident(data=DataConfig(pad=2, flip=True))

    def epoch(batch_size: int, start: int = 0, number: int = 0) -> dict[int, bytes]:
        batches = split.training_batches(Steps(0, number, batch_size, start))
        return {int(r): x.numpy().tobytes() for images, _, rows in batches for x, r in zip(images, rows, strict=True)}

    whole = epoch(4)
    assert whole == epoch(7)
    late = epoch(4, start=3)
    assert len(late) == 23 - 12
    assert late.items() < whole.items()
    assert sum(whole[row] != x for row, x in epoch(4, number=1).items()) > 15


def test_training_images_are_cut_and_normalised_from_their_rows():
    split = resident(data=DataConfig(crop=5, pad=1, flip=True, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    draws = epoch_plan(23, 0, 0, CPU).draws
    for images, _, rows in split.training_batches(Steps(0, 0, 6)):
        expected = split.prep.normalise(random_crops(split.images[rows], draws[rows], 5, 1, True))
        assert torch.equal(images, expected)


@pytest.mark.parametrize("views", [1, 2, 9, 10])
@pytest.mark.parametrize("batch_size", [1, 6, 23, 64])
def test_evaluation_is_in_order_once_and_without_training_transforms(batch_size, views):
    split = resident(data=DataConfig(crop=6, pad=2, flip=True))
    prep = split.prep
    passes = [list(split.evaluation_batches(batch_size, views)) for _ in range(2)]
    images, labels = (torch.cat(part) for part in zip(*passes[0], strict=True))
    assert torch.equal(labels, split.labels)
    around = split.images if views < 9 else F.pad(split.images, (2, 2, 2, 2))  # its corners as training's crops
    assert torch.equal(images, prep.normalise(central_views(around, 6, views)))
    assert torch.equal(images, torch.cat([x for x, _ in passes[1]]))
    if views == 10:
        assert len({view.numpy().tobytes() for view in images[0]}) == 10
    centre = images[:, 4 if views >= 9 else 0]
    assert torch.equal(centre, prep.normalise(split.images[:, :, 1:7, 1:7]))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_shards_partition_the_split(size):
    split = resident()
    seen = []
    for rank in range(size):
        for images, labels in split.evaluation_batches(4, shard=World(rank, size).shard):
            assert len(images) == len(labels)
            seen += [(int(label), image.numpy().tobytes()) for image, label in zip(images, labels, strict=True)]
    whole = split.prep.normalise(split.images)[:, None]
    assert sorted(seen) == sorted((int(y), x.numpy().tobytes()) for x, y in zip(whole, split.labels, strict=True))


# --- resizing


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 32), (32, 32, 70), (40, 60, 16), (60, 40, 23), (9, 9, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_pillows(channels, height, width, size):
    images = pictures(3, channels, height, width)
    result = resize_short_side(images, size)
    new_height, new_width = (round(side * size / min(height, width)) for side in (height, width))
    assert result.shape == (3, channels, new_height, new_width)
    assert result.dtype == torch.uint8
    for image, ours in zip(images, result, strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[..., 0] if channels == 1 else array)
        resized = np.asarray(picture.resize((new_width, new_height), Image.Resampling.BILINEAR))
        theirs = resized.reshape(new_height, new_width, channels)
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)
        assert difference.max() <= 2  # each of the two passes rounds: one pixel in a million is off by two
        assert (difference > 0).mean() < 0.06


def test_resident_split_resizes_once_in_chunks(monkeypatch):
    monkeypatch.setattr("alexnet.data.resident.CHUNK", 5)
    images = pictures(13, 1, 8, 8)
    small = Split(images.numpy(), np.zeros(13, np.int64), np.arange(13))
    split = ResidentSplit(small, CPU, DataConfig(resize=12))
    assert torch.equal(split.images, resize_short_side(images, 12))
    assert split.images.shape == (13, 1, 12, 12)
    assert split.prep.size == 12
    assert len(split) == 13


def test_an_epoch_has_the_same_plan_on_every_device():
    """Drawn on a CPU: a run that goes on elsewhere sees no image twice. (A generator of the meta device has none.)"""
    config = DataConfig(alternate_flips=True, reshuffle=False, crop_chunk=4)
    noise = ColourNoise(0.1, 0.5, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    plan = epoch_plan(12, 3, 1, torch.device("meta"), noise, config)
    assert [plan.order.device.type, plan.draws.device.type, plan.shifts.device.type] == ["meta"] * 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_picking_pixels_is_slicing(seed):
    """What a GPU does is what a CPU does."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (5, 3, 9, 11), dtype=torch.uint8, generator=generator)
    draws = torch.rand(5, 3, generator=generator)
    top, left = ((draws[:, axis] * places).long() for axis, places in ((0, 4), (1, 6)))
    for flip in (False, True):
        mirrored = draws[:, 2] < 0.5 if flip else None
        assert torch.equal(_picked(images, top, left, mirrored, 6), random_crops(images, draws, 6, 0, flip))


def test_axes_of_colours_have_one_sign():
    """On every machine, whichever way its library of linear algebra turns them."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        mixed = rng.normal(size=(3, 3))
        variances, axes = principal_axes(mixed @ mixed.T)
        np.testing.assert_allclose(axes * variances @ axes.T, mixed @ mixed.T, atol=1e-12)
        assert (axes[0] >= 0).all()
        assert (np.diff(variances) >= 0).all()
