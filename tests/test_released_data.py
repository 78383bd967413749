"""What the released code did to its images, each part against the arithmetic written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.augment import epoch_plan, random_crops
from alexnet.data.batches import Steps
from alexnet.data.decode import Square
from alexnet.data.loading import open_split
from alexnet.data.packing import prepare
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Split
from alexnet.errors import UsageError
from alexnet.recipes import recipe

CPU = torch.device("cpu")
N = 100


def rgb(count: int = N, side: int = 16) -> Split:
    """Images whose pixels say where they are (red: row, green: column) and whose they are (blue)."""
    place = np.arange(side, dtype=np.uint8)
    images = np.empty((count, 3, side, side), np.uint8)
    images[:, 0], images[:, 1] = place[:, None], place[None, :]
    images[:, 2] = np.arange(count, dtype=np.uint8)[:, None, None]
    return Split(images, np.zeros(count, np.int64), np.arange(count))


def raw(**fields) -> DataConfig:
    return DataConfig(**{"crop": 8, "flip": True, "mean": (0.0,), "std": (1 / 255,)} | fields)


def epoch_of(loader, epoch, batch_size=40, shard=slice(None), start=0):
    """All images, rows of the process's own and rows of an epoch."""
    batches = list(loader.training_batches(Steps(3, epoch, batch_size, start, shard)))
    return torch.cat([b.images for b in batches]), torch.cat([b.rows for b in batches])


def places(images):
    """Top, left and whether it is mirrored, of crops of `rgb`."""
    left, right = images[:, 1, 0, 0], images[:, 1, 0, -1]
    return torch.stack([images[:, 0, 0, 0], torch.minimum(left, right), (left > right).float()], dim=1)


@pytest.mark.parametrize("chunk", [1, 8, 32])
@pytest.mark.parametrize("batch_size", [30, 64])
def test_images_in_a_row_share_their_crop_and_flip(chunk, batch_size):
    """By position in the epoch's order, wherever the batches end."""
    loader = open_split(rgb(), CPU, raw(crop_chunk=chunk))
    images, _ = epoch_of(loader, 0, batch_size)
    found = places(images)
    chunks = found.split(chunk)
    assert all((part == part[0]).all() for part in chunks)
    different = len({tuple(part[0].tolist()) for part in chunks})
    assert different > len(chunks) / 2  # of 9 * 9 * 2
    other, _ = epoch_of(loader, 1, batch_size)
    assert not torch.equal(places(other), found)


def test_a_process_and_a_resumed_run_see_their_part_of_the_same():
    loader = open_split(rgb(), CPU, raw(crop_chunk=32, reshuffle=False, colour_noise=0.1, noise_divisor=1.1))
    whole, rows = epoch_of(loader, 5)
    parts = [list(loader.training_batches(Steps(3, 5, 40, shard=slice(rank, None, 2)))) for rank in (0, 1)]
    for first, second, expected in zip(*parts, whole.split(40), strict=True):
        assert torch.equal(first.images, expected[0::2])
        assert torch.equal(second.images, expected[1::2])
    rest, rest_rows = epoch_of(loader, 5, start=1)
    assert torch.equal(rest, whole[40:])
    assert torch.equal(rest_rows, rows[40:])


def test_without_reshuffling_all_epochs_have_the_first_ones_order():
    kept, new = (open_split(rgb(), CPU, raw(reshuffle=again)) for again in (False, True))
    first, rows = epoch_of(kept, 0)
    assert sorted(rows.tolist()) == list(range(N))
    for epoch in (1, 2, 30):
        images, same = epoch_of(kept, epoch)
        other, changed = epoch_of(new, epoch)
        assert torch.equal(rows, same)
        assert not torch.equal(rows, changed)
        assert not torch.equal(images, first)
        by_row = torch.empty_like(images)
        by_row[same], other_by_row = images, torch.empty_like(other)
        other_by_row[changed] = other
        assert torch.equal(by_row, other_by_row)  # each image is cut alike, whatever the order
    assert torch.equal(rows, epoch_of(new, 0)[1])
    assert not torch.equal(rows, epoch_plan(N, 4, 0, CPU, data=raw(reshuffle=False)).order)


def test_crops_of_224_from_256_have_33_places_a_side():
    draws = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0))
    place = torch.arange(256, dtype=torch.uint8)
    image = torch.stack([place[:, None].expand(256, 256), place[None, :].expand(256, 256)])[None]
    tops, lefts = set(), set()
    for part in draws.split(100):
        cut = random_crops(image.expand(len(part), -1, -1, -1), part, 224, 0, False)
        tops |= set(cut[:, 0, 0, 0].tolist())
        lefts |= set(cut[:, 1, 0, 0].tolist())
    assert tops == lefts == set(range(33))


# The mean image of small images.


@pytest.mark.parametrize("pad", [0, 2])
def test_mean_image_of_small_images(pad):
    """Every crop has the centre of the training images' mean subtracted, wherever it was cut."""
    rng = np.random.default_rng(0)
    train, held_out = (
        Split(rng.integers(0, 256, (n, 3, 10, 10), dtype=np.uint8), np.zeros(n, np.int64), np.arange(n))
        for n in (50, 9)
    )
    data = raw(crop=6, pad=pad, mean_image=True, std=(0.5,))
    loader = open_split(train, CPU, data)
    centre = train.images.mean(axis=0, dtype=np.float64)[:, 2:8, 2:8]
    plan = epoch_plan(50, 3, 0, CPU)
    images, rows = epoch_of(loader, 0)
    cut = random_crops(torch.from_numpy(train.images)[rows], plan.draws[rows], 6, pad, True).double()
    expected = (cut - torch.from_numpy(centre)) / 127.5
    torch.testing.assert_close(images.double(), expected, atol=1e-5, rtol=0)
    other = open_split(held_out, CPU, data, loader.prep)  # subtracts the training images' mean, not its own
    ((views, _),) = other.evaluation_batches(100)
    expected = (held_out.images[:, :, 2:8, 2:8] - centre) / 127.5
    np.testing.assert_allclose(views[:, 0].double(), expected, atol=1e-5)


def test_mean_image_after_a_resize():
    split = Split(np.full((4, 1, 8, 8), 10, np.uint8), np.zeros(4, np.int64), np.arange(4))
    prep = open_split(split, CPU, DataConfig(resize=12, crop=6, mean_image=True)).prep
    assert prep.mean_image is not None
    assert torch.equal(prep.mean_image, torch.full((1, 6, 6), 10.0))


# Colour noise.


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("photographs"), tmp_path_factory.mktemp("prepared")
    for part, count in (("train", 20), ("val", 4)):
        for number in range(count):
            folder = root / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, count]).integers(0, 256, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((36, 36), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    prepare(DataConfig(source="folder", root=str(root)), out, side=36, workers=2)
    return out


def of(kind, photographs, **fields):
    """A loader, and its training images uncut, [N, 3, H, W]."""
    noise = {"colour_noise": 0.1, "noise_divisor": 1.1, "noise_until": 2, "crop_chunk": 4, "mean_image": True}
    if kind == "small":
        split = Split(
            np.random.default_rng(0).integers(0, 256, (30, 3, 12, 12), dtype=np.uint8),
            np.zeros(30, np.int64),
            np.arange(30),
        )
        return open_split(split, CPU, raw(**noise | fields)), torch.from_numpy(split.images)
    data = raw(source="folder", root=str(photographs), resize=36, crop=32, workers=1, **noise | fields)
    train = load_dataset(data).train
    squares = [torch.from_numpy(Square(36, 36, 32)(train.read(i))).permute(2, 0, 1) for i in range(len(train))]
    return open_split(train, CPU, data), torch.stack(squares)


@pytest.mark.parametrize("kind", ["small", "photographs"])
@pytest.mark.parametrize("epoch", [0, 1, 2, 7])
def test_noise_and_its_divisor_until_an_epoch(kind, photographs, epoch):
    """(x - mean + noise) / 1.1 in the first two epochs, x - mean from the third on."""
    loader, whole = of(kind, photographs)
    size = loader.prep.size
    centre = loader.prep.mean_image.double()
    plan = epoch_plan(len(whole), 3, epoch, CPU, loader.noise(), raw(crop_chunk=4))
    images, rows = epoch_of(loader, epoch)
    crops = random_crops(whole[rows], plan.draws[rows], size, 0, True).double() - centre
    if epoch < 2:
        crops = (crops + plan.shifts[rows].double()[:, :, None, None]) / 1.1
        assert plan.shifts.abs().mean() > 1
    torch.testing.assert_close(images.double(), crops, atol=3e-4, rtol=0)


@pytest.mark.parametrize("kind", ["small", "photographs"])
def test_evaluation_divides_by_nothing(kind, photographs):
    loader, whole = of(kind, photographs)
    seen = torch.cat([views for views, _ in loader.evaluation_batches(7)])[:, 0]
    edge = (whole.shape[-1] - loader.prep.size) // 2
    centre = whole[:, :, edge : edge + loader.prep.size, edge : edge + loader.prep.size].double()
    torch.testing.assert_close(seen.double(), centre - loader.prep.mean_image.double(), atol=1e-4, rtol=0)


def test_net_145s_noise_stops_at_epoch_67(photographs):
    settings = recipe("net145").data
    loader, _ = of("photographs", photographs, noise_until=settings.noise_until, noise_divisor=settings.noise_divisor)
    plans = [loader.plan(0, epoch - 1, CPU) for epoch in (1, 66, 67, 91)]
    assert [(plan.shifts is not None, plan.divisor) for plan in plans] == [
        (True, 1.1),
        (True, 1.1),
        (False, 1.0),
        (False, 1.0),
    ]


def test_no_divisor_without_noise():
    loader = open_split(rgb(), CPU, raw(noise_divisor=1.1))
    assert loader.plan(0, 0, CPU).divisor == 1
    assert epoch_of(loader, 0)[0].max() == N - 1


def test_random_areas_know_no_chunks():
    with pytest.raises(UsageError, match=r"--data\.crop-chunk does not go with --data\.random-resized-crop"):
        raw(crop_chunk=2, random_resized_crop=True)
