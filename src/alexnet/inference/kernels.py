"""What the first layer's kernels look for: their weights in units of pixels, and how much of them is colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from alexnet.errors import UsageError
from alexnet.inference.trained import Trained
from alexnet.models.table import Conv

Array = np.ndarray[Any, np.dtype[np.float64]]


def first_kernels(trained: Trained) -> Array:
    """The first convolution's weights [N, C, h, w] as they meet pixels: divided by the standard deviations that the
    preprocessing divides pixels by, so that networks of different preprocessing can be compared."""
    conv = next(module for module in trained.model.modules() if isinstance(module, nn.Conv2d))
    weights: Array = conv.weight.detach().double().cpu().numpy()
    std: Array = np.broadcast_to(np.array(trained.preprocessing.std), weights.shape[1:2])[:, None, None]
    return weights / std


def count_columns(trained: Trained) -> int:
    """Into how many columns the first layer's kernels fall: the groups in which the second layer sees them. The first
    half of the kernels are then the first column's, as in the paper's figure 3."""
    second = trained.model.variant.convs[1:2]
    return second[0].groups if second and isinstance(second[0], Conv) else 1


def colour_shares(kernels: Array) -> Array:
    """Which part of each kernel's energy, the sum of its squared weights, is colour: what lies outside the grey
    direction (1, 1, 1) / sqrt(3). kernels: [N, 3, h, w]; returns [N] from 0 (grey) to 1; random weights have 2/3.

    A kernel's mean colour is not subtracted first: it is what the kernel answers to a patch of one colour, and the
    blobs of colour in the paper's figure 3 consist of little else. A kernel of zeros has 0. Raises UsageError where
    there are not three colours.
    """
    if kernels.shape[1] != 3:
        raise UsageError(f"these kernels see {kernels.shape[1]} channel(s): only kernels of three have colours.")
    energy = np.square(kernels).sum(axis=(1, 2, 3))
    grey = np.square(kernels.sum(axis=1)).sum(axis=(1, 2)) / 3
    shares: Array = np.divide(energy - grey, energy, out=np.zeros_like(energy), where=energy > 0).clip(0, 1)
    return shares
