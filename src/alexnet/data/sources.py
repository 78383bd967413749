"""Data sets by name, cut into training, validation and test splits (no torch here).

A new one is an entry of `SOURCES`, at the end of this file, and a function that reads it; a program adds its own with
`register_source`, or hands its data over as it is (`alexnet.data.arrays`).
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet.config import DataConfig
from alexnet.config.data import RESIZE
from alexnet.config.values import flag
from alexnet.data.splits import Dataset, Published, Split, stratify
from alexnet.errors import DataError, UsageError, unknown

if TYPE_CHECKING:  # `alexnet list` shows the names below and does not wait for numpy
    from alexnet.data.photos import Photos

MEMORY = "memory"  # the source of a run whose data was handed over
PREPARED_NOTE = (
    "reading the original photographs, which is slower than a prepared copy: "
    "alexnet prepare {source} --data.root {root}{settings} --out DIR, then --data.root DIR in a new run"
)

COLUMNS = ("path_column", "label_column", "split_column")  # of source table


@dataclass(frozen=True)
class Source:
    """A data set that can be named: what it is, and how it is read."""

    about: str
    """One line for `alexnet list data`."""
    reader: str | Callable[[DataConfig], Any]
    """The function that reads it as it was published, into that form or another that `read_given` takes; by its name
    "package.module:function" it is imported when the data set is first read, so that a list of all sources waits for
    none of them."""
    photographs: bool | None = False
    """Whether it consists of encoded images of any size (`Photos`), which are decoded as they are needed; otherwise of
    small images of one size in memory (`Split`). None where that shows when it is read."""
    upright: bool = False
    """Whether photographs are turned upright as EXIF says unless --data.orientation decides it; published figures of
    published data sets were obtained without."""

    def read(self, config: DataConfig) -> Published:
        """The data set as it was published. Raises DataError for files that are missing or damaged."""
        reader = pkgutil.resolve_name(self.reader) if isinstance(self.reader, str) else self.reader
        found = reader(config)
        if isinstance(found, Published):
            return found
        from alexnet.data.arrays import read_given

        return read_given(found, photographs=_for_photographs(config))


def register_source(
    name: str, reader: Callable[[DataConfig], Any], about: str = "a data set of your own", *, replace: bool = False
) -> None:
    """Give a data set of one's own a name for `DataConfig.source`, in this process, with the checks, splits,
    fingerprint and exact resume of all others.

    `reader` gets the configuration, whose `root` says where to look, and returns the data in any form that `train`
    takes: a pair of arrays, a dataset, or a dictionary of splits. `about` is what `alexnet list data` says. Raises
    UsageError for a name that is taken, unless it is one's own and `replace` is given, as in a notebook whose cells run
    again.
    """
    if not name.isprintable() or name != name.strip() or not name:
        raise UsageError(f"a data source cannot be called {name!r}.")
    if name in SOURCES and (name not in _REGISTERED or not replace):
        mend = "replace=True puts this one in its place" if name in _REGISTERED else "choose another name"
        raise UsageError(f"there is a data source {name!r} already; {mend}.")
    SOURCES[name] = Source(about, reader, photographs=None, upright=True)
    _REGISTERED.add(name)


def holds_photographs(source: str) -> bool:
    """Whether a source has photographs; of what a program holds that is not known."""
    return source in SOURCES and bool(SOURCES[source].photographs)


def known_to_programs_alone(source: str) -> bool:
    """Whether the command cannot read a source: data that was handed over, or a registered one."""
    return source == MEMORY or source in _REGISTERED


def load_dataset(config: DataConfig, data: object = None, classes: Sequence[str] | None = None) -> Dataset:
    """Read, check and split a data set: the configured one, or the `data` that a program hands over, whose classes are
    called `classes` where it does not say (`alexnet.data.arrays.read_given`).

    Raises UsageError for an unknown source and DataError for files that are missing, damaged or do not fit together.
    """
    if data is None:
        published = read_published(config)
        if holds_photographs(config.source) and not _is_prepared(config):
            published = replace(published, note="; ".join(filter(None, (published.note, _prepared_note(config)))))
    else:
        from alexnet.data.arrays import read_given

        published = read_given(data, classes, photographs=_for_photographs(config))
    published = _keep_top_classes(published, config)
    for name, part in published.parts.items():
        if len(part) == 0:
            raise DataError(f"{config.source}: the {name} split holds no images (under {config.root}).")
        if part.labels.min() < 0 or part.labels.max() >= len(published.classes):
            raise DataError(
                f"{config.source}: {name} labels run from {part.labels.min()} to {part.labels.max()}, "
                f"but there are {len(published.classes)} classes."
            )
    train, val, test, drawn = _cut(published, config)
    digest = hashlib.sha256(os.fsencode("\n".join(published.classes)))
    for split in (train, val, test):
        split.identify(digest)
    names = published.names or published.classes
    return Dataset(
        *(config.source, published.classes, train, val, test, digest.hexdigest()),
        names=names,
        note=published.note,
        drawn=drawn,
    )


def turned_upright(config: DataConfig, prepared: bool | None = None) -> bool:
    """Whether photographs are turned upright as EXIF says: as configured, or as they were `prepared`, or as is the rule
    of their source."""
    if config.orientation is not None:
        return config.orientation == "apply"
    return SOURCES[config.source].upright if prepared is None else prepared


def read_published(config: DataConfig) -> Published:
    """A data set as it was published, from a prepared folder if the root is one. Raises UsageError and DataError."""
    if config.source not in SOURCES:
        hint = " One of your own is known in programs that call alexnet.register_source."
        raise UsageError(unknown("data source", config.source, SOURCES) + hint)
    if "\0" in config.root:
        raise DataError(f"--data.root {config.root!r} is no path: it holds a NUL.")
    try:
        return _read(SOURCES[config.source], config)
    except OSError as problem:  # permissions, names of more than 255 bytes
        where = problem.filename or config.root
        raise DataError(f"cannot read {where}: {problem.strerror or problem}; check --data.root.") from None


def _read(source: Source, config: DataConfig) -> Published:
    if not source.photographs:
        if source.photographs is False and _for_photographs(config):  # before anything is downloaded
            raise UsageError(
                "--data.random-resized-crop, --data.top-classes and --data.resplit are for photographs, "
                f"not for {config.source}."
            )
        return source.read(config)
    if _is_prepared(config):
        from alexnet.data.packed import read_prepared

        return read_prepared(config)
    return source.read(config)


def _prepared_note(config: DataConfig) -> str:
    """What preparing the photographs would bring, with the command for the copy that these settings can be used on."""
    named = {name: getattr(config, name) for name in (*COLUMNS, "orientation")}
    given = [(flag(f"data.{name}"), text) for name, text in named.items() if text != getattr(DataConfig, name)]
    if config.resize is not None and config.resize > RESIZE:
        given.append(("--side", str(config.resize)))
    settings = "".join(f" {name} {shlex.quote(text)}" for name, text in given)
    return PREPARED_NOTE.format(source=config.source, root=shlex.quote(config.root), settings=settings)


def _is_prepared(config: DataConfig) -> bool:
    from alexnet.data.packed import is_prepared

    return is_prepared(config.root)


def _for_photographs(config: DataConfig) -> bool:
    """Whether there are settings that only photographs have."""
    return config.random_resized_crop or config.top_classes is not None or config.resplit


def _keep_top_classes(published: Published, config: DataConfig) -> Published:
    """The classes with the most images, over all parts; of two with equally many the first by name."""
    k = len(published.classes)
    if config.top_classes is None or config.top_classes >= k:
        return published
    import numpy as np

    counts = sum(np.bincount(part.labels, minlength=k) for part in published.parts.values())
    kept = np.sort(np.argsort(-np.asarray(counts), kind="stable")[: config.top_classes])
    new = np.full(k, -1)
    new[kept] = np.arange(len(kept))
    parts = {}
    for name, part in published.parts.items():
        part = part.take(np.flatnonzero(np.isin(part.labels, kept)))
        parts[name] = part.relabel(new[part.labels])
    names = tuple(published.names[i] for i in kept) if published.names else ()
    return replace(published, classes=tuple(published.classes[i] for i in kept), names=names, parts=parts)


def _cut(
    published: Published, config: DataConfig
) -> tuple[Split | Photos, Split | Photos, Split | Photos, frozenset[str]]:
    """Training, validation and test split; those that were not published are drawn from the training part. The last
    value names the drawn ones: those that other settings draw otherwise."""
    import numpy as np

    parts, drawn = dict(published.parts), set()
    if "all" in parts or (config.resplit and "train" in parts):
        from alexnet.data.photos import Photos

        whole = [part for name, part in parts.items() if name != "val"]
        pool = whole[0] if len(whole) == 1 else Photos.pooled([p for p in whole if isinstance(p, Photos)])
        held, rest = stratify(pool.labels, config.test_fraction, np.random.default_rng([config.split_seed, 1]))
        parts = parts | {"train": pool.take(rest), "test": pool.take(held)}
        drawn |= {"train", "test"}
    if "train" not in parts:  # handed over to be measured on
        none = next(iter(parts.values())).take(np.arange(0))
        return none, parts.get("val", none), parts.get("test", none), frozenset()
    rng = np.random.default_rng(config.split_seed)
    train = parts["train"]
    if config.fraction < 1:
        kept, _ = stratify(train.labels, config.fraction, rng)
        train = train.take(kept)
        drawn.add("train")
    if "val" in parts:
        val = parts["val"]
    else:
        val_rows, train_rows = stratify(train.labels, config.val_fraction, rng)
        train, val = train.take(train_rows), train.take(val_rows)
        drawn |= {"train", "val"}
    if config.per_class is not None:
        kept, _ = stratify(train.labels, config.per_class, np.random.default_rng([config.split_seed, 2]))
        train = train.take(kept)
        drawn.add("train")
    if len(train) == 0:
        raise UsageError(
            f"--data.fraction {config.fraction} and --data.val-fraction {config.val_fraction} leave no training images."
        )
    return train, val, parts["test"] if "test" in parts else train.take(np.arange(0)), frozenset(drawn)


def _nowhere(config: DataConfig) -> NoReturn:
    raise UsageError(
        f"data of the source {config.source} is in no file: a program held it. Hand it over again from Python, as in "
        "alexnet.train(config, run, data=...) or alexnet.evaluate(run, data=...)."
    )


SOURCES: dict[str, Source] = {
    "digits": Source(
        "handwritten digits, 10 classes, 1x8x8; they come with the package", "alexnet.data.digits:read_digits"
    ),
    "cifar10": Source(
        "CIFAR-10, 10 classes, 3x32x32, 50,000 + 10,000; 163 MB download", "alexnet.data.cifar:CIFAR10.read"
    ),
    "cifar100": Source(
        "CIFAR-100, 100 classes, 3x32x32, 50,000 + 10,000; 161 MB download", "alexnet.data.cifar:CIFAR100.read"
    ),
    "imagenet": Source(
        "ILSVRC2012, 1,000 classes, 1,281,167 + 50,000 photographs: folders by WNID or the published archives",
        "alexnet.data.imagenet:read_imagenet",
        photographs=True,
    ),
    "stanford-dogs": Source(
        "Stanford Dogs, 120 breeds, 12,000 + 8,580 photographs, as published (--data.top-classes 5)",
        "alexnet.data.folders:read_dogs",
        photographs=True,
    ),
    "folder": Source(
        "your photographs: train/val[/test] folders of class folders, or one folder of class folders that is split",
        "alexnet.data.folders:read_folder",
        photographs=True,
        upright=True,
    ),
    "table": Source(
        "your photographs as a CSV file lists them: columns path, label and perhaps split (--data.root FILE.csv)",
        "alexnet.data.tables:read_table",
        photographs=True,
        upright=True,
    ),
    MEMORY: Source(
        "arrays or a dataset that a program holds: alexnet.train(config, data=...)",
        "alexnet.data.sources:_nowhere",
        photographs=None,
        upright=True,
    ),
}
_REGISTERED: set[str] = set()
