"""What `alexnet info` says about a network (no torch here)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from alexnet.models.ablations import resolve
from alexnet.models.summary import Layer, trace
from alexnet.models.table import Dropout, Norm, Pool, Variant
from alexnet.models.variants import VARIANTS

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
    is said. The totals add the memory of training: that, weights, gradients and momentum. Raises UsageError.
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


def show(description: dict[str, Any]) -> None:
    """Print a description as a table with the paper's claims beneath."""
    from rich.table import Table

    from alexnet.terminal import Terminal

    console = Terminal()
    batch = description["batch_size"]
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{description['model']}: input {_times(description['input'])}",
        title_justify="left",
    )
    table.add_column("layer")
    table.add_column("kernel")
    for name in ("output", "parameters", "MACs", "neurons", f"MiB at {batch}"):
        table.add_column(name, justify="right")
    for row in description["layers"]:
        if row["kind"] in ("flatten",):
            continue
        table.add_row(
            row["name"],
            _kernel(row),
            _times(row["output"]),
            _count(row["parameters"]),
            _count(row["macs"]),
            _count(row["neurons"]),
            f"{row['memory'] / 2**20:.1f}" if row["memory"] else "",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        _count(description["parameters"]),
        _count(description["macs"]),
        _count(description["neurons"]),
        f"{description['activation_bytes'] / 2**20:.1f}",
    )
    console.print(table)
    console.print(
        f"\ntraining a batch of {batch} in float32 needs about {description['training_bytes'] / 2**30:.2f} GiB "
        "(what the backward pass needs, weights, gradients, momentum)"
    )
    name = description["model"]
    if name in ("paper", "net145") and resolve(name, **description["fields"]) == VARIANTS[name]:
        console.print("the paper's figures:")
        for name, (claim, why) in CLAIMS.items():
            console.print(f"  {name} {description[name]:,} beside {claim:,}: {why}", soft_wrap=True)


def _kernel(row: dict[str, Any]) -> str:
    if row["kind"] == "pad":
        return f"right, bottom {row['padding']}"
    if not row["kernel"]:
        return ""
    parts = [f"{row['kernel']}x{row['kernel']}"]
    parts += [f"s{row['stride']}"] if row["stride"] > 1 else []
    parts += [f"p{row['padding']}"] if row["padding"] else []
    parts += [f"g{row['groups']}"] if row["groups"] > 1 else []
    return " ".join(parts)


def _times(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _count(value: int) -> str:
    return f"{value:,}" if value else ""
