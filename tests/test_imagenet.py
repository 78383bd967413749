"""ImageNet in all the layouts it is found in: folders, flat validation images, Kaggle's, and the published archives."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from alexnet.config import DataConfig
from alexnet.data.sources import load_dataset
from alexnet.data.wnids import devkit_file, readable_names
from alexnet.errors import DataError, UsageError

WORDS = {  # WNID: (ILSVRC id, words)
    "n01440764": (3, "tench, Tinca tinca"),
    "n02012849": (1, "crane"),
    "n03126707": (2, "crane, derrick"),
}
WNIDS = tuple(WORDS)
NAMES = ("tench", "crane (n02012849)", "crane (n03126707)")
LABELS = [2, 0, 1, 1, 0, 2, 0]  # of the validation images
TRAIN = {wnid: [f"{wnid}_{i}.JPEG" for i in (18, 105, 7)] for wnid in WNIDS}
VAL = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, len(LABELS) + 1)]
TRAIN_TAR, VAL_TAR, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12"


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((60, 40)).save(stream, "JPEG")
    return stream.getvalue()


IMAGES = {name: jpeg(i) for i, name in enumerate([*VAL, *(n for names in TRAIN.values() for n in names)])}


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def train_folders(root: Path) -> Path:
    for wnid, names in TRAIN.items():
        for name in names:
            write(root / "train" / wnid / name, IMAGES[name])
    return root


def flat(root: Path) -> Path:
    train_folders(root)
    for name in VAL:
        write(root / "val" / name, IMAGES[name])
    return root


def val_txt(root: Path) -> Path:
    return write(root / "val.txt", "".join(f"{n} {label}\n" for n, label in zip(VAL, LABELS, strict=True)))


def kaggle_csv(root: Path, names=VAL) -> Path:
    rows = [f"{n[:-5]},{WNIDS[i]} 1 2 30 40 {WNIDS[i]} 5 6 7 8 \n" for n, i in zip(names, LABELS, strict=True)]
    return write(root / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(rows[::-1]))


def meta_mat() -> bytes:
    """The struct array of the published meta.mat: the classes, then synsets above them with children."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    rows = [(number, wnid, words, "a gloss", 0, [], 0) for wnid, (number, words) in WORDS.items()]
    rows += [(1001, "n00001740", "entity", "that which is", 2, [1, 2], 1)]
    synsets = np.empty((len(rows), 1), dtype=[(f, object) for f in fields])
    for i, row in enumerate(sorted(rows)):
        synsets[i, 0] = row
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def truth() -> str:
    return "".join(f"{WORDS[WNIDS[label]][0]}\n" for label in LABELS)


def devkit(root: Path) -> Path:
    write(root / DEVKIT / "data" / "meta.mat", meta_mat())
    return write(root / DEVKIT / "data" / "ILSVRC2012_validation_ground_truth.txt", truth())


def tar(members: dict[str, bytes] | list[tarfile.TarInfo]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            content = members[member] if isinstance(members, dict) else b""
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def devkit_tar(root: Path) -> Path:
    files = {"meta.mat": meta_mat(), "ILSVRC2012_validation_ground_truth.txt": truth().encode()}
    packed = {f"{DEVKIT}/readme.txt": b"hello"} | {f"{DEVKIT}/data/{n}": c for n, c in files.items()}
    return write(root / f"{DEVKIT}.tar.gz", gzip.compress(tar(packed), mtime=0))


def train_tar() -> bytes:
    return tar({f"{w}.tar": tar({n: IMAGES[n] for n in names}) for w, names in TRAIN.items()})


def archives(root: Path) -> Path:
    write(root / TRAIN_TAR, train_tar())
    write(root / VAL_TAR, tar({n: IMAGES[n] for n in reversed(VAL)}))
    return root


LABELLING = {"val.txt": val_txt, "kaggle": kaggle_csv, "devkit": devkit, "devkit archive": devkit_tar}


def config(root: Path) -> DataConfig:
    return DataConfig(source="imagenet", root=str(root))


def refused(root: Path, *texts: object) -> str:
    """The message of the DataError that holds all of `texts`; nothing may be written."""
    before = listing(root.parent)
    with pytest.raises(DataError) as caught:
        load_dataset(config(root))
    assert listing(root.parent) == before
    for text in texts:
        assert str(text) in str(caught.value)
    return str(caught.value)


def listing(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def content(data) -> list[tuple[int, bytes]]:
    return [(int(s.labels[i]), bytes(s.read(i))) for s in (data.train, data.val) for i in range(len(s))]


EXPECTED = [(i, IMAGES[n]) for i, wnid in enumerate(WNIDS) for n in sorted(TRAIN[wnid])]


def check(data) -> None:
    """Classes, order, labels and bytes, with flat validation images."""
    assert data.classes == WNIDS
    assert len(data.test) == 0
    assert content(data) == EXPECTED + [(label, IMAGES[n]) for label, n in zip(LABELS, VAL, strict=True)]


def test_folders_by_wnid_are_torchvisions(tmp_path):
    train_folders(tmp_path)
    for name, label in zip(VAL, LABELS, strict=True):
        write(tmp_path / "val" / WNIDS[label] / name, IMAGES[name])
    data = load_dataset(config(tmp_path))
    assert (data.classes, data.names) == (WNIDS, WNIDS)  # without any list of names
    for part, split in (("train", data.train), ("val", data.val)):
        theirs = torchvision.datasets.ImageFolder(str(tmp_path / part))
        assert [(split.place(i), int(label)) for i, label in enumerate(split.labels)] == theirs.samples
    assert content(data)[: len(EXPECTED)] == EXPECTED
    assert data.split()[0] == "val"  # ImageNet reports on validation


@pytest.mark.parametrize("labelling", LABELLING)
def test_flat_validation_folder(tmp_path, labelling):
    LABELLING[labelling](flat(tmp_path))
    data = load_dataset(config(tmp_path))
    check(data)
    assert data.val.place(0) == str(tmp_path / "val" / VAL[0])
    assert data.names == (NAMES if "devkit" in labelling else WNIDS)


def test_flat_validation_folder_without_labels_says_how_to_sort_it(tmp_path):
    flat(tmp_path)
    refused(tmp_path, tmp_path / "val", "7 validation images without class folders", f"{DEVKIT}.tar.gz", "val.txt")
    refused(tmp_path, "LOC_val_solution.csv", "sort", "val/<WNID>/")


def test_kaggle_layout(tmp_path):
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    flat(base)
    write(base / "test" / "ILSVRC2012_test_00000001.JPEG", IMAGES[VAL[0]])  # no labels: not read
    kaggle_csv(tmp_path)
    write(tmp_path / "LOC_synset_mapping.txt", "".join(f"{w} {words}\n" for w, (_, words) in WORDS.items()))
    data = load_dataset(config(tmp_path))
    check(data)
    assert data.names == NAMES
    assert data.train.place(0) == str(base / "train" / WNIDS[0] / sorted(TRAIN[WNIDS[0]])[0])


@pytest.mark.parametrize("labelling", LABELLING)
def test_published_archives_are_read_in_place(tmp_path, labelling):
    LABELLING[labelling](archives(tmp_path))
    before = listing(tmp_path)
    for path in (*tmp_path.iterdir(), tmp_path):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        data = load_dataset(config(tmp_path))
    finally:
        tmp_path.chmod(0o755)
    check(data)
    assert listing(tmp_path) == before
    assert data.val.place(2) == f"{tmp_path / VAL_TAR}:{VAL[2]}"
    assert data.train.place(0).startswith(f"{tmp_path / TRAIN_TAR}:{WNIDS[0]}")


def test_archives_and_folders_mix(tmp_path):
    devkit(archives(tmp_path))
    train_folders(tmp_path)  # the folder is taken, the archive of the validation images
    data = load_dataset(config(tmp_path))
    check(data)
    assert data.train.place(0).startswith(str(tmp_path / "train"))


def test_class_archives_in_any_order_and_with_folders(tmp_path):
    """Members of folders, other files and the order in the archive do not matter."""
    directory = tarfile.TarInfo("n02012849")
    directory.type = tarfile.DIRTYPE
    inner = {w: {n: IMAGES[n] for n in reversed(names)} for w, names in TRAIN.items()}
    inner[WNIDS[1]] = {f"n02012849/{n}": c for n, c in inner[WNIDS[1]].items()} | {"readme.txt": b"x"}
    packed = {f"train/{w}.tar": tar(inner[w]) for w in reversed(WNIDS)} | {"readme.txt": b"x"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(directory)
        for name, value in packed.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            archive.addfile(info, io.BytesIO(value))
    archives(tmp_path)
    write(tmp_path / TRAIN_TAR, stream.getvalue())
    val_txt(tmp_path)
    check(load_dataset(config(tmp_path)))


def hostile(kind: str) -> tarfile.TarInfo:
    names = {"up": "../evil.JPEG", "inside": "a/../../evil.JPEG", "absolute": "/tmp/evil.JPEG"}
    member = tarfile.TarInfo(names.get(kind, "x.JPEG"))
    types = {
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    if kind in ("up folder", "absolute folder"):
        member = tarfile.TarInfo("../out" if kind == "up folder" else "/out")
        member.type = tarfile.DIRTYPE
    elif kind in types:
        member.type, member.linkname = types[kind], "/etc/passwd"
    return member


HOSTILE = (
    ["up", "inside", "absolute", "symlink", "hardlink", "device", "block", "fifo", "up folder", "absolute folder"]
)  # fmt: skip


@pytest.mark.parametrize("where", ["train", "class", "val"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_that_lead_out(tmp_path, kind, where):
    root = archives(tmp_path / "root")
    val_txt(root)
    member, good = hostile(kind), tarfile.TarInfo(VAL[0])
    if where == "val":
        write(root / VAL_TAR, tar([good, member]))
    elif where == "train":
        if kind in ("up", "inside", "absolute"):
            member.name = member.name.replace(".JPEG", ".tar")
        write(root / TRAIN_TAR, tar([member]))
    else:
        write(root / TRAIN_TAR, tar({f"{WNIDS[0]}.tar": tar([good, member])}))
    archive = root / (VAL_TAR if where == "val" else TRAIN_TAR)
    refused(root, archive, repr(member.name), "is not the published archive", "not read")


def member_ends(content: bytes) -> list[int]:
    """Where a member's header, its data and the padding end, for all members."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
    return [
        place
        for m in members
        for place in (m.offset, m.offset + 100, m.offset_data, m.offset_data + m.size // 2, m.offset_data + m.size)
    ]


@pytest.mark.parametrize("name", [TRAIN_TAR, VAL_TAR])
def test_truncated_archive(tmp_path, name):
    """Wherever it ends, also between two members: a part of the images must not pass for all."""
    val_txt(archives(tmp_path))
    whole = (tmp_path / name).read_bytes()
    accepted = []
    for length in (0, 1, 511, 512, *member_ends(whole)):
        write(tmp_path / name, whole[:length])
        try:
            load_dataset(config(tmp_path))
        except DataError as problem:
            assert str(tmp_path / name) in str(problem)  # noqa: PT017
        else:
            accepted.append(length)
    assert accepted == []


def test_truncated_class_archive(tmp_path):
    """The outer archive is whole, one inside ends early: the next one's bytes must not be read as an image."""
    val_txt(archives(tmp_path))
    accepted = []
    inner = {w: tar({n: IMAGES[n] for n in names}) for w, names in TRAIN.items()}
    for length in member_ends(inner[WNIDS[0]]):
        cut = inner | {WNIDS[0]: inner[WNIDS[0]][:length]}
        write(tmp_path / TRAIN_TAR, tar({f"{w}.tar": c for w, c in cut.items()}))
        try:
            load_dataset(config(tmp_path))
        except DataError as problem:
            assert str(tmp_path / TRAIN_TAR) in str(problem)  # noqa: PT017
        else:
            accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("name", [TRAIN_TAR, VAL_TAR])
def test_damage_in_the_middle_of_an_archive(tmp_path, name):
    val_txt(archives(tmp_path))
    whole = bytearray((tmp_path / name).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as archive:
        offset = archive.getmembers()[1].offset
    whole[offset : offset + 512] = np.random.default_rng(0).bytes(512)
    write(tmp_path / name, bytes(whole))
    refused(tmp_path, tmp_path / name, "fetch it again")


@pytest.mark.parametrize("name", [TRAIN_TAR, VAL_TAR])
@pytest.mark.parametrize("junk", [b"<html>log in</html>" * 99, b"\0" * 10240], ids=["html", "no members"])
def test_archive_that_is_something_else(tmp_path, name, junk):
    val_txt(archives(tmp_path))
    write(tmp_path / name, junk)
    refused(tmp_path, tmp_path)


def test_member_of_absurd_size(tmp_path):
    val_txt(archives(tmp_path))
    info = tarfile.TarInfo(VAL[0])
    info.size = 2**80
    write(tmp_path / VAL_TAR, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path, tmp_path / VAL_TAR)


def negative(name: str) -> bytes:
    """A member of a size that leads a reader back to its own header."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (256**12 - 512).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def test_members_that_lead_back(tmp_path):
    val_txt(archives(tmp_path))
    write(tmp_path / VAL_TAR, negative(VAL[0]))
    refused(tmp_path, tmp_path / VAL_TAR, "negative size")
    write(tmp_path / "kit" / f"{DEVKIT}.tar.gz", gzip.compress(negative("x")))
    with pytest.raises(DataError, match="negative size"):
        devkit_file(tmp_path / "kit", "meta.mat")


def test_archive_without_class_archives(tmp_path):
    val_txt(archives(tmp_path))
    write(tmp_path / TRAIN_TAR, tar({"x.JPEG": IMAGES[VAL[0]]}))
    refused(tmp_path, tmp_path / TRAIN_TAR, "holds no class archives")
    write(tmp_path / TRAIN_TAR, tar({f"{WNIDS[0]}.tar": tar({"readme.txt": b""})}))
    refused(tmp_path, tmp_path / TRAIN_TAR, f"{WNIDS[0]}.tar", "holds no images")


def test_archived_validation_images_without_labels(tmp_path):
    archives(tmp_path)
    refused(tmp_path, tmp_path / VAL_TAR, "without class folders", f"{DEVKIT}.tar.gz")


def test_parts_that_lack(tmp_path):
    refused(tmp_path / "absent", tmp_path / "absent", "--data.root")
    (tmp_path / "root").mkdir()
    refused(tmp_path / "root", tmp_path / "root", TRAIN_TAR, "--data.root", "https://image-net.org")
    train_folders(tmp_path / "root")
    refused(tmp_path / "root", tmp_path / "root", VAL_TAR, "validation images are needed")


def test_validation_folders_that_differ(tmp_path):
    train_folders(tmp_path)
    write(tmp_path / "val" / WNIDS[0] / VAL[0], IMAGES[VAL[0]])
    write(tmp_path / "val" / "n09999999" / VAL[1], IMAGES[VAL[1]])
    refused(tmp_path, tmp_path / "val", f"missing {WNIDS[1]}, {WNIDS[2]}, more n09999999")


@pytest.mark.parametrize("labelling", LABELLING)
def test_labels_outside_the_classes(tmp_path, labelling):
    LABELLING[labelling](flat(tmp_path))
    for path in (tmp_path / "train" / WNIDS[2]).iterdir():
        path.unlink()
    (tmp_path / "train" / WNIDS[2]).rmdir()
    refused(tmp_path, VAL[0], "no training images", "2 of 7 validation images", "2 training classes")


def test_negative_label(tmp_path):
    path = val_txt(flat(tmp_path))
    path.write_text(path.read_text().replace(f"{VAL[1]} 0", f"{VAL[1]} -1"))
    refused(tmp_path, VAL[1], "1 of 7")


@pytest.mark.parametrize("labelling", LABELLING)
def test_image_without_a_label(tmp_path, labelling):
    LABELLING[labelling](flat(tmp_path))
    write(tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG", IMAGES[VAL[0]])
    refused(tmp_path, "ILSVRC2012_val_00050001.JPEG", tmp_path / "val", "1 without one")


def test_broken_link_among_flat_validation_images(tmp_path):
    val_txt(flat(tmp_path))
    (tmp_path / "val" / VAL[3]).unlink()
    (tmp_path / "val" / VAL[3]).symlink_to(tmp_path / "gone.JPEG")
    refused(tmp_path, tmp_path / "val" / VAL[3])


DAMAGED_LABELS = {
    "val.txt": ["a b c\n", f"{VAL[0]}\n", f"{VAL[0]} one\n", b"\xff\xfe\x00\x01", "<html></html>\n"],
    "LOC_val_solution.csv": [
        "a,b\n1,2\n",
        f"ImageId,PredictionString\n{VAL[0][:-5]}\n",
        f"ImageId,PredictionString\n{VAL[0][:-5]},\n",
        "ImageId,PredictionString\n" + "x" * 200_000,
        b"\xff\xfe\x00\x01",
    ],
    f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": ["one\ntwo\n", b"\xff\xfe\x00\x01"],
    f"{DEVKIT}/data/meta.mat": [b"", "<html></html>", meta_mat()[:300], meta_mat()[:128]],
}


@pytest.mark.parametrize(
    ("name", "damage"), [(n, d) for n, kinds in DAMAGED_LABELS.items() for d in kinds], ids=lambda v: repr(v)[:40]
)
def test_damaged_lists_of_labels(tmp_path, name, damage):
    if name.startswith(DEVKIT):
        devkit(flat(tmp_path))
    else:
        flat(tmp_path)
    write(tmp_path / name, damage)
    refused(tmp_path, tmp_path)


def test_damaged_devkit_archive(tmp_path):
    """Cut or altered anywhere, it is refused or, where the damage does not matter, gives the same labels."""
    whole = devkit_tar(flat(tmp_path)).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in (0, 5, 100, len(whole) // 2, len(whole) - 20)]
    for place in rng.integers(0, len(whole), 25):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    damaged.append(gzip.compress(tar({f"{DEVKIT}/other.txt": b"x"})))
    refusals = 0
    for content in damaged:
        write(tmp_path / f"{DEVKIT}.tar.gz", content)
        try:
            check(load_dataset(config(tmp_path)))
        except DataError as problem:
            refusals += 1
            assert str(tmp_path) in str(problem)  # noqa: PT017
    assert refusals >= 10


def test_meta_mat_of_something_else(tmp_path):
    devkit(flat(tmp_path))
    savemat(tmp_path / DEVKIT / "data" / "meta.mat", {"other": np.zeros(3)})
    refused(tmp_path, "meta.mat", tmp_path)


# Readable names

INDEX = json.dumps(
    {str(i): [w, words.split(",")[0].replace(" ", "_")] for i, (w, (_, words)) in enumerate(WORDS.items())}
)
MAPPING = "".join(f"{w} {words}\n" for w, (_, words) in reversed(WORDS.items()))


@pytest.mark.parametrize("name", ["imagenet_class_index.json", "synset_words.txt", "LOC_synset_mapping.txt"])
def test_readable_names_are_unique(tmp_path, name):
    write(tmp_path / name, INDEX if name.endswith("json") else MAPPING)
    val_txt(flat(tmp_path))
    assert load_dataset(config(tmp_path)).names == NAMES
    assert readable_names(tmp_path, (WNIDS[2],)) == ("crane",)  # alone there is nothing to confuse it with
    assert readable_names(tmp_path, ("n00000001", WNIDS[0])) == ("n00000001", "tench")  # not in the list


def test_underscores_and_non_ascii_names(tmp_path):
    write(tmp_path / "imagenet_class_index.json", '{"0": ["n1", "great_white_shark"], "1": ["n2", "crème_brûlée"]}')
    assert readable_names(tmp_path, ("n1", "n2")) == ("great white shark", "crème brûlée")


@pytest.mark.parametrize("make", [devkit, devkit_tar])
def test_readable_names_from_the_devkit(tmp_path, make):
    make(tmp_path)
    assert readable_names(tmp_path, WNIDS) == NAMES


def test_names_of_tiny_imagenet_and_of_imagenet_100(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "hundred").mkdir()
    write(tmp_path / "tiny" / "words.txt", "n00000009\tentity\n" + MAPPING.replace(" ", "\t", 1))
    write(tmp_path / "hundred" / "Labels.json", json.dumps({w: words for w, (_, words) in WORDS.items()}))
    for folder in ("tiny", "hundred"):
        assert readable_names(tmp_path / folder, WNIDS) == NAMES


def test_names_of_ten_folders_without_a_list(tmp_path):
    """Imagenette's classes are the ones that torchvision names by WNID."""
    wnids = {"n01440764": "tench", "n02102040": "English springer", "n03394916": "French horn"}
    assert readable_names(tmp_path, tuple(wnids)) == tuple(wnids.values())
    assert readable_names(tmp_path, ("n01440764", "n09999999")) == ("n01440764", "n09999999")


@pytest.mark.parametrize("layout", ["parts", "all"])
def test_folders_of_ones_own_that_are_called_by_wnids_have_names(tmp_path, layout):
    for wnid, names in TRAIN.items():
        for name in names:
            write(
                tmp_path / ("train" if layout == "parts" else ".") / wnid / name.replace(".JPEG", ".jpg"), IMAGES[name]
            )
    write(tmp_path / "synset_words.txt", MAPPING)
    data = load_dataset(DataConfig(source="folder", root=str(tmp_path), test_fraction=0.0, val_fraction=0.0))
    assert data.classes == WNIDS
    assert data.names == NAMES
    (tmp_path / "synset_words.txt").unlink()
    again = load_dataset(DataConfig(source="folder", root=str(tmp_path), test_fraction=0.0, val_fraction=0.0))
    assert again.fingerprint == data.fingerprint  # names are for reading: a run goes on without them


def test_names_of_all_1000_classes_without_a_list(tmp_path):
    published = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    between = (f"n{i:08d}" for i in range(2_000_000, 2_000_998))
    names = readable_names(tmp_path, ("n01440764", *between, "n15075141"))
    assert len(set(names)) == 1000
    assert list(names) == published  # in which the two cranes differ already
    assert readable_names(tmp_path, WNIDS) == WNIDS  # fewer: torchvision's list is not theirs
    others = tuple(f"n{i:08d}" for i in range(1000))
    assert readable_names(tmp_path, others) == others  # nor that of a thousand others


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("imagenet_class_index.json", b""),
        ("imagenet_class_index.json", b'{"0": ["n01440764", "ten'),
        ("imagenet_class_index.json", b'["n01440764", "tench"]'),
        ("imagenet_class_index.json", b'{"0": ["n01440764"]}'),
        ("imagenet_class_index.json", b'{"0": 3}'),
        ("imagenet_class_index.json", b'{"0": ["n01440764", null]}'),
        ("imagenet_class_index.json", b'{"0": [["n01440764"], "tench"]}'),
        ("imagenet_class_index.json", b"3"),
        ("imagenet_class_index.json", b"\xff\xfe"),
        ("synset_words.txt", b"n01440764 \xff\xfe"),
        ("LOC_synset_mapping.txt", b"\x80\x81"),
        (f"{DEVKIT}/data/meta.mat", b"<html>"),
        (f"{DEVKIT}.tar.gz", b"<html>"),
    ],
)
def test_damaged_lists_of_names(tmp_path, name, damage):
    write(tmp_path / name, damage)
    with pytest.raises(DataError) as caught:
        readable_names(tmp_path, WNIDS)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root, as Windows, reads everything")
def test_lists_that_cannot_be_read(tmp_path):
    val_txt(flat(tmp_path)).chmod(0)
    refused(tmp_path, tmp_path / "val.txt", "Permission denied")


# Systems that lack something


class Yielding(io.BufferedReader):
    """A file that lets other threads run before each read."""

    def read(self, *size):
        time.sleep(0.001)
        return super().read(*size)


def test_archives_read_by_many_threads_without_pread(tmp_path, monkeypatch):
    """Windows has no os.pread: the threads share one position in the file."""
    monkeypatch.delattr(os, "pread")
    data = load_dataset(config(devkit_tar(archives(tmp_path)).parent))
    check(data)
    data.train.store._stream = Yielding(data.train.store._stream)
    rows = np.random.default_rng(0).integers(0, len(data.train), 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(data.train.read, rows))
    assert read == [EXPECTED[row][1] for row in rows]


def test_lists_are_utf8_whatever_the_system_prefers(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, _=2: encoding or "cp1252")
    lines = {wnid: f"{wnid} crêpe {i}, pancake" for i, wnid in enumerate(WNIDS)}
    write(tmp_path / "synset_words.txt", "\n".join(lines.values()))
    assert readable_names(tmp_path, WNIDS) == ("crêpe 0", "crêpe 1", "crêpe 2")
    index = {str(i): [wnid, f"crêpe_{i}"] for i, wnid in enumerate(WNIDS)}
    write(tmp_path / "imagenet_class_index.json", json.dumps(index, ensure_ascii=False))
    assert readable_names(tmp_path, WNIDS) == ("crêpe 0", "crêpe 1", "crêpe 2")


@pytest.mark.parametrize("make", [devkit, devkit_tar])
def test_without_scipy_the_devkit_says_what_to_install(tmp_path, monkeypatch, make):
    make(flat(tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UsageError, match=r"scipy: pip install 'alexnet\[photos\]'"):
        load_dataset(config(tmp_path))
    with pytest.raises(UsageError, match=r"scipy: pip install 'alexnet\[photos\]'"):
        readable_names(tmp_path, WNIDS)


def test_without_scipy_all_other_lists_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    check(load_dataset(config(val_txt(flat(tmp_path)).parent)))


def test_a_validation_folder_that_is_sorted_by_half(tmp_path):
    val_txt(flat(tmp_path))
    (tmp_path / "val" / "._hidden.JPEG").write_bytes(b"")  # as macOS leaves them
    check(load_dataset(config(tmp_path)))
    (tmp_path / "val" / WNIDS[0]).mkdir()
    refused(tmp_path, tmp_path / "val", "1 folders beside them", "finish sorting")
