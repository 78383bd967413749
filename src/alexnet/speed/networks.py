"""A network's speed beside the baseline and beside the machine's own limit."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from alexnet.compute import Compute, resolve_compute
from alexnet.models.int8 import computes_int8, knows_layers, quantize
from alexnet.models.network import build_model
from alexnet.models.summary import trace
from alexnet.models.winograd import multiplications
from alexnet.speed.baseline import Baseline, Request, has_torchvision
from alexnet.speed.limits import arithmetic, bandwidth, training_bound
from alexnet.speed.steps import batch, inference_step, seconds, training_step

IMAGENET_IMAGES, EPOCHS = 1_281_167, 90  # the paper's training (section 5)


@dataclass
class Rates:
    """Images a second of one way to run a network, a value a round; `baseline` is the way that it is compared with."""

    name: str
    baseline: str | None = None
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Speed:
    """What was measured; `bound` is in images a second of training, rates behind it in FLOP/s and bytes/s."""

    model: str
    batch_size: int
    device: str
    rates: dict[str, Rates]
    arithmetic: float
    bandwidth: float
    bound: float
    photographs: bool
    """Whether the network takes images of ImageNet's size."""
    left: float = 1.0
    """The part of the network's multiplications that convolutions by Winograd's products leave to be done."""

    def ratio(self, name: str) -> float | None:
        """Median over the rounds of a rate over its baseline's in the same round."""
        rates = self.rates[name]
        if rates.baseline is None:
            return None
        pairs = zip(rates.values, self.rates[rates.baseline].values, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    @property
    def best(self) -> float:
        """Images a second of our best training."""
        return max(r.median for name, r in self.rates.items() if name.startswith("training") and r.baseline)

    @property
    def hours(self) -> float:
        """Of the paper's 90 epochs of ImageNet at the best rate."""
        return IMAGENET_IMAGES * EPOCHS / self.best / 3600

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "device": self.device,
            "images_per_second": {name: rates.median for name, rates in self.rates.items()},
            "rounds": {name: rates.values for name, rates in self.rates.items()},
            "ratios": {name: self.ratio(name) for name, rates in self.rates.items() if rates.baseline},
            "arithmetic_flops": self.arithmetic,
            "bandwidth_bytes": self.bandwidth,
            "multiplications_left": self.left,
            "bound": self.bound,
            "of_the_bound": self.best / self.bound,
            "hours_for_90_epochs": self.hours if self.photographs else None,
        }


def benchmark(
    model: str = "paper",
    *,
    batch_size: int = 128,
    device: str = "auto",
    rounds: int = 5,
    steps: int = 2,
    compile: bool = False,
) -> Speed:
    """Measure a network of `alexnet list models`: the ways take turns, `rounds` times `steps` steps each.

    The baseline is torchvision's own network for "torchvision", else the same network with torch.nn.LocalResponseNorm;
    in float32, the default layout and a process of its own. For networks of photographs torchvision's own is measured
    beside it where it is installed, on a GPU also with its script's autocast, channels_last and compiler. `compile`
    adds ours compiled by torch.
    """
    fast, exact = resolve_compute(device, "auto"), resolve_compute(device, "fp32")
    place, name = fast.device, "bf16" if fast.dtype == torch.bfloat16 else "fp32"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no GPU's
        network = build_model(model)
    variant = network.variant
    images, labels = batch(variant, batch_size, place)
    images = images.contiguous(memory_format=torch.channels_last)
    photographs = variant.input_size > 200
    ways: dict[str, tuple[Rates, int, Callable[[], float]]] = {}

    with Baseline() as other:

        def theirs(label: str, baseline: str | None, **request: Any) -> None:
            asked = Request(device=str(place), steps=steps if request["count"] > 1 else 10 * steps, **request)
            ways[label] = (Rates(label, baseline), asked.count, lambda: other.seconds(asked))

        def train(label: str, compute: Compute, compiled: bool = False) -> None:
            placed = compute.place(copy.deepcopy(network))
            step = training_step(placed, compute, images, labels, compiled)
            ways[label] = (Rates(label, "training, baseline"), batch_size, lambda: seconds(step, steps, place))

        def infer(count: int, label: str, placed: nn.Module, compute: Compute) -> None:
            step = inference_step(placed, compute, some[:count])
            turns = steps if count > 1 else 10 * steps
            rates = Rates(f"inference of {count}, {label}", f"inference of {count}, baseline")
            ways[rates.name] = (rates, count, lambda: seconds(step, turns, place))

        theirs("training, baseline", None, network=model, training=True, count=batch_size)
        beside = photographs and has_torchvision()
        if beside and model != "torchvision":
            theirs("training, torchvision's", None, network="torchvision", training=True, count=batch_size)
        if beside and fast.queued:
            label = "training, torchvision's tuned"
            theirs(label, None, network="torchvision", training=True, count=batch_size, tuned=True)
        for label, compute in {"fp32": exact, name: fast}.items():
            train(f"training, {label}", compute)
        if compile:
            train(f"training, {name} compiled", fast, compiled=True)
        placed = fast.place(copy.deepcopy(network)).eval()
        some = batch(variant, 64, place)[0].contiguous(memory_format=torch.channels_last)
        rounded = quantize(network, some) if computes_int8(place) and knows_layers(network) else None
        for count in (64, 1):
            theirs(f"inference of {count}, baseline", None, network=model, training=False, count=count)
            infer(count, name, placed, fast)
            if rounded is not None:
                infer(count, "int8", rounded, exact)

        rate = arithmetic(fast, batch_size)  # before and after: a shared machine's rate moves
        for round_ in range(rounds + 1):  # the first only warms up
            for rates, count, measure in ways.values():
                value = count / measure()
                if round_:
                    rates.values.append(value)
        rate = max(rate, arithmetic(fast, batch_size))
        bytes_per_second = bandwidth(place)
    layers = trace(variant)
    left = multiplications(layers, batch_size, fast)
    return Speed(
        model,
        batch_size,
        str(place),
        {label: rates for label, (rates, *_) in ways.items()},
        arithmetic=rate,
        bandwidth=bytes_per_second,
        bound=training_bound(layers, batch_size, rate, bytes_per_second, left),
        photographs=photographs,
        left=left,
    )
