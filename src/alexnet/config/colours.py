"""Published statistics of ImageNet's pixels: what networks subtract, what they divide by, how colours vary.

Pixels are RGB on the scale 0-1 unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """Of training pixels: mean and standard deviation per channel (0-1 scale), and the principal axes of RGB, [3, 3],
    columns of unit vectors times standard deviations (0-255 scale)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour_axes: tuple[tuple[float, ...], ...]


# The means and deviations that torchvision's and most other published weights expect; the axes as cuda-convnet2 gives
# them for ILSVRC2012: standard deviations 19.7208, 37.0939, 121.7801 times the eigenvectors.
IMAGENET = Statistics(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    colour_axes=(
        (0.41796 * 19.7208, -0.71258 * 37.0939, -0.56351 * 121.7801),
        (-0.81698 * 19.7208, -0.02354 * 37.0939, -0.57618 * 121.7801),
        (0.39731 * 19.7208, 0.70120 * 37.0939, -0.59200 * 121.7801),
    ),
)
# As the paper does, Caffe's networks take the pixels on the scale 0-255 less a mean, not divided by anything: its
# ilsvrc_2012_mean.npy, averaged over the image.
CAFFE = Statistics(
    mean=(122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    colour_axes=IMAGENET.colour_axes,
)
