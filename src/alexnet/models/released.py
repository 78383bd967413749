"""Krizhevsky's own networks as his layer files say, as tables (no torch here).

Sources: cuda-convnet's example-layers (2011-2012, CIFAR-10). Its pooling rounds up: the last window may begin inside
the maps and end outside, and takes the maximum or average of what lies inside. All take pixels of 0 to 255 minus the
mean image, which is what their initial weights and the constants of their normalisation are meant for.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.models.table import Conv, Linear, Local, Norm, Pool, Start, Variant

_MAX, _AVERAGE = Pool(ceil=True), Pool(ceil=True, average=True)
_MAP3 = Norm(3, 5e-5, k=1.0, over="map")

CONVNET_18 = Variant(
    about="cuda-convnet's 18 % network of CIFAR-10: three convolutions, normalisation within maps",
    convs=(
        Conv(32, 5, padding=2, then=(_MAX, "relu", _MAP3), start=Start(1e-4)),
        Conv(32, 5, padding=2, then=("relu", _AVERAGE, _MAP3), start=Start(0.01)),
        Conv(64, 5, padding=2, then=("relu", _AVERAGE), start=Start(0.01)),
    ),
    hidden=(),
    output=Linear(10, then=(), positive_bias=False, start=Start(0.01)),
    input_size=32,
)
CONVNET_19 = replace(
    CONVNET_18,
    about="cuda-convnet's 19 % network: the 18 % network without normalisation",
    convs=(
        Conv(32, 5, padding=2, then=(_MAX, "relu"), start=Start(1e-4)),
        Conv(32, 5, padding=2, then=("relu", _AVERAGE), start=Start(0.01)),
        Conv(64, 5, padding=2, then=("relu", _AVERAGE), start=Start(0.01)),
    ),
)
CONVNET_13 = replace(
    CONVNET_18,
    about="cuda-convnet's 13 % network, the paper's section 3.3 without LRN: two convolutions, two local layers",
    convs=(
        Conv(64, 5, padding=2, then=("relu", _MAX), start=Start(1e-4)),
        Conv(64, 5, padding=2, then=("relu", _MAX), start=Start(0.01)),
        Local(32, 3, padding=1, start=Start(0.04)),
        Local(32, 3, padding=1, start=Start(0.04)),
    ),
    input_size=24,
)
_NORM9 = Norm(9, 1e-3, k=1.0)
CONVNET_11 = replace(
    CONVNET_13,
    about="cuda-convnet's 11 % network, the paper's section 3.3 with LRN: local3 is twice as wide, too",
    convs=(
        Conv(64, 5, padding=2, then=("relu", _MAX, _NORM9), start=Start(1e-4)),
        Conv(64, 5, padding=2, then=("relu", _NORM9, _MAX), start=Start(0.01)),
        Local(64, 3, padding=1, start=Start(0.04)),
        Local(32, 3, padding=1, start=Start(0.04)),
    ),
)
