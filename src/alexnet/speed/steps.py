"""What is measured: a training step, a forward pass, and the networks of others that they are compared with."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.compute import Compute, set_in_place
from alexnet.config import OptimConfig
from alexnet.inference.forward import answering
from alexnet.models.fast import use_kernels
from alexnet.models.lrn import LocalResponseNorm
from alexnet.models.network import AlexNet
from alexnet.models.table import Variant
from alexnet.training.optim import Optimizer

Step = Callable[[], object]


def as_published(model: AlexNet) -> nn.Module:
    """The same network as public ports write it, with torch's own normalisation, which knows no columns: it crosses
    them."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    set_in_place(plain)
    for name, module in plain.named_children():
        if isinstance(module, LocalResponseNorm):
            setattr(plain, name, nn.LocalResponseNorm(module.size, module.alpha, module.beta, module.k))
    return plain


def batch(variant: Variant, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images [N, C, H, W] in the default layout and labels [N]."""
    images = torch.randn(count, variant.in_channels, variant.input_size, variant.input_size, device=device)
    return images, torch.randint(0, variant.num_classes, (count,), device=device)


def training_step(model: nn.Module, compute: Compute, images: Tensor, labels: Tensor, compiled: bool = False) -> Step:
    """A step of SGD with momentum on a fixed batch; the model is ours alone."""
    set_in_place(model)
    use_kernels(model)
    optimizer = Optimizer(OptimConfig(), model.train())
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with compute.settings():
            optimizer.zero_grad()
            with compute.autocast():
                logits = forward(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

    return step


def inference_step(model: nn.Module, compute: Compute, images: Tensor) -> Step:
    """A forward pass in evaluation mode."""
    forward = answering(model.eval(), compute)

    def step() -> None:
        with torch.inference_mode(), compute.settings():
            forward(images)

    return step


def baseline_training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """A training step as a tutorial writes it, in float32."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def baseline_inference_step(model: nn.Module, images: Tensor) -> Step:
    """A forward pass as a tutorial writes it, in float32."""
    model.eval()

    def step() -> None:
        with torch.no_grad():
            model(images)

    return step


def seconds(step: Step, steps: int, device: torch.device) -> float:
    """Of one step, over `steps` of them."""
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - start) / steps


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
