"""The digits in the package against scikit-learn's, from which they were made."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alexnet.config import DataConfig
from alexnet.data.digits import read_digits
from alexnet.data.sources import load_dataset

# SHA-256 over class names, images and labels, computed when the images still came from scikit-learn.
FINGERPRINTS = [
    ({}, "aaf497ceca516651684c9b339f52421f27fc64e764361269e9136020321d89ad"),
    ({"fraction": 0.3, "val_fraction": 0.25}, "4f8b4b49040bbfb8c1c53a460e7ee12defae9cd1164b801ce59da8f41f6dde5c"),
    ({"split_seed": 7}, "664a9da92b903eec6bbaebb8932b4f5f2bfc0ee7762649f8ce0bdaa753d545aa"),
]


@pytest.mark.parametrize(("fields", "fingerprint"), FINGERPRINTS)
def test_data_that_earlier_runs_were_trained_on(fields, fingerprint):
    assert load_dataset(DataConfig(source="digits", **fields)).fingerprint == fingerprint


def test_images_are_scikit_learns():
    """In the published order, 0-16 spread over 0-255."""
    parts, published = read_digits(DataConfig()).parts, load_digits()
    assert sorted(np.concatenate([p.sources for p in parts.values()])) == list(range(1797))
    for part in parts.values():
        assert np.array_equal(part.images[:, 0], np.rint(published.images[part.sources] * 255 / 16))
        assert np.array_equal(part.labels, published.target[part.sources])
        assert (part.images.dtype, part.labels.dtype, part.sources.dtype) == (np.uint8, np.int64, np.int64)


def test_the_sheet_says_whose_images_it_holds():
    with files("alexnet.data").joinpath("digits.png").open("rb") as stream, Image.open(stream) as sheet:
        assert "Alpaydin" in sheet.text["Author"]
        assert "CC BY 4.0" in sheet.text["Copyright"]
        assert "10.24432/C50P49" in sheet.text["Source"]
