"""`alexnet prepare`: what the file holds, that it is the same whatever happens, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data import packing
from alexnet.data.packed import PackedStore, is_prepared, signed
from alexnet.data.packing import prepare
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError

SIDE = 32

pytestmark = pytest.mark.usefixtures("no_fsync")


def picture(seed: int) -> Image.Image:
    """Smooth, of one of several shapes: lying, standing, square, and the short side at SIDE already."""
    width, height = [(60, 40), (41, 67), (48, 48), (77, 32)][seed % 4]
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, seed: int = 0, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(seed := seed + 1).save(folder / name / f"{i:03d}.jpg", "JPEG", quality=95, subsampling=0)
    return folder


def config(root: Path, **fields) -> DataConfig:
    return DataConfig(**{"source": "folder", "root": str(root), "val_fraction": 0.0, "test_fraction": 0.0} | fields)


def pack(root: Path, out: Path, **options) -> dict:
    return prepare(config(root), out, **{"side": SIDE, "workers": 2} | options)


def table(path: Path) -> pa.Table:
    """With plain pyarrow, as anyone would."""
    return pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()


def described(path: Path) -> dict:
    return json.loads(table(path).schema.metadata[b"alexnet"])


def files(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def prepared_pixels(path: Path, side: int) -> np.ndarray:
    """What Pillow makes of a file: RGB, short side at `side` (the long one rounded down), [H, W, 3]."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    size = [max(side, int(side * length / short)) for length in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Photographs in train and val; only to be read."""
    root = tmp_path_factory.mktemp("original")
    fill(root / "train", cat=7, dog=5, owl=4)
    fill(root / "val", seed=50, cat=2, dog=2, owl=1)
    return root


@pytest.fixture(scope="module")
def done(original, tmp_path_factory):
    """The same, prepared; only to be read."""
    out = tmp_path_factory.mktemp("done")
    pack(original, out)
    return out


@pytest.fixture
def copy(done, tmp_path):
    """A prepared folder to damage."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


def refused(root: Path, *texts: object, **fields) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(config(root, **fields))
    for text in texts:
        assert str(text) in str(caught.value)
    return str(caught.value)


def test_file_is_as_described(original, tmp_path):
    """With the published settings: a short side of 256."""
    report = prepare(config(original), tmp_path / "new" / "out", workers=2)
    out = tmp_path / "new" / "out"
    assert listing(out) == {"train.arrow", "val.arrow", "report.json"}
    for part in ("train", "val"):
        rows = table(out / f"{part}.arrow")
        assert rows.column_names == ["image", "label", "source", "crc32"]
        paths = sorted((original / part).rglob("*.jpg"))
        assert rows["source"].to_pylist() == [str(p) for p in paths]
        assert rows["label"].to_pylist() == [["cat", "dog", "owl"].index(p.parent.name) for p in paths]
        for path, encoded in zip(paths, rows["image"].to_pylist(), strict=True):
            with Image.open(io.BytesIO(encoded)) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")
                assert min(image.size) == 256
                found, expected = np.asarray(image).astype(int), prepared_pixels(path, 256).astype(int)
            assert found.shape == expected.shape
            assert np.abs(found - expected).mean() < 3  # JPEG's loss alone
        meta = described(out / f"{part}.arrow")
        assert (meta["classes"], meta["names"]) == (["cat", "dog", "owl"], ["cat", "dog", "owl"])
        assert (meta["source"], meta["part"], meta["parts"]) == ("folder", part, ["train", "val"])
        assert (meta["format"], meta["side"], meta["quality"], meta["orientation"]) == (2, 256, 90, "apply")
        assert report[part] == meta["report"]
        assert report[part]["images"] == len(rows)
        assert report[part]["bad"] == report[part]["converted"] == []
    assert json.loads((out / "report.json").read_text()) == report
    fingerprints = {described(out / f"{part}.arrow")["fingerprint"] for part in ("train", "val")}
    assert len(fingerprints) == 2
    assert {len(f) for f in fingerprints} == {64}
    assert np.load(io.BytesIO(table(out / "train.arrow").schema.metadata[b"mean_image"])).shape == (256, 256, 3)


def test_statistics_are_numpys(original, done):
    squares = [square(prepared_pixels(p, SIDE), SIDE) for p in sorted((original / "train").rglob("*.jpg"))]
    pixels = np.stack(squares).astype(np.float64)
    flat = pixels.reshape(-1, 3)
    store = PackedStore(done / "train.arrow")
    assert np.array_equal(store.mean_image, pixels.mean(axis=0).astype(np.float32))
    found = described(done / "train.arrow")["statistics"]
    covariance = np.cov(flat.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    close = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(found["mean"], flat.mean(axis=0) / 255, **close)
    np.testing.assert_allclose(found["std"], flat.std(axis=0) / 255, **close)
    np.testing.assert_allclose(found["covariance"], covariance, **close)
    np.testing.assert_allclose(found["eigenvalues"], values, **close)
    eigenvectors = np.array(found["eigenvectors"])
    np.testing.assert_allclose(np.abs(eigenvectors), np.abs(vectors), **close)  # a column's sign is free
    np.testing.assert_allclose(eigenvectors @ np.diag(values) @ eigenvectors.T, covariance, **close)
    axes = np.array(store.statistics.colour_axes)
    np.testing.assert_allclose(axes, eigenvectors * np.sqrt(values), **close)
    np.testing.assert_allclose(axes @ axes.T, covariance, **close)
    assert store.statistics.mean == tuple(found["mean"])
    assert store.statistics.std == tuple(found["std"])
    assert PackedStore(done / "val.arrow").statistics is None  # training pixels alone


def test_one_colour(tmp_path):
    """A covariance of zeros: no negative variance, no division by a deviation of zero later."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (50, 40), (10, 200, 77)).save(tmp_path / "in" / "a" / "x.png")
    pack(tmp_path / "in", tmp_path / "out")
    found = described(tmp_path / "out" / "all.arrow")["statistics"]
    np.testing.assert_allclose(np.array(found["mean"]) * 255, [10, 200, 77])
    assert min(found["std"]) > 0
    assert np.isfinite(found["colour_axes"]).all()
    np.testing.assert_allclose(found["colour_axes"], 0, atol=1e-4)


def odd_photos(root: Path) -> Path:
    """Good and bad ones: a.. are good, x.. are not."""
    folder = fill(root, kind=1) / "kind"
    picture(2).convert("CMYK").save(folder / "a-cmyk.jpg", "JPEG")
    picture(3).convert("L").save(folder / "a-grey.jpg", "JPEG")
    picture(4).save(folder / "a-png.JPEG", "PNG")
    picture(5).convert("RGBA").save(folder / "a-rgba.png")
    picture(6).convert("P").save(folder / "a-palette.png")
    picture(7).save(folder / "a-moving.gif", "GIF", save_all=True, append_images=[picture(7).rotate(9)])
    Image.new("RGB", (1, 1)).save(folder / "a-pixel.png")
    (folder / "x-empty.jpg").write_bytes(b"")
    (folder / "x-page.jpg").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "x-cut.jpg").write_bytes((folder / "000.jpg").read_bytes()[:300])
    (folder / "x-noise.jpg").write_bytes(np.random.default_rng(0).bytes(2000))
    return root


def test_bad_images_are_left_out_and_odd_ones_converted(tmp_path):
    odd_photos(tmp_path / "in")
    report = pack(tmp_path / "in", tmp_path / "out")["all"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"all": report}
    bad = {Path(source).name: why for source, why in report["bad"]}
    assert bad.keys() == {"x-empty.jpg", "x-page.jpg", "x-cut.jpg", "x-noise.jpg"}
    assert bad["x-empty.jpg"] == "the file is empty"
    assert bad["x-page.jpg"] == "it is a web page, not an image"
    converted = {Path(source).name: what for source, what in report["converted"]}
    assert converted.pop("a-moving.gif").startswith("GIF ")
    assert converted == {
        "a-cmyk.jpg": "JPEG CMYK",
        "a-png.JPEG": "PNG RGB",
        "a-rgba.png": "PNG RGBA",
        "a-palette.png": "PNG P",
        "a-pixel.png": "PNG RGB",
    }
    rows = table(tmp_path / "out" / "all.arrow")
    names = [Path(source).name for source in rows["source"].to_pylist()]
    assert names == sorted(p.name for p in (tmp_path / "in" / "kind").iterdir() if not p.name.startswith("x"))
    assert report["images"] == len(names) == 8
    for source, encoded in zip(rows["source"].to_pylist(), rows["image"].to_pylist(), strict=True):
        with Image.open(io.BytesIO(encoded)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            found, expected = np.asarray(image).astype(int), prepared_pixels(source, SIDE).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < 12  # chroma is halved, and these are small


def test_a_part_without_one_good_image(tmp_path, monkeypatch):
    """Of a chunk all may be bad; of a whole split not."""
    monkeypatch.setattr(packing, "CHUNK", 2)
    root = fill(tmp_path / "in", a=6)
    for i in (2, 3):
        (root / "a" / f"{i:03d}.jpg").write_text("x")
    assert pack(root, tmp_path / "out")["all"]["images"] == 4
    assert len(load_dataset(config(tmp_path / "out")).train) == 4
    for path in (root / "a").iterdir():
        path.write_text("x")
    with pytest.raises(DataError, match=r"none of the 6 all images can be read.*000\.jpg"):
        pack(root, tmp_path / "other")


def test_long_photographs(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (5000, 1)).save(tmp_path / "in" / "a" / "long.png")
    picture(1).save(tmp_path / "in" / "a" / "x.jpg")
    report = pack(tmp_path / "in", tmp_path / "out")["all"]
    ((source, why),) = report["bad"]
    assert source.endswith("long.png")
    assert "5000x1" in why


@pytest.mark.parametrize("name", ["käse 名前", "x" * 240, "line\nbreak"], ids=["unicode", "long", "newline"])
def test_odd_names(tmp_path, name):
    root = fill(tmp_path / "in", **{name: 2})
    pack(root, tmp_path / "out")
    data = load_dataset(config(tmp_path / "out"))
    assert data.classes == (name,)
    assert table(tmp_path / "out" / "all.arrow")["source"].to_pylist()[0] == str(root / name / "000.jpg")


def test_name_that_is_not_utf8(tmp_path):
    root = fill(tmp_path / "in", a=2)
    try:
        os.rename(root / "a" / "001.jpg", os.fsencode(root / "a") + b"/b\xfe.jpg")
    except OSError:
        pytest.skip("this file system holds UTF-8 only")
    (root / "a" / os.fsdecode(b"bad\xfe.jpg")).write_text("")
    report = pack(root, tmp_path / "out")["all"]
    assert (report["images"], len(report["bad"])) == (2, 1)
    data = load_dataset(config(tmp_path / "out"))
    assert "000.jpg" in data.train.place(0)
    assert "b" in data.train.place(1)
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    assert pack(root, odd)["all"] == report
    assert pack(root, odd)["all"] == report
    assert load_dataset(config(odd)).fingerprint == data.fingerprint


def test_workers_and_parts_do_not_change_a_byte(original, done, tmp_path):
    for workers in (1, 5):
        pack(original, tmp_path / str(workers), workers=workers)
        assert files(tmp_path / str(workers)) == files(done)


def test_progress(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 4)
    seen = []
    pack(original, tmp_path / "out", on_progress=lambda *said: seen.append(said))
    train = [said for said in seen if said[0] == "train"]
    assert train == [("train", n, 16) for n in range(17)]
    assert seen[17:] == [("val", n, 5) for n in range(6)]


def test_again_does_nothing(original, copy, monkeypatch):
    before = files(copy)
    states = [(copy / name).stat() for name in ("train.arrow", "val.arrow")]
    monkeypatch.setattr(packing, "encode", lambda *_: pytest.fail("decoded"))
    seen = []
    report = pack(original, copy, on_progress=lambda *said: seen.append(said))
    assert files(copy) == before
    again = [(copy / name).stat() for name in ("train.arrow", "val.arrow")]
    assert [(s.st_mtime_ns, s.st_ino) for s in again] == [(s.st_mtime_ns, s.st_ino) for s in states]
    assert report == json.loads(before["report.json"])
    assert seen == [("train", 16, 16), ("val", 5, 5)]


# One process that imports once and forks: each child prepares and is killed. argv: the folder of it all.
DRIVER = """
import json, os, random, resource, shutil, signal, sys, time
from pathlib import Path
from alexnet.config import DataConfig
from alexnet.data import packing
from alexnet.errors import AlexNetError

packing.CHUNK = 4
os.fsync = lambda _: None  # it is slow, and no power fails here

def child(before=lambda: None, kill_after=None):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            before()
            packing.prepare(DataConfig(source="folder", root=root), out, side=32, workers=2)
            code = 0
        except AlexNetError as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
            code = problem.exit_code
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def content():
    return {str(p.relative_to(out)): p.read_bytes() if p.is_file() else None for p in out.rglob("*")}

def die_at(number):
    # Killed just before the call that changes the disk with this number, from 0.
    left = [number]
    def wrap(owner, name):
        call = getattr(owner, name)
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        setattr(owner, name, wrapped)
    for owner, name in [(os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")]:
        wrap(owner, name)

def at_any_moment(whole, seconds):
    kills, wrong = 0, []
    draw = random.Random(0)
    for _ in range(3):
        shutil.rmtree(out)
        for _ in range(3):
            kills += child(kill_after=draw.uniform(0, seconds / 2)) == -signal.SIGKILL
        assert child() == 0
        if content() != whole:
            wrong.append(sorted(content()))
    return kills, wrong

def before_each_change(whole, seconds):
    kills, wrong = 0, []
    while True:
        shutil.rmtree(out)
        code = child(lambda: die_at(kills))
        if code == 0:
            return kills, wrong
        assert code == -signal.SIGKILL, code
        assert child() == 0
        if content() != whole:
            wrong.append([kills, sorted(content())])
        kills += 1

def in_the_middle_of_a_write(whole, seconds):
    largest = max(len(c) for c in whole.values() if c)
    kills, wrong = 0, []
    for limit in (200, 20_000, largest - 1000):  # report.json and parts, parts, the whole
        def cut():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        shutil.rmtree(out)
        kills += child(cut) == -signal.SIGXFSZ
        assert child() == 0
        if content() != whole:
            wrong.append([limit, sorted(content())])
    return kills, wrong

def with_a_limit(whole, seconds):
    largest = max(len(c) for c in whole.values() if c)
    shutil.rmtree(out)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1000, resource.RLIM_INFINITY))
    assert child(limit) == 3
    left = content()
    assert "all.arrow" not in left
    parts = sum(".parts/" in name and name.endswith(".arrow") for name in left)
    def nothing_twice():
        packing.encode = lambda *_: os._exit(9)
    assert child(nothing_twice) == 0
    return parts, [] if content() == whole else [sorted(content())]

results = {}
modes = {at_any_moment: "large", before_each_change: "small", in_the_middle_of_a_write: "large", with_a_limit: "large"}
for mode, folder in modes.items():
    root, out = sys.argv[1] + "/" + folder, Path(sys.argv[1], "out")
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    assert child() == 0
    seconds = time.monotonic() - start
    whole = content()
    count, wrong = mode(whole, seconds)
    results[mode.__name__] = {"count": count, "wrong": wrong, "names": sorted(whole)}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """What DRIVER found, and what its children said."""
    folder = tmp_path_factory.mktemp("driven")
    for name, count in (("large", 29), ("small", 2)):
        fill(folder / name, a=count, b=count)
        (folder / name / "a" / "bad.jpg").write_text("")
    line = [sys.executable, "-c", DRIVER, str(folder)]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads(ended.stdout)
    assert all(result["names"] == ["all.arrow", "report.json"] for result in results.values())
    return results, ended.stderr


@pytest.mark.slow
def test_killed_at_any_moment(driven):
    """The same call, until it is done, ends with the same bytes and nothing besides."""
    result = driven[0]["at_any_moment"]
    assert result["count"] >= 3
    assert result["wrong"] == []


@pytest.mark.slow
def test_killed_before_each_change_to_the_disk(driven):
    result = driven[0]["before_each_change"]
    assert result["count"] >= 12
    assert result["wrong"] == []


@pytest.mark.slow
def test_killed_in_the_middle_of_a_write(driven):
    result = driven[0]["in_the_middle_of_a_write"]
    assert result["count"] == 3
    assert result["wrong"] == []


@pytest.mark.slow
def test_file_size_limit(driven):
    """The parts fit, the file does not; with more room it goes on without a second decoding."""
    result = driven[0]["with_a_limit"]
    assert "DataError: cannot write to" in driven[1]
    assert "the same command goes on" in driven[1]
    assert result["count"] == 15
    assert result["wrong"] == []


def test_full_disk(original, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 4)
    whole = tmp_path / "whole"
    pack(original, whole)
    out = tmp_path / "out"
    write, calls, encoded = packing.write_atomically, [], []
    encode = packing.encode

    def full(path, content):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    def counted(photos, row, *settings):
        encoded.append(row)
        return encode(photos, row, *settings)

    monkeypatch.setattr(packing, "write_atomically", full)
    with pytest.raises(DataError) as caught:
        pack(original, out)
    assert str(out) in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    assert len([n for n in files(out) if n.endswith(".arrow")]) == 2  # what was done
    assert ".lock" not in files(out)
    monkeypatch.setattr(packing, "write_atomically", write)
    monkeypatch.setattr(packing, "encode", counted)
    pack(original, out)
    assert sorted(encoded) == sorted([*range(8, 16), *range(5)])  # two parts of train were there
    assert files(out) == files(whole)


def test_stopped_by_control_c(original, done, tmp_path):
    def stop(part, count, total):
        if (part, count) == ("val", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(original, tmp_path, on_progress=stop)
    assert (tmp_path / "train.arrow").exists()
    pack(original, tmp_path)
    assert files(tmp_path) == files(done)


def test_other_settings_are_refused_before_anything_is_lost(original, copy):
    before = files(copy)
    for options in ({"side": 48}, {"quality": 50}):
        with pytest.raises(UsageError, match=r"is prepared already, with --(side|quality) .*choose another --out"):
            pack(original, copy, **options)
    with pytest.raises(UsageError, match=r"is prepared already, with --data\.orientation apply: choose another --out"):
        prepare(config(original, orientation="ignore"), copy, side=SIDE, workers=1)
    assert files(copy) == before
    for name in ("train", "val"):
        (copy / f"{name}.arrow").unlink()
    pack(original, copy, side=48, quality=50)
    assert {described(copy / f"{p}.arrow")["side"] for p in ("train", "val")} == {48}
    assert listing(copy) == {"train.arrow", "val.arrow", "report.json"}


def test_parts_of_other_settings_are_removed(original, done, tmp_path):
    def stop(part, count, total):
        if (part, count) == ("train", 16):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", 4)
        with pytest.raises(KeyboardInterrupt):
            pack(original, tmp_path, side=48, on_progress=stop)
    assert any(".parts" in name for name in files(tmp_path))
    pack(original, tmp_path)
    assert files(tmp_path) == files(done)


def test_half_done_anew_does_not_pass_for_complete(original, copy):
    """Training images with a short side of 48 and validation images with 32 are no data set."""

    def stop(part, count, total):
        if part == "val":
            raise KeyboardInterrupt

    for name in ("train", "val"):
        (copy / f"{name}.arrow").unlink()
    with pytest.raises(KeyboardInterrupt):
        pack(original, copy, side=48, on_progress=stop)
    refused(copy, copy, "alexnet prepare")


def test_other_photographs_of_the_same_kind(original, copy, tmp_path):
    """A photograph more: the split it is in is done anew, and the other as it was."""
    root = Path(shutil.copytree(original, tmp_path / "more"))
    pack(root, tmp_path / "out")
    picture(99).save(root / "train" / "owl" / "999.jpg")
    before = (tmp_path / "out" / "val.arrow").stat()
    assert pack(root, tmp_path / "out")["train"]["images"] == 17
    assert (tmp_path / "out" / "val.arrow").stat().st_mtime_ns == before.st_mtime_ns


def test_another_source_in_the_same_folder_is_refused(original, copy, tmp_path):
    before = files(copy)
    with pytest.raises(UsageError, match=rf"{copy} holds another preparation .*--out"):
        pack(fill(tmp_path / "in", a=2), copy)  # one part "all" instead of train and val
    with pytest.raises(UsageError, match=r"of folder.*--out"):
        prepare(config(original, source="imagenet"), copy, side=SIDE, workers=1)
    assert files(copy) == before


def test_what_cannot_be_prepared(original, done, tmp_path):
    with pytest.raises(UsageError, match=rf"{done} is prepared already.*--data\.root"):
        pack(done, tmp_path / "out")
    for source in ("cifar10", "digits", "nothing"):
        with pytest.raises(UsageError, match=rf"{source}.*imagenet, stanford-dogs, folder"):
            prepare(config(original, source=source), tmp_path / "out")
    for options in ({"side": 8}, {"side": 5000}, {"quality": 0}, {"quality": 101}, {"workers": -1}, {"workers": 0}):
        (name,) = options
        with pytest.raises(UsageError, match=f"--{name} .* at least"):
            pack(original, tmp_path / "out", **options)
    with pytest.raises(DataError, match=r"absent.*--data\.root"):
        pack(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_without_images(tmp_path):
    """Stanford Dogs' list may be empty."""
    from scipy.io import savemat

    (tmp_path / "dogs" / "Images" / "n0-a").mkdir(parents=True)
    picture(0).save(tmp_path / "dogs" / "Images" / "n0-a" / "x.jpg")
    one = np.array([["n0-a/x.jpg"]], dtype=object)
    savemat(tmp_path / "dogs" / "train_list.mat", {"file_list": one})
    savemat(tmp_path / "dogs" / "test_list.mat", {"file_list": one[:0]})
    with pytest.raises(DataError, match="test"):
        prepare(config(tmp_path / "dogs", source="stanford-dogs"), tmp_path / "out", side=SIDE, workers=1)


def test_out_among_the_photographs_is_refused(original):
    with pytest.raises(UsageError, match="inside"):
        prepare(config(original), original / "prepared", side=SIDE, workers=1)
    assert not (original / "prepared").exists()


def test_out_that_cannot_be_written(original, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(DataError, match=rf"cannot write to {out}.*--out"):
            pack(original, out)


def test_two_at_once_are_refused(original, done, copy):
    lock = FileLock(copy / ".lock")
    with lock:
        with pytest.raises(UsageError, match=rf"another process is preparing {copy}.*--out"):
            pack(original, copy)
        assert (copy / ".lock").exists()  # the other's
    pack(original, copy)
    assert files(copy) == files(done)


# What prepared folders give, whole and damaged


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"val_fraction": 0.3},
        {"fraction": 0.6, "val_fraction": 0.4, "split_seed": 5},
        {"top_classes": 2},
        {"resplit": True, "test_fraction": 0.4},
        {"resplit": True, "top_classes": 2, "test_fraction": 0.3, "fraction": 0.8, "val_fraction": 0.2},
    ],
    ids=lambda f: ",".join(f) or "plain",
)
@pytest.mark.parametrize("parts", [("",), ("train", "val"), ("train", "test"), ("train", "val", "test")], ids="+".join)
def test_prepared_and_original_are_split_alike(tmp_path, monkeypatch, parts, fields):
    monkeypatch.setattr(packing, "CHUNK", 4)
    root, out = tmp_path / "in", tmp_path / "out"
    for i, part in enumerate(parts):
        fill(root / part, seed=100 * i, cat=5, dog=3, owl=6)
    pack(root, out, side=16)
    fields = {"test_fraction": 0.25, "val_fraction": 0.25} | fields
    plain, prepared = (load_dataset(config(place, **fields)) for place in (root, out))
    assert (plain.classes, plain.names) == (prepared.classes, prepared.names)
    for name in ("train", "val", "test"):
        ours, theirs = getattr(prepared, name), getattr(plain, name)
        places = [place.partition(".arrow:")[2] for place in ours.places(np.arange(len(ours)))]
        assert places == theirs.places(np.arange(len(theirs)))
        assert np.array_equal(ours.labels, theirs.labels)
    assert sum(len(s) for s in (plain.train, plain.val, plain.test)) > 0
    assert prepared.note is None
    assert load_dataset(config(out, **fields)).fingerprint == prepared.fingerprint


def test_a_prepared_image_is_found_by_its_row(done):
    data = load_dataset(config(done))
    rows = table(done / "train.arrow")
    assert data.train.store.side == SIDE
    for i, encoded in enumerate(rows["image"].to_pylist()):
        assert bytes(data.train.read(i)) == encoded


def test_read_only_prepared_folder(copy):
    before = files(copy)
    for path in (*copy.iterdir(), copy):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_dataset(config(copy)).train) == 16
    finally:
        copy.chmod(0o755)
    assert files(copy) == before


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_split_missing(copy, part):
    (copy / f"{part}.arrow").unlink()
    assert is_prepared(copy)
    refused(copy, copy, part, "run alexnet prepare again")


def test_a_split_of_another_preparation(original, copy, tmp_path):
    (copy / "val.arrow").write_bytes((copy / "train.arrow").read_bytes())  # renamed by hand
    refused(copy, copy, "val", "run alexnet prepare again")
    for part in ("train", "val"):
        fill(tmp_path / "in" / part, other=2)
    pack(tmp_path / "in", tmp_path / "out")
    (copy / "val.arrow").write_bytes((tmp_path / "out" / "val.arrow").read_bytes())
    refused(copy, copy, "run alexnet prepare again")


def test_another_source_is_named(copy):
    refused(copy, copy, "prepared from folder, not stanford-dogs", "--data.source folder", source="stanford-dogs")


def test_truncated_anywhere(copy):
    whole = (copy / "train.arrow").read_bytes()
    lengths = [0, 1, 6, 8, 100, *np.linspace(200, len(whole) - 1, 40, dtype=int), len(whole) - 4, len(whole) - 10]
    for length in lengths:
        (copy / "train.arrow").write_bytes(whole[:length])
        refused(copy, copy / "train.arrow", "prepare it again")


@pytest.mark.parametrize("junk", [b"<html>" * 50, np.random.default_rng(1).bytes(5000), b"ARROW1" + bytes(500)])
def test_something_else_under_the_name(copy, junk):
    (copy / "train.arrow").write_bytes(junk)
    refused(copy, copy / "train.arrow", "prepare it again")


def rewrite(path: Path, change) -> None:
    """The same rows with other metadata."""
    rows = table(path).combine_chunks()
    metadata = change(dict(rows.schema.metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema.with_metadata(metadata)) as writer:
        writer.write_table(rows.replace_schema_metadata(metadata))
    path.write_bytes(sink.getvalue())


def test_newer_format(copy):
    def newer(metadata):
        return metadata | {b"alexnet": json.dumps({"format": 3, "all": "else"}).encode()}

    for part in ("train", "val"):
        rewrite(copy / f"{part}.arrow", newer)
    refused(copy, copy, "has format 3, this version reads up to 2", "upgrade")


BODY = b'{"format": 1, "source": "folder", "part": "train", "parts": ["train", "val"], "classes": 3}'


@pytest.mark.parametrize("text", [BODY, b"{", b"[]", b"{}", b"\xff", b'{"format": 1}', b'{"format": "one"}', b"null"])
def test_metadata_that_is_not_ours(copy, text):
    rewrite(copy / "train.arrow", lambda metadata: metadata | {b"alexnet": text})
    refused(copy, copy / "train.arrow")


def test_arrow_file_of_someone_else(copy):
    rewrite(copy / "train.arrow", lambda _: {})
    refused(copy, copy / "train.arrow", "not one that alexnet prepare wrote")


def test_other_columns_under_our_metadata(copy):
    rows = table(copy / "train.arrow")
    other = pa.table(
        {"label": rows["label"]}, rows.schema.with_metadata(None).empty_table().schema.remove(0).remove(1).remove(1)
    )
    other = other.replace_schema_metadata(rows.schema.metadata)
    with pa.OSFile(str(copy / "train.arrow"), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    refused(copy, copy / "train.arrow")


def test_labels_outside_the_classes(copy):
    rows = table(copy / "train.arrow").combine_chunks()
    labels = rows["label"].to_numpy().copy()
    labels[3] = 3
    rows = rows.set_column(1, rows.schema.field(1), pa.array(labels))
    rows = rows.replace_schema_metadata(signed(rows.schema.metadata, rows.to_batches()))
    with pa.OSFile(str(copy / "train.arrow"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    refused(copy, "train labels run from 0 to 3", "3 classes")


@pytest.mark.parametrize("damage", ["cut", "html", "removed"])
def test_a_damaged_file_is_prepared_again_as_the_message_says(original, done, copy, damage):
    path = copy / "train.arrow"
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "cut" else b"<html>")
    pack(original, copy)
    assert files(copy) == files(done)


@pytest.mark.parametrize("whose", ["newer", "other"])
def test_a_whole_file_of_something_else_is_not_replaced(original, copy, whose):
    """A damaged file is made again; one of a newer version or of another program is somebody's."""
    newer = {b"alexnet": json.dumps({"format": 3}).encode()}
    rewrite(copy / "val.arrow", lambda _: newer if whose == "newer" else {})
    before = files(copy)
    with pytest.raises(DataError, match=r"val\.arrow"):
        pack(original, copy)
    assert files(copy) == before


def test_a_preparation_of_other_classes_is_not_replaced(copy, tmp_path):
    """Photographs of dogs, prepared by mistake where those of cats are."""
    before = files(copy)
    others = fill(tmp_path / "others" / "train", seed=90, corgi=2, pug=2).parent
    fill(others / "val", seed=95, corgi=1, pug=1)
    with pytest.raises(UsageError, match=r"another preparation \(train.arrow of 3 classes: cat, dog, owl\).*--out"):
        pack(others, copy)
    assert files(copy) == before


def test_counts_that_a_file_does_not_hold(copy):
    """Arrow believes what a file says of its rows, and would read whatever lies behind it."""
    file = copy / "train.arrow"
    rows, content = len(PackedStore(file)), file.read_bytes()
    count = rows.to_bytes(8, "little")
    places = [at for at in range(len(content)) if content.startswith(count, at)]
    assert places
    refused_at = []
    for at in places:
        file.write_bytes(content[:at] + (10**6).to_bytes(8, "little") + content[at + 8 :])
        try:
            assert len(PackedStore(file).labels) == rows
        except DataError:
            refused_at.append(at)
    assert refused_at


def test_parts_behind_a_link_are_not_deleted(original, tmp_path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    (elsewhere / "thesis").mkdir(parents=True)
    out.mkdir()
    (out / ".train.parts").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link"):
        pack(original, out)
    assert (elsewhere / "thesis").is_dir()


def test_what_is_passed_over_is_told(tmp_path, call):
    """Training on the prepared copy could not say it any more."""
    fill(tmp_path / "in", cat=4, dog=4)
    (tmp_path / "in" / "cat" / "more.heic").write_bytes(b"heic")
    line = ["prepare", "folder", "--data.root", tmp_path / "in", "--out", tmp_path / "out"]
    code, said, error = call(*line, "--side", 36, "--workers", 1)
    assert code == 0, error
    assert "note: " in said
    assert ".heic" in said
    assert "slower than a prepared copy" not in said


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
def test_a_link_to_itself_is_no_folder(tmp_path, call):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, _, error = call("prepare", "folder", "--data.root", tmp_path / "loop", "--out", tmp_path / "out")
    assert code == 3
    assert "there is no folder" in error
