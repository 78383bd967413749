"""ImageNet (ILSVRC2012) in the layouts it is found in: class folders by WNID, or the published archives read in place.

A WNID (n01440764) is WordNet's name for a class; `data/wnids.py` has readable names for them.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from alexnet.config import DataConfig
from alexnet.data.folders import EXTENSIONS, existing, read_classes
from alexnet.data.photos import ArchiveStore, FileStore, Photos, file_size
from alexnet.data.splits import Published
from alexnet.data.wnids import DEVKIT_TAR, devkit_file, devkit_synsets, readable_names
from alexnet.errors import AlexNetError, DataError

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
HOW_TO_LABEL = (
    f"put the published {DEVKIT_TAR}, Caffe's val.txt or Kaggle's LOC_val_solution.csv beside it, or sort the images "
    "into folders val/<WNID>/"
)


def read_imagenet(config: DataConfig) -> Published:
    """Read training and validation images (the test labels were never published).

    Each part is a folder (train, val; also as Kaggle lays them out, ILSVRC/Data/CLS-LOC) or the published archive.
    Raises DataError for parts that are missing, damaged or without labels, and UsageError where scipy is missing, which
    the development kit's meta.mat needs.
    """
    root = existing(config)
    kaggle = root / "ILSVRC" / "Data" / "CLS-LOC"
    base = kaggle if kaggle.is_dir() else root
    if (base / "train").is_dir():
        classes, train = read_classes(base / "train")
    elif (root / TRAIN_TAR).is_file():
        classes, train = _read_train_archive(root / TRAIN_TAR)
    else:
        raise DataError(
            f"{root} holds neither a folder train with one folder a class nor {TRAIN_TAR}: point --data.root to the "
            "folder that does (ImageNet must be requested from https://image-net.org)."
        )
    labels = _ValidationLabels(root, classes)
    inside = [f for f in (base / "val").iterdir() if not f.name.startswith(".")] if (base / "val").is_dir() else []
    flat = sorted(f.name for f in inside if f.match("*.JPEG"))
    if flat and (sorted_into := [f.name for f in inside if f.is_dir()]):
        raise DataError(
            f"{base / 'val'} holds {len(flat)} photographs and {len(sorted_into)} folders beside them: finish sorting "
            "them into folders, or take all out of these."
        )
    if flat:
        try:
            sizes = [file_size(base / "val" / name) for name in flat]
        except OSError as problem:
            raise DataError(f"cannot read {problem.filename}: {problem.strerror}; mend or remove it.") from None
        val = Photos.whole(FileStore(base / "val", flat, sizes), labels.of(flat, base / "val"))
    elif (base / "val").is_dir():
        _, val = read_classes(base / "val", classes)
    elif (root / VAL_TAR).is_file():
        members = sorted(_members(root / VAL_TAR))
        names = [name for name, _, _ in members]
        store = ArchiveStore(root / VAL_TAR, names, [o for _, o, _ in members], [s for _, _, s in members])
        val = Photos.whole(store, labels.of(names, root / VAL_TAR))
    else:
        raise DataError(f"{root} holds neither a folder val nor {VAL_TAR}: the validation images are needed too.")
    return Published(classes, {"train": train, "val": val}, readable_names(root, classes))


def _read_train_archive(path: Path) -> tuple[tuple[str, ...], Photos]:
    """The archive of 1,000 archives, one a class."""
    classes: list[str] = []
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    labels: list[int] = []
    for name, offset, size in sorted(_members(path, suffixes=(".tar",))):
        members = sorted(_members(path, offset, size))
        if not members:
            raise DataError(f"{name} in {path} holds no images.")
        classes.append(name.removesuffix(".tar"))
        names += [m[0] for m in members]
        offsets += [m[1] for m in members]
        sizes += [m[2] for m in members]
        labels += [len(classes) - 1] * len(members)
    if not classes:
        raise DataError(f"{path} holds no class archives (n01440764.tar ...): it is not the published file.")
    return tuple(classes), Photos.whole(ArchiveStore(path, names, offsets, sizes), labels)


def _members(
    path: Path, start: int = 0, size: int | None = None, suffixes: tuple[str, ...] = EXTENSIONS
) -> Iterator[tuple[str, int, int]]:
    """(name, offset in the file, size) of an archive's members, or of the archive of `size` bytes at `start` in it.

    Raises DataError for links, devices and names that lead out, and for a damaged archive.
    """
    try:
        with path.open("rb") as stream:
            end = path.stat().st_size if size is None else start + size
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    if member.size < 0:  # which leads back, to be read for ever
                        raise tarfile.ReadError("a member of negative size")
                    parts = PurePosixPath(member.name).parts
                    if member.isdir() and ".." not in parts and not member.name.startswith("/"):
                        continue
                    if not member.isreg() or ".." in parts or member.name.startswith("/"):
                        raise DataError(
                            f"{path} holds {member.name!r}, a link, a device or a path that leads out: it is not the "
                            "published archive and is not read."
                        )
                    if member.name.lower().endswith(suffixes):
                        # tarfile counts from the stream's beginning, wherever reading started.
                        yield PurePosixPath(member.name).name, member.offset_data, member.size
                # tarfile ends quietly at damage or at the file's end; a whole archive ends with blocks of zeros.
                stream.seek(archive.offset)
                if archive.offset + tarfile.BLOCKSIZE > end or any(stream.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError(f"it breaks off at byte {archive.offset}")
    except DataError:
        raise
    except (tarfile.TarError, ValueError) as problem:  # ValueError, OverflowError: absurd sizes
        raise DataError(f"{path} is damaged or not a tar archive ({problem}); fetch it again.") from None
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror or problem}.") from None


class _ValidationLabels:
    """The labels of flat validation images, from whichever published list is at hand."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.root, self.classes = root, classes

    def of(self, names: list[str], where: Path) -> list[int]:
        """A label for each file name. Raises DataError where there is none."""
        table = self._table()
        if table is None:
            raise DataError(f"{where} holds {len(names)} validation images without class folders: {HOW_TO_LABEL}.")
        unknown = [n for n in names if n not in table]
        if unknown:
            raise DataError(f"there is no label for {unknown[0]} in {where} ({len(unknown)} without one).")
        outside = [n for n in names if not 0 <= table[n] < len(self.classes)]
        if outside:
            raise DataError(
                f"the label of {outside[0]} is of a class that {self.root} has no training images of "
                f"({len(outside)} of {len(names)} validation images, {len(self.classes)} training classes)."
            )
        return [table[n] for n in names]

    def _table(self) -> dict[str, int] | None:
        try:
            if (file := self.root / "val.txt").is_file():  # name and label from 0, in the order of sorted WNIDs
                rows = (line.split() for line in file.read_text("utf-8").splitlines() if line.strip())
                return {PurePosixPath(name).name: int(label) for name, label in rows}
            if (file := self.root / "LOC_val_solution.csv").is_file():
                with file.open(newline="", encoding="utf-8") as stream:
                    return {
                        f"{row['ImageId']}.JPEG": self._index(row["PredictionString"].split()[0])
                        for row in csv.DictReader(stream)
                    }
            return self._devkit()
        except AlexNetError:
            raise
        except (ValueError, KeyError, IndexError, AttributeError, csv.Error, OSError) as problem:
            raise DataError(f"the list of validation labels in {self.root} cannot be read ({problem}).") from None

    def _index(self, wnid: str) -> int:
        return self.classes.index(wnid) if wnid in self.classes else -1

    def _devkit(self) -> dict[str, int] | None:
        """ILSVRC ids from the ground truth, WNIDs from meta.mat."""
        found = devkit_file(self.root, "ILSVRC2012_validation_ground_truth.txt")
        synsets = devkit_synsets(self.root)
        if found is None or synsets is None:
            return None
        wnids = {number: wnid for number, wnid, _ in synsets}
        ids = [int(line) for line in found.read().split()]
        return {f"ILSVRC2012_val_{i:08d}.JPEG": self._index(wnids.get(n, "")) for i, n in enumerate(ids, 1)}
