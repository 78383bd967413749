"""Local response normalisation, forward and backward: torch's, ours in its forms, and the memory it has to move.

    uv run python benchmarks/lrn.py

The floor is one reading and writing of its tensors: x to y, then x and the gradient to the other gradient. All take
turns in one process, with the memory allocator that training uses; torch's own comes off better than in a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import cyclopts
import torch
from common import Row, in_turn, show
from torch import Tensor, nn

from alexnet.compute import configure_process, resolve_compute
from alexnet.models.lrn import LocalResponseNorm, fused
from alexnet.speed.steps import Step, seconds

SHAPES = ((96, 55, 55), (256, 27, 27))  # norm1 and norm2 (section 3.5)


def both_ways(layer: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Step:
    """Forward and backward."""
    x = x.detach().requires_grad_()

    def step() -> None:
        x.grad = None
        layer(x).backward(g)

    return step


def without_kernels(step: Step) -> Step:
    """The same as a convolution with a banded matrix."""

    def convolving() -> None:
        with patch.dict(fused.DTYPES, clear=True):
            step()

    return convolving


def measure(device: str = "auto", toy: bool = False, rounds: int = 9) -> list[Row]:
    """Rows of the table."""
    place = resolve_compute(device, "fp32").device
    rows = []
    for channels, height, width in [(8, 6, 6)] if toy else SHAPES:
        count = 2 if toy else 32
        for dtype, short in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            x, g = (torch.randn(count, channels, height, width, device=place).mul(10).to(dtype) for _ in range(2))
            shape = f"{count}x{channels}x{height}x{width}"
            ours, norm = LocalResponseNorm(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
            plain = both_ways(norm, x.float(), g.float())  # torch's has no bf16 on a CPU
            for layout, memory in (("channels_last", torch.channels_last), ("default layout", torch.contiguous_format)):
                xs, gs = x.contiguous(memory_format=memory), g.contiguous(memory_format=memory)
                y, d = torch.empty_like(xs), torch.empty_like(xs)

                def floor(xs: Tensor = xs, gs: Tensor = gs, y: Tensor = y, d: Tensor = d) -> None:
                    y.copy_(xs)
                    torch.add(xs, gs, out=d)

                def once(step: Step) -> Callable[[], float]:
                    return lambda: seconds(step, 1 if toy else 2, place)

                step = both_ways(ours, xs, gs)
                mine, peer, ratio = in_turn(once(step), once(plain), rounds)
                main = short == "fp32" and layout == "channels_last"
                name = f"normalisation {shape}, {short}, {layout}"
                detail = f"{mine * 1e3:.1f} ms against {peer * 1e3:.0f} ms"
                rows.append(Row(f"{name}: against torch's in fp32", 1 / ratio, "{:.1f}x", 8, False, detail, main))
                _, bare, ratio = in_turn(once(step), once(floor), rounds)
                detail = f"reading and writing its tensors once: {bare * 1e3:.1f} ms"
                goal = (1.5 if place.type == "cuda" else 2.0) if short == "fp32" or place.type == "cuda" else None
                rows.append(Row(f"{name}: against its memory traffic", ratio, "{:.1f}x", goal, True, detail))
                if fused.takes(xs):
                    mine, peer, ratio = in_turn(once(step), once(without_kernels(step)), rounds)
                    rows.append(Row(f"{name}: against our banded convolution", 1 / ratio, "{:.1f}x"))
    return rows


def main(device: str = "auto", toy: bool = False) -> None:
    """Print the rows."""
    configure_process()
    show(measure(device, toy))


if __name__ == "__main__":
    cyclopts.run(main)
