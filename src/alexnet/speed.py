"""How fast this machine trains and applies a network, beside the usual way and beside what the machine could do."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import OptimConfig
from alexnet.models.lrn import LocalResponseNorm
from alexnet.models.network import AlexNet, build_model
from alexnet.models.summary import trace
from alexnet.optim import build_optimizer
from alexnet.precision import Precision, choose_precision

IMAGENET_IMAGES, EPOCHS = 1_281_167, 90  # the paper's training (section 5)
Step = Callable[[], object]


@dataclass
class Rates:
    """Images a second of one way to run a network, a value a round; `peer` is the way that it is compared with."""

    name: str
    peer: str | None = None
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Speed:
    """What was measured; `ceiling` is in images a second of training, `matmul` the rate behind it in FLOP/s."""

    model: str
    batch_size: int
    device: str
    rates: dict[str, Rates]
    matmul: float
    ceiling: float
    photographs: bool
    """Whether the network takes images of ImageNet's size."""

    def ratio(self, name: str) -> float | None:
        """Median over the rounds of a rate over its peer's in the same round."""
        rates = self.rates[name]
        if rates.peer is None:
            return None
        pairs = zip(rates.values, self.rates[rates.peer].values, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    @property
    def hours(self) -> float:
        """Of the paper's 90 epochs of ImageNet at the best training rate."""
        best = max(r.median for name, r in self.rates.items() if name.startswith("training"))
        return IMAGENET_IMAGES * EPOCHS / best / 3600

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "device": self.device,
            "images_per_second": {name: rates.median for name, rates in self.rates.items()},
            "rounds": {name: rates.values for name, rates in self.rates.items()},
            "ratios": {name: self.ratio(name) for name, rates in self.rates.items() if rates.peer},
            "matmul_flops": self.matmul,
            "ceiling": self.ceiling,
            "hours_for_90_epochs": self.hours if self.photographs else None,
        }


def usual(model: AlexNet) -> nn.Module:
    """The same network as public ports write it: torch's own normalisation, float32, the default layout."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for name, module in plain.named_children():
        if isinstance(module, LocalResponseNorm):
            setattr(plain, name, nn.LocalResponseNorm(module.size, module.alpha, module.beta, module.k))
    return plain


def training_step(model: nn.Module, precision: Precision, images: Tensor, labels: Tensor) -> Step:
    """A step of SGD with momentum on a fixed batch."""
    optimizer = build_optimizer(OptimConfig(), model.train())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def inference_step(model: nn.Module, precision: Precision, images: Tensor) -> Step:
    """A forward pass in evaluation mode."""
    forward = precision.inference(model.eval())

    def step() -> None:
        with torch.inference_mode():
            forward(images)

    return step


def seconds(step: Step, steps: int, device: torch.device) -> float:
    """Of one step, over `steps` of them."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_rate(precision: Precision, batch_size: int) -> float:
    """FLOP/s of the better of a large matrix product and the third convolution at work on a batch."""
    device, dtype = precision.device, precision.dtype
    side = 4096 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    conv = nn.Conv2d(256, 384, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    x = torch.randn(batch_size, 256, 13, 13, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def best(step: Step, flops: float) -> float:
        step()
        return flops / min(seconds(step, 2, device) for _ in range(10))

    with torch.inference_mode():
        return max(
            best(lambda: a @ b, 2 * side**3),
            best(lambda: conv(x), 2 * batch_size * 384 * 256 * 9 * 13 * 13),
        )


def benchmark(
    model: str = "paper", *, batch_size: int = 128, device: str = "auto", rounds: int = 5, steps: int = 2
) -> Speed:
    """Measure a network of `alexnet list models`: the ways take turns, `rounds` times `steps` steps each.

    The peer is torchvision's own network for "torchvision" (where it is installed), else the same network with
    torch.nn.LocalResponseNorm; both in float32 and the default layout, as public ports run.
    """
    torch.manual_seed(0)
    fast, exact = choose_precision(device, "auto"), choose_precision(device, "fp32")
    ours = build_model(model)
    peer = _torchvision() if model == "torchvision" else usual(ours)
    variant = ours.variant
    shape = (batch_size, variant.in_channels, variant.input_size, variant.input_size)
    images = torch.randn(shape, device=fast.device)
    labels = torch.randint(0, variant.num_classes, (batch_size,), device=fast.device)
    rows = images.contiguous(memory_format=torch.channels_last)
    peer = peer.to(fast.device)
    name = "bf16" if fast.dtype == torch.bfloat16 else "fp32"
    ways: dict[str, tuple[Rates, Step]] = {}

    def add(name: str, step: Step, peer: str | None = None) -> None:
        ways[name] = (Rates(name, peer), step)

    add("training, usual", training_step(copy.deepcopy(peer), exact, images, labels))
    for label, precision in {"fp32": exact, name: fast}.items():
        placed = precision.place(copy.deepcopy(ours))
        add(f"training, {label}", training_step(placed, precision, rows, labels), "training, usual")
    for count in (64, 1):
        few, few_rows = images[:count], rows[:count].contiguous(memory_format=torch.channels_last)
        add(f"inference of {count}, usual", inference_step(copy.deepcopy(peer), exact, few))
        add(
            f"inference of {count}, {name}",
            inference_step(fast.place(copy.deepcopy(ours)), fast, few_rows),
            f"inference of {count}, usual",
        )
    matmul = best_rate(fast, batch_size)  # before and after: a shared machine's rate moves
    for round_ in range(rounds + 1):  # the first only warms up
        for rates, step in ways.values():
            count = batch_size if rates.name.startswith("training") else int(rates.name.split()[2].rstrip(","))
            rate = count / seconds(step, steps if count > 1 else 10 * steps, fast.device)
            if round_:
                rates.values.append(rate)
    matmul = max(matmul, best_rate(fast, batch_size))
    macs = sum(layer.macs for layer in trace(variant))
    return Speed(
        model,
        batch_size,
        str(fast.device),
        {n: rates for n, (rates, _) in ways.items()},
        matmul,
        ceiling=matmul / (6 * macs),
        photographs=variant.input_size > 200,
    )


def _torchvision() -> nn.Module:
    try:
        from torchvision.models import alexnet
    except ImportError:
        return usual(build_model("torchvision"))
    network: nn.Module = alexnet()
    return network
