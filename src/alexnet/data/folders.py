"""Photographs in class folders: a folder of one's own, or Stanford Dogs as it was published."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from alexnet.config import DataConfig
from alexnet.data.photos import FileStore, Photos, file_size
from alexnet.data.splits import Published
from alexnet.data.wnids import are_wnids, matlab_reader, readable_names
from alexnet.errors import DataError, differing, listed

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".psd")
"""Endings of photographs that are not read."""
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SETS = {"training_set": "train", "train_set": "train", "validation_set": "val", "val_set": "val", "test_set": "test"}
# In any case, where no other folder says that it is a class, or one says that it is a split.
ALIKE = SPLITS | _SETS | {"training": "train", "testing": "test"}


def read_folder(config: DataConfig) -> Published:
    """Read a folder with train/val[/test] sub-folders of class folders, or one folder of class folders.

    Raises DataError for another layout, classes without images, and files that cannot be listed.
    """
    root = existing(config)
    found: dict[str, Path] = {}
    folders = [name for name in sorted(os.listdir(root)) if not name.startswith(".") and (root / name).is_dir()]
    alike = all(name.casefold() in ALIKE for name in folders) or not SPLITS.keys().isdisjoint(folders)
    for name in folders:
        split = ALIKE.get(name.casefold()) if alike else None
        if split is not None:
            if split in found:
                raise DataError(f"{root} has {found[split].name} and {name}, which are the same split: join them.")
            found[split] = root / name
    if not found:
        _refuse_others(root, folders)
        classes, photos = read_classes(root)
        return Published(classes, {"all": photos}, _names(root, classes), unread_note(root))
    others = [name for name in folders if root / name not in found.values() and _holds_images(root / name)]
    parts: dict[str, Photos] = {}
    expected: tuple[str, ...] | None = None
    for name in ("train", "val", "test"):  # without train it can be measured on
        if name in found:
            expected, parts[name] = read_classes(found[name], expected)
    assert expected is not None
    whole = parts.keys() == {"train"}
    note = unread_note(root)
    if others:
        splits = listed([path.name for path in found.values()])
        beside = (
            f"{root} holds images in {listed(others)} beside {splits}, and these are passed over: where all are "
            "classes, give those that are called like a split another name"
        )
        note = f"{beside}; {note}" if note else beside
    return Published(expected, {"all": parts["train"]} if whole else dict(parts), _names(root, expected), note)


def _holds_images(folder: Path) -> bool:
    return any(
        name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )


def _refuse_others(root: Path, folders: list[str]) -> None:
    """Raise DataError for folders that are hardly classes."""
    splits = {ALIKE.get(name.casefold()): name for name in folders}
    if "train" in splits and ("test" in splits or "val" in splits):
        named = [name for split, name in splits.items() if split is not None]
        raise DataError(
            f"{root} has {' and '.join(named)} among other folders, which would all be classes: call them train, val "
            "and test, as they are if these are splits."
        )
    if len(folders) == 1:
        inner = [entry for entry in os.scandir(root / folders[0]) if not entry.name.startswith(".")]
        if len(inner) > 1 and all(os.path.isdir(entry.path) for entry in inner):  # is_dir raises in a circle
            raise DataError(
                f"{root} holds the one folder {folders[0]}, whose folders seem to be the classes: --data.root "
                f"{root / folders[0]}."
            )


def unread_note(root: Path) -> str | None:
    """A sentence on photographs that lie there and are not read."""
    counts = Counter(
        ending
        for _, _, names in os.walk(root)
        for name in names
        if (ending := os.path.splitext(name)[1].lower()) in UNREAD
    )
    if not counts:
        return None
    told = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    return f"photographs that are not read were passed over ({told}): convert them to JPEG"


def _names(root: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Readable names for folders that are called by WNIDs; others are read as they are."""
    return readable_names(root, classes) if are_wnids(classes) else ()


def read_dogs(config: DataConfig) -> Published:
    """Read Stanford Dogs as published: Images/<wnid>-<breed>/*.jpg, and train_list.mat and test_list.mat, which say
    what each part holds.

    Raises DataError for files that are missing or not the published ones, and UsageError where scipy is missing.
    """
    root = existing(config)
    images = root / "Images"
    lists = {part: root / f"{part}_list.mat" for part in ("train", "test")}
    for path in (images, *lists.values()):
        if not path.exists():
            raise DataError(
                f"Stanford Dogs needs {path.name} in {root}: unpack images.tar and lists.tar of "
                "http://vision.stanford.edu/aditya86/ImageNetDogs/ there."
            )
    loadmat = matlab_reader()
    named: dict[str, list[str]] = {}
    for part, path in lists.items():
        try:
            named[part] = [str(entry[0]) for entry in loadmat(path)["file_list"].ravel()]
        except Exception as problem:  # scipy raises a dozen kinds for a file that is not MATLAB's
            raise DataError(f"{path} is not the published list ({problem}); fetch lists.tar again.") from None
        odd = [n for n in named[part] if n.startswith("/") or ".." in n.split("/") or n.count("/") != 1]
        if odd:
            raise DataError(f"{path} names {odd[0]!r}: not the published list; fetch lists.tar again.")
    breeds = tuple(sorted({name.partition("/")[0] for names in named.values() for name in names}))
    parts: dict[str, Photos] = {}
    for part, names in named.items():
        names = sorted(names)
        sizes = [_size(images / name, lists[part]) for name in names]
        labels = [breeds.index(name.partition("/")[0]) for name in names]
        parts[part] = Photos.whole(FileStore(images, names, sizes), labels)
    readable = tuple(breed.partition("-")[2].replace("_", " ") or breed for breed in breeds)
    return Published(breeds, dict(parts), readable)


def _size(path: Path, named_in: Path) -> int:
    try:
        return file_size(path)
    except OSError as problem:
        raise DataError(f"{named_in.name} names {path}, which cannot be read ({problem.strerror}).") from None


def existing(config: DataConfig) -> Path:
    """The folder that `config.root` names. Raises DataError if it is not there."""
    root = Path(os.path.expanduser(config.root))
    if not root.is_dir():
        here = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"there is no folder {root}{here}: point --data.root to the one that holds the photographs.")
    return root


def read_classes(folder: Path, expected: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], Photos]:
    """The class names of a folder (its sub-folders, sorted) and a split of all images under them.

    Raises DataError for a folder without class folders, a class folder without images, classes that differ from
    `expected`, and symbolic links that lead in a circle.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
        classes = tuple(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as problem:
        raise DataError(f"cannot read {problem.filename or folder}: {problem.strerror}.") from None
    if not classes:
        loose = [e.name for e in entries if e.name.lower().endswith(EXTENSIONS)]
        what = f"{len(loose)} images but no class folders" if loose else "no images"
        raise DataError(
            f"{folder} holds {what}: put the images of each class into a folder of the class's name "
            f"({folder / 'CLASS' / (loose[0] if loose else 'IMAGE.jpg')})"
            f"{', or call it otherwise where its images have no labels' if expected and loose else ''}"
            f"{', or call it otherwise where it is a class itself' if not expected and loose else ''}."
        )
    if expected is not None and classes != expected:
        raise DataError(f"the classes of {folder} are not those of training: {differing(expected, classes)}.")
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        before = len(names)
        _walk(folder / name, name, (), names, sizes)
        if len(names) == before:
            raise DataError(
                f"the class folder {folder / name} holds no images ({', '.join(EXTENSIONS)}): fill it or remove it."
            )
        labels += [label] * (len(names) - before)
    return classes, Photos.whole(FileStore(folder, names, sizes), labels)


def _walk(folder: Path, prefix: str, above: tuple[str, ...], names: list[str], sizes: list[int]) -> None:
    """Add the images under a folder, sorted by name; `above` are the real paths of the folders that lead here."""
    here = os.path.realpath(folder)  # not st_ino, which is 0 on some of Windows' file systems
    try:
        if here in above:
            raise DataError(f"{folder} is a symbolic link to a folder that it lies in: remove the link.")
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                _walk(folder / entry.name, f"{prefix}/{entry.name}", (*above, here), names, sizes)
            elif entry.name.lower().endswith(EXTENSIONS):
                names.append(f"{prefix}/{entry.name}")
                sizes.append(file_size(entry.path))
    except OSError as problem:  # ELOOP too: a link that leads to itself
        raise DataError(
            f"cannot read {problem.filename or folder}: {problem.strerror}; mend or remove it (a broken link?)."
        ) from None
