"""Training and inference of whole networks: rows from `alexnet benchmark` for three networks.

uv run python benchmarks/networks.py
"""

from __future__ import annotations

from collections.abc import Callable

import cyclopts
import torch
from common import Row, in_turn, show

from alexnet.compute import Compute, configure_process, resolve_compute
from alexnet.models.int8 import computes_int8, quantize
from alexnet.models.network import build_model
from alexnet.speed.networks import Speed, benchmark
from alexnet.speed.steps import batch, inference_step, seconds

GOALS = {  # least ratios against the baseline
    "paper": {"training, bf16": 6.0, "training, fp32": 2.5},
    "torchvision": {"training, bf16": 2.5, "inference of 64, int8": 4.3, "inference of 1, bf16": 2.0},
    "cifar": {"training, bf16": 3.0},
}
HEADLINES = ("training, bf16", "inference of 64, int8")
GPU_MODELS = ("paper", "owt", "torchvision")
MODELS = ("paper", "torchvision", "cifar")


def rows_of(speed: Speed) -> list[Row]:
    """A network's ratios and its part of the machine's limit."""
    on_gpu = speed.device.startswith("cuda")
    goals = {} if on_gpu else GOALS.get(speed.model, {})
    rows = []
    for name, rates in speed.rates.items():
        ratio = speed.ratio(name)
        if ratio is not None and rates.baseline is not None:
            detail = f"{rates.median:,.0f} against {speed.rates[rates.baseline].median:,.0f} images/s"
            headline = name in HEADLINES
            rows.append(Row(f"{speed.model}: {name}", ratio, "{:.2f}x", goals.get(name), False, detail, headline))
    ours = speed.best
    for baseline, goal in (("training, torchvision's", 3.0), ("training, torchvision's tuned", 1.5)):
        if on_gpu and baseline in speed.rates:
            value = ours / speed.rates[baseline].median
            rows.append(Row(f"{speed.model}: our best against {baseline}", value, "{:.2f}x", goal, headline=True))
    least = 0.45 if on_gpu else 0.6 if speed.model == "paper" else None
    detail = f"{ours:,.0f} of {speed.bound:,.0f} images/s, at {speed.arithmetic / 1e9:,.0f} GFLOP/s and "
    detail += f"{speed.bandwidth / 1e9:,.0f} GB/s"
    rows.append(
        Row(
            f"{speed.model}: training, of the machine's limit",
            ours / speed.bound,
            "{:.0%}",
            least,
            False,
            detail,
            speed.model == "paper",
        )
    )
    if speed.photographs:
        rows.append(Row(f"{speed.model}: 90 epochs of ImageNet", speed.hours, "{:,.0f} hours"))
    return rows


def paper_beside_torchvision(device: str, toy: bool, rounds: int) -> list[Row]:
    """Inference of the paper's network in turn with torchvision's, both ours."""
    fast = resolve_compute(device, "auto")
    rows = []

    def measured(name: str, count: int, in_8_bits: bool) -> Callable[[], float]:
        model = build_model(name)
        images = batch(model.variant, count, fast.device)[0].contiguous(memory_format=torch.channels_last)
        if in_8_bits:
            step = inference_step(quantize(model, images), Compute(fast.device, torch.float32), images)
        else:
            step = inference_step(fast.place(model), fast, images)
        return lambda: seconds(step, 1 if count > 1 else 10, fast.device)

    names = ("cifar", "cifar") if toy else ("paper", "torchvision")
    for in_8_bits in (False, True) if computes_int8(fast.device) else (False,):
        for count in (2, 1) if toy else (64, 1):
            first, second = (measured(name, count, in_8_bits) for name in names)
            ours, theirs, ratio = in_turn(first, second, rounds)
            detail = f"{count / ours:,.0f} and {count / theirs:,.0f} images/s"
            what = f"inference of {count}{', int8' if in_8_bits else ''}: paper's network of torchvision's, both ours"
            rows.append(Row(what, 1 / ratio, "{:.0%}", None if toy else 0.85, False, detail))
    return rows


def measure(device: str = "auto", toy: bool = False, rounds: int = 5, compile: bool = True) -> list[Row]:
    """Rows of the table."""
    on_gpu = resolve_compute(device, "auto").queued
    rows: list[Row] = []
    for model in ("cifar",) if toy else GPU_MODELS if on_gpu else MODELS:
        rows += rows_of(
            benchmark(
                model,
                batch_size=2 if toy else 512 if on_gpu else 128,
                device=device,
                rounds=1 if toy else rounds,
                steps=1 if toy else 20 if on_gpu else 2,
                compile=compile and not toy,
            )
        )
    return rows + paper_beside_torchvision(device, toy, 1 if toy else rounds)


def main(device: str = "auto", toy: bool = False, rounds: int = 5) -> None:
    """Print the rows."""
    configure_process()
    show(measure(device, toy, rounds))


if __name__ == "__main__":
    cyclopts.run(main)
