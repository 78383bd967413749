"""Where, with what and in which arithmetic a run was trained: one record for every session, that is each time it was
started or resumed."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet.compute import Compute, processor_name
from alexnet.config import TrainConfig
from alexnet.config.values import flatten
from alexnet.data.sources import MEMORY
from alexnet.data.splits import Dataset
from alexnet.errors import listed
from alexnet.models.columns import ColumnNetwork
from alexnet.models.lrn import LocalResponseNorm, missing_kernel
from alexnet.models.network import AlexNet
from alexnet.models.summary import trace
from alexnet.models.winograd import multiplications
from alexnet.runs.opening import FREE
from alexnet.terminal import printable


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """This machine and its software: host, operating system, processor, GPU (that of `device`, else the first one),
    versions, and the revision of alexnet's source where it runs from its own repository."""
    import numpy

    gpu = device if device is not None and device.type == "cuda" else None
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(gpu) if torch.cuda.is_available() else None,
        "alexnet": version("alexnet"),
        "git": source_revision(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
    }


def arithmetic(compute: Compute, model: nn.Module, processes: int = 1) -> dict[str, Any]:
    """In which arithmetic a network is computed: the device and number format with the reason for it, what computes
    local response normalisation (None where the network has none), and how many processes and threads take part."""
    return {
        "device": str(compute.device),
        "format": number_format(compute),
        "reason": compute.reason,
        "lrn": normalisation_kernel(model, compute),
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def number_format(compute: Compute) -> str:
    """The name that `--precision` has for a number format: fp32 or bf16."""
    return "bf16" if compute.dtype == torch.bfloat16 else "fp32"


def normalisation_kernel(model: nn.Module, compute: Compute) -> str | None:
    """What computes the local response normalisation of a network on a device, for people; None if it has none."""
    if not any(isinstance(module, LocalResponseNorm) for module in model.modules()):
        return None
    fused = {"cpu": "kernel in C", "cuda": "kernel in Triton"}.get(compute.device.type)
    return fused if fused and missing_kernel(compute.device.type) is None else "convolution"


def describe_session(
    config: TrainConfig, dataset: Dataset, compute: Compute, model: AlexNet | ColumnNetwork, processes: int
) -> dict[str, Any]:
    """A session's record as it begins: when, by which command, on which machine, in which arithmetic, on which data,
    with which of the settings that may differ between sessions."""
    layers = [part.layer for part in model.parts] if isinstance(model, ColumnNetwork) else trace(model.variant)
    together = config.batch_size * config.columns // processes // config.accumulate  # images of one convolution
    shortened = multiplications(layers, together, compute) < 1 and not config.compile  # whose convolutions are its own
    return {
        "started": now(),
        "command": command_line(),
        **environment(compute.device),
        **arithmetic(compute, model, processes),
        "convolutions": "Winograd's products" if shortened else "torch's",
        "data": describe_data(config, dataset),
        "classes": listed([printable(name, 30) for name in dataset.names]),
        "settings": {name: value for name, value in flatten(config).items() if name in FREE},
    }


def describe_process(compute: Compute, images_per_second: float, traffic: int | None) -> dict[str, Any]:
    """What training took of one process: the most memory that it held so far, in bytes (on a GPU that of its tensors;
    None where the system does not tell), the images of a second, and where it holds one column of the network the bytes
    that it exchanged with the other in a step."""
    took = {"peak_memory": _peak_memory(compute.device), "images_per_second": round(images_per_second, 1)}
    return took | ({} if traffic is None else {"exchanged_a_step": traffic})


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def describe_data(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """On which data: the source, the folder (None where a program held the data), the SHA-256 over images, labels and
    class names, and how many images the splits have."""
    counts = {name: len(getattr(dataset, name)) for name in ("train", "val", "test")}
    root = None if config.data.source == MEMORY else os.path.abspath(os.path.expanduser(config.data.root))
    return {"source": config.data.source, "root": root, "fingerprint": dataset.fingerprint, "images": counts}


def describe_weights(file: Path | None, sha256: str | None, epoch: int | None) -> dict[str, Any]:
    """Which weights a result is of: the file's name and SHA-256 as it was read (`file_digest`), and after how many
    epochs they were taken. Without a file they were never saved."""
    return {"weights": file.name if file is not None else None, "sha256": sha256, "epoch": epoch}


def describe_measurement(
    config: TrainConfig, dataset: Dataset, compute: Compute, model: nn.Module, processes: int = 1
) -> dict[str, Any]:
    """On what, how, when and by which version a network is measured."""
    return {
        "data": describe_data(config, dataset),
        "arithmetic": arithmetic(compute, model, processes),
        "alexnet": version("alexnet"),
        "git": source_revision(Path(__file__).parents[1]),
        "when": now(),
    }


def introduce(session: dict[str, Any]) -> tuple[str, str]:
    """A session's record as two lines to print: machine and arithmetic, and data."""
    columns = " with a column each" if session["settings"].get("columns") == 2 else ""
    many = "" if session["processes"] == 1 else f"{session['processes']} processes{columns} of "
    where = session["gpu"] if session["device"].startswith("cuda") else session["processor"]
    revision = f" at {session['git'][:12]}" if session["git"] else ""
    lrn = f", normalisation by {session['lrn']}" if session["lrn"] else ""
    data = session["data"]
    counts = ", ".join(f"{count} {name}" for name, count in data["images"].items() if count)
    root = "in memory" if data["root"] is None else f"root {data['root']}"
    return (
        f"on {session['host']} ({where}): {session['device']}, {session['reason']}{lrn}, "
        f"{many}{session['threads']} thread(s); alexnet {session['alexnet']}{revision}, torch {session['torch']}",
        f"data: {data['source']} ({root}), images: {counts}; classes: {session['classes']}; fingerprint "
        f"{data['fingerprint'][:12]}",
    )


def now() -> str:
    """The present moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """How this process was called, to be typed again in a shell."""
    program, *arguments = sys.argv or [""]
    if Path(program).name in ("alexnet", "__main__.py"):  # python -m alexnet
        program = "alexnet"
    return shlex.join([program, *arguments])


def source_revision(package: Path) -> str | None:
    """The commit of the source that a package folder belongs to, with "-dirty" where files differ from it; None unless
    it is `src/alexnet` of this project's own repository. An installation may lie inside some other repository, for
    example in the virtual environment of a user's project: that one's revision says nothing about alexnet."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or not _is_ours(Path(top), package):
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _is_ours(repository: Path, package: Path) -> bool:
    try:
        project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        return project.get("name") == "alexnet" and (repository / "src" / "alexnet").samefile(package)
    except (OSError, ValueError, AttributeError):  # no such file, or not a table
        return False


def _git(folder: Path, *arguments: str) -> str | None:
    # Without the variables that a hook or a rebase sets: they would name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, env=variables, timeout=20)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that hangs
        return None
    return done.stdout.decode(errors="surrogateescape").strip() or None
