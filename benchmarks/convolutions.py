"""Convolutions in float32 on a CPU: by Winograd's products against torch's own, by themselves and in networks.

    uv run python benchmarks/convolutions.py

Both are computed by the same modules on the same data and take turns in one process, with the memory allocator that
training uses.
"""

from __future__ import annotations

import copy
from unittest.mock import patch

import cyclopts
import torch
from common import Row, in_turn, show
from torch import nn

from alexnet.compute import configure_process, resolve_compute
from alexnet.models import winograd
from alexnet.models.fast import use_kernels
from alexnet.models.network import build_layer, build_model
from alexnet.models.summary import trace
from alexnet.models.table import Conv
from alexnet.models.winograd import multiplications
from alexnet.speed.steps import Step, batch, inference_step, seconds, training_step

NETWORKS = {"cifar": 128, "paper": 32, "torchvision": 32}  # and the images of a step


def as_torch_does(step: Step) -> Step:
    """The same without Winograd's products."""

    def plain() -> None:
        with patch.object(winograd, "_plan", lambda *_: None):
            step()

    return plain


def both_ways(layer: nn.Module, images: torch.Tensor) -> Step:
    """Forward and backward."""
    images.requires_grad_()
    g = torch.randn_like(layer(images))

    def step() -> None:
        images.grad = None
        layer(images).backward(g)

    return step


def measure(device: str = "cpu", toy: bool = False, rounds: int = 7) -> list[Row]:
    """Rows of the table; none for a GPU."""
    compute = resolve_compute(device, "fp32")
    rows: list[Row] = []
    if compute.device.type != "cpu":
        return rows

    def compare(what: str, step: Step, count: int, headline: bool = False) -> None:
        ours, theirs, ratio = in_turn(
            lambda: seconds(step, 1, compute.device),
            lambda: seconds(as_torch_does(step), 1, compute.device),
            1 if toy else rounds,
        )
        detail = f"{ours * 1e3:,.0f} against {theirs * 1e3:,.0f} ms, {count} images"
        rows.append(Row(what, 1 / ratio, "{:.2f}x", None, False, detail, headline))

    for name, usual in NETWORKS.items():
        count = 2 if toy else usual
        network = build_model(name, width=0.25 if toy else 1.0)
        layers = trace(network.variant)
        for layer in layers:
            if isinstance(layer.row, Conv) and multiplications([layer], usual, compute) < 1:
                conv = compute.place(build_layer(layer))
                use_kernels(conv)
                images = torch.randn(count, *layer.in_shape).contiguous(memory_format=torch.channels_last)
                compare(f"{name}: {layer.name}, forward and backward", both_ways(conv, images), count)
        images, labels = batch(network.variant, count, compute.device)
        images = images.contiguous(memory_format=torch.channels_last)
        step = training_step(compute.place(copy.deepcopy(network)), compute, images, labels)
        compare(f"{name}: training, fp32, against torch's convolutions", step, count, headline=True)
        step = inference_step(compute.place(network), compute, images)
        compare(f"{name}: inference, fp32, against torch's convolutions", step, count)
    return rows


def main(toy: bool = False) -> None:
    """Print the rows."""
    configure_process()
    show(measure(toy=toy))


if __name__ == "__main__":
    cyclopts.run(main)
