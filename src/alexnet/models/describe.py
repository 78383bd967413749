"""What `alexnet info` says about a network (no torch here)."""

from __future__ import annotations

from math import prod
from typing import Any

from alexnet.models.summary import Layer, trace
from alexnet.models.variants import Variant, resolve

# What the paper says in its text, and why the exact count differs.
CLAIMS = {
    "parameters": (60_000_000, "the abstract's 60 million, rounded"),
    "neurons": (
        650_000,
        "the abstract's 650,000; figure 2 counts 622,312 because its 253,440 for conv1 is 48x55x96, a slip for "
        "55x55x96 = 290,400",
    ),
}
FLOAT = 4  # bytes


def describe(name: str = "paper", batch_size: int = 128, **fields: Any) -> dict[str, Any]:
    """Layers and totals of a network as plain values.

    Shapes are without the batch; "memory" is the bytes of float32 that a layer keeps for a batch's backward pass. The
    totals add the memory of training: that, weights, gradients and momentum. Raises UsageError.
    """
    variant = resolve(name, **fields)
    layers = trace(variant)
    rows = [_row(layer, batch_size, variant) for layer in layers]
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
    return {"model": name, "fields": fields, "input": list(layers[0].in_shape), "layers": rows, **totals}


def _row(layer: Layer, batch_size: int, variant: Variant) -> dict[str, Any]:
    # Tensors of the output's size kept for the backward pass: ReLU works in place, dropout and flatten keep next to
    # nothing, LRN keeps its scale and the scale's power too.
    kept = {"activation": int(variant.activation == "tanh"), "dropout": 0, "flatten": 0, "norm": 3}.get(layer.kind, 1)
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
        "memory": kept * batch_size * prod(layer.out_shape) * FLOAT,
    }


def show(description: dict[str, Any]) -> None:
    """Print a description as a table with the paper's claims beneath."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
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
        "(outputs, weights, gradients, momentum)"
    )
    if description["model"] == "paper":
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
