"""CIFAR-10 and CIFAR-100 from their published archives.

The files are pickles, which can execute code: none is unpickled before its checksum matched the published one.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path

from alexnet.config import DataConfig
from alexnet.data.splits import Published, Split
from alexnet.errors import DataError
from alexnet.files import download, verify


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

    def read(self, config: DataConfig) -> Published:
        """The training split, the test split and the class names; every file's checksum is verified before it is
        unpickled. Raises DataError for files that are missing, damaged or cannot be downloaded."""
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
        return Published(tuple(entries[meta][self.names_key]), {"train": split(self.train), "test": split(self.test)})

    def _contents(self, config: DataConfig) -> dict[str, tuple[Path, bytes]]:
        """Each published file's place and bytes: from the unpacked folder, the archive, or a download of it."""
        root, (url, md5) = Path(os.path.expanduser(config.root)), self.archive
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
            download(url, archive, "point --data.root to a folder that holds it or can be written", md5=md5)
        try:
            verify(archive, str(archive), md5=md5)
            with tarfile.open(archive) as tar:  # read in memory: nothing is unpacked
                found = {n: tar.extractfile(f"{self.folder}/{n}") for n in names}
                return {n: (archive, stream.read()) for n, stream in found.items() if stream is not None}
        except OSError as problem:
            raise DataError(f"cannot read {archive}: {problem.strerror or problem}.") from None


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
