"""Data sets by name: uint8 images, labels and class names, with a held-out validation split (no torch here)."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import pickle
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.config import DataConfig
from alexnet.errors import DataError, UsageError, unknown

if TYPE_CHECKING:  # `alexnet list` shows the names below and does not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8, labels [N] int64, and each image's place in the published files."""

    images: NDArray[np.uint8]
    labels: Labels
    sources: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The rows given, in that order."""
        return Split(self.images[rows], self.labels[rows], self.sources[rows])


@dataclass(frozen=True)
class Dataset:
    """A data set cut into splits; `fingerprint` is a SHA-256 over images, labels and class names of all of them."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    fingerprint: str

    def split(self, name: str) -> Split:
        """The split called train, val or test."""
        if name not in ("train", "val", "test"):
            raise UsageError(unknown("split", name, ("train", "val", "test")))
        split: Split = getattr(self, name)
        if len(split) == 0:
            raise UsageError(f"the {name} split is empty; set --data.val-fraction above 0 to hold one out.")
        return split


@dataclass(frozen=True)
class Source:
    """How a named data set is read; `read` returns training split, test split and class names."""

    about: str
    read: Callable[[DataConfig], tuple[Split, Split, tuple[str, ...]]]


def load_dataset(config: DataConfig) -> Dataset:
    """Read, check and split a data set.

    Raises UsageError for an unknown source and DataError for files that are missing, damaged or do not fit together.
    """
    if config.source not in SOURCES:
        raise UsageError(unknown("data source", config.source, SOURCES))
    train, test, classes = SOURCES[config.source].read(config)
    for name, split in (("training", train), ("test", test)):
        if len(split) == 0:
            raise DataError(f"{config.source}: the {name} split holds no images (under {config.root}).")
        if split.labels.min() < 0 or split.labels.max() >= len(classes):
            raise DataError(
                f"{config.source}: {name} labels run from {split.labels.min()} to {split.labels.max()}, "
                f"but there are {len(classes)} classes."
            )
    import numpy as np

    rng = np.random.default_rng(config.split_seed)
    if config.fraction < 1:
        kept, _ = stratify(train.labels, config.fraction, rng)
        train = train.take(kept)
    val_rows, train_rows = stratify(train.labels, config.val_fraction, rng)
    if len(train_rows) == 0:
        raise UsageError(
            f"--data.fraction {config.fraction} and --data.val-fraction {config.val_fraction} leave no training images."
        )
    train, val = train.take(train_rows), train.take(val_rows)
    digest = hashlib.sha256("\n".join(classes).encode())
    for split in (train, val, test):
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(split.labels.data)
    return Dataset(config.source, classes, train, val, test, digest.hexdigest())


def stratify(labels: Labels, fraction: float, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows cut in two, `fraction` of each class (rounded) in the first part; both parts in the order of the rows."""
    import numpy as np

    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: round(len(rows) * fraction)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _read_digits(config: DataConfig) -> tuple[Split, Split, tuple[str, ...]]:
    """Digits has no published test split: a fifth of each class is held out, always the same one."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # published as 0-16
    whole = Split(images, bunch.target.astype(np.int64), np.arange(len(images)))
    test, train = stratify(whole.labels, 0.2, np.random.default_rng(0))
    return whole.take(train), whole.take(test), tuple(str(d) for d in range(10))


@dataclass(frozen=True)
class CifarFiles:
    """The published files of a CIFAR set with their MD5 sums (https://www.cs.toronto.edu/~kriz/cifar.html)."""

    archive: tuple[str, str]
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels_key: str
    names_key: str

    def read(self, config: DataConfig) -> tuple[Split, Split, tuple[str, ...]]:
        """Training split, test split, class names; every file's checksum is verified before it is unpickled."""
        import numpy as np

        contents = self._contents(config)
        entries = {}
        for name, md5 in {**self.train, **self.test, **self.meta}.items():
            where, raw = contents[name]
            found = hashlib.md5(raw).hexdigest()
            if found != md5:
                raise DataError(
                    f"{where} is damaged: its MD5 is {found}, published is {md5}. Delete it and download the "
                    "data set again."
                )
            entries[name] = pickle.loads(raw, encoding="latin1")

        def split(names: dict[str, str]) -> Split:
            images = np.concatenate([entries[n]["data"].reshape(-1, 3, 32, 32) for n in names])
            labels = np.concatenate([np.asarray(entries[n][self.labels_key], dtype=np.int64) for n in names])
            return Split(images, labels, np.arange(len(labels)))

        (meta,) = self.meta
        return split(self.train), split(self.test), tuple(entries[meta][self.names_key])

    def _contents(self, config: DataConfig) -> dict[str, tuple[Path, bytes]]:
        """Each published file's place and bytes: from the unpacked folder, the archive, or a download of it."""
        root, (url, md5) = Path(config.root).expanduser(), self.archive
        if root.name == self.folder:  # the folder itself was named
            root = root.parent
        folder, archive = root / self.folder, root / url.rpartition("/")[2]
        names = {**self.train, **self.test, **self.meta}
        if folder.is_dir():
            missing = [n for n in names if not (folder / n).is_file()]
            if missing:
                raise DataError(
                    f"{folder} lacks {', '.join(missing)}: delete the folder and download the data set again."
                )
            try:
                return {n: (folder / n, (folder / n).read_bytes()) for n in names}
            except OSError as problem:
                raise DataError(f"cannot read {problem.filename}: {problem.strerror}.") from None
        if not archive.is_file():
            if not config.download:
                raise DataError(
                    f"{config.source} is neither at {folder} nor at {archive}; point --data.root to the folder "
                    "that holds one of them, or allow the download with --data.download."
                )
            _download(url, md5, archive)
        try:
            _verify(archive, md5, str(archive))
            with tarfile.open(archive) as tar:  # read in memory: nothing is unpacked
                found = {n: tar.extractfile(f"{self.folder}/{n}") for n in names}
                return {n: (archive, stream.read()) for n, stream in found.items() if stream is not None}
        except OSError as problem:
            raise DataError(f"cannot read {archive}: {problem.strerror or problem}.") from None


def _verify(path: Path, md5: str, name: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != md5:
        raise DataError(f"{name} is damaged: its MD5 is {found}, published is {md5}. Fetch it again.")


def _download(url: str, md5: str, path: Path) -> None:
    """Fetch into a temporary file beside `path`; only a complete, verified file gets the final name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            part = Path(folder) / path.name
            print(f"downloading {url}", file=sys.stderr)
            with contextlib.closing(urllib.request.urlopen(url, timeout=30)) as remote, part.open("wb") as local:
                shutil.copyfileobj(remote, local)
            _verify(part, md5, f"the download of {url}")
            part.replace(path)
    except (OSError, http.client.HTTPException) as problem:
        raise DataError(
            f"cannot download {url} to {path.parent} ({getattr(problem, 'reason', problem)}). Fetch it on a machine "
            f"with a network and put it at {path}, or point --data.root to a folder that holds it or can be written."
        ) from None


CIFAR10 = CifarFiles(
    archive=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    labels_key="labels",
    names_key="label_names",
)
CIFAR100 = CifarFiles(
    archive=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    labels_key="fine_labels",
    names_key="fine_label_names",
)
SOURCES: dict[str, Source] = {
    "digits": Source("scikit-learn's handwritten digits, 10 classes, 1x8x8; embedded", _read_digits),
    "cifar10": Source("CIFAR-10, 10 classes, 3x32x32, 50,000 + 10,000; 163 MB download", CIFAR10.read),
    "cifar100": Source("CIFAR-100, 100 classes, 3x32x32, 50,000 + 10,000; 161 MB download", CIFAR100.read),
}
