"""Bytes that are damaged after preparing are noticed: on opening, on reading, and by `alexnet verify`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from alexnet.config import DataConfig
from alexnet.data.loading import open_split
from alexnet.data.packed import PackedStore, signed
from alexnet.data.sources import load_dataset
from alexnet.data.verification import verify_prepared
from alexnet.errors import DataError
from test_packing import SIDE, config, fill, pack, table

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("original"), tmp_path_factory.mktemp("done")
    fill(root / "train", cat=6, dog=5)
    fill(root / "val", seed=50, cat=2, dog=2)
    pack(root, out)
    return out


@pytest.fixture
def copy(done, tmp_path):
    return Path(shutil.copytree(done, tmp_path / "copy"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def everything(root: Path) -> tuple:
    """All that training and evaluation take from a folder: classes, statistics, labels, images."""
    data = load_dataset(config(root))
    store = data.train.store
    images = [bytes(split.read(row)) for split in (data.train, data.val) for row in range(len(split))]
    labels = [split.labels.tolist() for split in (data.train, data.val)]
    return data.classes, data.names, store.statistics, store.mean_image.tobytes(), store.side, labels, images


def test_checksums_are_those_of_the_columns(done):
    """Recomputed with plain pyarrow and zlib."""
    rows = table(done / "train.arrow")
    assert rows["crc32"].to_pylist() == [zlib.crc32(image) for image in rows["image"].to_pylist()]


def test_a_whole_folder(done, call):
    verdicts = verify_prepared(done)
    assert [(v.path.name, v.images, v.damaged, v.unknown) for v in verdicts] == [
        ("train.arrow", 11, (), None),
        ("val.arrow", 4, (), None),
    ]
    code, out, _ = call("verify", done)
    assert code == 0
    assert out.splitlines() == [f"{done / 'train.arrow'}: 11 images, whole", f"{done / 'val.arrow'}: 4 images, whole"]


def test_a_flipped_bit_anywhere_changes_nothing_silently(done, copy):
    """Whatever bit of a prepared file is flipped, training and evaluation get the same or an error; and what verify
    calls whole gives the same."""
    wanted, path, rng = everything(done), copy / "val.arrow", np.random.default_rng(0)
    content = path.read_bytes()
    places = np.unique(
        [*range(0, 400, 7), *rng.integers(0, len(content), 400), *range(len(content) - 400, len(content), 7)]
    )
    said: list[str] = []
    for at in places.tolist():
        flip(path, at, int(rng.integers(8)))
        whole = not any(v.damaged or v.unfit for v in verify_prepared(copy))
        try:
            assert everything(copy) == wanted, at
        except DataError as problem:
            said.append(str(problem))
            assert not whole, at
        path.write_bytes(content)
    assert all(str(copy) in text for text in said)
    assert len(said) > len(places) / 2  # the rest lay in padding or in the names of columns that nothing reads


def test_every_image_and_every_label_is_covered(done, copy):
    path = copy / "train.arrow"
    content = path.read_bytes()
    for number, image in enumerate(table(done / "train.arrow")["image"].to_pylist()):
        flip(path, content.index(image) + len(image) // 2)
        data = load_dataset(config(copy))
        with pytest.raises(DataError, match=r"its checksum differs.*delete it and run alexnet prepare again"):
            data.train.read(number)
        (verdict, _) = verify_prepared(copy)
        assert len(verdict.damaged) == 1
        assert f"{number % 6:03d}.jpg" in verdict.damaged[0]
        path.write_bytes(content)
    labels = np.array(table(path)["label"].to_pylist(), dtype=np.int64).tobytes()
    flip(path, content.index(labels) + 8 * 7)  # a dog becomes a cat
    with pytest.raises(DataError, match=r"checksum of label.*prepare it again"):
        load_dataset(config(copy))


def test_evaluation_stops_at_a_damaged_image_and_training_leaves_it_out(done, copy):
    image = table(done / "train.arrow")["image"][3].as_py()
    path = copy / "train.arrow"
    flip(path, path.read_bytes().index(image) + len(image) - 40, 3)  # decodes all the same
    loader = open_split(load_dataset(config(copy)).train, torch.device("cpu"), DataConfig(resize=SIDE, crop=24))
    with pytest.raises(DataError, match="its checksum differs"):
        list(loader.evaluation_batches(4))
    kept = list(loader.evaluation_batches(4, skip_bad=True))
    assert sum(len(labels) for _, labels in kept) == 10
    assert list(loader.bad) == [3]


def test_verify_names_what_is_damaged_and_prepare_mends_it(done, copy, call):
    path = copy / "val.arrow"
    image = table(path)["image"][1].as_py()
    flip(path, path.read_bytes().index(image) + 100)
    code, out, err = call("verify", copy)
    assert code == 3
    assert f"{path}: 4 images, 1 damaged" in out
    assert "001.jpg" in out
    assert "run alexnet prepare again" in err
    assert f"{copy / 'train.arrow'}: 11 images, whole" in out
    path.unlink()
    original = Path(table(done / "val.arrow")["source"][0].as_py()).parents[2]
    pack(original, copy)
    assert path.read_bytes() == (done / "val.arrow").read_bytes()


def test_verify_tells_by_its_exit_code_whoever_reads_no_further(copy):
    """`alexnet verify FOLDER | head -1`, also where the answer is longer than what a pipe holds back."""
    path = copy / "val.arrow"
    flip(path, path.read_bytes().index(table(path)["image"][1].as_py()) + 100)
    read, write = os.pipe()
    os.close(read)
    for unbuffered in ("", "1"):
        ended = subprocess.run(
            [sys.executable, "-m", "alexnet", "verify", copy],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        assert ended.returncode == 3
        assert "run alexnet prepare again" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    os.close(write)


def test_verify_refuses_flags_that_are_for_weights_by_their_names(done, call):
    code, _, error = call("verify", done, "--data.source", "digits")
    assert code == 2
    assert "--split, --data.root, --data.source, --model and --json are for runs and weights" in error


def test_verify_says_what_else_is_wrong(copy, tmp_path, call):
    (copy / "train.arrow").write_bytes(b"<html>")
    (train, val) = verify_prepared(copy)
    assert "not a prepared file" in train.damaged[0]
    assert not val.damaged
    (copy / "train.arrow").unlink()
    (val, folder) = verify_prepared(copy)
    assert not val.damaged
    assert folder.path == copy
    assert not folder.damaged
    assert "train is missing" in folder.unfit
    code, said, error = call("verify", copy)
    assert (code, said) == (3, f"{copy / 'val.arrow'}: 4 images, whole\n")
    assert "run alexnet prepare again; it goes on from where it was" in error
    assert "delete" not in error
    code, _, err = call("verify", tmp_path)
    assert code == 3
    assert "holds no prepared photographs" in err


def test_files_of_format_1_open_and_verify_says_what_it_cannot_know(tmp_path, call):
    with tarfile.open(Path(__file__).parent / "old_files.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    old = tmp_path / "prepared"
    assert not PackedStore(old / "train.arrow").has_checksums
    assert PackedStore(old / "train.arrow").upright is False
    code, out, _ = call("verify", old)
    assert code == 0
    assert "12 images, it was prepared before checksums were kept" in out


def test_progress_reaches_the_end(done):
    said = []
    verify_prepared(done, lambda *progress: said.append(progress))
    assert said[-1] == ("val", 4, 4)
    assert ("train", 11, 11) in said


def rewrite(path: Path, **changes: bytes) -> None:
    """A prepared file with other metadata."""
    rows = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
    metadata = dict(rows.schema.metadata) | {name.encode(): value for name, value in changes.items()}
    if "checksums" not in changes:
        metadata = signed(metadata, rows.to_batches())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema.with_metadata(metadata)) as writer:
        writer.write_table(rows)


def test_a_source_that_a_later_version_knows_can_be_verified(copy):
    for path in (copy / "train.arrow", copy / "val.arrow"):
        described = PackedStore(path).meta | {"source": "of-2030"}
        rewrite(path, alexnet=json.dumps(described).encode())
    assert [(v.images, v.damaged, v.unknown) for v in verify_prepared(copy)] == [(11, (), None), (4, (), None)]


def test_a_file_of_a_later_version_is_not_called_damaged(copy, call):
    described = PackedStore(copy / "train.arrow").meta | {"format": 9}
    rewrite(copy / "train.arrow", alexnet=json.dumps(described).encode())
    code, said, error = call("verify", copy)
    assert (code, said) == (3, f"{copy / 'val.arrow'}: 4 images, whole\n")
    assert "has format 9, this version reads up to 2: upgrade" in error
    assert "delete" not in error


@pytest.mark.parametrize("checksums", [b"[]", b"7", b"null", b'"text"'])
def test_checksums_that_are_none_are_damage(copy, checksums):
    rewrite(copy / "train.arrow", checksums=checksums)
    with pytest.raises(DataError, match=r"train\.arrow is damaged .*checksums"):
        PackedStore(copy / "train.arrow")
    assert "is damaged" in verify_prepared(copy)[0].damaged[0]
