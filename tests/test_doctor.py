"""What the doctor finds: on this machine, and on machines that lack something."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from functools import lru_cache
from importlib.metadata import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from alexnet.cli.doctor import _show
from alexnet.compute import resolve_compute
from alexnet.models import lrn, native
from alexnet.models.lrn import fused
from alexnet.speed import doctor
from alexnet.speed.doctor import Finding

NO_TORCH = """
import sys

class Gate:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ImportError("libcudart.so.13: cannot open shared object file")

sys.meta_path.insert(0, Gate())
from alexnet.cli import main
main(["doctor"])
"""


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """A function that examines this machine from an empty folder: what was found, by name."""
    monkeypatch.chdir(tmp_path)
    return lambda root="data": {finding.name: finding for finding in doctor.examine(str(root))}


def test_this_machine(examine):
    found = examine()
    assert [name for name, finding in found.items() if finding.state == "broken"] == []
    for finding in found.values():
        assert finding.found
        assert finding.state == "ok" or (finding.brings and finding.mend), finding
    assert resolve_compute().reason in found["arithmetic"].found
    assert ("bf16" in found["processor"].found) == (found["processor"].state == "ok")
    assert (found["GPU"].state == "ok") == torch.cuda.is_available()
    assert (found["kernel in C"].state == "ok") == (lrn.missing_kernel("cpu") is None and native.is_parallel())


def test_every_extra_says_what_it_brings():
    extras = metadata("alexnet").get_all("Provides-Extra")
    assert {"figures", "photos"} <= set(extras) <= set(doctor.EXTRAS)


def test_an_extra_that_is_missing(examine, monkeypatch):
    installed = doctor._is_installed
    monkeypatch.setattr(doctor, "_is_installed", lambda name: "simplejpeg" not in name and installed(name))
    found = examine()
    assert found["extra photos"].state == "missing"
    assert found["extra photos"].found == "simplejpeg not installed"
    assert found["extra photos"].mend.endswith("install 'simplejpeg>=1.8'")
    assert found["extra figures"].state == "ok"


def test_no_compiler(examine, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(fused, "_missing", {})
    monkeypatch.setattr(native, "_found", lru_cache(native._found.__wrapped__))
    kernel = examine()["kernel in C"]
    assert (kernel.state, kernel.found) == ("missing", "no C compiler was found (CC=no-such-compiler)")
    assert "without it everything works" in kernel.brings
    assert kernel.mend.endswith(", or set CC")
    monkeypatch.setattr(shutil, "which", lambda program: "/bin/dnf" if program == "dnf" else None)
    monkeypatch.setattr(fused, "_missing", {})
    native._found.cache_clear()
    assert examine()["kernel in C"].mend == "sudo dnf install gcc, or set CC"


def test_a_kernel_on_one_thread(examine, monkeypatch):
    if native.library() is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(native, "is_parallel", lambda: False)
    kernel = examine()["kernel in C"]
    assert (kernel.state, kernel.found) == ("missing", "compiled without OpenMP: on one thread")
    assert "libomp" in kernel.mend


def test_a_gpu_without_triton(monkeypatch):
    card = SimpleNamespace(name="H200", total_memory=139 * doctor.GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setitem(
        fused._missing, "cuda", native.Lack("Triton does not work here (no gcc)", "slower", "install gcc")
    )
    gpu = doctor._gpu()
    assert (gpu.state, gpu.found) == ("missing", "H200, 139 GiB. Triton does not work here (no gcc)")
    assert gpu.mend == "install gcc"


def test_little_memory_and_a_full_disk(examine, monkeypatch):
    monkeypatch.setattr(doctor, "_memory_size", lambda: doctor.GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=doctor.GIB // 2))
    found = examine()
    assert [found[name].state for name in ("memory", "disk, for runs", "disk, for data")] == ["missing"] * 3
    assert found["disk, for runs"].found.startswith("0.5 GiB free")
    assert "--batch-size" in found["memory"].mend


def test_a_drive_that_is_not_there(examine, monkeypatch):
    there = os.path.exists
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: there(path) and not str(path).endswith(os.sep))
    found = examine("/missing/data")["disk, for data"]
    assert (found.state, found.found) == ("missing", "nothing is at /missing/data")


def test_somebody_who_has_no_home(examine):
    assert examine("~nobody-of-this-name/data")["disk, for data"].state == "ok"  # a folder of this name, here


def test_a_container_allows_less_than_the_machine_has(tmp_path, monkeypatch):
    allowed = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "Path", lambda _: allowed)
    whole = doctor._memory_size()
    allowed.write_text("1000\n")
    assert doctor._memory_size() == 1000
    allowed.write_text("max\n")
    assert doctor._memory_size() == whole


def test_data_that_is_there(examine, tmp_path):
    root = tmp_path / "sets"
    for folder in (
        "cifar-10-batches-py",
        "dogs/Images",
        "pets/train/cat",
        "pets/train/dog",
        "prepared",
        "empty",
        ".x/a",
    ):
        (root / folder).mkdir(parents=True)
    (root / "dogs" / "train_list.mat").touch()
    (root / "prepared" / "train.arrow").touch()
    for name in ("cat", "dog"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "pets" / "train" / name / "1.JPG")
    shown = [(f.name, f.state, f.found) for f in doctor.examine(str(root)) if f.name.startswith("data ")]
    assert shown == [
        ("data digits", "ok", "in the package"),
        ("data cifar10", "ok", str(root / "cifar-10-batches-py")),
        ("data cifar100", "missing", f"not under {root}"),
        ("data stanford-dogs", "ok", f"{root / 'dogs'}: as published"),
        ("data folder", "ok", f"{root / 'pets'}: train/ with 2 class folders"),
        ("data prepared", "ok", f"{root / 'prepared'}: made by alexnet prepare"),
    ]
    assert examine()["data photographs"].state == "missing"


def test_the_command(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("doctor")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if " Python " in line] == ["ok"]
    assert "data cifar10" in out
    assert "mend:" in out
    code, out, err = call("doctor", "--json")
    assert (code, err) == (0, "")
    assert {row["name"] for row in json.loads(out)} >= {"Python", "memory", "torch", "arithmetic", "GPU"}
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_computes_something_else_is_broken(call, monkeypatch):
    monkeypatch.setattr(lrn, "local_response_norm", lambda x: x)
    code, out, err = call("doctor", "--json")
    if lrn.missing_kernel("cpu") is None:
        assert (code, err) == (
            1,
            "error: kernel in C broken: nothing can be trained or applied before that is mended.\n",
        )
        (kernel,) = [row for row in json.loads(out) if row["name"] == "kernel in C"]
        assert kernel["state"] == "broken"
        assert "alexnet" in kernel["mend"]


def test_torch_that_does_not_load(run_cli):
    ended = run_cli(command=("-c", NO_TORCH))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: torch broken")
    assert "libcudart.so.13" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert sys.executable in ended.stdout


def test_on_a_narrow_terminal_the_mend_is_wrapped_beside_its_label(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60, highlight=False)
    monkeypatch.setattr("alexnet.cli.doctor.Terminal", lambda: screen)
    _show(
        Finding(
            "data cifar10", "missing", "not under data", "ten classes", "alexnet train cifar10 " + "fetches it, " * 6
        )
    )
    lines = screen.file.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].split() == ["missing", "data", "cifar10", "not", "under", "data"]
    (start,) = [number for number, line in enumerate(lines) if "mend:" in line]
    assert len(lines) > start + 2
    assert all(line[:28].isspace() and line[28:29].strip() for line in lines[start + 1 :] if line.strip())
