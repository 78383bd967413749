"""The mean image: made by `prepare`, subtracted as the released code does, kept with the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.augment import Preprocessing, central_views, epoch_plan, random_crops
from alexnet.data.batches import Steps
from alexnet.data.decode import Square
from alexnet.data.images import as_views, read_picture
from alexnet.data.loading import open_split
from alexnet.data.packing import prepare
from alexnet.data.sources import load_dataset
from alexnet.inference.evaluation import evaluate
from alexnet.inference.trained import open_trained
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import assert_same_run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Photographs that are brighter towards the right, so that the mean image is not flat."""
    root = tmp_path_factory.mktemp("photographs")
    for part, count in (("train", 8), ("val", 4)):
        for number in range(2 * count):
            folder = root / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, count]).integers(0, 120, (4, 5, 3), dtype=np.uint8)
            slope = np.linspace(0, 130, 50).astype(np.uint8)[None, :, None]
            pixels = np.asarray(Image.fromarray(noise).resize((50, 40), Image.Resampling.BICUBIC)) // 2 + slope
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def prepared(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare(DataConfig(source="folder", root=str(original)), out, side=36, workers=2)
    return out


def data(root, **fields) -> DataConfig:
    settings = {"resize": 36, "crop": 32, "flip": True, "std": (1 / 255,) * 3, "mean_image": True, "workers": 1}
    return DataConfig(**{"source": "folder", "root": str(root)} | settings | fields)


def mean_of(original) -> torch.Tensor:
    """The mean of the central squares, [3, 36, 36], by Pillow and numpy alone."""
    squares = []
    for path in sorted((original / "train").rglob("*.png")):
        image = Image.open(path).resize((45, 36), Image.Resampling.BILINEAR)
        squares.append(np.asarray(image, dtype=np.float64)[:, 4:40])
    return torch.from_numpy(np.mean(squares, axis=0)).permute(2, 0, 1)


def test_the_centre_is_kept(original, prepared):
    loader = open_split(load_dataset(data(prepared)).train, CPU, data(prepared))
    torch.testing.assert_close(loader.prep.mean_image.double(), mean_of(original)[:, 2:34, 2:34], atol=1e-4, rtol=0)
    smaller = data(prepared, resize=18, crop=16)
    halved = open_split(load_dataset(smaller).train, CPU, smaller).prep.mean_image
    reference = torch.nn.functional.avg_pool2d(mean_of(original), 2)[:, 1:17, 1:17]
    assert (halved - reference).abs().max() < 3
    off = data(prepared, mean_image=False)
    assert open_split(load_dataset(off).train, CPU, off).prep.mean_image is None


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_every_crop_has_the_centre_subtracted_wherever_it_was_cut(prepared, noise):
    """By hand, in float64, for every training image and all ten views."""
    config = data(prepared, colour_noise=noise)
    dataset = load_dataset(config)
    loader = open_split(dataset.train, CPU, config)
    centre = loader.prep.mean_image.double()
    squares = torch.stack(
        [torch.from_numpy(Square(36, 36, 32)(dataset.train.read(i))).permute(2, 0, 1) for i in range(16)]
    )
    plan = epoch_plan(16, 5, 0, CPU, loader.noise())
    images, _, rows = next(loader.training_batches(Steps(5, 0, 16)))
    crops = random_crops(squares[rows], plan.draws[rows], 32, 0, True).double()
    if noise:
        crops += plan.shift(rows).double()[:, :, None, None]
    torch.testing.assert_close(images.double(), crops - centre, atol=2e-4, rtol=0)
    seen = torch.cat([views for views, _ in loader.evaluation_batches(7, 10)])
    torch.testing.assert_close(seen.double(), central_views(squares, 32, 10).double() - centre, atol=2e-4, rtol=0)


@pytest.mark.parametrize("shifted", [False, True])
def test_layouts_agree(shifted):
    image = 255 * torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    prep = Preprocessing(7, None, (0.5,) * 3, (0.3, 0.2, 0.1), mean_image=image)
    images = torch.randint(0, 256, (300, 3, 7, 7), dtype=torch.uint8)
    shift = torch.randn(300, 3) * 20 if shifted else None
    moved = images.double() if shift is None else images.double() + shift[:, :, None, None]
    expected = (moved - image) / 255 / torch.tensor(prep.std).view(3, 1, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = prep.normalise(images.contiguous(memory_format=layout), shift)
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    if shift is None:
        views = prep.normalise(images[:, None].expand(-1, 2, -1, -1, -1))
        torch.testing.assert_close(views[:, 1].double(), expected, atol=1e-4, rtol=1e-4)


def test_without_a_prepared_training_set_it_is_the_mean_colour(original):
    config = data(original, mean=(0.1, 0.2, 0.3))
    prep = open_split(load_dataset(config).train, CPU, config).prep
    assert prep.mean_image is None
    assert prep.mean == (0.1, 0.2, 0.3)


def test_it_travels_with_the_checkpoint(original, prepared, tmp_path):
    """Evaluation elsewhere, prediction and a resumed run subtract what training did."""
    config = recipe(
        "imagenet-paper", epochs=2, device="cpu", precision="fp32", batch_size=8, save_minutes=1e-9, log_every=1,
        model={"variant": "cifar", "width": 0.05, "init": "torch", "lrn": "off"}, data=data(prepared, val_fraction=0.2),
        optim={"lr": 1e-4},
    )  # fmt: skip
    run = train(config, tmp_path / "run", reporter=Reporter(quiet=True))
    meta = load_checkpoint(run.best).meta["preprocessing"]
    assert meta["mean_image"] is True
    trained = open_trained(run)
    centre = mean_of(original)[:, 2:34, 2:34]
    torch.testing.assert_close(trained.preprocessing.mean_image.double(), centre, atol=1e-4, rtol=0)
    picture = read_picture(original / "val" / "a" / "0.png")
    square = torch.from_numpy(Square(36, 32, 32).cut(picture.pixels).copy()).permute(2, 0, 1).double()
    torch.testing.assert_close(as_views(picture, trained.preprocessing)[0].double(), square - centre, atol=1e-3, rtol=0)
    best = max(run.epochs, key=lambda row: (row["val_top1"], row["epoch"]))
    assert evaluate(run, "val").loss == pytest.approx(best["val_loss"], rel=1e-5)
    assert evaluate(run, "val", data={"root": str(original)}).loss == pytest.approx(best["val_loss"], rel=0.05)
    shorter = train(replace(config, epochs=1), tmp_path / "again", reporter=Reporter(quiet=True))
    again = train(config, shorter.path, reporter=Reporter(quiet=True))
    assert_same_run(run, again)


def test_the_papers_recipe_asks_for_it():
    assert recipe("imagenet-paper").data.mean_image
    assert not recipe("imagenet-torchvision").data.mean_image
