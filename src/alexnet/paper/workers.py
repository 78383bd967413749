"""The trainings of an experiment as processes side by side: each is `alexnet train` in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from alexnet.config import dump
from alexnet.config.values import flatten, override
from alexnet.errors import AlexNetError, CheckpointError, DataError, NumericsError, TrainingStopped, UsageError
from alexnet.files import LOCK, write_atomically
from alexnet.paper.experiment import Job, has_diverged
from alexnet.runs.folder import FREE, LENGTH, Run

_PATIENCE = 60.0  # seconds for a training to save and leave
_TRIES = 3  # deaths in a row without any progress in between


class Worker:
    """One training of a job, as a process; or one that another process is at already, such as a child of a
    reproduction that was killed: that one is waited for."""

    def __init__(self, job: Job, folder: Path, threads: int) -> None:
        """`folder` is the reproduction's, and `threads` those that this training may use."""
        self.job, self.folder, self.threads = job, folder, threads
        self.run = Run(folder / "runs" / job.name)
        self.process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._start()

    @property
    def log(self) -> Path:
        """What the training says."""
        return self.folder / "jobs" / f"{self.job.name}.log"

    def _start(self) -> None:
        self._step = steps_made(self.run)
        self.process = None
        if is_held(self.run.path):
            return
        settings = self.folder / "jobs" / f"{self.job.name}.yaml"
        write_atomically(settings, yaml.safe_dump(dump(self.job.config), sort_keys=False).encode())
        command = [sys.executable, "-m", "alexnet", "train", str(settings), "--run", str(self.run.path)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours alone to hear: we tell the trainings
            )

    def poll(self) -> bool:
        """Whether the training has ended; one that was killed is started again, from where it was.

        Raises the error that a training ended with, if it is not that its loss diverged: that is a result.
        """
        if self.process is None:
            if is_held(self.run.path):
                return False
            if has_ended(self.run, self.job):
                return True
            self._start()
            return False
        code = self.process.poll()
        if code is None:
            return False
        if code == 0:
            return True
        if code == NumericsError.exit_code:
            write_atomically(diverged_mark(self.folder, self.job), b"")
            return True
        if code < 0 or code == TrainingStopped.exit_code:
            self._deaths = 0 if steps_made(self.run) > self._step else self._deaths + 1
            if self._deaths < _TRIES:
                self._start()
                return False
        raise self._error(code)

    def _error(self, code: int) -> AlexNetError:
        lines = self.log.read_text(errors="replace").strip().splitlines() or [""]
        said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        kinds = {kind.exit_code: kind for kind in (UsageError, DataError, CheckpointError)}
        how = f"was killed {_TRIES} times without getting on (signal {-code})" if code < 0 else said
        return kinds.get(code, AlexNetError)(f"{self.job.name}: {how} All that it said: {self.log}")

    def ask_to_stop(self) -> None:
        """Let it save and leave; returns at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait until it has left, and end it where it does not."""
        if self.process is not None:
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def stop(workers: Iterable[Worker]) -> None:
    """End trainings, all at once; what they have learned is saved."""
    workers = list(workers)
    for worker in workers:
        worker.ask_to_stop()
    for worker in workers:
        worker.wait()


def located(job: Job, root: str) -> Job:
    """The job with its data under `root`, and the run named after it."""
    return replace(job, config=override(job.config, {"data.root": root, "name": job.name}))


def has_ended(run: Run, job: Job) -> bool:
    """Whether a folder holds the job's training, ended. Raises UsageError where it holds one with other settings."""
    if not (run.path / "config.yaml").is_file():
        return False
    there, wanted = flatten(run.config), flatten(job.config)
    changed = [name for name in wanted if name not in FREE and there[name] != wanted[name]]
    if changed:
        shown = ", ".join(f"{name} {there[name]} there and {wanted[name]} now" for name in changed)
        raise UsageError(
            f"{run.path} was trained by another version of the experiment ({shown}); take another folder (--run DIR)."
        )
    if diverged_mark(run.path.parents[1], job).exists():
        return True
    same_end = all(there[name] == wanted[name] for name in LENGTH)
    return same_end and not has_diverged(run)


def diverged_mark(folder: Path, job: Job) -> Path:
    """The file that says that a training's loss left the range of finite numbers: trying again would do the same."""
    return folder / "jobs" / f"{job.name}.diverged"


def steps_made(run: Run) -> int:
    """The latest step that the run's log tells of."""
    with suppress(OSError):
        rows = run.metrics
        return max((row["step"] for row in rows), default=0)
    return 0


def is_held(path: Path) -> bool:
    """Whether another process trains in a folder."""
    if not (path / LOCK).exists():
        return False
    lock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
