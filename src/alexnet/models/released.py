"""Krizhevsky's own networks as his layer files say, as tables (no torch here).

Sources: cuda-convnet's example-layers (2011, CIFAR-10), layers-145.cfg and its relatives (2012, released in 2025),
cuda-convnet2's network for one GPU (2014). Pooling rounds up there: the last window may begin inside the maps and end
outside, and takes the maximum or average of what lies inside. All take pixels of 0 to 255 minus the mean image, which
is what their initial weights and the constants of their normalisation are meant for.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.models.table import Conv, Linear, Local, Norm, Pool, Start, Step, Variant

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


def _net145(norm1: tuple[Step, ...], norm2: tuple[Step, ...], about: str) -> Variant:
    """Net 145 with these normalisations behind the first and the second convolution."""
    return Variant(
        about=about,
        convs=(
            Conv(96, 11, stride=4, ceil=True, then=(*norm1, _MAX, "relu")),
            Conv(256, 5, padding=2, groups=2, then=("relu", *norm2, _MAX), positive_bias=True),
            Conv(384, 3, padding=1),
            Conv(384, 3, padding=1, groups=2, positive_bias=True),
            Conv(256, 3, padding=1, groups=2, then=(_MAX, "relu"), positive_bias=True),
        ),
        # The released dropout leaves what it keeps as it is and halves everything in evaluation. Ours doubles what it
        # keeps: the same network with half the weights in the layer behind, initially .005 for .01. It also learns the
        # same if these weights have a quarter of the learning rate and four times the decay:
        # --optim.rules "fc7.weights rate=.25x decay=4x" "fc8.weights rate=.25x decay=4x".
        hidden=(Linear(4096), Linear(4096, start=_HALF_POSITIVE)),
        output=Linear(1000, then=(), positive_bias=False, start=_HALF),
        init="code",
    )


_HALF, _HALF_POSITIVE = Start(0.005), Start(0.005, bias=1.0)
_COLUMNS, _MAP5 = Norm(columns=2), Norm(5, 1e-3, k=1.0, over="map")
_BOTH = (_COLUMNS, _MAP5)

NET145 = _net145(
    (_COLUMNS,), _BOTH, "the paper's network as released: net 145, a normalisation a column and one in maps"
)
NET148 = _net145((), (), "net 148: net 145 without its three normalisations")
NO_NORM1 = _net145((), _BOTH, "net 145 without conv1's normalisation")
NO_NORM2 = _net145((_COLUMNS,), (_MAP5,), "net 145 without conv2's normalisation over channels")
NO_NORM2B = _net145((_COLUMNS,), (_COLUMNS,), "net 145 without conv2's normalisation within maps")
_ACROSS = Norm()
NET145_HALF = replace(
    NET145,
    about="net 145-half: one column of it, but for conv5 and the fully connected layers (section 3.2, footnote)",
    convs=(
        Conv(48, 11, stride=4, ceil=True, then=(_ACROSS, _MAX, "relu")),
        Conv(128, 5, padding=2, then=("relu", _ACROSS, _MAP5, _MAX), positive_bias=True),
        Conv(192, 3, padding=1),
        Conv(192, 3, padding=1, positive_bias=True),
        Conv(256, 3, padding=1, then=(_MAX, "relu"), positive_bias=True),
    ),
)
_APART = Pool(2, ceil=True)
NET147 = replace(
    NET145,
    about="net 147: net 145 with pooling that does not overlap, and other padding",
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=(_COLUMNS, _APART, "relu")),
        Conv(256, 5, padding=1, groups=2, then=("relu", *_BOTH, _APART), positive_bias=True),
        *NET145.convs[2:4],
        Conv(256, 3, groups=2, then=(_APART, "relu"), positive_bias=True),
    ),
)
NET150 = replace(
    NET145,
    about="net 150: two columns that meet in the last layer alone, at net 145's number of parameters",
    convs=(
        NET145.convs[0],
        Conv(320, 5, padding=2, groups=2, then=("relu", *_BOTH, _MAX), positive_bias=True),
        Conv(384, 3, padding=1, groups=2),
        *NET145.convs[3:],
    ),
    hidden=(Linear(8192, groups=2), Linear(4096, groups=2, start=_HALF_POSITIVE)),
)
OWT = Variant(
    about="one column, 'One weird trick' (2014), as cuda-convnet2 has it",
    convs=(
        Conv(64, 11, stride=4, ceil=True, then=(_ACROSS, _MAX, "relu")),
        Conv(192, 5, padding=2, then=("relu", _ACROSS, _MAX), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1, positive_bias=True),
        Conv(256, 3, padding=1, then=(_MAX, "relu"), positive_bias=True),
    ),
    # its dropout scales as ours
    output=Linear(1000, then=(), positive_bias=False, start=Start(0.01, bias=-7.0)),
    init="code",
)
