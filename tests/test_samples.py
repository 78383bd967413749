"""Samples of a data set as files: the images that the split holds, in folders of their classes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.packing import prepare
from alexnet.data.samples import write_samples
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError


@pytest.mark.parametrize("split", [None, "train"])
def test_small_images_are_those_of_the_split(tmp_path, split):
    files = write_samples(DataConfig(), tmp_path, 12, split)
    dataset = load_dataset(DataConfig())
    _, part = dataset.split(split)
    assert len(set(files)) == 12
    for file in files:
        row = int(file.stem)
        assert file.parent.name == dataset.classes[part.labels[row]]
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), part.images[row, 0])
    assert set(tmp_path.rglob("*.png")) == set(files)


def test_photographs_are_copied_byte_by_byte(tmp_path):
    root = tmp_path / "data"
    for number in range(6):
        for part in ("train", "val"):
            file = root / part / ("cat", "dog")[number % 2] / f"{number}.{('jpg', 'png')[number % 2]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (number, 0, 0)).save(file)
    files = write_samples(DataConfig(source="folder", root=str(root)), tmp_path / "out", 4)
    originals = {file.read_bytes() for file in (root / "val").rglob("*.*")}
    assert len(files) == 4
    assert {file.read_bytes() for file in files} <= originals
    assert {(file.parent.name, file.suffix) for file in files} <= {("cat", ".jpg"), ("dog", ".png")}


def test_prepared_photographs_are_jpegs(tmp_path):
    for number in range(6):
        file = tmp_path / "data" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (number, 0, 0)).save(file)
    data = DataConfig(source="folder", root=str(tmp_path / "data"), val_fraction=0.0, test_fraction=0.0)
    prepare(data, tmp_path / "prepared", side=32, workers=1)
    files = write_samples(replace(data, root=str(tmp_path / "prepared")), tmp_path / "out", 4, "train")
    assert {file.suffix for file in files} == {".jpg"}
    assert {Image.open(file).format for file in files} == {"JPEG"}


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", ".."])
def test_a_class_whose_name_leads_out_of_the_folder(tmp_path, name):
    for number in range(40):
        Image.new("RGB", (9, 8)).save(tmp_path / f"{number}.png")
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"{n}.png,{name if n % 2 else 'b'}\n" for n in range(40)))
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(DataError, match="cannot name a folder"):
        write_samples(DataConfig(source="table", root=str(table)), tmp_path / "out", 40, "train")
    assert {path for path in set(tmp_path.parent.rglob("*")) - before if path.is_file()} <= set(
        tmp_path.glob("out/b/*")
    )


def test_seed_draws_them(tmp_path):
    draws = [
        [f.name for f in write_samples(DataConfig(), tmp_path / str(i), 5, seed=s)] for i, s in enumerate((1, 1, 2))
    ]
    assert draws[0] == draws[1] != draws[2]


def test_more_than_there_are(tmp_path):
    assert len(write_samples(DataConfig(), tmp_path, 10**6)) == 359


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="another --out"):
        write_samples(DataConfig(), tmp_path / "file", 1)


def test_nothing_that_is_there_is_replaced(tmp_path):
    """Photographs are called by numbers often, as rows are."""
    root = tmp_path / "data"
    for number in range(8):
        file = root / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (number, 0, 0)).save(file)
    before = {file: file.read_bytes() for file in root.rglob("*.png")}
    data = DataConfig(source="folder", root=str(root))
    for out in (root, root / "samples"):
        with pytest.raises(UsageError, match=r"lies inside .*, among the photographs"):
            write_samples(data, out, split="train")
    files = write_samples(data, tmp_path / "out", split="train")
    assert write_samples(data, tmp_path / "out", split="train") == files
    files[0].write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already, and is another image"):
        write_samples(data, tmp_path / "out", split="train")
    assert files[0].read_bytes() == b"mine"
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before
