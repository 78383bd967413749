"""Photographs in class folders and Stanford Dogs as published: layouts, labels, splits and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from alexnet.config import DataConfig
from alexnet.data import sources
from alexnet.data.folders import read_folder
from alexnet.data.photos import FileStore, Photos
from alexnet.data.sources import Source, load_dataset
from alexnet.data.splits import Published
from alexnet.errors import DataError, UsageError
from alexnet.recipes import recipe


def picture(path: Path | str, seed: int = 0) -> None:
    """A 40x60 image; JPEG unless the name says otherwise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:  # Pillow's own open() fails on names that are not UTF-8
        Image.fromarray(pixels).resize((60, 40)).save(stream, "PNG" if str(path).endswith("png") else "JPEG")


def fill(folder: Path, **counts: int) -> Path:
    """Class folders, each with so many images."""
    for name, count in counts.items():
        for i in range(count):
            picture(folder / name / f"{i:03d}.jpg", seed=zlib.crc32(f"{name}{i}".encode()))
    return folder


def config(root: Path | str, source: str = "folder", **fields) -> DataConfig:
    return DataConfig(source=source, root=str(root), **{"val_fraction": 0.0} | fields)


def names(split: Photos, root: Path) -> list[str]:
    """The images of a split, relative to the data's root."""
    return [os.path.relpath(split.place(i), root) for i in range(len(split))]


def counts(split: Photos) -> list[int]:
    return np.bincount(split.labels).tolist()


def refused(config: DataConfig, *texts: object) -> str:
    """The message of the DataError that holds all of `texts`."""
    with pytest.raises(DataError) as caught:
        load_dataset(config)
    message = str(caught.value)
    for text in texts:
        assert str(text) in message
    return message


def listing(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def test_train_val_test(tmp_path):
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        fill(tmp_path / part, cat=n, dog=n + 1)
    data = load_dataset(config(tmp_path, val_fraction=0.5))  # ignored: there is a validation part
    assert data.classes == data.names == ("cat", "dog")
    assert [counts(s) for s in (data.train, data.val, data.test)] == [[4, 5], [2, 3], [3, 4]]
    assert names(data.test, tmp_path) == sorted(n for n in listing(tmp_path) if n.startswith("test") and "jpg" in n)
    assert data.train.read(5) == (tmp_path / names(data.train, tmp_path)[5]).read_bytes()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_folder(tmp_path, name):
    fill(tmp_path / "train", a=3, b=3)
    fill(tmp_path / name, a=1, b=2)
    data = load_dataset(config(tmp_path))
    assert names(data.val, tmp_path) == [f"{name}/a/000.jpg", f"{name}/b/000.jpg", f"{name}/b/001.jpg"]
    assert (len(data.train), len(data.test)) == (6, 0)


def test_two_names_of_the_validation_folder(tmp_path):
    for name in ("train", "val", "validation"):
        fill(tmp_path / name, a=3, b=3)
    with pytest.raises(DataError, match="has val and validation, which are the same split"):
        load_dataset(config(tmp_path))


def test_train_and_test_hold_validation_out_of_train(tmp_path):
    fill(tmp_path / "train", a=10, b=20)
    fill(tmp_path / "test", a=3, b=3)
    data = load_dataset(config(tmp_path, val_fraction=0.3))
    assert [counts(s) for s in (data.train, data.val, data.test)] == [[7, 14], [3, 6], [3, 3]]
    assert not set(names(data.train, tmp_path)) & set(names(data.val, tmp_path))


@pytest.mark.parametrize("inside", ["", "train"], ids=["classes", "only train"])
def test_one_folder_is_split_by_the_seed(tmp_path, inside):
    fill(tmp_path / inside, a=10, b=20, c=30)
    images = {n for n in listing(tmp_path) if n.endswith(".jpg")}

    def split(**fields):
        data = load_dataset(config(tmp_path, **{"val_fraction": 0.25, "test_fraction": 0.2} | fields))
        return [names(s, tmp_path) for s in (data.train, data.val, data.test)], data

    parts, data = split()
    assert [counts(s) for s in (data.train, data.val, data.test)] == [[6, 12, 18], [2, 4, 6], [2, 4, 6]]
    assert sum(map(len, parts)) == len(images)
    assert set().union(*map(set, parts)) == images  # disjoint, for the lengths add up too
    assert split()[0] == parts
    assert split(split_seed=1)[0] != parts
    assert split(fraction=0.5)[0][2] == parts[2]  # the test split does not shrink or move with the training part
    assert split(val_fraction=0.0)[0][2] == parts[2]


def test_classes_order_and_labels_are_torchvisions(tmp_path):
    # Sorting by name is by code point: capitals first, "10" before "9", accents last.
    for i, name in enumerate(["zebra", "Ape", "10", "9", "éclair", "a b", "a"]):
        fill(tmp_path, **{name: i + 1})
    picture(tmp_path / "a" / "X.PNG", 1)
    picture(tmp_path / "a" / "with space.jpeg", 2)
    theirs = torchvision.datasets.ImageFolder(str(tmp_path))
    data = load_dataset(config(tmp_path, test_fraction=0.0))
    assert list(data.classes) == theirs.classes
    assert [(data.train.place(i), int(label)) for i, label in enumerate(data.train.labels)] == theirs.samples


def test_nested_folders_and_what_is_no_image(tmp_path):
    fill(tmp_path / "a", first=2, **{"deep/er": 1})
    fill(tmp_path, b=1)
    for name in ("a/.hidden.jpg", "a/.git/x.jpg", ".cache/x.jpg", "a/first/.DS_Store.jpg"):
        picture(tmp_path / name)
    for name in ("a/notes.txt", "a/Thumbs.db", "README.md", "b/labels.csv", "loose.jpg"):
        (tmp_path / name).write_text("")
    data = load_dataset(config(tmp_path, test_fraction=0.0))
    assert data.classes == ("a", "b")
    assert names(data.train, tmp_path) == ["a/deep/er/000.jpg", "a/first/000.jpg", "a/first/001.jpg", "b/000.jpg"]


def test_odd_paths(tmp_path):
    root = tmp_path / "my photos (ü)"
    long = "n" * 240
    for name in ("käse/mit Leer zeichen.jpg", "käse/名前.jpg", f"{long}/{long}.jpg", "käse/new\nline.jpg"):
        picture(root / name, seed=len(name))
    data = load_dataset(config(root, test_fraction=0.0))
    assert data.classes == ("käse", long)
    assert [len(data.train.read(i)) > 100 for i in range(4)] == [True] * 4
    assert {n for n in listing(root) if n.endswith(".jpg")} == set(names(data.train, root))


@pytest.mark.parametrize("name", [b"/a/b\xfe.jpg", b"/a\xff/b.jpg"], ids=["image", "class"])
def test_names_that_are_not_utf8(tmp_path, name):
    odd = os.fsencode(tmp_path) + name
    try:
        picture(os.fsdecode(odd))
    except OSError:
        pytest.skip("this file system holds UTF-8 only")
    fill(tmp_path, b=2)
    data = load_dataset(config(tmp_path, test_fraction=0.0))
    assert os.fsencode(data.train.place(0)) == odd
    assert data.train.read(0) == Path(os.fsdecode(odd)).read_bytes()


def test_missing_root(tmp_path):
    refused(config(tmp_path / "absent"), tmp_path / "absent", "--data.root")
    (tmp_path / "file").write_text("")
    refused(config(tmp_path / "file"), tmp_path / "file", "--data.root")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "sets", a=2)
    assert len(load_dataset(config("~/sets", test_fraction=0.0)).train) == 2


@pytest.mark.parametrize("part", ["", "train", "val"])
def test_empty_class_folder(tmp_path, part):
    for name in ("train", "val"):
        fill(tmp_path / name if part else tmp_path, a=2)
    (tmp_path / part / "empty").mkdir()
    (tmp_path / part / "empty" / "notes.txt").write_text("")
    if part == "val":
        fill(tmp_path / "train", empty=1)
    refused(config(tmp_path), tmp_path / part / "empty", "holds no images", "fill it or remove it")


def test_no_images_and_no_class_folders(tmp_path):
    refused(config(tmp_path), tmp_path, "holds no images", "IMAGE.jpg")
    fill(tmp_path, **{"": 3})
    refused(config(tmp_path), "3 images but no class folders", tmp_path / "CLASS" / "000.jpg")
    (tmp_path / "train").mkdir()
    refused(config(tmp_path), tmp_path / "train", "holds no images")


def test_validation_classes_that_differ_are_shown(tmp_path):
    fill(tmp_path / "train", a=1, b=1, c=1)
    fill(tmp_path / "val", b=1, c=1, d=1)
    message = refused(config(tmp_path), tmp_path / "val")
    assert "missing a, more d." in message
    fill(tmp_path / "val", a=1)
    refused(config(tmp_path), "missing none, more d.")


def test_many_classes_that_differ_are_counted(tmp_path):
    fill(tmp_path / "train", **{f"c{i:02d}": 1 for i in range(30)})
    fill(tmp_path / "test", c00=1)
    message = refused(config(tmp_path), "c01, c02, c03, c04, c05 ... (29 in all)")
    assert "c06" not in message


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_symbolic_links_that_lead_in_a_circle(tmp_path, target):
    fill(tmp_path, a=1, **{"b/c": 1})
    (tmp_path / "b" / "c" / "loop").symlink_to(target)
    refused(config(tmp_path), tmp_path / "b" / "c" / "loop", "symbolic link", "remove the link")


def test_symbolic_link_to_itself(tmp_path):
    fill(tmp_path, a=1)
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")
    refused(config(tmp_path), tmp_path / "a" / "self.jpg", "remove it")
    (tmp_path / "a" / "self.jpg").unlink()
    (tmp_path / "class").symlink_to("class")
    refused(config(tmp_path), tmp_path / "class")


def test_broken_symbolic_link(tmp_path):
    fill(tmp_path, a=2)
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    refused(config(tmp_path), tmp_path / "a" / "gone.jpg", "remove it", "broken link")


def test_symbolic_links_that_work(tmp_path):
    fill(tmp_path / "store", a=2, b=1)
    (tmp_path / "root" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "root" / "b" / "x.jpg").symlink_to(tmp_path / "store" / "b" / "000.jpg")
    (tmp_path / "root" / "b" / "again").symlink_to(tmp_path / "store" / "b")  # twice the same, but no circle
    data = load_dataset(config(tmp_path / "root", test_fraction=0.0))
    assert names(data.train, tmp_path / "root") == ["a/000.jpg", "a/001.jpg", "b/again/000.jpg", "b/x.jpg"]


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root, as Windows, reads everything")
@pytest.mark.parametrize("folder", ["a", ""])
def test_unreadable_folder(tmp_path, folder):
    fill(tmp_path / "root", a=1)
    (tmp_path / "root" / folder).chmod(0)
    try:
        refused(config(tmp_path / "root"), tmp_path / "root" / folder, "Permission denied")
    finally:
        (tmp_path / "root" / folder).chmod(0o755)


@pytest.mark.parametrize("folder", ["a", ""])
def test_folder_that_the_system_does_not_list(tmp_path, monkeypatch, folder):
    fill(tmp_path, a=1)
    scandir = os.scandir

    def deny(path):
        if Path(path) == tmp_path / folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    refused(config(tmp_path), tmp_path / folder, "Permission denied")


def test_file_that_goes_away(tmp_path):
    fill(tmp_path, a=2)
    data = load_dataset(config(tmp_path, test_fraction=0.0))
    (tmp_path / "a" / "001.jpg").unlink()
    with pytest.raises(DataError, match=f"cannot read {tmp_path / 'a' / '001.jpg'}: No such file"):
        data.train.read(1)


def test_read_only_folder_is_enough(tmp_path):
    fill(tmp_path / "root", a=3, b=3)
    before = listing(tmp_path)
    places = [tmp_path / "root", *(tmp_path / "root").rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_dataset(config(tmp_path / "root", test_fraction=0.0)).train) == 6
    finally:
        for path in places:
            path.chmod(0o755)
    assert listing(tmp_path) == before  # also when root runs the tests


def test_fingerprint_follows_names_sizes_and_labels(tmp_path):
    def fingerprint() -> str:
        return load_dataset(config(tmp_path, test_fraction=0.0)).fingerprint

    fill(tmp_path, a=2, b=2)
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    (tmp_path / "a" / "000.jpg").write_bytes((tmp_path / "a" / "000.jpg").read_bytes() + b"\0")
    seen.append(fingerprint())
    (tmp_path / "a" / "001.jpg").rename(tmp_path / "a" / "002.jpg")
    seen.append(fingerprint())
    (tmp_path / "a" / "000.jpg").rename(tmp_path / "b" / "005.jpg")
    seen.append(fingerprint())
    assert len(set(seen)) == 4


def test_note_says_how_to_prepare(tmp_path):
    fill(tmp_path, a=2)
    assert f"alexnet prepare folder --data.root {tmp_path}" in load_dataset(config(tmp_path)).note


def test_fraction_that_leaves_nothing(tmp_path):
    fill(tmp_path, a=2)
    with pytest.raises(UsageError, match="leave no training images"):
        load_dataset(config(tmp_path, fraction=0.01))


# Stanford Dogs

BREEDS = {  # images in the training and the test list
    "n02085936-Maltese_dog": (4, 6),
    "n02088094-Afghan_hound": (4, 2),
    "n02092002-Scottish_deerhound": (4, 5),
    "n02112018-Pomeranian": (4, 2),
}


def write_list(path: Path, files: list[str], labels: list[int]) -> None:
    """As published: file_list is a cell array [N, 1] of strings, labels [N, 1] float from 1."""
    cells = np.empty((len(files), 1), dtype=object)
    for i, name in enumerate(files):
        cells[i, 0] = name
    annotations = np.empty((len(files), 1), dtype=object)
    for i, name in enumerate(files):
        annotations[i, 0] = name.removesuffix(".jpg")
    column = np.array(labels, dtype=np.float64)[:, None]
    savemat(path, {"file_list": cells, "annotation_list": annotations, "labels": column})


@pytest.fixture
def dogs(tmp_path):
    parts: list[tuple[list[str], list[int]]] = [([], []), ([], [])]
    for label, (breed, sizes) in enumerate(BREEDS.items(), 1):
        numbers = iter(range(7, 100))
        for (files, labels), size in zip(parts, sizes, strict=True):
            for _ in range(size):
                name = f"{breed}/{breed[:9]}_{next(numbers)}.jpg"
                picture(tmp_path / "Images" / name, seed=len(labels))
                files.append(name)
                labels.append(label)
    for name, part in zip(("train_list.mat", "test_list.mat"), parts, strict=True):
        write_list(tmp_path / name, *part)
    return tmp_path


def test_dogs_as_published(dogs):
    data = load_dataset(config(dogs, "stanford-dogs"))
    assert data.classes == tuple(sorted(BREEDS))
    assert data.names == ("Maltese dog", "Afghan hound", "Scottish deerhound", "Pomeranian")
    assert counts(data.train) == [4, 4, 4, 4]
    assert counts(data.test) == [6, 2, 5, 2]
    assert len(data.val) == 0
    for split in (data.train, data.test):
        for i, place in enumerate(names(split, dogs / "Images")):
            assert place.startswith(data.classes[split.labels[i]] + "/")
    assert data.test.read(0) == (dogs / "Images" / names(data.test, dogs / "Images")[0]).read_bytes()


def test_dogs_are_those_of_the_lists_in_any_order(dogs):
    """The training list need not be sorted, and images that no list names are left alone."""
    picture(dogs / "Images" / "n02085936-Maltese_dog" / "extra.jpg")
    first = load_dataset(config(dogs, "stanford-dogs"))
    from scipy.io import loadmat

    published = loadmat(dogs / "train_list.mat")
    files = [str(entry[0]) for entry in published["file_list"].ravel()]
    write_list(dogs / "train_list.mat", files[::-1], published["labels"].ravel()[::-1].tolist())
    second = load_dataset(config(dogs, "stanford-dogs"))
    assert names(second.train, dogs) == names(first.train, dogs)
    assert first.fingerprint == second.fingerprint
    assert len(first.train) == 16


def test_top_classes_keeps_those_with_most_images(dogs):
    # Maltese 10, deerhound 9, then Afghan and Pomeranian with 6 each: of these the first by name.
    data = load_dataset(config(dogs, "stanford-dogs", top_classes=3))
    assert data.names == ("Maltese dog", "Afghan hound", "Scottish deerhound")
    assert counts(data.train) == [4, 4, 4]
    assert counts(data.test) == [6, 2, 5]
    data = load_dataset(config(dogs, "stanford-dogs", top_classes=2))
    assert data.names == ("Maltese dog", "Scottish deerhound")
    assert counts(data.test) == [6, 5]
    for i, place in enumerate(names(data.test, dogs / "Images")):
        assert place.startswith(data.classes[data.test.labels[i]])
    for many in (4, 120):
        assert len(load_dataset(config(dogs, "stanford-dogs", top_classes=many)).classes) == 4


def test_resplit_pools_and_splits_anew(dogs):
    def split(**fields):
        data = load_dataset(config(dogs, "stanford-dogs", resplit=True, test_fraction=0.5, **fields))
        return [names(s, dogs / "Images") for s in (data.train, data.val, data.test)], data

    published = load_dataset(config(dogs, "stanford-dogs"))
    (train, val, test), data = split(val_fraction=0.2)
    everything = names(published.train, dogs / "Images") + names(published.test, dogs / "Images")
    assert sorted(train + val + test) == sorted(everything)
    assert counts(data.test) == [5, 3, 4, 3]  # half of 10, 6, 9 and 6
    assert set(test) & set(names(published.train, dogs / "Images"))  # pooled: published training images are tested on
    assert split(val_fraction=0.2)[0] == [train, val, test]
    assert split(val_fraction=0.2, split_seed=3)[0][2] != test
    for i, place in enumerate(test):
        assert place.startswith(data.classes[data.test.labels[i]])
    assert data.test.read(4) == (dogs / "Images" / test[4]).read_bytes()


def test_resplit_leaves_a_published_validation_part_alone(tmp_path):
    for part in ("train", "val", "test"):
        fill(tmp_path / part, a=4)
    data = load_dataset(config(tmp_path, resplit=True, test_fraction=0.25))
    assert [len(s) for s in (data.train, data.val, data.test)] == [6, 4, 2]
    assert all(place.startswith("val/") for place in names(data.val, tmp_path))


@pytest.mark.parametrize("name", ["train_list.mat", "test_list.mat", "Images"])
def test_dogs_that_lack_something(dogs, name):
    (dogs / name).rename(dogs / "elsewhere")
    refused(config(dogs, "stanford-dogs"), name, dogs, "images.tar", "lists.tar")


def test_list_that_names_a_missing_image(dogs):
    (gone := dogs / "Images" / "n02112018-Pomeranian" / "n02112018_8.jpg").unlink()
    refused(config(dogs, "stanford-dogs"), gone, "train_list.mat", "No such file")


@pytest.mark.parametrize("entry", ["../x.jpg", "n0-a/../../x.jpg", "/etc/passwd", "loose.jpg", "a/b/c.jpg", "../../x"])
def test_list_with_entries_that_lead_elsewhere(dogs, entry):
    write_list(dogs / "test_list.mat", [entry], [1])
    refused(config(dogs, "stanford-dogs"), dogs / "test_list.mat", repr(entry), "fetch lists.tar again")


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", bytes(range(256)) * 20], ids=["empty", "html", "?"])
def test_list_that_is_not_matlabs(dogs, content):
    (dogs / "train_list.mat").write_bytes(content)
    refused(config(dogs, "stanford-dogs"), dogs / "train_list.mat", "fetch lists.tar again")


def test_list_that_is_cut_short_or_another(dogs):
    path = dogs / "train_list.mat"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(config(dogs, "stanford-dogs"), path, "fetch lists.tar again")
    savemat(path, {"other": np.zeros(3)})
    refused(config(dogs, "stanford-dogs"), path, "fetch lists.tar again")


def test_empty_list(dogs):
    write_list(dogs / "test_list.mat", [], [])
    refused(config(dogs, "stanford-dogs"), "test split holds no images", dogs)


@pytest.mark.parametrize("name", ["dogs-sgd", "dogs-sgd-step", "dogs-adam", "dogs-adam-step"])
def test_recipes_split_the_five_breeds_as_their_origin_did(monkeypatch, name):
    """The five largest breeds have 252, 239, 232, 219 and 218 images, 100 of each in the training list."""
    sizes = {"small": 150, "Maltese": 252, "Afghan": 239, "deerhound": 232, "Pomeranian": 219, "Samoyed": 218}
    classes = tuple(sorted(sizes))

    def part(wanted: dict[str, int]) -> Photos:
        labels = [classes.index(c) for c in classes for _ in range(wanted[c])]
        return Photos.whole(FileStore(Path("x"), [f"{i}.jpg" for i in range(len(labels))], [1] * len(labels)), labels)

    parts = {"train": part(dict.fromkeys(sizes, 100)), "test": part({c: n - 100 for c, n in sizes.items()})}
    made = Source("", lambda _: Published(classes, dict(parts)), photographs=True)
    monkeypatch.setitem(sources.SOURCES, "stanford-dogs", made)
    data = load_dataset(recipe(name).data)
    assert Counter(data.classes) == Counter(sizes.keys() - {"small"})
    assert [len(s) for s in (data.train, data.val, data.test)] == [652, 128, 290]


# Systems that lack something


def test_without_scipy_the_dogs_say_what_to_install(dogs, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UsageError, match=r"scipy: pip install 'alexnet\[photos\]'"):
        load_dataset(config(dogs, "stanford-dogs"))


def test_folders_without_numbers_are_no_circle(tmp_path, monkeypatch):
    """On some of Windows' file systems st_ino is 0 for every folder."""
    fill(tmp_path, **{"a/b/c": 2})
    stat = os.stat

    def without_number(*arguments, **options):
        state = list(stat(*arguments, **options))
        state[1:3] = 0, 0
        return os.stat_result(state)

    monkeypatch.setattr(os, "stat", without_number)
    monkeypatch.setattr(Path, "stat", without_number)
    assert len(load_dataset(config(tmp_path, test_fraction=0.0)).train) == 2


@pytest.mark.parametrize("root", [PureWindowsPath(r"C:\data\dogs"), PurePosixPath("C:/data/dogs")], ids=["nt", "posix"])
def test_places_are_written_alike_on_every_system(root):
    """They are kept in prepared files and tables of results."""
    store = FileStore(root, ["a/1.jpg"], [7])
    assert store.place(0) == "C:/data/dogs/a/1.jpg"
    assert store.fingerprint == "2d4d33cba6ac426b5a8e0f0d802bf9abc31c2d08bace8b228784241246f10d82"  # since format 1


@pytest.mark.parametrize("names", [("Train", "Val"), ("Training", "Testing"), ("TRAIN", "test")])
def test_splits_by_other_names(tmp_path, names):
    """A folder of nothing but these is no set of two classes."""
    for name in names:
        for label in "ab":
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(folder / "1.png")
    published = read_folder(DataConfig(source="folder", root=str(tmp_path)))
    assert published.classes == ("a", "b")
    assert len(published.parts) == 2


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "Test"), (16, 0, 8)),
        (("train", "test_set"), (16, 0, 8)),
        (("training", "val"), (16, 8, 0)),
    ],
)
def test_one_exact_name_says_what_the_others_are(tmp_path, names, sizes):
    """Were the other passed over, a part of the training images would be tested on."""
    fill(tmp_path / names[0], a=8, b=8)
    fill(tmp_path / names[1], a=4, b=4)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").touch()
    data = load_dataset(config(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == sizes
    assert "test" not in data.drawn
    assert "passed over" not in data.note


def test_a_class_called_like_a_split(tmp_path):
    """Two classes beside a third that is called train: a note where train may be a split, else an error."""
    fill(tmp_path, bus=3, car=3)
    fill(tmp_path / "train", diesel=6, steam=6)
    data = load_dataset(config(tmp_path))
    assert data.classes == ("diesel", "steam")
    assert "holds images in bus, car beside train, and these are passed over" in data.note
    shutil.rmtree(tmp_path / "train")
    fill(tmp_path, train=3)
    refused(config(tmp_path), "train holds 3 images but no class folders", "call it otherwise where it is a class")


def test_a_class_may_be_called_training(tmp_path):
    for name in ("training", "resting"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "1.png")
    assert read_folder(DataConfig(source="folder", root=str(tmp_path))).classes == ("resting", "training")


def test_a_folder_of_test_images_alone_can_be_measured_on(tmp_path):
    fill(tmp_path / "test", a=2, b=3)
    data = load_dataset(config(tmp_path))
    assert (data.classes, len(data.train), len(data.test), data.drawn) == (("a", "b"), 0, 5, frozenset())
    with pytest.raises(UsageError, match="no training split"):
        data.check_trainable()


def test_folders_that_are_hardly_classes(tmp_path):
    fill(tmp_path / "signs" / "Train", **{"0/x": 2})
    fill(tmp_path / "signs" / "Test", **{"0/x": 2})
    fill(tmp_path / "signs" / "Meta", **{"0/x": 2})
    refused(config(tmp_path / "signs"), "Test and Train among other folders", "call them train, val and test")
    fill(tmp_path / "high" / "flowers", rose=2, daisy=2)
    refused(config(tmp_path / "high"), f"--data.root {tmp_path / 'high' / 'flowers'}")
    fill(tmp_path / "sets" / "training_set", a=3, b=3)
    fill(tmp_path / "sets" / "test_set", a=3, b=3)
    assert len(load_dataset(config(tmp_path / "sets")).test) == 6


def test_photographs_that_are_not_read_are_counted(tmp_path):
    fill(tmp_path, a=3, b=3)
    for name in ("1.HEIC", "2.heic", "3.avif"):
        (tmp_path / "a" / name).write_bytes(b"\0\0\0\x18ftypheic")
    assert "(1 .avif, 2 .heic): convert them" in load_dataset(config(tmp_path)).note


def test_so_many_of_each_class(tmp_path):
    """Validation and test stay what they are, and fewer are among more."""
    fill(tmp_path / "train", a=20, b=12, c=4)
    fill(tmp_path / "test", a=2, b=2, c=2)
    whole, eight, five = (load_dataset(config(tmp_path, val_fraction=0.25, per_class=count)) for count in (None, 8, 5))
    assert counts(whole.train) == [15, 9, 3]
    assert counts(eight.train) == [8, 8, 3]
    assert counts(five.train) == [5, 5, 3]
    chosen = [set(names(data.train, tmp_path)) for data in (five, eight, whole)]
    assert chosen[0] < chosen[1] < chosen[2]
    assert names(eight.train, tmp_path) == sorted(chosen[1], key=names(whole.train, tmp_path).index)
    for data in (eight, five):
        assert names(data.val, tmp_path) == names(whole.val, tmp_path)
        assert names(data.test, tmp_path) == names(whole.test, tmp_path)
    other = load_dataset(config(tmp_path, val_fraction=0.25, per_class=5, split_seed=1))
    assert set(names(other.train, tmp_path)) != chosen[0]


def test_which_splits_are_drawn(tmp_path):
    fill(tmp_path / "one", a=20, b=20)
    assert load_dataset(config(tmp_path / "one")).drawn == {"train", "val", "test"}
    fill(tmp_path / "two" / "train", a=20, b=20)
    fill(tmp_path / "two" / "test", a=2, b=2)
    assert load_dataset(config(tmp_path / "two")).drawn == {"train", "val"}
    fill(tmp_path / "two" / "val", a=2, b=2)
    assert load_dataset(config(tmp_path / "two")).drawn == frozenset()
    for settings in ({"fraction": 0.5}, {"per_class": 1}):
        assert load_dataset(config(tmp_path / "two", **settings)).drawn == {"train"}
    assert load_dataset(config(tmp_path / "two", resplit=True)).drawn == {"train", "test"}, "not the published one"


def test_a_folder_that_is_not_there_is_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root, named in (("photos", f"photos in {tmp_path}"), (str(tmp_path / "photos"), f"{tmp_path}/photos")):
        with pytest.raises(DataError, match=rf"^there is no folder {re.escape(named)}: point --data\.root"):
            load_dataset(DataConfig(source="folder", root=root))
