"""Shared fixtures: tiny real runs on the embedded digits, and the command as a process."""

import os

# Before torch: equal thread counts here and in processes started here, and threads that take no time to wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What is compared to the bit is computed on the CPU, on a machine with a GPU too; CUDA_VISIBLE_DEVICES=0 tests that.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import functools
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from alexnet import cli, files
from alexnet.config.values import override
from alexnet.models.int8 import computes_int8
from alexnet.recipes import recipe
from alexnet.runs import provenance, recorder
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run, load_config
from alexnet.training import loop, session
from alexnet.training.processes import Training
from alexnet.training.progress import Reporter

TINY = recipe(
    "digits",
    epochs=2,
    log_every=3,
    device="cpu",
    precision="fp32",
    data={"fraction": 0.3, "val_fraction": 0.25},
    model={"width": 0.125, "dropout": 0.2},
    optim={"name": "adam", "lr": 2e-3, "schedule": "constant"},
)
STEPS = 6  # an epoch of TINY: 325 images in batches of 64
INT8 = computes_int8(torch.device("cpu"))
needs_int8 = pytest.mark.skipif(not INT8, reason="this processor has no VNNI")
TIMES = ("seconds", "images_per_second")

# Git is asked in two processes, twice a training: of our own source, which stays as it is during the tests, only once.
ask_git, asked_once = provenance.source_revision, functools.cache(provenance.source_revision)
OURS = Path(provenance.__file__).parents[1]
provenance.source_revision = lambda package: (asked_once if package == OURS else ask_git)(package)


@pytest.fixture
def tiny():
    """A function that makes a TrainConfig of seconds from overrides."""
    return lambda **values: override(TINY, values)


@pytest.fixture
def reporter():
    """A Reporter that writes to memory: `text(reporter)` is what it said."""
    return Reporter(console=Console(file=io.StringIO(), width=200, highlight=False))


def text(reporter):
    return reporter.console.file.getvalue()


class Blank:
    """A figure that is drawn in no time."""

    def savefig(self, stream, **_):
        stream.write(b"blank")


def without_figures(patch):
    """Leave out the pictures, which take longer than the training."""
    patch.setattr(session, "draw_curves", lambda *_: Blank())
    patch.setattr(recorder, "draw_confusion", lambda *_: Blank())


@pytest.fixture
def no_figures(monkeypatch):
    """`without_figures` during one test."""
    without_figures(monkeypatch)


@pytest.fixture
def no_fsync(monkeypatch):
    """Where a test saves a lot and no power fails."""
    monkeypatch.setattr(files.os, "fsync", lambda _: None)


class Process:
    """Stands for a training that ends at once, or never."""

    def __init__(self, code):
        self.code, self.ended = code, []

    def poll(self):
        return self.code

    def send_signal(self, number):
        self.ended.append(number)
        self.code = 75

    def wait(self, _=None):
        self.ended.append("wait")


def without_processes(patch):
    """Let trainings that have a process of their own be in this one, with the settings that theirs would read."""

    def start(_, command):
        loop.train(load_config(Path(command[-3])), command[-1], reporter=Reporter(quiet=True))
        return Process(0)

    patch.setattr(Training, "_open", start)


@pytest.fixture
def no_processes(monkeypatch):
    """`without_processes` during one test."""
    without_processes(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of TINY with everything in its folder; only to be read."""
    return loop.train(TINY, tmp_path_factory.mktemp("finished") / "run", reporter=Reporter(quiet=True))


@pytest.fixture
def without_test(finished, tmp_path):
    """A finished run on data without a test split: its result is that of its last weights on the validation split."""
    run = Run(tmp_path / "without-test")
    shutil.copytree(finished.path, run.path)
    digest = hashlib.sha256(run.last.read_bytes()).hexdigest()
    result = json.loads((run.path / "test.json").read_text()) | {"split": "val", "top1": 0.625}
    result["measured"] |= {"weights": run.last.name, "sha256": digest}
    (run.path / "val.json").write_text(json.dumps(result))
    (run.path / "test.json").unlink()
    (run.path / "test-confusion.png").rename(run.path / "val-confusion.png")
    return run


@pytest.fixture
def run_cli(tmp_path):
    """A function that runs `alexnet ARGS` as a process in `tmp_path`."""

    def run(*arguments, command=("-m", "alexnet"), **options):
        line = [sys.executable, *command, *map(str, arguments)]
        return subprocess.run(line, **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120} | options)

    return run


@pytest.fixture
def call(capsys, monkeypatch):
    """A function that runs the command in this process, on a machine without other work: exit code, output, errors."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)

    def run(*arguments):
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def tensors(path):
    content = load_checkpoint(Path(path))
    return content.weights | {f"extra/{name}": value for name, value in content.extra.items()}


def assert_same_tensors(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def differ(a, b):
    a, b = tensors(a), tensors(b)
    return any(not torch.equal(a[name], b[name]) for name in a)


def leftovers(run):
    """Hidden files in a run folder, temporary ones above all."""
    return {f.name for f in run.path.iterdir() if f.name.startswith(".")} - {".lock"}


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def figures(result):
    """What came out of an evaluation, without what was measured where and when."""
    return {name: value for name, value in (result or {}).items() if name != "measured"}


def assert_same_run(a, b):
    """Two runs with the same weights to the bit, the same optimiser state, metrics and test result."""
    assert_same_tensors(a.best, b.best)
    assert_same_tensors(a.last, b.last)
    metas = [load_checkpoint(run.last).meta for run in (a, b)]
    for meta in metas:
        meta["counters"] = {k: v for k, v in meta["counters"].items() if k not in ("seconds", "elapsed")}
        meta["config"].pop("save_minutes")
    assert metas[0] == metas[1]
    assert timeless(a.metrics) == timeless(b.metrics)
    assert [file.name for file in a.milestones] == [file.name for file in b.milestones]
    for mine, theirs in zip(a.milestones, b.milestones, strict=True):
        assert_same_tensors(mine, theirs)
    assert figures(a.test) == figures(b.test)


def assert_consistent(run):
    """metrics.jsonl, metrics.csv and status.json of a finished run agree."""
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    epochs = [row["epoch"] for row in rows if row["kind"] == "epoch"]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert epochs == list(range(1, run.config.end + 1))
    assert steps == sorted(set(steps))
    table = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()]
    assert [row[table[0].index("epoch")] for row in table[1:]] == [str(e) for e in epochs]
    assert run.status["state"] == "finished"
    assert run.status["epoch"] == run.config.end
