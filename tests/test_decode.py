"""Encoded images to pixels: against Pillow and torchvision, whatever the bytes are."""

from __future__ import annotations

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms

from alexnet.data import decode as decoding
from alexnet.data.decode import (
    BadImageError,
    RandomArea,
    Square,
    count_frames,
    decode,
    despite_warnings,
    jpeg_size,
    open_image,
    random_area,
    resize_exactly,
    resize_fast,
)


def picture(height: int, width: int, noise: float = 8.0) -> np.ndarray:
    """Smooth colours, different everywhere, with a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 110 * np.sin(x / 17 + y / 29), 127 + 110 * np.cos(x / 23), 127 + 90 * np.sin(y / 13 - x / 40)]
    pixels = np.stack(waves, axis=-1) + np.random.default_rng(height * 10_007 + width).normal(
        0, noise, (height, width, 3)
    )
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def pillow(content: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    return exif


RGB = Image.fromarray(picture(53, 38))
OTHER = Image.fromarray(255 - picture(53, 38))
JPEGS = {
    "4:4:4": encoded(RGB, "JPEG", subsampling=0),
    "4:2:0": encoded(RGB, "JPEG", subsampling=2),
    "grey": encoded(RGB.convert("L"), "JPEG"),
    "progressive": encoded(RGB, "JPEG", progressive=True),
    "coarse": encoded(RGB, "JPEG", quality=20),
    "turned": encoded(RGB, "JPEG", exif=turned()),
}
OTHERS = {
    "CMYK JPEG": encoded(RGB.convert("CMYK"), "JPEG"),
    "PNG": encoded(RGB, "PNG"),
    "RGBA": encoded(Image.merge("RGBA", (*RGB.split(), OTHER.getchannel(0))), "PNG"),
    "palette": encoded(RGB.convert("P"), "PNG"),
    "palette with a transparent colour": encoded(RGB.convert("P"), "PNG", transparency=4),
    "palette with transparencies": encoded(RGB.convert("P"), "PNG", transparency=bytes([0, 90, 255, 7])),
    "16-bit": encoded(Image.fromarray(np.arange(0, 65536, 37, dtype=np.uint16)[:1750].reshape(50, 35)), "PNG"),
    "LA": encoded(RGB.convert("LA"), "PNG"),
    "1-bit": encoded(RGB.convert("1"), "PNG"),
    "animation": encoded(RGB.convert("P"), "GIF", save_all=True, append_images=[OTHER.convert("P")]),
    "WebP": encoded(RGB, "WEBP"),
    "TIFF": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "BMP": encoded(RGB, "BMP"),
}


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """With the turbo decoder and without."""
    if request.param == "pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    return request.param


# --- good images


@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_are_pillows(name, decoder):
    """To 1 of 255; both are libjpeg-turbo and agree to the bit where they have the same version."""
    pixels = decode(JPEGS[name])
    difference = apart(pixels, pillow(JPEGS[name]))
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    assert pixels.shape == (53, 38, 3)  # also the one that says that it is turned
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable  # torch warns of arrays that are not


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_pillows_to_the_bit(name, decoder):
    pixels = decode(OTHERS[name])
    assert np.array_equal(pixels, pillow(OTHERS[name]))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


def test_the_first_frame_is_taken():
    pixels = decode(OTHERS["animation"])
    assert apart(pixels, np.asarray(RGB)).mean() < apart(pixels, np.asarray(OTHER)).mean() / 4


@pytest.mark.parametrize("content", [JPEGS["4:2:0"], OTHERS["PNG"]], ids=["JPEG", "PNG"])
def test_a_view_of_a_larger_buffer(content, decoder):
    """As they come out of a prepared file."""
    within = memoryview(b"\0" * 5 + content + b"\0" * 5)[5:-5]
    assert np.array_equal(decode(within), decode(content))
    assert np.array_equal(Square(32, 24, 24)(within), Square(32, 24, 24)(content))


def test_the_turbo_decoder_is_used_for_jpegs(monkeypatch):
    """Or the tests above compare Pillow with itself."""
    monkeypatch.setattr(decoding, "open_image", lambda content: pytest.fail("Pillow was asked"))
    for content in JPEGS.values():
        decode(content)


# --- bad images


@pytest.mark.parametrize("name", JPEGS)
def test_truncated_jpegs(name, decoder):
    """At any length; without the end marker alone Pillow has all pixels and may keep them."""
    content = JPEGS[name]
    whole = decode(content)
    lengths = {*range(0, len(content), 23), *range(len(content) - 40, len(content))}
    for length in sorted(lengths):
        try:
            pixels = decode(content[:length])
        except BadImageError:
            continue
        assert length >= len(content) - 2
        assert np.array_equal(pixels, whole)


@pytest.mark.parametrize("name", ["PNG", "palette", "16-bit", "LA", "1-bit"])
def test_truncated_pngs(name):
    """The last chunk and a checksum are all that may be missing."""
    content = OTHERS[name]
    for length in range(0, len(content), max(1, len(content) // 200)):
        try:
            pixels = decode(content[:length])
        except BadImageError:
            continue
        assert length >= len(content) - 24
        assert np.array_equal(pixels, decode(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>\n<head>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
        (np.random.default_rng(0).bytes(5000), "not an image"),
        (b"\0" * 4096, "not an image"),
        (b"\xff\xd8", "."),
        (b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(5000), "."),
        (JPEGS["4:2:0"][: len(JPEGS["4:2:0"]) // 2], "(?i)truncated"),
        (OTHERS["PNG"][: len(OTHERS["PNG"]) // 2], "(?i)truncated"),
    ],
    ids=["empty", "doctype", "html", "xml", "random", "zeros", "two bytes", "random jpeg", "half jpeg", "half png"],
)
def test_what_is_not_an_image_says_so(content, said, decoder):
    for read in (decode, Square(32, 24, 24), lambda content: RandomArea(24, 0.08, 0)(content, 0)):
        with pytest.raises(BadImageError, match=said):
            read(content)


@pytest.mark.parametrize("content", [JPEGS["4:2:0"], OTHERS["PNG"]], ids=["JPEG", "PNG"])
def test_too_many_pixels_are_refused(content, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 2000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # an error above twice that
    with pytest.raises(BadImageError, match="more pixels"):
        decode(content)


def test_the_limit_is_pillows():
    assert decoding.LARGEST == 2 * Image.MAX_IMAGE_PIXELS


@contextmanager
def few_pixels():
    """A damaged header must not make a test take gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "LARGEST", 1_000_000)
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
        yield


FUZZED = JPEGS | {name: OTHERS[name] for name in OTHERS if name not in ("TIFF", "BMP")}  # libtiff writes to stderr


@settings(deadline=None, max_examples=250)
@given(
    name=st.sampled_from(sorted(FUZZED)),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
    early=st.booleans(),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    row=st.integers(0, 2**31),
)
def test_damage_ends_in_pixels_or_a_bad_image(name, edits, early, keep, row):
    content = bytearray(FUZZED[name])
    for place, value in edits:  # the first bytes decide how the rest is read
        content[place % (min(300, len(content)) if early else len(content))] = value
    damaged = bytes(content[: round(keep * len(content))])
    cuts = {
        "whole": decode,
        "exact": Square(24, 20, 20),
        "fast": Square(24, 24, 20, exact=False),
        "area": lambda content: RandomArea(20, 0.08, 7)(content, row),
    }
    sides = {"exact": (20, 20), "fast": (24, 24), "area": (20, 20)}
    with few_pixels():
        for way, cut in cuts.items():
            try:
                pixels = cut(damaged)
            except BadImageError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.shape == (*sides.get(way, pixels.shape[:2]), 3)
            assert pixels.size > 0


def test_warnings_that_are_errors_make_no_image_bad(monkeypatch):
    """In many threads at once; the filters are afterwards as they were."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # less than every image has, so that Pillow warns
    names = [name for name in OTHERS if name not in ("TIFF", "BMP")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with pytest.raises(Warning):
            Image.open(io.BytesIO(OTHERS["PNG"]))
        with ThreadPoolExecutor(8) as pool:
            jobs = [(name, pool.submit(decode, OTHERS[name])) for name in names * 8]
            pixels = [(name, job.result()) for name, job in jobs]
        assert list(warnings.filters) == before
    for name, found in pixels:
        assert np.array_equal(found, pillow(OTHERS[name])), name


def test_filters_changed_by_another_thread_meanwhile():
    """`warnings.catch_warnings` is not for threads: of two that overlap the later restores what the earlier set."""
    entered, changed = threading.Event(), threading.Event()

    def work():
        warnings.warn_explicit("odd", UserWarning, "Image.py", 1, "PIL.Image")
        entered.set()
        return changed.wait(10)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(despite_warnings, work)
            assert entered.wait(10)
            with warnings.catch_warnings():  # begins while our filter is in force and ends after it
                changed.set()
                assert job.result()
        assert list(warnings.filters) == before


# --- smaller than it is


SHRINKS = (1, 1.9, 2, 2.5, 3, 4, 5.5, 8, 30)


@pytest.mark.parametrize("shrink", SHRINKS)
@pytest.mark.parametrize("size", [(640, 480), (481, 641), (333, 97), (16, 16), (7, 501)])
def test_shrunk_never_below_what_was_asked(size, shrink):
    pixels = decode(encoded(picture(*size), "JPEG"), shrink)
    for is_, was in zip(pixels.shape, size, strict=False):
        assert int(was / shrink) <= is_ <= was
    down, across = (is_ / was for is_, was in zip(pixels.shape, size, strict=False))
    assert abs(down - across) < 1 / min(size)  # the aspect stays
    if shrink < 2:
        assert pixels.shape[:2] == size


def test_shrinking_shrinks():
    content = encoded(picture(640, 480), "JPEG")
    assert [decode(content, shrink).shape[:2] for shrink in (2, 4, 8)] == [(320, 240), (160, 120), (80, 60)]


def test_only_jpegs_shrink(monkeypatch):
    assert decode(encoded(picture(90, 80), "PNG"), 4).shape == (90, 80, 3)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert decode(encoded(picture(90, 80), "JPEG"), 4).shape == (90, 80, 3)


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_shrunk_pixels_are_those_of_a_resize(shrink):
    content = encoded(picture(640, 480), "JPEG", quality=92)
    small = decode(content, shrink)
    difference = apart(small, resize_exactly(decode(content), *small.shape[:2]))
    assert difference.mean() < 2.5
    assert difference.max() < 24


# --- resizing


lengths = st.integers(1, 90)


@settings(deadline=None, max_examples=200)
@given(
    height=lengths,
    width=lengths,
    to_height=lengths,
    to_width=lengths,
    kind=st.sampled_from(["noise", "edges", "smooth"]),
)
def test_the_fast_resize_is_pillows(height, width, to_height, to_width, kind):
    """To 2 of 255, as each of the two passes rounds; see the next test for how seldom it is 2."""
    pixels = picture(height, width, noise={"noise": 80.0, "edges": 0.0, "smooth": 4.0}[kind])
    if kind == "edges":
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    fast = resize_fast(pixels, to_height, to_width)
    assert fast.dtype == np.uint8
    assert apart(fast, resize_exactly(pixels, to_height, to_width)).max(initial=0) <= 2


def test_the_fast_resize_is_hardly_ever_off_by_more_than_one():
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(400):
        height, width, to_height, to_width = rng.integers(1, 200, 4)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        differences.append(apart(resize_fast(pixels, to_height, to_width), resize_exactly(pixels, to_height, to_width)))
    off = np.concatenate([d.ravel() for d in differences])
    assert (off > 1).mean() < 1e-5
    assert (off > 0).mean() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3)])
def test_a_few_pixels_become_many(size):
    pixels = picture(*size)
    assert apart(resize_fast(pixels, 50, 40), resize_exactly(pixels, 50, 40)).max() <= 1
    if size == (1, 1):
        assert (resize_fast(pixels, 50, 40) == pixels).all()


def test_a_resize_of_part_of_an_image():
    """A crop is a view with gaps between its rows."""
    whole = picture(60, 50)
    part = whole[11:43, 7:29]
    assert np.array_equal(resize_fast(part, 20, 20), resize_fast(part.copy(), 20, 20))


# --- squares


def torchvisions(pixels: np.ndarray, resize: int, crop: int) -> np.ndarray:
    cut = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    return np.asarray(cut(Image.fromarray(pixels)))


SIZES = [
    *[(256, 256), (224, 224), (225, 225), (300, 200), (200, 300), (333, 500), (500, 333), (257, 256), (256, 257)],
    *[(1, 1), (1, 2), (3, 2), (1, 8), (8, 1), (255, 257), (640, 481), (97, 513), (375, 499), (500, 63), (63, 500)],
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squares_are_torchvisions(size):
    pixels = picture(*size)
    square = Square(256, 224, 224)(encoded(pixels, "PNG"))
    assert np.array_equal(square, torchvisions(pixels, 256, 224))


@settings(deadline=None, max_examples=150)
@given(
    short=st.integers(1, 120),
    ratio=st.floats(1, 8),
    tall=st.booleans(),
    crop=st.integers(1, 40),
    more=st.integers(0, 13),
)
def test_squares_of_any_size_are_torchvisions(short, ratio, tall, crop, more):
    long = int(short * ratio)
    pixels = picture(long, short) if tall else picture(short, long)
    content, resize = encoded(pixels, "BMP"), crop + more
    expected = torchvisions(pixels, resize, crop)
    assert np.array_equal(Square(resize, crop, crop)(content), expected)
    # The wider square that training cuts from has the same centre.
    wide, margin = Square(resize, resize, crop)(content), round(more / 2)
    assert wide.shape == (resize, resize, 3)
    assert np.array_equal(wide[margin : margin + crop, margin : margin + crop], expected)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 20_000), (2, 65), (65, 2), (30, 2000), (1999, 31)], ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_very_long_images(size, exact, monkeypatch):
    """Only their middle is used: 1x5000 would become 256x1280000."""
    resized = []
    for name in ("resize_exactly", "resize_fast"):
        real = getattr(decoding, name)
        monkeypatch.setattr(decoding, name, lambda p, h, w, real=real: resized.append((h, w)) or real(p, h, w))
    pixels = picture(*size, noise=0)
    square = Square(256, 224, 224, exact=exact)(encoded(pixels, "PNG"))
    assert square.shape == (224, 224, 3)
    assert max(resized[0]) <= 8 * 256
    middle = pixels[size[0] // 2, size[1] // 2]
    assert apart(square[112, 112], middle).max() < 16


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3000, 16)], ids=str)
def test_very_long_jpegs(size, decoder):
    content = encoded(picture(*size), "JPEG")
    for exact in (True, False):
        assert Square(256, 256, 224, exact=exact)(content).shape == (256, 256, 3)
    for row in range(20):
        assert RandomArea(24, 0.08, 0)(content, row).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("size", "mean"), [((60, 80), 0.1), ((100, 64), 0.1), ((512, 512), 0.7), ((300, 400), 0.7), ((511, 513), 6.0)]
)
def test_fast_squares_are_near_the_exact_ones(size, mean):
    """From 256 on decoded at a half or less; 511 shrinks to 128 instead of 127.75, a drift of an eighth of a pixel."""
    content = encoded(picture(*size), "JPEG")
    difference = apart(Square(64, 64, 56, exact=False)(content), Square(64, 64, 56)(content))
    assert difference.mean() < mean


# --- random areas


def test_draws_depend_on_key_and_row_alone():
    content = encoded(picture(120, 90), "JPEG")
    cut = RandomArea(24, 0.08, key=5)
    again = [RandomArea(24, 0.08, key=5)(content, row) for row in reversed(range(30))][::-1]
    crops = [cut(content, row) for row in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(crops, again, strict=True))
    assert len({c.tobytes() for c in crops}) == 30
    others = [RandomArea(24, 0.08, key=6)(content, row) for row in range(30)]
    assert not any(np.array_equal(a, b) for a, b in zip(crops, others, strict=True))


def test_rows_share_no_random_numbers(monkeypatch):
    """A counter that moves by one from row to row would: each step of it yields four numbers of the same sequence."""
    seen = []

    def spy(height, width, min_area, rng):
        seen.extend(rng.random(24).tolist())  # ten tries take at least as many
        return 0, 0, height, width

    monkeypatch.setattr(decoding, "random_area", spy)
    for row in (*range(40), 2**20, 2**40):
        RandomArea(24, 0.08, key=5)(OTHERS["BMP"], row)
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("size", [(1200, 800), (801, 1203), (2000, 300)], ids=str)
def test_shrunk_decoding_shows_the_same_area(size, monkeypatch):
    """To a pixel of the shrunk image. If the crop lay elsewhere these slopes would differ by tens."""
    down, across = np.mgrid[0 : 255 : size[0] * 1j, 0 : 255 : size[1] * 1j]
    content = encoded(np.stack([down, across, (down + across) / 2], axis=-1).astype(np.uint8), "JPEG", quality=95)
    cut = RandomArea(24, 0.08, key=1)
    shrunk = [cut(content, row) for row in range(12)]
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert jpeg_size(content) is None
    for row, crop in enumerate(shrunk):
        assert apart(crop, cut(content, row)).mean() < 1 + 255 * 8 / min(size)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (64, 64), (100, 450), (450, 60)])
@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_random_areas_are_distributed_as_torchvisions(height, width, min_area):
    """Two-sample Kolmogorov-Smirnov; the long ones also come to the central crop after ten tries."""
    n = 2500
    rng = np.random.default_rng(0)
    ours = np.array([random_area(height, width, min_area, rng) for _ in range(n)])
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    draw = transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(image, [min_area, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    for what in (
        lambda c: c[:, 2] * c[:, 3] / (height * width),
        lambda c: c[:, 3] / c[:, 2],
        lambda c: c[:, 0],
        lambda c: c[:, 1],
    ):
        assert ks_2samp(what(ours), what(theirs)).pvalue > 1e-3


@settings(deadline=None, max_examples=300)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    min_area=st.floats(0.001, 1),
    seed=st.integers(0, 2**32),
)
def test_random_areas_lie_within_the_image(height, width, min_area, seed):
    top, left, h, w = random_area(height, width, min_area, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) >= 1


@pytest.mark.parametrize("form", ["GIF", "TIFF"])
def test_damage_behind_the_first_frame_is_no_error(form):
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)) for i in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:])
    whole, counts = stream.getvalue(), set()
    for end in range(len(whole) // 3, len(whole) + 1, 5):
        try:
            counts.add(count_frames(open_image(whole[:end])))
        except BadImageError:
            continue
    assert 1 in counts
