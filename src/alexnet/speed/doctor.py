"""What this machine has for training and inference, what is missing, what that would bring, and how to get it.

`examine` looks at one thing after the other; torch is imported only for what needs it, so that the first answers are
there at once.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "broken"]
GIB = 2**30
MEMORY = 4 * GIB  # what training the paper's network takes, with batches of 128
DISK = 2 * GIB  # what a run of it leaves, and writes while it saves
EXTRAS = {
    "export": "networks as ONNX files, run and compared with torch's answers",
    "figures": "curves, confusion matrices and the paper's figures as pictures",
    "page": "alexnet page: a web page that shows what a network makes of a picture",
    "paper": "alexnet reproduce: the statistics and figures of the experiments",
    "photos": "alexnet prepare, and JPEGs decoded by libjpeg-turbo, faster than by Pillow",
    "tensorboard": "TensorBoard's view of a run",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: what it is, whether it is there, and what to do about it."""

    name: str
    state: State
    """Only what is "broken" keeps the package from working; what is "missing" would bring something."""
    found: str
    brings: str = ""
    """What it would bring if it were there."""
    mend: str = ""
    """A command, or what else to do."""


def examine(root: str = "data") -> Iterator[Finding]:
    """Everything about this machine, the quickest first; data sets are looked for under `root`.

    Whatever is wrong with the machine is a finding, never an exception.
    """
    yield _python()
    yield _memory()
    yield from _extras()
    yield from _disk(root)
    yield from _data(root)
    yield from _torch()


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} ({sys.executable}), alexnet {version('alexnet')}")


def _memory() -> Finding:
    total = _memory_size()
    if total is None:
        return Finding("memory", "ok", "this system does not say how much there is")
    if total >= MEMORY:
        return Finding("memory", "ok", f"{total / GIB:.1f} GiB")
    return Finding(
        *("memory", "missing", f"{total / GIB:.1f} GiB"),
        brings=f"the paper's network trained with batches of 128, which takes {MEMORY / GIB:.0f} GiB",
        mend="take smaller batches or parts of them (--batch-size 32, --accumulate 4), or smaller networks",
    )


def _memory_size() -> int | None:
    """Bytes that this process may use: the machine's, or what its container allows."""
    sizes = []
    with suppress(AttributeError, OSError, ValueError):  # Windows has none of it
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no container, or "max"
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes, default=None)


def _extras() -> Iterator[Finding]:
    """One finding for each extra of the package's own metadata."""
    described = metadata("alexnet")
    for extra in described.get_all("Provides-Extra") or []:
        needed = [
            requirement.partition(";")[0].strip()
            for requirement in described.get_all("Requires-Dist") or []
            if re.search(rf"""extra\s*==\s*["']{re.escape(extra)}["']""", requirement)
        ]
        lacking = [requirement for requirement in needed if not _is_installed(requirement)]
        names = ", ".join(map(_project, needed))
        if lacking:
            found = f"{', '.join(map(_project, lacking))} not installed"
            yield Finding(f"extra {extra}", "missing", found, EXTRAS.get(extra, ""), _install(lacking))
        else:
            yield Finding(f"extra {extra}", "ok", names)


def _project(requirement: str) -> str:
    """The name that a requirement such as "numpy>=2.0" begins with."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _is_installed(requirement: str) -> bool:
    try:
        version(_project(requirement))
    except PackageNotFoundError:
        return False
    return True


def _install(requirements: list[str]) -> str:
    """The command that installs them into this Python; environments that uv makes have no pip."""
    program = [sys.executable, "-m", "pip"] if find_spec("pip") else ["uv", "pip"]
    return shlex.join([*program, "install", *requirements])


def _disk(root: str) -> Iterator[Finding]:
    for name, folder in {"disk, for runs": Path.cwd(), "disk, for data": Path(os.path.expanduser(root))}.items():
        places = [folder.absolute(), *folder.absolute().parents]
        there = next((place for place in places if os.path.exists(place)), None)
        if there is None:  # a drive that is not there
            yield Finding(name, "missing", f"nothing is at {folder}", brings="data from there", mend="name a folder")
            continue
        free = shutil.disk_usage(there).free
        found = f"{free / GIB:.1f} GiB free at {there}"
        if not os.access(there, os.W_OK):
            yield Finding(
                *(name, "missing", f"{found}, where nothing can be written"),
                brings="runs and downloads there",
                mend="work in a folder of yours (--run FOLDER, --data.root FOLDER)",
            )
        elif free < DISK:
            yield Finding(
                *(name, "missing", found),
                brings=f"a run of the paper's network, which keeps {DISK / GIB:.0f} GiB",
                mend="make room, or name another disk (--run FOLDER, --data.root FOLDER)",
            )
        else:
            yield Finding(name, "ok", found)


def _data(root: str) -> Iterator[Finding]:
    """Each data set that lies under a folder, or the folders in it."""
    from alexnet.data.cifar import CIFAR10, CIFAR100
    from alexnet.data.sources import SOURCES

    yield Finding("data digits", "ok", "in the package")
    top = Path(os.path.expanduser(root))
    for name, files in {"cifar10": CIFAR10, "cifar100": CIFAR100}.items():
        places = [top / files.folder, top / files.archive[0].rpartition("/")[2]]
        found = next((place for place in places if os.path.exists(place)), None)
        if found is not None:
            yield Finding(f"data {name}", "ok", str(found))
        else:
            about = SOURCES[name].about
            mend = f"alexnet train {name} downloads it into {top}, or name the folder that holds it: --data.root"
            yield Finding(f"data {name}", "missing", f"not under {top}", about, mend)
    folders = [top, *sorted(_folders(top))]
    photographs = [(folder, kind) for folder in folders if (kind := _photographs(folder))]
    for folder, (source, layout) in photographs:
        yield Finding(f"data {source}", "ok", f"{folder}: {layout}")
    if not photographs:
        yield Finding(
            *("data photographs", "missing", f"none under {top}"),
            brings="training on ImageNet, Stanford Dogs or your own pictures",
            mend="name their folder: alexnet doctor --data.root FOLDER",
        )


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder that can be read, without hidden ones."""
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _photographs(folder: Path) -> tuple[str, str] | None:
    """The source that reads the photographs in a folder, and how they lie there; None where there are none."""
    from alexnet.data.folders import EXTENSIONS
    from alexnet.data.imagenet import TRAIN_TAR
    from alexnet.data.packed import is_prepared
    from alexnet.data.wnids import are_wnids

    if is_prepared(str(folder)):
        return "prepared", "made by alexnet prepare"
    if os.path.isdir(folder / "Images") and os.path.isfile(folder / "train_list.mat"):  # Path.is_dir may raise
        return "stanford-dogs", "as published"
    if os.path.isfile(folder / TRAIN_TAR) or os.path.isdir(folder / "ILSVRC" / "Data" / "CLS-LOC"):
        return "imagenet", "as published"
    holds_splits = os.path.isdir(folder / "train")
    classes = _folders(folder / "train" if holds_splits else folder)
    if classes and all(_holds_files(one, EXTENSIONS) for one in classes):
        is_imagenet = len(classes) == 1000 and are_wnids([one.name for one in classes])
        how = "train/ with " if holds_splits else ""
        return "imagenet" if is_imagenet else "folder", f"{how}{len(classes)} class folders"
    return None


def _holds_files(folder: Path, extensions: tuple[str, ...]) -> bool:
    try:
        return any(entry.name.lower().endswith(extensions) for entry in os.scandir(folder))
    except OSError:
        return False


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from alexnet.compute import resolve_compute
    except Exception as problem:  # a library that is missing, or one built for another processor
        yield Finding(
            "torch", "broken", f"cannot be imported: {problem}", mend=_install(["--force-reinstall", "torch"])
        )
        return
    yield Finding("torch", "ok", f"{torch.__version__}, built for {_built_for(torch.version.cuda)}")
    yield _cores(torch.get_num_threads())
    yield _processor()
    try:
        compute = resolve_compute()
        layer = compute.place(torch.nn.Conv2d(3, 8, 3))
        with torch.inference_mode(), compute.autocast():
            finite = bool(layer(torch.ones(2, 3, 16, 16, device=compute.device)).isfinite().all())
    except Exception as problem:
        mend = "choose another device or number format: --device cpu --precision fp32"
        yield Finding("arithmetic", "broken", f"a convolution fails: {problem}", mend=mend)
    else:
        state: State = "ok" if finite else "broken"
        yield Finding("arithmetic", state, f"--device auto is {compute.device}; --precision auto is {compute.reason}")
    yield _kernel()
    yield _gpu()


def _built_for(cuda: str | None) -> str:
    return f"CUDA {cuda} and processors" if cuda else "processors alone"


def _cores(threads: int) -> Finding:
    from alexnet.compute import usable_cores

    found = f"{usable_cores()} of {os.cpu_count()} usable, {threads} thread(s)"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > usable_cores():
        return Finding("cores", "ok", f"{found}; other work keeps them busy (load {load:.1f})")
    if threads < usable_cores() and sys.platform != "darwin":  # where torch leaves the slow cores out
        brings = "faster training: torch computes on as many cores as it has threads"
        mend = "unset OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else f"set OMP_NUM_THREADS={usable_cores()}"
        return Finding("cores", "missing", found, brings, mend)
    return Finding("cores", "ok", found)


def _processor() -> Finding:
    import torch

    from alexnet.compute import bf16_unit, processor_name
    from alexnet.models.int8 import computes_int8

    cpu = torch.device("cpu")
    unit = bf16_unit(cpu)
    formats = [
        "float32",
        *([f"bf16 ({unit})"] if unit else []),
        *(["8-bit integers (VNNI)"] if computes_int8(cpu) else []),
    ]
    found = f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}: {', '.join(formats)}"
    if unit:
        return Finding("processor", "ok", found)
    brings = "bf16, faster than float32 (AVX512-BF16 or AMX)"
    return Finding("processor", "missing", found, brings, "a newer processor or a GPU; float32 gives the same results")


def _kernel() -> Finding:
    """What is in C: compiled; normalisation and a convolution compared with torch's own."""
    import torch
    from torch.nn import functional as F

    from alexnet.models.lrn import local_response_norm, missing_kernel
    from alexnet.models.native import cache_folder, is_parallel
    from alexnet.models.winograd import Conv2d

    if (lack := missing_kernel("cpu")) is not None:
        brings = "normalisation several times faster, pooling and convolutions too; without it everything works"
        return Finding("kernel in C", "missing", lack.reason, brings, lack.mend)
    x = 50 * torch.rand(2, 96, 7, 7, generator=torch.Generator().manual_seed(0))
    ours, theirs = local_response_norm(x), F.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
    conv = Conv2d(96, 32, 3, padding=1)
    many = x.expand(8, 2, 96, 7, 7).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        shortened, direct = conv(many), F.conv2d(many, conv.weight, conv.bias, padding=1)
    away = max((ours - theirs).abs().max().item(), (shortened - direct).abs().max().item() / 50)
    if away < 1e-4:
        if is_parallel():
            return Finding("kernel in C", "ok", "compiled, gives what torch's own layers give")
        mend = "install gcc, or your compiler's OpenMP (libomp)"
        return Finding("kernel in C", "missing", "compiled without OpenMP: on one thread", "all of them", mend)
    mend = f"delete {cache_folder()}, or set CC"
    return Finding("kernel in C", "broken", f"differs from torch's own layers by {away:.2g}", mend=mend)


def _gpu() -> Finding:
    import torch

    from alexnet.models.lrn import missing_kernel

    if torch.cuda.is_available():
        found = []
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            found.append(f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
        if (lack := missing_kernel("cuda")) is None:
            return Finding("GPU", "ok", "; ".join(found))
        said = f"{'; '.join(found)}. {lack.reason}"
        return Finding("GPU", "missing", said, "local response normalisation faster, with less memory", lack.mend)
    brings = "training many times faster"
    if sys.platform == "darwin":
        return Finding("GPU", "missing", "Apple's is not used", brings, "a machine with an NVIDIA GPU")
    if torch.version.cuda is None:
        mend = "a build of torch for CUDA: https://pytorch.org/get-started/locally"
        return Finding("GPU", "missing", "this torch is built without CUDA", brings, mend)
    return Finding("GPU", "missing", "torch finds none", brings, "an NVIDIA GPU and its driver: nvidia-smi shows both")
