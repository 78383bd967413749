"""Weights under torchvision's names, for `torchvision.models.alexnet`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from safetensors.torch import save

from alexnet.errors import ExportError
from alexnet.export.origin import Target, check_out, identify, open_network, write_file
from alexnet.models.weights import torchvision_weights, unlike_torchvision


def export_torchvision(target: Target, out: str | Path, *, model: str | None = None) -> None:
    """Write a state dict that `torchvision.models.alexnet(num_classes=K).load_state_dict` takes with strict=True, and
    which then gives the network's own logits: .safetensors, or .pth as torch.save writes it (with tensors alone).

    `target` and `model` are those of `export_onnx`. Raises ExportError for a network that is not torchvision's;
    UsageError or CheckpointError.
    """
    out = Path(out)
    check_out(out, "torchvision", ".safetensors", ".pth", ".pt")
    trained = open_network(target, model)
    if difference := unlike_torchvision(trained.model.variant):
        raise ExportError(
            f"--to torchvision is for its own network, and this one differs from it: {difference}; --to onnx and --to "
            "torch-export take any network."
        )
    weights = {name: value.contiguous() for name, value in torchvision_weights(trained.model).items()}
    if out.suffix == ".safetensors":
        write_file(out, save(weights, {"format": "pt", "origin": json.dumps(identify(trained))}))
        return
    content = io.BytesIO()
    torch.save(weights, content)
    write_file(out, content.getbuffer())
