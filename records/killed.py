"""Whether a run goes on to the same bits after a kill.

    uv run python records/killed.py runs/cifar10-full

Of a run that was stopped on the way (Ctrl-C) two copies go on to the end of the epoch that it is in, each in a process
of its own: one undisturbed; the other is ended by SIGKILL when it has saved something, and goes on from there. Weights,
what the optimiser holds and all that was logged must then be equal. The answer is written to RUN/killed.json, which
keep.py keeps; the run itself is left as it is. It takes the time of two epochs at most, and the room of two copies.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import torch

from alexnet.errors import AlexNetError, UsageError
from alexnet.files import write_atomically
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.runs.provenance import environment, now

TIMES = ("seconds", "elapsed", "images_per_second")


def train(run: Run, end: int, minutes: float) -> subprocess.Popen[bytes]:
    """Go on with a run up to the end of an epoch, and save every so many minutes."""
    command = [sys.executable, "-m", "alexnet", "train", str(run.path / "config.yaml"), "--run", str(run.path)]
    command += ["--stop-after", str(end), "--save-minutes", str(minutes)]
    command += ["--no-test"] if run.config.data.val_fraction else []  # the run itself looks at it, at its end
    return subprocess.Popen(command)


def finish(process: subprocess.Popen[bytes], run: Run) -> None:
    if code := process.wait():
        raise AlexNetError(f"{run.path}: training ended with {code}, see above.")


def kill(process: subprocess.Popen[bytes], run: Run) -> int:
    """End a training by force as soon as it has saved, within the epoch, and return the step of what it saved."""
    before, epoch = run.last.stat().st_mtime_ns, counted(run)["epoch"]
    while run.last.stat().st_mtime_ns == before:
        if process.poll() is not None:
            raise AlexNetError(f"{run.path}: training ended with {process.returncode} before it had saved, see above.")
        time.sleep(0.01)
    process.kill()
    process.wait()
    if counted(run)["epoch"] > epoch:
        raise UsageError("the first that was saved was the epoch's end: lower --minutes.")
    return int(counted(run)["step"])


def counted(run: Run) -> dict[str, Any]:
    """What a run's last checkpoint has counted, but for time."""
    counters: dict[str, Any] = load_checkpoint(run.last).meta["counters"]
    return {name: value for name, value in counters.items() if name not in TIMES}


def held(run: Run) -> dict[str, torch.Tensor]:
    """All tensors of a run's last checkpoint, by name."""
    checkpoint = load_checkpoint(run.last)
    return checkpoint.weights | {f"extra/{name}": tensor for name, tensor in checkpoint.extra.items()}


def logged(run: Run) -> list[dict[str, Any]]:
    """What a run has logged, without the time that it took."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in run.metrics]


def compare(source: Path, minutes: float) -> dict[str, Any]:
    """Train the two copies and say whether they are the same. Raises AlexNetError where one cannot be trained."""
    if (state := Run(source).status.get("state")) != "stopped":
        raise UsageError(f"{source} is {state or 'no run'}: stop it on the way (Ctrl-C), and call this then.")
    counters = counted(Run(source))
    end = counters["epoch"] + 1
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=source.parent) as place:
        whole, killed = copies = [Run(Path(place) / name) for name in ("whole", "killed")]
        for run in copies:
            shutil.copytree(source, run.path, ignore=shutil.ignore_patterns("tensorboard", ".lock"))
        finish(train(whole, end, minutes), whole)
        step = kill(train(killed, end, minutes), killed)
        finish(train(killed, end, minutes), killed)
        a, b = held(whole), held(killed)
        differing = [name for name in a if name not in b or not torch.equal(a[name], b[name])]
        alike = a.keys() == b.keys() and logged(whole) == logged(killed) and counted(whole) == counted(killed)
        steps = {"from_step": counters["step"], "killed_after_step": step, "to_epoch": end}
        made = {"when": now(), "git": environment()["git"]}
        return {**made, **steps, "tensors": len(a), "differing": differing, "same": alike and not differing}


def main(source: Path, minutes: float = 0.5) -> None:
    try:
        found = compare(source, minutes)
    except AlexNetError as problem:
        sys.exit(f"error: {problem}")
    write_atomically(source / "killed.json", f"{json.dumps(found)}\n".encode())
    print(json.dumps(found))
    sys.exit(0 if found["same"] else 1)


if __name__ == "__main__":
    cyclopts.run(main)
