"""Readable names for ImageNet's classes, which go by WordNet's identifiers (WNIDs such as n01440764): from whichever
published list lies beside the images or comes with torchvision."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from alexnet.data.splits import unique_names
from alexnet.errors import AlexNetError, DataError, UsageError

DEVKIT_TAR, DEVKIT = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"
LINES = ("synset_words.txt", "LOC_synset_mapping.txt", "words.txt")  # Caffe, Kaggle, Tiny ImageNet: a WNID, its words
OBJECTS = ("imagenet_class_index.json", "Labels.json")  # Keras: {"0": [WNID, name]}; ImageNet-100: {WNID: words}


def are_wnids(classes: Sequence[str]) -> bool:
    """Whether class folders are named by WNIDs."""
    return all(re.fullmatch(r"n\d{8}", name) for name in classes)


def readable_names(root: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A unique name for each WNID: from a list beside the images, else from torchvision's where it has one for them
    (all 1,000 classes, and those of Imagenette), else the WNID itself. Raises DataError for a damaged list."""
    try:
        known = _listed(root) or _torchvisions(classes)
        return unique_names([known.get(c, c) for c in classes], classes)
    except AlexNetError:
        raise
    except (ValueError, AttributeError, TypeError, OSError) as problem:
        raise DataError(f"the list of class names in {root} cannot be read ({problem}); remove or mend it.") from None


def _listed(root: Path) -> dict[str, str]:
    """The names of the list beside the images; empty without one."""
    for file in (root / name for name in OBJECTS if (root / name).is_file()):
        entries = json.loads(file.read_text("utf-8"))
        named = entries.values() if file.name == OBJECTS[0] else entries.items()
        return {wnid: words.split(",")[0].replace("_", " ").strip() for wnid, words in named}
    for file in (root / name for name in LINES if (root / name).is_file()):
        lines = (line.split(maxsplit=1) for line in file.read_text("utf-8").splitlines())
        return {wnid: words[0].split(",")[0].strip() for wnid, *words in filter(None, lines) if words}
    return {wnid: words.split(",")[0] for _, wnid, words in devkit_synsets(root) or []}


def _torchvisions(classes: tuple[str, ...]) -> dict[str, str]:
    """The names that torchvision has for exactly these classes; empty without it."""
    if len(classes) == 1000 and {"n01440764", "n15075141"} <= set(classes):  # ILSVRC's first and last
        return dict(zip(classes, published_names() or classes, strict=True))
    try:
        from torchvision.datasets import Imagenette
    except ImportError:
        return {}
    names = getattr(Imagenette, "_WNID_TO_CLASS", {})
    return {wnid: names[wnid][0] for wnid in classes} if set(classes) <= set(names) else {}


def published_names() -> list[str] | None:
    """The 1,000 readable class names in the order of sorted WNIDs, or None where torchvision is not installed."""
    try:
        from torchvision.models import AlexNet_Weights
    except ImportError:
        return None
    names: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def devkit_file(root: Path, name: str) -> IO[bytes] | None:
    """A file of the development kit, unpacked or in its archive."""
    unpacked = root / DEVKIT / "data" / name
    if unpacked.is_file():
        return io.BytesIO(unpacked.read_bytes())
    if not (root / DEVKIT_TAR).is_file():
        return None
    try:
        with tarfile.open(root / DEVKIT_TAR) as archive:
            for member in archive:
                if member.size < 0:  # which leads back, to be read for ever
                    raise tarfile.ReadError("a member of negative size")
                if member.name == f"{DEVKIT}/data/{name}" and (stream := archive.extractfile(member)):
                    return io.BytesIO(stream.read())
            raise KeyError(f"it has no {name}")
    except (tarfile.TarError, zlib.error, KeyError, OSError, EOFError) as problem:
        raise DataError(f"{root / DEVKIT_TAR} is damaged or not the published archive ({problem}).") from None


def devkit_synsets(root: Path) -> list[tuple[int, str, str]] | None:
    """(ILSVRC id, WNID, words) of the 1,000 classes in the development kit's meta.mat."""
    stream = devkit_file(root, "meta.mat")
    if stream is None:
        return None
    loadmat = matlab_reader()
    try:
        synsets = loadmat(stream, squeeze_me=True)["synsets"]
        leaves = [s for s in synsets if int(s["num_children"]) == 0]
        return [(int(s["ILSVRC2012_ID"]), str(s["WNID"]), str(s["words"])) for s in leaves]
    except Exception as problem:  # scipy raises a dozen kinds for a file that is not MATLAB's
        raise DataError(f"meta.mat of the development kit under {root} cannot be read ({problem}).") from None


def matlab_reader() -> Any:
    """scipy's function that reads MATLAB's files, in which Stanford Dogs and ImageNet publish their lists. Raises
    UsageError if scipy is not installed."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UsageError("the published .mat lists need scipy: pip install 'alexnet[photos]'") from None
    return loadmat
