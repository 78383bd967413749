"""A network as a program of torch.export, which runs without this package."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.export.origin import (
    Target,
    check_out,
    check_parity,
    identify,
    open_network,
    pixel_constants,
    sample_pixels,
    write_file,
)
from alexnet.inference.trained import Trained


class Ready(nn.Module):
    """Pixels uint8 [N, C, S, S] of 0 to 255 to probabilities and logits, [N, K] each."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        mean, deviation = pixel_constants(trained)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.network = trained.model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network((images.float() - self.mean) / self.deviation)
        return logits.softmax(dim=1), logits


def export_program(target: Target, out: str | Path, raw: bool = False, *, model: str | None = None) -> float:
    """Write a network as a torch.export program (.pt2) for any number of images, which `torch.export.load(file)
    .module()` runs where this package is not installed: pixels uint8 [N, C, S, S] to (probabilities, logits), or with
    `raw` normalised images to logits. Classes and origin lie beside it, as alexnet.json (`extra_files`).

    `target` and `model` are those of `export_onnx`. Returns how far the program's logits are from the network's own.
    Raises ExportError, and leaves nothing, if that is more than rounding; UsageError or CheckpointError.
    """
    out = Path(out)
    check_out(out, "torch-export", ".pt2")
    trained = open_network(target, model)
    normalise = trained.preprocessing.normalise
    pixels = sample_pixels(trained, 2)
    module, images = (trained.model, normalise(pixels)) if raw else (Ready(trained), pixels)
    program = torch.export.export(module.eval(), (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    content = io.BytesIO()
    told = json.dumps({**identify(trained), "input": {"raw": raw, "layout": "nchw"}})
    torch.export.save(program, content, extra_files={"alexnet.json": told})
    content.seek(0)
    written = torch.export.load(content).module()
    difference = check_parity(
        trained, lambda x: written(normalise(x)) if raw else written(x)[1], "the exported program"
    )
    write_file(out, content.getbuffer())
    return difference
