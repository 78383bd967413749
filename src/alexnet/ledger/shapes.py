"""The ledger's points about sizes: input, kernels, columns, maps (no torch here)."""

from __future__ import annotations

from alexnet.ledger.facts import Facts
from alexnet.ledger.points import Answer, differs, network_point
from alexnet.models.summary import Layer
from alexnet.models.table import Pool


@network_point(
    8,
    "224 or 227 pixels",
    paper="224x224 (2, 3.5)",
    release="224 and three implicit zeros right and below, without padding: 55 maps (layer.py:1004)",
    effect="not known; it moves the grid of the first kernels by 2 pixels",
)
def _input_size(facts: Facts) -> Answer:
    first = facts.convs[0]
    side = facts.layers[0].in_shape[1]
    zeros = next((layer.padding for layer in facts.layers if layer.kind == "pad"), 0)
    shown = f"{side}x{side}, {first.name} with padding {first.padding}"
    shown += f" and {zeros} zeros right and below" if zeros else ""
    return Answer(shown, paper=side != 224, release=(side, zeros, first.padding) != (224, 3, 0))


def _pools(facts: Facts) -> list[tuple[Layer, Pool]]:
    return [(layer, layer.row) for layer in facts.layers if isinstance(layer.row, Pool)]


@network_point(
    9,
    "pooling: rounding of the maps' size",
    paper="not said",
    release="up: the last window may begin inside and end outside (layer.py:1164)",
    effect="none at 224 (55-27-13-6 either way); on CIFAR-10's sizes up gives 24-12-6, down 24-11-5",
)
def _rounding(facts: Facts) -> Answer:
    pools = _pools(facts)
    if not pools:
        return Answer("no pooling: does not apply")
    directions = ["up" if pool.ceil else "down" for _, pool in pools]
    matters = [layer.name for layer, pool in pools if (layer.in_shape[1] - pool.size) % pool.stride]
    down = [layer.name for layer, pool in pools if not pool.ceil and layer.name in matters]
    shown = " and ".join(dict.fromkeys(directions))
    shown += f"; it matters in {', '.join(matters)}" if matters else "; the same maps either way"
    return Answer(shown, release=bool(down))


PAPER_CONVS = [(96, 11, 4, 1), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 2), (256, 3, 1, 2)]
PAPER_HIDDEN = [(4096, 1), (4096, 1)]


@network_point(
    26,
    "columns, widths and kernels",
    paper="two columns that meet in conv3 and the fully connected layers; 96, 256, 384, 384, 256, 4096, 4096 (3.5)",
    release="likewise, as two GPUs (layers-145.cfg); net 150 without any crossing",
    effect="one column costs 1.7/1.2 points (3.2); ungrouped convolutions gain 1.6 points in CaffeNet at 128 pixels",
)
def _columns(facts: Facts) -> Answer:
    hidden = [layer for layer in facts.of_kind("linear") if layer.role == "hidden"]
    shown = [f"{layer.name} {_convolution(layer)}" for layer in facts.convs]
    shown += [f"{layer.name} {layer.out_shape[0]}{_groups(layer)}" for layer in hidden]
    same = [
        [(layer.out_shape[0], layer.kernel, layer.stride, layer.groups) for layer in facts.convs] == PAPER_CONVS,
        [(layer.out_shape[0], layer.groups) for layer in hidden] == PAPER_HIDDEN,
        all(layer.kind == "conv" for layer in facts.convs),
    ]
    return Answer("; ".join(shown), **differs(not all(same)))


def _convolution(layer: Layer) -> str:
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    local = ", weights not shared" if layer.kind != "conv" else ""
    return f"{layer.out_shape[0]} of {layer.kernel}x{layer.kernel}{stride}{_groups(layer)}{local}"


def _groups(layer: Layer) -> str:
    return f" in {layer.groups} columns" if layer.groups > 1 else ""


@network_point(
    27,
    "input of fc6",
    paper="the pooled maps of conv5 as they are, 6x6x256 (3.5)",
    release="9216 from both columns' pool3 (layers-145.cfg)",
    effect="torchvision averages any maps to 6x6: no effect at 224, another network at other sizes",
)
def _first_hidden(facts: Facts) -> Answer:
    flatten = facts.of_kind("flatten")[0]
    channels, side, _ = flatten.in_shape
    averages = facts.of_kind("average")
    shown = f"{side}x{side}x{channels} = {flatten.out_shape[0]}"
    resized = [f", averaged from {layer.in_shape[1]}x{layer.in_shape[1]}" for layer in averages]
    idle = all(layer.in_shape == layer.out_shape for layer in averages)
    shown += "".join(resized) + (" (no effect at this size)" if averages and idle else "")
    return Answer(shown, **differs((channels, side) != (256, 6) or not idle))


RELEASED_147 = [55, 28, 26, 13, 13, 13, 11, 6]


@network_point(
    29,
    "pooling: overlap, and the maps of the ablation",
    paper="3x3 windows, stride 2; the ablation, 2x2, gives maps of equal size (3.4): +.4/+.3 points",
    release="3/2; net 147, 2/2, changes the padding of conv2 and conv5: 55-28-26-13-13-13-11-6 (layers-147.cfg)",
    effect="+.39/+.30 points by the logs; at 128 pixels 2x2 is better by 1.3, because the maps grow: hold sizes equal",
)
def _overlap(facts: Facts) -> Answer:
    pools = _pools(facts)
    if not pools:
        return Answer("no pooling: does not apply")
    windows = dict.fromkeys(
        f"{'averages of ' if pool.average else ''}{pool.size}x{pool.size}, stride {pool.stride}" for _, pool in pools
    )
    maps = [layer.out_shape[1] for layer in facts.layers if layer.kind == "pool" or layer in facts.convs]
    overlapping = all((pool.size, pool.stride, pool.average) == (3, 2, False) for _, pool in pools)
    apart = maps == RELEASED_147 and not any(pool.average for _, pool in pools)
    shown = f"{' and '.join(windows)}; maps {'-'.join(map(str, maps))}"
    return Answer(shown, paper=not overlapping, release=not (overlapping or apart))


POINTS = (_input_size, _rounding, _columns, _first_hidden, _overlap)
