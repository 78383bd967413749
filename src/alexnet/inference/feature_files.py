"""Activations of whole data sets as files: written while they are computed, so that memory stays flat, and continued
after a kill.

A folder of features holds one .npy for each layer, [N, ...] in the order of the images, which `numpy.load` opens
without reading it (mmap_mode="r"); labels.npy [N] where labels are known; images.csv, which says of every row where its
image comes from; and features.json, which says what all of it is. features.json is written last: a folder that has it
is complete.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from alexnet.errors import DataError, UsageError
from alexnet.files import CLUTTER, LOCK, holding, remove_leftovers, write_atomically
from alexnet.inference.features import BATCH, answers, choose_layers, in_dtype
from alexnet.inference.pictures import Pictures
from alexnet.models.summary import trace
from alexnet.runs.provenance import arithmetic, environment

FORMAT = 1
DESCRIPTION = "features.json"
_WORK = ".features"  # the folder of what is not complete yet
_PROGRESS = "progress.json"
_PIECE = 2**26  # bytes computed between two synchronisations with the disk
_SAME = {  # what may not change between the beginning and the end, and where the description says it
    "weights": ("weights", "sha256"),
    "images": ("images", "fingerprint"),
    "splits": ("images", "split"),
    "preprocessing": ("preprocessing",),
    "layers": ("layers",),
    "number formats": ("dtype",),
    "devices": ("arithmetic", "device"),
    "versions of torch": ("torch",),
    "formats": ("format",),
}


def write_features(
    pictures: Pictures,
    out: Path,
    layers: Sequence[str] | str = ("fc7",),
    *,
    dtype: str = "float32",
    torchvision_names: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda part, done, total: None,
) -> dict[str, Any]:
    """Write the outputs of layers for all pictures into the folder `out`, as float32 or float16. The same call goes on
    after a kill and ends with the same bytes; it does nothing where all is there.

    Layers are named as for `extract_features`. `on_progress` is called with a word, images done and images in all. A
    picture that cannot be read and is passed over leaves a row of NaN. Returns what features.json says. Raises
    UsageError for a folder that holds something else or features of other weights, images or settings, for a disk that
    is too small and for values beyond float16's range; DataError for pictures that cannot be read and failing disks.
    """
    names = choose_layers(pictures.network, layers, torchvision_names)
    described = _describe(pictures, names, dtype)
    with holding(out, "writing features to", "choose another --out"):
        remove_leftovers(out, DESCRIPTION)
        remove_leftovers(out / _WORK)
        if (complete := _read(out / DESCRIPTION)) is not None:
            _check_same(complete, described, out)
            return complete
        try:
            return _Writing(pictures, names, described, out).work(on_progress)
        except OSError as problem:
            raise DataError(
                f"cannot write to {out}: {problem.strerror or problem}. What is done is kept; the same command goes on."
            ) from None


def _describe(pictures: Pictures, names: dict[str, str], dtype: str) -> dict[str, Any]:
    """What features.json says, as it is read back."""
    shapes = {layer.name: layer.out_shape for layer in trace(pictures.network.variant)}
    versions = ("processor", "alexnet", "git", "torch")
    content = {
        "format": FORMAT,
        **pictures.described,
        "layers": {shown: [len(pictures), *shapes[our]] for our, shown in names.items()},
        "dtype": dtype,
        "arithmetic": arithmetic(pictures.compute, pictures.network),
        **{name: value for name, value in environment().items() if name in versions},
    }
    described: dict[str, Any] = json.loads(json.dumps(content))
    return described


def _check_same(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Raise UsageError where features in a folder, finished or not, are not those that are asked for now."""
    for what, keys in _SAME.items():
        there, now = old, new
        for key in keys:
            there, now = there[key], now[key]
        if there != now:
            shown = [", ".join(value) if what == "layers" else str(value)[:80] for value in (there, now)]
            raise UsageError(
                f"{out} holds features of other {what} ({shown[0]} there, {shown[1]} now): choose another --out, or "
                "delete that folder."
            )


class _Writing:
    """The work on one folder, which this process holds."""

    def __init__(self, pictures: Pictures, names: dict[str, str], described: dict[str, Any], out: Path) -> None:
        self.pictures, self.names, self.described, self.out = pictures, names, described, out
        self.folder = out / _WORK

    def work(self, on_progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        """From wherever it is to the end."""
        progress = _read(self.folder / _PROGRESS)
        if progress is None:
            progress = self._begin()
        _check_same(progress, self.described, self.out)
        if progress["done"] < len(self.pictures):
            progress = self._compute(progress, on_progress)
        del progress["done"]
        self._label()
        for file in sorted(self.folder.iterdir()):
            if file.name != _PROGRESS:
                file.replace(self.out / file.name)
        _write(self.out / DESCRIPTION, progress)
        shutil.rmtree(self.folder)
        return progress

    def _begin(self) -> dict[str, Any]:
        """Make all arrays in full size, so that a full disk is found now."""
        if any(file.name not in (LOCK, _WORK, *CLUTTER) for file in self.out.iterdir()):
            raise UsageError(f"{self.out} is not empty and holds no features: choose another --out.")
        needed = np.dtype(self.described["dtype"]).itemsize * sum(map(prod, self.described["layers"].values()))
        free = shutil.disk_usage(self.out).free
        if needed > free:
            raise UsageError(
                f"these features take {needed / 1e9:.2f} GB, {self.out} has {free / 1e9:.2f} GB left: choose another "
                "--out, fewer --layers or --dtype float16."
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, shape in self.described["layers"].items():
            file = self.folder / f"{name}.npy"
            open_memmap(file, "w+", self.described["dtype"], tuple(shape)).flush()
            if hasattr(os, "posix_fallocate"):  # or a disk that fills up kills the process that writes to memory
                with file.open("r+b") as stream:
                    os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        progress = self.described | {"done": 0, "unreadable": {}}
        _write(self.folder / _PROGRESS, progress)
        return progress

    def _arrays(self) -> dict[str, Any]:
        """The arrays by our layer names, opened anew: what was written before leaves this process's memory."""
        return {our: open_memmap(self.folder / f"{shown}.npy", "r+") for our, shown in self.names.items()}

    def _compute(self, progress: dict[str, Any], on_progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        pictures, dtype, unreadable = self.pictures, self.described["dtype"], dict(progress["unreadable"])
        done, saved, count = progress["done"], progress["done"], len(pictures)
        arrays = self._arrays()
        bytes_each = sum(array[0].nbytes for array in arrays.values())
        with torch.inference_mode(), pictures.compute.settings():
            for found in answers(pictures.network, pictures.batches(done), list(self.names), pictures.compute):
                rows = np.arange(done, min(done + BATCH, count))
                bad = np.isin(rows, list(pictures.bad))
                unreadable |= {str(row): pictures.bad[row] for row in rows[bad].tolist()}
                for layer, output in found.items():
                    arrays[layer][rows[bad]] = np.nan
                    arrays[layer][rows[~bad]] = in_dtype(output.cpu().numpy(), dtype, layer)
                done += len(rows)
                if done == count or (done - saved) * bytes_each >= _PIECE:
                    for array in arrays.values():
                        array.flush()
                    progress = progress | {"done": done, "unreadable": unreadable}
                    _write(self.folder / _PROGRESS, progress)
                    arrays, saved = self._arrays(), done
                on_progress("features", done, count)
        return progress

    def _label(self) -> None:
        """labels.npy and images.csv."""
        labels, classes = self.pictures.labels, self.pictures.classes
        if labels is not None:
            content = io.BytesIO()
            np.save(content, labels)
            write_atomically(self.folder / "labels.npy", content.getbuffer())
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["row", "image", *(() if labels is None else ("label", "class"))])
        for row, place in enumerate(self.pictures.places):
            writer.writerow([row, place, *(() if labels is None else (labels[row], classes[labels[row]]))])
        write_atomically(self.folder / "images.csv", table.getvalue().encode("utf-8", "surrogateescape"))


def _read(file: Path) -> dict[str, Any] | None:
    """A description; None where there is none. Raises UsageError for one that is damaged."""
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        if all(keys[0] in content for keys in _SAME.values()):
            return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        pass
    raise UsageError(f"{file} is damaged: delete the folder {file.parent}, and the same command begins again.")


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
