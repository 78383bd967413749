"""Device, number format and memory layout: one decision in one place."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError


@dataclass(frozen=True)
class Precision:
    """Where and in what format a network computes; weights are always kept in float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def queued(self) -> bool:
        """Whether the device works off a queue, so that reading a value back means waiting for all of it."""
        return self.device.type == "cuda"

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in channels_last: the layout that convolutions are fastest in."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context that a training step's forward pass runs in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def inference(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """From images to logits in float32, by the weights that a placed model has now.

        They are converted once; autocast would convert them for every batch: most of the time where a batch is small.
        """
        weights = {name: parameter.detach().to(self.dtype) for name, parameter in model.named_parameters()}

        def forward(images: Tensor) -> Tensor:
            x = images.to(self.dtype, memory_format=torch.channels_last)
            logits: Tensor = torch.func.functional_call(model, weights, (x,))
            return logits.float()

        return forward


def choose_precision(device: str = "auto", precision: str = "auto") -> Precision:
    """Resolve "auto": the GPU if there is one; bf16 if the processor computes in it.

    Raises UsageError for a device that is not there. fp32 is true float32 (no TF32) with deterministic kernels.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as problem:
        raise UsageError(f"--device {device} cannot be used: {str(problem).splitlines()[0]}") from None
    if precision == "auto":
        precision = "bf16" if _computes_bf16(place) else "fp32"
    if precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    if place.type == "cpu":
        _keep_freed_memory()
    return Precision(place, torch.bfloat16 if precision == "bf16" else torch.float32)


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without AVX512-BF16 or AMX, bf16 on a CPU is emulated and slower than float32.
    probes = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return device.type == "cpu" and any(probe() for probe in probes if probe)


def _keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next step.

    By default every large tensor is a fresh mapping whose pages the kernel must clear; a training step of the cifar
    network spends a third of its time there.
    """
    trim_threshold, mmap_max = -1, -4  # from malloc.h
    with contextlib.suppress(AttributeError, OSError):  # another C library has no mallopt, and other habits
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)  # no mappings of their own for large tensors
        mallopt(trim_threshold, -1)  # nothing goes back to the system
