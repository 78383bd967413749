"""Images of a data set as single files, to look at or to ask a network about."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.photos import Photos
from alexnet.data.sources import load_dataset
from alexnet.data.splits import draw_rows
from alexnet.errors import DataError, UsageError
from alexnet.files import check_outside, write_atomically, writing


def write_samples(data: DataConfig, out: Path, count: int = 8, split: str | None = None, seed: int = 0) -> list[Path]:
    """Write `count` images of a split, drawn by a seed, into class folders: OUT/CLASS/ROW.png, photographs byte by byte
    as they are with their own endings. Without a name the split is test, or val where there is no test split.

    Returns the files. Raises UsageError if they cannot be written, or would lie among the photographs or in the place
    of other files, and DataError.
    """
    dataset = load_dataset(data)
    name, chosen = dataset.split(split)
    if not len(chosen):
        raise UsageError(f"--split {name} has no images.")
    if isinstance(chosen, Photos):
        check_outside(out, data.root)
    rows = draw_rows(len(chosen), count, seed)
    files = []
    for row in rows.tolist():
        label = dataset.classes[chosen.labels[row]]
        if Path(label).parts != (label,) or Path(label).drive or label == "..":  # it would lead elsewhere
            raise DataError(f"the class {label[:100]!r} cannot name a folder in {out}: give it another name.")
        folder = out / label
        if isinstance(chosen, Photos):
            # What is prepared became JPEG, whatever it was.
            suffix = Path(chosen.place(row)).suffix.lower() if chosen.store.side is None else ""
            file, content = folder / f"{row}{suffix or '.jpg'}", chosen.read(row)
        else:
            file, png = folder / f"{row}.png", io.BytesIO()
            pixels = np.moveaxis(chosen.images[row], 0, -1)
            Image.fromarray(pixels[..., 0] if chosen.channels == 1 else pixels).save(png, "PNG")
            content = png.getvalue()
        with writing(file, "--out"):
            if file.exists() and file.read_bytes() != bytes(content):
                raise UsageError(f"{file} is there already, and is another image: choose another --out.")
            write_atomically(file, content)
        files.append(file)
    return files
