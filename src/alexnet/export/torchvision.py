"""Weights under torchvision's names, for `torchvision.models.alexnet`."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from alexnet.errors import ExportError
from alexnet.export.origin import Target, check_suffix, identify, open_network, write_file
from alexnet.models.ablations import resolve
from alexnet.models.summary import trace
from alexnet.models.table import Variant
from alexnet.models.variants import TORCHVISION
from alexnet.models.weights import TORCHVISION_NAMES


def export_torchvision(target: Target, out: str | Path, *, model: str | None = None) -> None:
    """Write a state dict that `torchvision.models.alexnet(num_classes=K).load_state_dict` takes with strict=True, and
    which then gives the network's own logits: .safetensors, or .pth as torch.save writes it (with tensors alone).

    `target` and `model` are those of `export_onnx`. Raises ExportError for a network that is not torchvision's;
    UsageError or CheckpointError.
    """
    out = Path(out)
    check_suffix(out, "torchvision", ".safetensors", ".pth", ".pt")
    trained = open_network(target, model)
    _check_layers(trained.model.variant)
    weights = {
        f"{theirs}.{kind}": trained.model.get_parameter(f"{ours}.{kind}").detach().contiguous()
        for ours, theirs in TORCHVISION_NAMES.items()
        for kind in ("weight", "bias")
    }
    if out.suffix == ".safetensors":
        write_file(out, save(weights, {"format": "pt", "origin": json.dumps(identify(trained))}))
        return
    content = io.BytesIO()
    torch.save(weights, content)
    write_file(out, content.getbuffer())


def _check_layers(variant: Variant) -> None:
    """Raise ExportError unless the network computes what torchvision's does."""
    side = max(variant.input_size, TORCHVISION.input_size)  # its weights are the same for images of all sizes
    theirs = resolve("torchvision", num_classes=variant.num_classes, input_size=side)
    for own, other in zip_longest(_computed(replace(variant, input_size=side)), _computed(theirs)):
        if own != other:
            raise ExportError(
                f"--to torchvision is for its own network, and this one differs from it: {_shown(own)} in the place "
                f"of {_shown(other)}; --to onnx and --to torch-export take any network."
            )


def _computed(variant: Variant) -> list[tuple[Any, ...]]:
    """What evaluation computes, layer by layer; dropout may stand where it will."""
    return [
        (
            layer.name,
            layer.in_shape,
            layer.out_shape,
            (layer.kernel, layer.stride, layer.padding, layer.groups),
            layer.row if layer.kind in ("activation", "norm", "pool") else None,
        )
        for layer in trace(variant)
        if layer.kind != "dropout"
    ]


def _shown(layer: tuple[Any, ...] | None) -> str:
    if layer is None:
        return "nothing"
    name, before, after, *_ = layer
    return f"{name} {'x'.join(map(str, before))} -> {'x'.join(map(str, after))}"
