"""Handwritten digits that come with the package: something real to train on without a download.

They are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), the same 1,797 images in the same order that scikit-learn
calls its digits.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.splits import Published, Split, stratify

SIDE = 8  # pixels


def read_digits(_: DataConfig) -> Published:
    """Grey images [N, 1, 8, 8] of ten classes, cut from the sheet of tiles digits.png, whose text chunk "Labels" holds
    one digit a tile.

    No test split was published for these images: a fifth of each class is held out, always the same one.
    """
    with files("alexnet.data").joinpath("digits.png").open("rb") as stream, Image.open(stream) as sheet:
        sheet.load()
        labels = np.array(list(sheet.info["Labels"]), dtype=np.int64)
        rows, columns = sheet.height // SIDE, sheet.width // SIDE
        tiles = np.asarray(sheet).reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, 1, SIDE, SIDE)
    whole = Split(tiles[: len(labels)], labels, np.arange(len(labels)))
    test, train = stratify(whole.labels, 0.2, np.random.default_rng(0))
    return Published(tuple(str(d) for d in range(10)), {"train": whole.take(train), "test": whole.take(test)})
