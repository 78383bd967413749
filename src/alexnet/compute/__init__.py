"""Device, number format and memory layout: decided once, from what is asked for and what the machine has."""

from __future__ import annotations

import contextlib
import copy
import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from alexnet.errors import UsageError, unknown

PRECISIONS = ("auto", "fp32", "bf16")
_NEEDED = nn.ReLU | nn.Tanh | nn.Dropout | nn.Flatten  # modules whose output is still needed behind them


@dataclass(frozen=True)
class Compute:
    """Where and in what format a network computes; the weights that training changes are always kept in float32."""

    device: torch.device
    dtype: torch.dtype
    reason: str = "as asked"
    """Why this format, for people: "bf16: this processor has AVX512-BF16"."""

    @property
    def queued(self) -> bool:
        """Whether the device works off a queue, so that reading a value back means waiting for all of it."""
        return self.device.type == "cuda"

    def seed(self, seed: int) -> None:
        """Seed torch's random numbers on the CPU and, where it computes on a GPU, on that one; torch.manual_seed seeds
        all GPUs, also those of others."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and into channels_last, the layout that convolutions are fastest in."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context that a training step's forward pass runs in, whatever a caller's own autocast says.

        Weights are converted anew each time: torch keeps the converted ones until the outermost autocast ends, and with
        one of the caller's around the whole training every step would see the first step's weights.
        """
        converted = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=converted, cache_enabled=False)

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """The settings of torch that this arithmetic needs, as they were before when the block ends: a GPU is the
        current one, and float32 there means true float32 (no TF32) and deterministic kernels."""
        exact = self.device.type == "cuda" and self.dtype == torch.float32
        current = torch.cuda.device(self.device) if self.device.type == "cuda" and torch.cuda.is_available() else None
        with current or contextlib.nullcontext(), _TRUE_FLOAT32 if exact else contextlib.nullcontext():
            yield

    def fit(self, tensor: Tensor) -> Tensor:
        """A tensor on this device, real numbers in this format, images and kernels in channels_last; the tensor itself
        where it is so already."""
        if not tensor.is_floating_point():
            return tensor.to(self.device)
        layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
        return tensor.to(self.device, self.dtype, memory_format=layout)

    def replica(self, model: nn.Module, in_place: bool = True) -> nn.Module:
        """A network for inference with the weights that `model` has now, which stays as it is: modules of its own, in
        evaluation mode, their weights fitted once (autocast would convert them for every batch: most of the time where
        a batch is small). Everything else is shared, hooks too. With `in_place` ReLUs write over their input, unless
        somebody's hooks look at it."""
        twins: dict[int, nn.Module] = {}

        def twin_of(module: nn.Module) -> nn.Module:
            if id(module) not in twins:
                twin = twins[id(module)] = _copied(module)
                weights = {
                    n: p if p is None else nn.Parameter(self.fit(p.detach()), False)
                    for n, p in module._parameters.items()
                }
                buffers = {n: b if b is None else self.fit(b) for n, b in module._buffers.items()}
                parts = {n: m if m is None else twin_of(m) for n, m in module._modules.items()}
                twin.__dict__.update(_parameters=weights, _buffers=buffers, _modules=parts, training=False)
            return twins[id(module)]

        replica = twin_of(model)
        set_in_place(replica, in_place and not is_watched(model))
        return replica


def _copied(module: nn.Module) -> nn.Module:
    """A shallow copy. torch lets nobody copy a layer whose weights are computed, though its parts can be shared."""
    if not is_parametrized(module):
        return copy.copy(module)
    twin = module.__new__(type(module))
    twin.__dict__.update(nn.Module.__getstate__(module))
    return twin


class _TrueFloat32:
    """Neither TF32 nor kernels that give other bits at every call, on any GPU, until the last of the blocks ends that
    are under way, in whichever thread."""

    def __init__(self) -> None:
        self._lock, self._blocks = threading.Lock(), 0
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._undo = _exact_float32()
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._undo()


_TRUE_FLOAT32 = _TrueFloat32()


def _exact_float32() -> Callable[[], None]:
    """Switch to true float32 and deterministic kernels; what puts back what was there before.

    torch keeps TF32 under two names, the older `allow_tf32` and `fp32_precision`, and raises in whoever reads one that
    contradicts the other: so both are set, and both are put back.
    """
    cudnn: Any = torch.backends.cudnn
    older = (cudnn, torch.backends.cuda.matmul)
    newer = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    precisions, deterministic = [owner.fp32_precision for owner in newer], cudnn.deterministic
    allowed = []
    for owner, precision in zip(older, (precisions[0], precisions[2]), strict=True):
        try:
            allowed.append(owner.allow_tf32)
        except RuntimeError:  # it contradicts the newer name
            allowed.append(precision != "tf32")

    def put(allowed: Sequence[bool], precisions: Sequence[str], deterministic: bool) -> None:
        for owner, value in zip(older, allowed, strict=True):
            owner.allow_tf32 = value
        for owner, precision in zip(newer, precisions, strict=True):
            owner.fp32_precision = precision
        cudnn.deterministic = deterministic

    put([False] * len(older), ["ieee"] * len(newer), True)
    return lambda: put(allowed, precisions, deterministic)


def is_watched(model: nn.Module) -> bool:
    """Whether somebody's hooks see what goes through a network or any part of it."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def set_in_place(model: nn.Module, in_place: bool = True) -> None:
    """Let the ReLUs of a network write over their input where nothing else needs it, or not (as networks are built).

    In place, training keeps a tensor less for each ReLU that follows a pooling or normalisation, and inference writes
    less memory. But a hook, or whoever steps through the layers, then finds a layer's output changed by the next one,
    and torch refuses full backward hooks there: for networks that nobody else holds.
    """
    before: nn.Module | None = None
    for module in model.modules():
        if isinstance(module, nn.ReLU):  # an activation's gradient needs its output, the others pass on their input
            module.inplace = in_place and not isinstance(before, _NEEDED)
        before = module


def resolve_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Decide what "auto" means: the GPU if there is one; bf16 if the processor computes in it, else float32.

    Changes nothing in the process. Raises UsageError for a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.ones(1, device=place).item()  # "meta" makes tensors too, but none with values
    except (RuntimeError, AssertionError) as problem:
        raise UsageError(f"--device {device} cannot be used: {str(problem).splitlines()[0]}") from None
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {device} is not supported: auto, cpu, cuda or cuda:N.")
    if precision not in PRECISIONS:
        raise UsageError(unknown("precision", str(precision), PRECISIONS))
    if precision != "auto":
        return Compute(place, torch.bfloat16 if precision == "bf16" else torch.float32, f"{precision}: as asked")
    native = bf16_unit(place)
    where = "this GPU" if place.type == "cuda" else "this processor"
    if native is None:
        lacks = "computes in bf16 only by emulation" if place.type == "cuda" else "has neither AVX512-BF16 nor AMX"
        return Compute(place, torch.float32, f"fp32: {where} {lacks}")
    return Compute(place, torch.bfloat16, f"bf16: {where} has {native}")


def bf16_unit(device: torch.device) -> str | None:
    """What computes in bf16 there; without it bf16 is emulated and slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks about the current one
            return "tensor cores for bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    units = {"avx512_bf16": "AVX512-BF16", "amx_tile": "AMX"}
    found = [name for feature, name in units.items() if device.type == "cpu" and has_feature(feature)]
    return " and ".join(found) or None


def has_feature(name: str) -> bool:
    """Whether the CPU has an instruction set, by the end of Linux's name for it: avx512_bf16, amx_tile, vnni ...

    torch asks the processor under names that are private and have changed; where it does not know the name the
    operating system's list decides, and where there is none (Windows, macOS) the answer is no.
    """
    told = torch_tells(name)
    if told is not None:
        return told
    return any(flag.endswith(name) for flag in cpu_description().get("flags", "").split())


def usable_cores() -> int:
    """Processors that this process may run on, where the system says so, else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_tells(feature: str) -> bool | None:
    """What torch says of an instruction set of the CPU; None where it does not know the name."""
    probe = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return None if probe is None else bool(probe())


def processor_name() -> str:
    """The processor as its maker calls it, or as near to that as the system says."""
    return cpu_description().get("model name") or platform.processor() or platform.machine()


def cpu_description() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo by name: "model name", "flags" ("Features" on ARM) ...; empty where
    there is no such file."""
    try:
        with open("/proc/cpuinfo") as stream:
            lines = stream.read().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def configure_process() -> None:
    """Set up memory allocation of this process for training and inference.

    The command does this once at its start. A program that uses the package as a library is left as it is, unless it
    calls this itself: on Linux a training step on a CPU is shorter then.
    """
    # By default glibc maps every large tensor afresh, with pages that the kernel must clear, and returns it when freed.
    trim_threshold, mmap_max = -1, -4  # from malloc.h
    # Other systems have no mallopt, and other habits; a Python may have been built without ctypes.
    with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)  # no mappings of their own for large tensors
        mallopt(trim_threshold, -1)  # nothing goes back to the system
