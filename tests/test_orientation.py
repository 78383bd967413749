"""EXIF orientation: one rule for photographs of one's own, everywhere; published data sets as their figures were
obtained."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from alexnet.config import DataConfig
from alexnet.data import decode as decoding
from alexnet.data.augment import Preprocessing
from alexnet.data.batches import Steps
from alexnet.data.decode import RandomArea, Square, decode, jpeg_orientation
from alexnet.data.images import as_views, read_picture
from alexnet.data.loading import open_split
from alexnet.data.packing import prepare
from alexnet.data.preview import pipeline_stages
from alexnet.data.sources import SOURCES, load_dataset, turned_upright
from alexnet.errors import UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.training.loop import train
from alexnet.training.progress import Reporter

CPU = torch.device("cpu")
ORIENTATION = 0x0112
LYING, STANDING = (90, 60), (60, 90)


def scene(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth, and different in every corner."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def tagged(image: Image.Image, how: int | None, kind: str = "JPEG", **options) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x010F] = "a camera"
    if how is not None:
        exif[ORIENTATION] = how
    image.save(stream, kind, exif=exif, **options)
    return stream.getvalue()


def pillow(content: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("how", range(1, 9))
def test_pixels_are_those_of_pillows_exif_transpose(kind, how):
    for size in (LYING, STANDING):
        content = tagged(scene(size), how, kind)
        assert np.abs(pillow(content).astype(int) - decode(content, upright=True)).max() <= 1
        if kind != "TIFF":  # which Pillow turns by itself
            assert decode(content).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("how", [*range(1, 9), 0, 9, 255])
def test_orientation_of_a_header_is_pillows(how, byte_order):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F], exif[ORIENTATION] = "a camera", how
    stream = io.BytesIO()
    scene(LYING).save(stream, "JPEG", exif=exif)
    assert jpeg_orientation(stream.getvalue()) == (how if 1 <= how <= 8 else 1)
    assert jpeg_orientation(memoryview(stream.getvalue())) == (how if 1 <= how <= 8 else 1)


def test_orientation_in_xmp_and_after_other_segments():
    stream = io.BytesIO()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    scene(LYING).save(stream, "JPEG", xmp=xmp, comment=b"\x12\x01 no tag", icc_profile=bytes(70_000))
    content = stream.getvalue()
    assert pillow(content).shape == (90, 60, 3)
    assert np.abs(pillow(content).astype(int) - decode(content, upright=True)).max() <= 1


def test_upright_images_are_not_looked_into(monkeypatch):
    """What costs time is done only where the tag is there."""
    monkeypatch.setattr(decoding, "orientation", lambda _: pytest.fail("the header was parsed"))
    plain = io.BytesIO()
    scene(LYING).save(plain, "JPEG")
    for content in (plain.getvalue(), tagged(scene(LYING), 1), tagged(scene(LYING), None)):
        assert jpeg_orientation(content) == 1


@pytest.mark.parametrize(
    "rest", [b"garbage", b"II*\0\xff\xff\xff\xff\x12\x01\x03\0\x01\0\0\0\x06\0", b"MM\0*\0\0\0\x08\0\x02\x01\x12", b""]
)
def test_damaged_exif_costs_nothing(rest):
    stream = io.BytesIO()
    scene(LYING).save(stream, "JPEG")
    content, exif = stream.getvalue(), b"Exif\0\0" + rest
    damaged = content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]
    for bytes_ in (damaged, damaged[: 12 + len(rest)]):
        assert jpeg_orientation(bytes_) == 1
    assert np.array_equal(decode(damaged, upright=True), decode(content))


@pytest.mark.parametrize("how", range(1, 9))
def test_cuts_are_those_of_the_upright_image(how):
    """A photograph stored as it lies gives what the same photograph gives that was stored upright."""
    upright = scene(STANDING)
    undone = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
              7: "TRANSVERSE", 8: "ROTATE_270"}[how]  # fmt: skip
    stored = upright.transpose(Image.Transpose[undone]) if undone else upright
    for kind, options, off in (("PNG", {}, 0), ("JPEG", {"quality": 100, "subsampling": 0}, 6)):
        turned, plain = tagged(stored, how, kind, **options), tagged(upright, None, kind, **options)
        for cut in (Square(48, 40, 40), Square(48, 48, 40, exact=False), RandomArea(40, 0.2, 7)):
            found, wanted = (replace(cut, upright=True)(content, 5).astype(int) for content in (turned, plain))
            assert np.abs(found - wanted).max() <= off
            assert how == 1 or np.abs(cut(turned, 5) - wanted).mean() > off
    small = RandomArea(8, 0.2, 7, upright=True)  # decoded at a half, whose pixels lie elsewhere if it is mirrored
    assert np.abs(small(turned, 5).astype(int) - small(plain, 5)).mean() < 12
    assert how == 1 or np.abs(replace(small, upright=False)(turned, 5).astype(int) - small(plain, 5)).mean() > 12


# --- the rule


def photographs(root, split=("train", "val")):
    """Two classes; in the first every picture is stored lying on its side."""
    for part in split:
        for number in range(6):
            for name, how in (("a", 6), ("b", None)):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                (root / part / name / f"{number}.jpg").write_bytes(tagged(scene(LYING, number), how, quality=95))
    return root


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def prepared(original, tmp_path_factory):
    folders = {}
    for how in ("apply", "ignore"):
        folders[how] = tmp_path_factory.mktemp(how)
        prepare(data(original, orientation=how), folders[how], side=32, workers=2)
    return folders


def data(root, **fields) -> DataConfig:
    return DataConfig(**{"source": "folder", "root": str(root), "resize": 32, "crop": 28, "workers": 1} | fields)


def first_image(config: DataConfig, prep=None) -> torch.Tensor:
    """What evaluation makes of the first training image, [3, 28, 28]."""
    loader = open_split(load_dataset(config).train, CPU, config, prep)
    return next(loader.evaluation_batches(4))[0][0, 0]


def test_rule_of_every_source():
    rules = {name: turned_upright(DataConfig(source=name)) for name, source in SOURCES.items() if source.photographs}
    assert rules == {"imagenet": False, "stanford-dogs": False, "folder": True, "table": True}
    for name in rules:
        assert turned_upright(DataConfig(source=name, orientation="apply"))
        assert not turned_upright(DataConfig(source=name, orientation="ignore"))


def test_training_evaluation_and_predict_see_the_same(original):
    config = data(original)
    loader = open_split(load_dataset(config).train, CPU, config)
    assert loader.prep.upright is True
    picture = read_picture(original / "train" / "a" / "0.jpg")
    assert torch.equal(first_image(config), as_views(picture, loader.prep)[0])
    assert not torch.equal(first_image(config), first_image(data(original, orientation="ignore")))
    # Training: the whole of a square image, whose crop is all of it.
    whole = replace(config, crop=32)
    loader = open_split(load_dataset(whole).train, CPU, whole)
    images, _, rows = next(loader.training_batches(Steps(0, 0, 12)))
    trained = images[rows.tolist().index(0)]
    prep = loader.prep
    evaluated = as_views(picture, prep)[0]
    assert (trained - evaluated).abs().mul(torch.tensor(prep.std)[:, None, None] * 255).max() <= 3  # the fast resize
    (shown, *_) = [
        s for s in pipeline_stages(replace(recipe("folder"), data=config), 12) if s.place.endswith("a/0.jpg")
    ]
    assert np.array_equal(shown.stages[0][1], picture.pixels)


def test_prepared_photographs_keep_their_rule(original, prepared):
    for how, root in prepared.items():
        plain = first_image(data(original, orientation=how))
        again = first_image(data(root, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
        assert (plain - again).abs().mean() < 0.1  # the second compression
        config = data(root)
        assert open_split(load_dataset(config).train, CPU, config).prep.upright is (how == "apply")
    assert "without turning them upright" in load_dataset(data(prepared["ignore"])).note
    assert load_dataset(data(prepared["apply"])).note is None


@pytest.mark.parametrize(("asked", "found"), [("apply", "ignore"), ("ignore", "apply")])
def test_the_other_rule_is_refused_with_the_mend(prepared, asked, found):
    config = data(prepared[found], orientation=asked)
    mend = f"prepared with --data.orientation {found}.*prepare them again with --data.orientation {asked}, or use"
    with pytest.raises(UsageError, match=mend):
        open_split(load_dataset(config).train, CPU, config)
    prep = Preprocessing(28, 32, (0.5,), (0.5,), upright=asked == "apply")
    with pytest.raises(UsageError, match=f"this network sees them with {asked}"):
        open_split(load_dataset(data(prepared[found])).val, CPU, data(prepared[found]), prep)


def test_parts_prepared_with_other_rules_do_not_mix(prepared, tmp_path):
    mixed = shutil.copytree(prepared["apply"], tmp_path / "mixed")
    shutil.copy(prepared["ignore"] / "val.arrow", mixed / "val.arrow")
    with pytest.raises(ValueError, match="of another preparation"):
        load_dataset(data(mixed))


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_a_run_keeps_its_rule(original, tmp_path):
    """A network that was trained on photographs as they lie evaluates them so, whatever is the rule by then."""
    settings = {"data.root": str(original), "data.resize": 36, "data.crop": 32, "data.colour_noise": 0.0}
    config = recipe("folder", epochs=1, device="cpu", precision="fp32", batch_size=4,
                    model={"variant": "cifar", "width": 0.05, "init": "torch"}, **settings)  # fmt: skip
    losses = {}
    for how in ("apply", "ignore"):
        chosen = replace(config, data=replace(config.data, orientation=how, workers=1))
        run = train(chosen, tmp_path / how, reporter=Reporter(quiet=True))
        assert load_checkpoint(run.best).meta["preprocessing"]["upright"] is (how == "apply")
        losses[how] = run.epochs[-1]["val_loss"]
        assert evaluate(run).loss == pytest.approx(losses[how], rel=1e-5)
        assert evaluate(run, data={"orientation": None}).loss == pytest.approx(losses[how], rel=1e-5)
    assert losses["apply"] != losses["ignore"]


def test_checkpoints_from_before_are_taken_as_they_lie():
    old = {"size": 28, "resize": 32, "mean": [0.5], "std": [0.5]}
    assert Preprocessing.from_dict(old).upright is False
    assert Preprocessing.from_dict(Preprocessing(28, 32, (0.5,), (0.5,), upright=True).to_dict()).upright is True


def test_bare_weights_follow_the_data(original, prepared):
    prep = Preprocessing(28, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(first_image(data(original), prep), first_image(data(original)))
    for root in prepared.values():
        assert first_image(data(root), prep).shape == (3, 28, 28)
