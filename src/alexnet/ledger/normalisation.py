"""The ledger's points about local response normalisation, LRN (section 3.3; no torch here)."""

from __future__ import annotations

from math import erf, exp, isclose, pi, sqrt

from alexnet.ledger.facts import Facts, Training
from alexnet.ledger.points import Answer, activation, differs, network_point, number, training_point
from alexnet.models.summary import Layer
from alexnet.models.table import Norm

NONE = Answer("no LRN: does not apply")
TYPICAL = 0.25  # standard deviation of the pixels of photographs, of their range
RAW = 255 * TYPICAL


def _each(facts: Facts, value: str) -> str:
    """A constant of every LRN, once where all have the same."""
    found = {layer.name: number(getattr(norm, value)) for layer, norm in facts.channel_norms()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{name} {text}" for name, text in found.items())


@network_point(
    1,
    "LRN: alpha",
    paper="alpha = 1e-4 times the sum of the squares (3.3)",
    release="scale 1e-4 divided by the window's 5: 2e-5 a square (layer.py:1183-1186)",
    effect="none measured; Caffe and torch divide as the release does",
)
def _alpha(facts: Facts) -> Answer:
    norms = [norm for _, norm in facts.channel_norms()]
    if not norms:
        return NONE
    squares = [norm.alpha / norm.size for norm in norms]
    shown = ", ".join(dict.fromkeys(f"{number(n.alpha)} / {n.size} = {number(n.alpha / n.size)}" for n in norms))
    return Answer(
        f"{shown} a square",
        paper=not all(isclose(square, 1e-4) for square in squares),
        release=not all(isclose(square, 2e-5) for square in squares),
    )


@network_point(
    2,
    "LRN: k",
    paper="k = 2 (3.3)",
    release="minDiv 2 (layer.cu:1589); 1 in its CIFAR-10 networks and within maps",
    effect="nil: logged nets 131 (k 1) 40.93/18.57 and 135 (k 2) 41.07/18.42 % error",
)
def _k(facts: Facts) -> Answer:
    norms = [norm for _, norm in facts.channel_norms()]
    return Answer(f"k = {_each(facts, 'k')}", **differs(any(n.k != 2 for n in norms))) if norms else NONE


@training_point(
    3,
    "LRN and the scale of the input",
    paper="raw pixels, centred: an rms of about 60 (2)",
    release="0-255 minus the mean image, not scaled (convdata_jpeg.py:95)",
    effect="with standardised pixels LRN is the constant 2^-.75 to 3e-4 and leaving it out tests nothing; at an rms of "
    "60 its factor is .90 of that on average, down to .48",
)
def _scale(facts: Facts, training: Training) -> Answer:
    found = next(facts.channel_norms(), None)
    if found is None:
        return NONE
    layer, norm = found
    std = training.config.data.std  # without it the data's own, which leaves a deviation of 1
    arriving = 1.0 if std is None else TYPICAL * len(std) / sum(std)
    if training.config.init or training.config.start:
        first = f"what {layer.name} meets, its weights decide, which were fitted to images or read from a file"
    else:
        meeting = sqrt(_second_moment(facts, layer, arriving))
        first = f"at its initial weights {layer.name} meets about {number(meeting)} and is a constant but for "
        first += _variation(norm, meeting)
    return Answer(
        f"pixels reach the network with an rms of about {number(arriving)}; {first}; if its input were as large as the "
        f"pixels, it would be a constant but for {_variation(norm, arriving)}",
        **differs(not 0.5 < arriving / RAW < 2),
    )


def _variation(norm: Norm, rms: float) -> str:
    """How far a window of squares of this size moves the factor from that of no activity at all."""
    return f"{100 * (1 - (1 + norm.alpha * rms**2 / norm.k) ** -norm.beta):.2g} %"


def _second_moment(facts: Facts, until: Layer, rms: float) -> float:
    """The mean square that arrives at a layer with initial weights; zero-mean weights make the units normal."""
    moment, bias = rms**2, 0.0
    for layer in facts.layers:
        if layer is until:
            break
        if layer.weight_shape:
            bias = facts.start_bias(layer) or 0.0
            moment = bias**2 + moment * layer.fan_in * facts.start_std(layer) ** 2
        elif layer.row == "relu" and moment:
            std = sqrt(max(moment - bias**2, 1e-12 * moment))
            z = bias / std  # E[max(x, 0)^2] of x ~ N(bias, std^2)
            moment = moment * (1 + erf(z / sqrt(2))) / 2 + bias * std * exp(-(z**2) / 2) / sqrt(2 * pi)
        elif layer.row == "tanh":
            moment = min(moment, 1.0)
        elif isinstance(layer.row, Norm):
            moment *= (layer.row.k + layer.row.alpha * moment) ** (-2 * layer.row.beta)
    return moment


_WITHIN = "within maps"


def _order(facts: Facts, name: str) -> tuple[str, ...]:
    """Activation, pooling and normalisations behind a layer, in order."""

    def called(layer: Layer) -> str:
        if isinstance(layer.row, Norm):
            return _WITHIN if layer.row.over == "map" else "LRN"
        return activation(layer) if layer.kind == "activation" else "pooling"

    return tuple(called(layer) for layer in facts.blocks[name] if layer.kind in ("activation", "pool", "norm"))


def _normalised(facts: Facts) -> list[str]:
    """The layers with LRN behind them."""
    names = {layer.name for layer, _ in facts.channel_norms()}
    return [of for of, block in facts.blocks.items() if any(layer.name in names for layer in block)]


@network_point(
    4,
    "LRN: its place",
    paper="ReLU, LRN, pooling (3.3, 3.5)",
    release="conv1: LRN, pooling, ReLU; conv2: ReLU, LRN, within maps, pooling (layers-145.cfg)",
    effect="logged nets 120 (LRN after pooling) 41.04/18.71, 131 (before) 40.93/18.57 % error",
)
def _place(facts: Facts) -> Answer:
    orders = {name: _order(facts, name) for name in _normalised(facts)}
    if not orders:
        return NONE
    inside = ("ReLU", "LRN", "pooling")
    # Whether there is one within maps at all is the next point but one.
    released: dict[str, list[tuple[str, ...]]] = {
        "conv1": [("LRN", "pooling", "ReLU")],
        "conv2": [inside, ("ReLU", "LRN", _WITHIN, "pooling")],
    }
    return Answer(
        "; ".join(f"{name}: {', '.join(order)}" for name, order in orders.items()),
        paper=any(tuple(step for step in order if step != _WITHIN) != inside for order in orders.values()),
        release=any(order not in released.get(name, []) for name, order in orders.items()),
    )


@network_point(
    5,
    "LRN across the columns",
    paper="over N, all the layer's kernels (3.3)",
    release="within the 48 or 128 maps of one column, never across GPUs (layers-145.cfg)",
    effect="four channels of each layer, by up to 26 % at random activations",
)
def _columns(facts: Facts) -> Answer:
    parts = {norm.columns for _, norm in facts.channel_norms()}
    if not parts:
        return NONE
    shown = {"1": "over all maps of the layer", "2": "within each of 2 columns"}
    said = _each(facts, "columns")
    return Answer(shown.get(said, f"columns: {said}"), paper=parts != {1}, release=parts != {2})


@network_point(
    6,
    "normalisation within maps",
    paper="not mentioned",
    release="behind conv2's LRN, 5x5 pixels of one map, (1 + 1e-3/25 sum)^-.75 (layers-145.cfg: cnorm2; layer.cu:1569)",
    effect="net 167 without either of conv2's norms is as good as its siblings; 135 to 137, which changed its kind: "
    "-.29/-.07 points (logs)",
)
def _within_maps(facts: Facts) -> Answer:
    found = [
        (of, layer.row)
        for of, block in facts.blocks.items()
        for layer in block
        if isinstance(layer.row, Norm) and layer.row.over == "map"
    ]
    released = [("conv2", Norm(5, 1e-3, 0.75, 1.0, over="map"))]
    shown = (f"behind {of}: {n.size}x{n.size}, ({number(n.k)} + {number(n.alpha)}/{n.size**2} sum)" for of, n in found)
    return Answer(", ".join(shown) or "none", paper=bool(found), release=found != released)


@network_point(
    7,
    "LRN at all",
    paper="behind conv1 and conv2, n = 5, beta = .75: -1.4/-1.2 points (3.3)",
    release="likewise (layers-145.cfg: rnorm1, rnorm2)",
    effect="-1.37/-1.15 points by the release's logs, all three norms together; nothing where pixels are scaled (3)",
)
def _at_all(facts: Facts) -> Answer:
    where = _normalised(facts)
    if not where:
        return Answer("none", **differs(True))
    same = all(norm.size == 5 and norm.beta == 0.75 for _, norm in facts.channel_norms())
    shown = f"behind {' and '.join(where)}, n = {_each(facts, 'size')}, beta = {_each(facts, 'beta')}"
    return Answer(shown, **differs(where != ["conv1", "conv2"] or not same))


POINTS = (_alpha, _k, _scale, _place, _columns, _within_maps, _at_all)
