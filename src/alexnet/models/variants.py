"""The networks that people call AlexNet, and their ancestors, side by side by name (no torch here).

Sources: the paper (Krizhevsky, Sutskever, Hinton 2012), Caffe's bvlc_alexnet and CaffeNet, torchvision's
models/alexnet.py; for what Krizhevsky released see `released`.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.models.released import (
    CONVNET_11,
    CONVNET_13,
    CONVNET_18,
    CONVNET_19,
    NET145,
    NET145_HALF,
    NET147,
    NET148,
    NET150,
    NO_NORM1,
    NO_NORM2,
    NO_NORM2B,
    OWT,
)
from alexnet.models.table import Conv, Dropout, Linear, Norm, Pool, Start, Variant

NORM, POOL = Norm(), Pool()
DROP = Dropout()

PAPER = Variant(
    about="the paper's network, two columns as groups (sections 3.1-3.5)",
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=("relu", NORM, POOL)),
        Conv(256, 5, padding=2, groups=2, then=("relu", NORM, POOL), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, groups=2, positive_bias=True),
        Conv(256, 3, padding=1, groups=2, then=("relu", POOL), positive_bias=True),
    ),
)
OWT_PADDED = Variant(
    about="OWT's widths with torchvision's padding and the paper's order of ReLU and LRN: `owt` of alexnet 0.1",
    convs=(
        Conv(64, 11, stride=4, padding=2, then=("relu", NORM, POOL)),
        Conv(192, 5, padding=2, then=("relu", NORM, POOL), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1, positive_bias=True),
        Conv(256, 3, padding=1, then=("relu", POOL), positive_bias=True),
    ),
    pixels="standardised",
)
TORCHVISION = Variant(
    about="torchvision.models.alexnet: OWT without LRN, dropout before fc6 and fc7",
    convs=(
        Conv(64, 11, stride=4, padding=2, then=("relu", POOL)),
        Conv(192, 5, padding=2, then=("relu", POOL), positive_bias=True),
        *OWT_PADDED.convs[2:],
    ),
    hidden=(Linear(4096, before=(DROP,), then=("relu",)), Linear(4096, before=(DROP,), then=("relu",))),
    adaptive_pool=6,
    init="torch",
    pixels="standardised",
)
_CAFFE = Norm(k=1.0)
BVLC = replace(
    PAPER,
    about="Caffe's bvlc_alexnet: 227 crops, LRN with k=1",
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=("relu", _CAFFE, POOL)),
        Conv(256, 5, padding=2, groups=2, then=("relu", _CAFFE, POOL), positive_bias=True),
        *PAPER.convs[2:],
    ),
    input_size=227,
    init="caffe",
)

VARIANTS: dict[str, Variant] = {
    "paper": PAPER,
    "net145": NET145,
    "net145-half": NET145_HALF,
    "net145-no-norm1": NO_NORM1,
    "net145-no-norm2": NO_NORM2,
    "net145-no-norm2b": NO_NORM2B,
    "net147": NET147,
    "net148": NET148,
    "net150": NET150,
    "owt": OWT,
    "owt-padded": OWT_PADDED,
    "torchvision": TORCHVISION,
    "bvlc": BVLC,
    "caffenet": replace(
        BVLC,
        about="Caffe's bvlc_reference_caffenet: LRN after pooling",
        convs=(
            Conv(96, 11, stride=4, ceil=True, then=("relu", POOL, _CAFFE)),
            Conv(256, 5, padding=2, groups=2, then=("relu", POOL, _CAFFE), positive_bias=True),
            *PAPER.convs[2:],
        ),
        # train_val.prototxt: the paper's text but for these two
        hidden=(Linear(4096, start=Start(0.005, bias=1.0)), Linear(4096, start=Start(0.005, bias=1.0))),
        init="text",
    ),
    "cifar": replace(
        PAPER,
        about="the paper's widths, groups and LRN for 32x32: the first two kernels 5x5",
        convs=(Conv(96, 5, padding=2, then=("relu", NORM, POOL)), *PAPER.convs[1:]),
        output=replace(PAPER.output, width=10),
        input_size=32,
        init="modern",
        pixels="standardised",
    ),
    "cifar-ungrouped": replace(
        PAPER,
        about="jackwang0108/AlexNet's for 32x32: no groups, no padding in conv1, a third LRN after conv5",
        convs=(
            Conv(96, 5, then=("relu", NORM, POOL)),
            Conv(256, 5, padding=2, then=("relu", NORM, POOL), positive_bias=True),
            Conv(384, 3, padding=1),
            Conv(384, 3, padding=1, positive_bias=True),
            Conv(256, 3, padding=1, then=("relu", NORM, POOL), positive_bias=True),
        ),
        output=replace(PAPER.output, width=10),
        input_size=32,
        init="torch",
        pixels="standardised",
    ),
    "cifar-resized": replace(
        TORCHVISION,
        about="OWT widths with LRN on 64x64 crops of enlarged small images",
        convs=OWT_PADDED.convs,
        output=replace(OWT_PADDED.output, width=10),
        input_size=64,
        init="modern",
    ),
    "convnet-18pct": CONVNET_18,
    "convnet-19pct": CONVNET_19,
    "convnet-13pct": CONVNET_13,
    "convnet-11pct": CONVNET_11,
}


def list_models() -> list[str]:
    """Names that `build_model` knows."""
    return list(VARIANTS)
