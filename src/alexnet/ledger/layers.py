"""The ledger's points about activations, dropout and initial weights (no torch here)."""

from __future__ import annotations

from math import isclose

from alexnet.ledger.facts import Facts
from alexnet.ledger.points import Answer, activation, differs, network_point, number
from alexnet.models.schemes import SCHEMES
from alexnet.models.summary import Layer
from alexnet.models.table import Pool


@network_point(
    28,
    "ReLU: everywhere but behind the last layer",
    paper="behind every convolutional and fully connected layer (3.5), of which the last feeds the softmax",
    release="likewise; none behind fc1000 (layers-145.cfg)",
    effect="one public port has a ReLU before its softmax: classes cannot be voted down",
)
def _activations(facts: Facts) -> Answer:
    behind = {
        name: [activation(layer) for layer in block if layer.kind == "activation"]
        for name, block in facts.blocks.items()
    }
    *inner, last = [layer.name for layer in facts.weighted]
    kinds = dict.fromkeys(kind for name in inner for kind in behind[name])
    missing = [name for name in inner if not behind[name]]
    shown = f"{' and '.join(kinds) or 'nothing'} behind {_span(inner)}" if inner else "no inner layers"
    shown += f" but {', '.join(missing)}" if missing and kinds else ""
    shown += f"; {' and '.join(behind[last]) or 'none'} behind {last}"
    return Answer(shown, **differs(any(behind[name] != ["ReLU"] for name in inner) or behind[last] != []))


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


@network_point(
    30,
    "pooling and ReLU behind conv5",
    paper="not said",
    release="pooling, then ReLU (layers-145.cfg: pool3)",
    effect="none: for maximum pooling the order gives the same numbers",
)
def _last_pool(facts: Facts) -> Answer:
    order = [layer for layer in facts.blocks[facts.convs[-1].name] if layer.kind in ("activation", "pool")]
    pools = [layer.row for layer in order if isinstance(layer.row, Pool)]
    if not pools:
        return Answer("no pooling behind the last convolution: does not apply")
    same = all(not pool.average for pool in pools)
    shown = ", then ".join("pooling" if layer.kind == "pool" else activation(layer) for layer in order)
    released = [layer.kind for layer in order] == ["pool", "activation"]
    return Answer(shown + ("" if released or not same else ": the same numbers"), release=not (released or same))


@network_point(
    10,
    "dropout: where, and how much",
    paper="of the outputs of the first two fully connected layers, half (4.2)",
    release="likewise: hs1, hs2 behind fc2048, fc2048b, keep .5 (layers-145.cfg)",
    effect="of the place, not known (torchvision drops the inputs of fc6 and fc7)",
)
def _dropout_place(facts: Facts) -> Answer:
    linears = [layer.name for layer in facts.of_kind("linear")]
    found = list(facts.dropouts())
    if not found:
        return Answer("no dropout", **differs(True))
    shown = ", ".join(
        f"{number(drop.rate)} of {f'the outputs of {linears[at - 1]}' if at else 'the last maps'}" for at, drop in found
    )
    places = {at: drop.rate for at, drop in found}
    wanted = dict.fromkeys(range(1, len(linears)), 0.5)
    return Answer(shown, **differs(places != wanted or len(found) != len(places)))


@network_point(
    11,
    "dropout: its scale",
    paper="outputs times .5 at test, as they are in training (4.2)",
    release="likewise: mask without scaling, times keep at test (layer.cu:1126-1135)",
    effect="not known; scaling up in training instead is equal under SGD only with weights / 2, rate / 4 and decay x 4 "
    "in the layers behind",
)
def _dropout_scale(facts: Facts) -> Answer:
    behind = [layer for layer in facts.of_kind("linear") if facts.kept(layer) < 1]
    if not behind:
        return Answer("no dropout: does not apply")
    names = " and ".join(layer.name for layer in behind)
    form = "kept values are scaled up in training"
    if facts.training is None:
        return Answer(f"{form}; whether {names} learn so that it is equal is decided by how it is trained")
    if facts.compensated >= {layer.name for layer in behind}:
        return Answer(f"{form}, and rate and decay of {names} make it equal to the paper's", **differs(False))
    others = " and ".join(layer.name for layer in behind if layer.name not in facts.compensated)
    return Answer(f"{form}, and {others} learn otherwise than the paper's would: not equal", **differs(True))


_UNIFORM = "torch's own: uniform within 1 / sqrt(inputs)"


def _then(fitted: tuple[str, ...]) -> str:
    return f", then {', '.join(fitted)}" if fitted else ""


@network_point(
    12,
    "initial weights",
    paper="normal, standard deviation .01 in every layer (5)",
    release=".01; conv3, conv4 and conv5 .03 (layers-145.cfg: initW)",
    effect="with standardised pixels .01 everywhere shrinks the signal layer by layer, and training stalls at 6.9",
)
def _weights(facts: Facts) -> Answer:
    if facts.training is not None and (given := facts.training.config.init) is not None:
        return Answer(f"taken from {given}", **differs(True))
    fitted = facts.training.config.start if facts.training is not None else ()
    stds: dict[str, float] = {}
    for layer in facts.weighted:
        if facts.is_uniform(layer):
            return Answer(_UNIFORM + _then(fitted), **differs(True))
        stds[layer.name] = facts.start_std(layer) / facts.equivalent(layer)
    shown = "normal: " + _grouped({name: number(std) for name, std in stds.items()})
    if facts.compensated:
        shown += f" (those of {', '.join(sorted(facts.compensated))} as the paper's dropout has them)"
    if fitted:
        return Answer(shown + _then(fitted), **differs(True))
    released = {layer.name: SCHEMES["code"].start(layer).std for layer in facts.weighted}
    # Of a network alone it is not known whether the layers behind a dropout are trained as the paper's (`compensated`),
    # so that their weights may be read either way.
    kept = {layer.name: 1.0 if facts.training else facts.kept(layer) for layer in facts.weighted}
    halved = [name for name in stds if kept[name] < 1 and isclose(stds[name] / kept[name], released[name])]
    if halved:
        shown += f"; {' and '.join(halved)} for the paper's dropout, if they are trained so"

    def is_start(name: str, std: float) -> bool:
        return isclose(stds[name], std) or isclose(stds[name] / kept[name], std)

    return Answer(
        shown,
        paper=not all(is_start(name, 0.01) for name in stds),
        release=not all(is_start(name, released[name]) for name in stds),
    )


@network_point(
    13,
    "initial biases",
    paper="1 in conv2, conv4, conv5 and the hidden layers, 0 in the others (5)",
    release="likewise (layers-145.cfg: initB)",
    effect='Caffe took .1: "initialization to 1 gave flat loss"',
)
def _biases(facts: Facts) -> Answer:
    if facts.training is not None and (given := facts.training.config.init) is not None:
        return Answer(f"taken from {given}", **differs(True))
    found: dict[str, float | None] = {}
    for layer in facts.weighted:
        found[layer.name] = facts.start_bias(layer)
    wanted = {layer.name: _positive(facts, layer) for layer in facts.weighted}
    shown = _grouped({name: _UNIFORM if bias is None else number(bias) for name, bias in found.items()})
    return Answer(shown, **differs(found != wanted))


def _positive(facts: Facts, layer: Layer) -> float:
    """The bias that the paper starts a layer with."""
    ordinal = facts.convs.index(layer) + 1 if layer in facts.convs else None
    return float(layer.role == "hidden" or ordinal in (2, 4, 5))


def _grouped(values: dict[str, str]) -> str:
    """Values with the layers that have them: once where all have the same."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) == 1:
        return f"{next(iter(groups))} in every layer"
    return "; ".join(f"{value} in {', '.join(names)}" for value, names in groups.items())


POINTS = (_dropout_place, _dropout_scale, _weights, _biases, _activations, _last_pool)
