"""The kernel in C: compiled once for this processor, kept in the user's cache, called without a copy."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

# No errno and no traps: with them, square roots are not done in vectors. Results are those of IEEE arithmetic.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]


def launch(x: Tensor, g: Tensor | None, y: Tensor, inner: int, size: int, alpha: float, beta: float, k: float) -> None:
    """y from x or, with g, the gradient of x; dense tensors of one layout with `inner` numbers between channels."""
    loaded = library()
    assert loaded is not None
    function = loaded.lrn_bf16 if x.dtype == torch.bfloat16 else loaded.lrn_fp32
    gradient = None if g is None else g.data_ptr()
    function(x.data_ptr(), gradient, y.data_ptr(), *_geometry(x, inner), size, alpha, beta, k, torch.get_num_threads())


def rounded(x: Tensor, unit: float, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """bf16 normalised, as whole units from 0 to 255."""
    loaded = library()
    assert loaded is not None
    y = torch.empty_like(x, dtype=torch.uint8)
    inner = x.shape[2] * x.shape[3] if x.is_contiguous() else 1
    constants = (*_geometry(x, inner), size, alpha, beta, k, torch.get_num_threads())
    loaded.lrn_rounded(x.data_ptr(), unit, y.data_ptr(), *constants)
    return y


def _geometry(x: Tensor, inner: int) -> tuple[int, int, int]:
    channels = x.shape[1]
    return x.numel() // (channels * inner), channels, inner


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be compiled or loaded."""
    try:
        compiler = _compiler()
        if compiler is None:
            return None
        path = _compiled(compiler)
        try:
            return _load(path)
        except (OSError, AttributeError):  # damaged
            path.unlink(missing_ok=True)
            return _load(_compiled(compiler))
    except (OSError, AttributeError, ValueError, RuntimeError, subprocess.SubprocessError):
        return None  # no compiler, no home, no room, a quote left open in CC


def _compiler() -> list[str] | None:
    given = shlex.split(os.environ.get("CC", "cc"))
    return given if given and shutil.which(given[0]) else None


def _compiled(compiler: list[str]) -> Path:
    """The library's file, made if it is not there yet; of two processes that make it, the last one's stays."""
    source = files("alexnet.models.lrn").joinpath("lrn.c").read_bytes()
    # A home directory may be shared by machines with other processors.
    key = hashlib.sha256(source + " ".join([*compiler, *FLAGS, _processor()]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
    path = folder / f"lrn-{key}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / path.name
            command = [*compiler, *FLAGS, "-x", "c", "-", "-o", str(made), "-lm"]
            subprocess.run(command, input=source, check=True, capture_output=True, timeout=60)
            with made.open("rb") as stream:  # a file cut short by a crash would end the process that loads it
                os.fsync(stream.fileno())
            made.replace(path)
    return path


def _processor() -> str:
    """What tells processors with other instructions apart."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in text.splitlines() if line.startswith(("flags", "Features", "model name"))}))


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    pointer, long, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    for function, second in ((loaded.lrn_fp32, pointer), (loaded.lrn_bf16, pointer), (loaded.lrn_rounded, real)):
        function.argtypes = [pointer, second, pointer] + [long] * 4 + [real] * 3 + [ctypes.c_int]
        function.restype = None
    return loaded
