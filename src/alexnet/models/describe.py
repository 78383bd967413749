"""What `alexnet info` says about a network (no torch here)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from alexnet.models.ablations import resolve
from alexnet.models.summary import Layer, trace
from alexnet.models.table import Dropout, Norm, Pool, Variant

# What the paper says in its text, and why the exact count differs.
CLAIMS = {
    "parameters": (60_000_000, "the abstract's 60 million, rounded"),
    "neurons": (
        650_000,
        "the abstract's 650,000; figure 2 counts 622,312 because its 253,440 for conv1 is 48x55x96, a slip for "
        "55x55x96 = 290,400",
    ),
}
FLOAT, INDEX = 4, 8  # bytes of a number, and of the position of a maximum


def describe(name: str | Variant = "paper", batch_size: int = 128, **fields: Any) -> dict[str, Any]:
    """Layers and totals of a network as plain values; name and fields are those of `build_model`.

    Shapes are without the batch. "memory" is how many bytes of float32 training keeps at a layer for a batch's backward
    pass, beyond what is kept for the layers before it, with ReLUs in place; dropout on a GPU keeps a quarter of what
    is said, and where max pooling is the kernel in C (on a CPU) it keeps 2 bytes a maximum alone. The totals add the
    memory of training: that, weights, gradients and momentum. Raises UsageError.
    """
    layers = trace(resolve(name, **fields))
    rows = [_row(layer, batch_size * kept) for layer, kept in zip(layers, _kept(layers), strict=True)]
    parameters = sum(layer.parameters for layer in layers)
    activations = sum(row["memory"] for row in rows)
    totals = {
        "parameters": parameters,
        "macs": sum(layer.macs for layer in layers),
        "neurons": sum(layer.neurons for layer in layers),
        "batch_size": batch_size,
        "activation_bytes": activations,
        "training_bytes": activations + 3 * FLOAT * parameters,
    }
    called = name if isinstance(name, str) else name.about
    return {"model": called, "fields": fields, "input": list(layers[0].in_shape), "layers": rows, **totals}


def _kept(layers: Sequence[Layer]) -> Iterator[int]:
    """Bytes that autograd keeps for one image at each layer, beyond what it has kept before.

    Most layers keep their input, an activation its output; two layers that keep the same tensor keep it once.
    """
    held = False  # whether the tensor that enters the layer is kept already
    turned = False  # whether it lies position by position, as a local layer leaves it, so that flattening is a copy
    for layer in layers:
        size = FLOAT * prod(layer.out_shape)
        inputs = FLOAT * prod(layer.in_shape) * (not held)
        match layer.kind, layer.row:
            case "activation", "relu":  # in place: its input is its output
                kept, held = inputs, True
            case "activation", _:
                kept, held = size, True
            case "norm", Norm(over="map"):  # squares, their sums, and the powers of these
                kept, held = inputs + 3 * size, False
            case "pool", Pool(average=False):
                kept, held = inputs + INDEX * prod(layer.out_shape), False
            case "local", _:  # its windows, cut out
                kept, held = FLOAT * layer.fan_in * prod(layer.out_shape[1:]), False
            case (("conv" | "linear" | "norm" | "pool"), _):
                kept, held = inputs, False
            case "average", _:  # to one position it is a mean, which needs no values
                kept, held = inputs * (layer.out_shape[1] > 1), False
            case "dropout", Dropout(rate) if rate > 0:  # the factors, 0 or 1 / (1 - rate)
                kept, held = size, False
            case "pad", _:
                kept, held = 0, False
            case "flatten", _ if turned:
                kept, held = 0, False
            case _:  # flatten, dropout of nothing: the same tensor
                kept = 0
        turned = layer.kind == "local" or (turned and layer.kind == "activation")
        yield kept


def _row(layer: Layer, memory: int) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "kernel": layer.kernel or None,
        "stride": layer.stride if layer.kernel else None,
        "padding": layer.padding,
        "groups": layer.groups,
        "output": list(layer.out_shape),
        "parameters": layer.parameters,
        "macs": layer.macs,
        "neurons": layer.neurons,
        "memory": memory,
    }
