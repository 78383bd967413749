"""Claims 1 to 9: how large the network is and what it costs (abstract, sections 1, 3.2, 3.5, 4, 5). All arithmetic."""

from __future__ import annotations

from dataclasses import replace
from math import log2

from alexnet.models.summary import Layer, trace
from alexnet.models.table import Conv
from alexnet.models.variants import PAPER
from alexnet.paper.claims.claim import Check, Claim, about, equals

FIGURE2 = (253_440, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000)  # the neurons of each layer, in its caption
IMAGES, BATCH, EPOCHS, DAYS = 1_200_000, 128, 90, (5, 6)  # sections 1 and 5
PEAK = 2 * 1.581e12  # FLOP/s of two GTX 580: 512 multiply-adds a cycle at 1.544 GHz


def _layers() -> dict[str, Layer]:
    return {layer.name: layer for layer in trace(PAPER) if layer.parameters}


def _one_column() -> tuple[Layer, ...]:
    """The network on one GPU: half the kernels, but in the last convolutional layer and the hidden ones as many as on
    two (section 3.2, footnote; layers-145-half.cfg)."""
    *halved, last = (replace(row, groups=1) for row in PAPER.convs if isinstance(row, Conv))
    return trace(replace(PAPER, convs=(*(replace(row, width=row.width // 2) for row in halved), last)))


def parameters() -> tuple[Check, ...]:
    """Claim 1: weights and biases."""
    return (about("weights and biases", sum(layer.parameters for layer in trace(PAPER)), 60_000_000),)


def neurons() -> tuple[Check, ...]:
    """Claim 2: outputs of layers with weights."""
    return (about("neurons", sum(layer.neurons for layer in trace(PAPER)), 650_000),)


def shapes() -> tuple[Check, ...]:
    """Claim 3: the input, the kernels and the maps of section 3.5 and figure 2."""
    layers, (first, *_) = _layers(), trace(PAPER)
    pools = [layer for layer in trace(PAPER) if layer.kind == "pool"]
    channels, side, _ = first.in_shape
    kernels = {"conv2": 48, "conv3": 256, "conv4": 192, "conv5": 192}
    return (
        equals("numbers of the input", channels * side * side, 150_528),
        *(equals(f"channels of a kernel of {n}", (layers[n].weight_shape or (0, 0))[1], c) for n, c in kernels.items()),
        *(equals(f"side of a kernel of {n}", layers[n].kernel, 5 if n == "conv2" else 3) for n in kernels),
        equals("side of conv1's maps", layers["conv1"].out_shape[1], 55),
        *(equals(f"side of {p.name}'s maps", p.out_shape[1], s) for p, s in zip(pools, (27, 13, 6), strict=True)),
    )


def shares() -> tuple[Check, ...]:
    """Claim 4: the part of the parameters that each convolutional layer has."""
    whole = sum(layer.parameters for layer in trace(PAPER))
    parts = {name: 100 * layer.parameters / whole for name, layer in _layers().items() if layer.kind == "conv"}
    return tuple(Check(name, round(part, 2), 1, part <= 1, " %") for name, part in parts.items())


def bits() -> tuple[Check, ...]:
    """Claim 5: what one of a thousand labels can tell."""
    return (about("bits of a label", log2(PAPER.num_classes), 10),)


def crops() -> tuple[Check, ...]:
    """Claim 6: crops of 224 out of 256 pixels, and their mirror images."""
    return (equals("crops and mirror images, 33 x 33 x 2", (256 - 224 + 1) ** 2 * 2, 2048),)


def training_time() -> tuple[Check, ...]:
    """Claim 7: whether two cards can compute 90 epochs in five to six days; three passes, two FLOP a MAC."""
    flop = 3 * 2 * sum(layer.macs for layer in trace(PAPER)) * IMAGES * EPOCHS
    parts = {days: 100 * flop / (86_400 * days) / PEAK for days in DAYS}
    return tuple(
        Check(f"part of both cards' peak in {days} days", round(part, 1), None, part < 100, " %")
        for days, part in parts.items()
    )


def one_gpu_parameters() -> tuple[Check, ...]:
    """Claim 8: the network on one GPU has about as many parameters."""
    one, two = (sum(layer.parameters for layer in layers) for layers in (_one_column(), trace(PAPER)))
    return (about("weights and biases on one GPU", one, two, within=0.05),)


def busier_card() -> tuple[Check, ...]:
    """Claim 9: multiply-accumulates of the card that has more of them, of which fc8 is on one alone
    (layers-145.cfg), against those of the network on one GPU."""
    layers = _layers()
    rest = sum(layer.macs for name, layer in layers.items() if name != "fc8")
    two, one = rest / 2 + layers["fc8"].macs, sum(layer.macs for layer in _one_column())
    return (Check("arithmetic of the busier card over that of one GPU alone", round(two / one, 3), None, two < one),)


SIZES = (
    Claim(
        1, "abstract, 4", "60 million parameters", "The network has 60 million parameters.", "arithmetic", parameters
    ),
    Claim(
        2,
        "abstract",
        "650,000 neurons",
        "The network has 650,000 neurons.",
        "arithmetic",
        neurons,
        note=f"Figure 2's own list adds up to {sum(FIGURE2):,}: it gives the first layer {FIGURE2[0]:,}, which are "
        "48 x 55 x 96; 55 x 55 x 96 are 290,400.",
    ),
    Claim(
        3,
        "3.5, fig. 2",
        "kernels and maps of each layer",
        "150,528 numbers go in; the kernels see 48, 256, 192 and 192 channels; the maps are 55, 27, 13 and 6 wide.",
        "arithmetic",
        shapes,
        note="An input of 224 gives 55 with three implicit rows of zeros at the right and lower edge (layer.py:1004).",
    ),
    Claim(
        4,
        "1",
        "a conv layer has at most 1 %",
        "Each convolutional layer has no more than 1 % of the model's parameters.",
        "arithmetic",
        shares,
        without="arithmetic settles it",
    ),
    Claim(
        5,
        "4",
        "a label is 10 bits",
        "A thousand classes make each training example impose 10 bits of constraint.",
        "arithmetic",
        bits,
        note="All 1.2 million labels together have 0.2 bits for each parameter.",
        without="arithmetic settles it",
    ),
    Claim(
        6,
        "4.1",
        "2048 times as many images",
        "Random crops and reflections make the training set 2048 times as large.",
        "arithmetic",
        crops,
        note="The paper's figure is 32 x 32 x 2. A crop of 224 pixels has 33 places along a side of 256, and so has "
        "the released code (convdata_jpeg.py:239).",
        without="arithmetic settles it",
    ),
    Claim(
        7,
        "1, 5",
        "90 epochs in 5 to 6 days",
        "About 90 epochs of 1.2 million images took five to six days on two GTX 580.",
        "estimate",
        training_time,
        note=f"These are {EPOCHS * IMAGES // BATCH:,} steps, {EPOCHS * IMAGES / 86_400 / DAYS[1]:.0f} to "
        f"{EPOCHS * IMAGES / 86_400 / DAYS[0]:.0f} images a second: plausible for cards of their speed.",
        without="it speaks of two GTX 580",
    ),
    Claim(
        8,
        "3.2",
        "one GPU: as many parameters",
        "The network on one GPU, which two GPUs are compared with, has about as many parameters.",
        "arithmetic",
        one_gpu_parameters,
    ),
    Claim(
        9,
        "3.2",
        "two GPUs take slightly less time",
        "The network on two GPUs trains in slightly less time than the one on one GPU.",
        "estimate",
        busier_card,
        note="The time on two cards of 2010 cannot be measured any more; the arithmetic of the busier card can.",
        without="it speaks of two GTX 580",
    ),
)
