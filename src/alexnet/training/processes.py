"""Trainings as processes of their own, several side by side: each is `alexnet train` in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import yaml
from filelock import FileLock, Timeout

from alexnet.config import TrainConfig, dump
from alexnet.errors import AlexNetError, CheckpointError, DataError, NumericsError, TrainingStopped, UsageError
from alexnet.files import LOCK, write_atomically
from alexnet.runs.folder import Run
from alexnet.runs.opening import LENGTH, differences
from alexnet.training.signals import SignalGuard

GLANCE = 0.2  # seconds between two looks at the trainings
_PATIENCE = 60.0  # seconds for a training to save and leave
_KILL = 9  # how systems end what takes too much memory
_TRIES = 3  # deaths in a row without any progress in between
# Ctrl-C is ours alone to hear: we tell the trainings.
_APART: dict[str, Any]
if sys.platform == "win32":  # where SIGTERM is not sent: a process that is "terminated" saves nothing
    _APART, _STOP = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}, signal.CTRL_BREAK_EVENT
else:
    _APART, _STOP = {"start_new_session": True}, signal.SIGTERM


class Training:
    """One training as a process; or one that another process is at already, such as a child of a command that was
    killed: that one is waited for. One that is killed itself starts again, from where it was."""

    def __init__(self, config: TrainConfig, run: Path, beside: Path, threads: int | None) -> None:
        """Settings are written to BESIDE.yaml, and what the training says to BESIDE.log. Without a number of `threads`
        it is the only one: it has all of them, and this process's output."""
        self.config, self.run, self.threads = config, Run(run), threads
        self._beside = beside
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        if not has_ended(self.run, self.config, self._beside):
            self._start()

    @property
    def log(self) -> Path:
        """What the training says."""
        return _file(self._beside, "log")

    @property
    def diverged(self) -> bool:
        """Whether its loss left the range of finite numbers: trying again would do the same."""
        return has_diverged(self._beside)

    def _start(self) -> None:
        self._step = _steps_made(self.run)
        self._process = None
        if _is_held(self.run.path):
            return
        self._beside.parent.mkdir(parents=True, exist_ok=True)
        _file(self._beside, "diverged").unlink(missing_ok=True)  # with other settings, before it had learned anything
        settings = _file(self._beside, "yaml")
        write_atomically(settings, yaml.safe_dump(dump(self.config), sort_keys=False).encode())
        # -P: the folder that somebody works in, perhaps full of another's files, is none that code is loaded from.
        command = [sys.executable, "-P", "-m", "alexnet", "train", str(settings), "--run", str(self.run.path)]
        self._process = self._open(command)

    def _open(self, command: list[str]) -> subprocess.Popen[bytes]:
        if self.threads is None:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=_shown(), **_APART)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **_APART,
            )

    def poll(self) -> bool:
        """Whether the training has ended; one that was killed is started again.

        Raises the error that a training ended with, if it is not that its loss diverged: that is a result.
        """
        if self._process is None:
            if _is_held(self.run.path):
                return False
            if not has_ended(self.run, self.config, self._beside):
                self._start()
                return False
            return True
        code = self._process.poll()
        if code is None:
            return False
        if code == NumericsError.exit_code:
            write_atomically(_file(self._beside, "diverged"), b"")
        elif code < 0 or code == TrainingStopped.exit_code:
            self._deaths = 0 if _steps_made(self.run) > self._step else self._deaths + 1
            if self._deaths == _TRIES:
                raise self._error(code)
            self._start()
            return False
        elif code == UsageError.exit_code and _is_held(self.run.path):  # another family's training was there sooner
            self._process = None
            return False
        elif code != 0:
            raise self._error(code)
        return True

    def _error(self, code: int) -> AlexNetError:
        name, kinds = self.run.path.name, {k.exit_code: k for k in (UsageError, DataError, CheckpointError)}
        if code < 0:
            said = f"was killed {_TRIES} times without getting on (signal {-code})."
            if code == -_KILL:
                said += " The system may have run out of memory: fewer --jobs, a smaller --batch-size or --accumulate."
        elif self.threads is None:
            said = "ended as it says above."
        else:
            lines = self.log.read_text(errors="replace").strip().splitlines() or [""]
            said = next((x.removeprefix("error: ") for x in reversed(lines) if x.startswith("error: ")), lines[-1])
        more = "" if self.threads is None else f" All that it said: {self.log}"
        return kinds.get(code, AlexNetError)(f"{name}: {said}{more}")

    def ask_to_stop(self) -> None:
        """Let it save and leave; returns at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(_STOP)

    def wait(self) -> None:
        """Wait until it has left, and end it where it does not."""
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class SideBySide:
    """Trainings by name, at most so many at a time. Leaving the `with` statement ends those that are under way, after
    they have saved."""

    def __init__(self, most: int, guard: SignalGuard) -> None:
        self._most, self._guard = most, guard
        self.running: dict[Hashable, Training] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for training in self.running.values():
            training.ask_to_stop()
        for training in self.running.values():
            training.wait()

    @property
    def is_full(self) -> bool:
        """Whether another one has to wait."""
        return len(self.running) >= self._most

    def start(self, name: Hashable, config: TrainConfig, run: Path, beside: Path, threads: int | None) -> Training:
        """Begin a training, or go on with it; the arguments after the name are those of `Training`."""
        with self._guard.critical():  # a process that nobody knows of could not be ended
            self.running[name] = Training(config, run, beside, threads)
        return self.running[name]

    def take_ended(self) -> dict[Hashable, Training]:
        """Those that have ended since the last look, which are running no more. Raises as `Training.poll`."""
        with self._guard.critical():  # one that was killed is started again
            ended = {name: training for name, training in self.running.items() if training.poll()}
        for name in ended:
            del self.running[name]
        return ended


def _shown() -> IO[str] | None:
    """Where this process's own output goes, which may have been redirected (--quiet); None where that is no file, as in
    notebooks: a child then has what the process began with."""
    try:
        sys.stdout.flush()
        sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return sys.stdout


def _file(beside: Path, kind: str) -> Path:
    return beside.with_name(f"{beside.name}.{kind}")


def has_diverged(beside: Path) -> bool:
    """Whether the loss of the training whose files lie there left the range of finite numbers."""
    return _file(beside, "diverged").exists()


def has_ended(run: Run, config: TrainConfig, beside: Path) -> bool:
    """Whether a folder holds a training with these settings that is finished or has diverged (`Training`). Raises
    UsageError where it holds one with other settings that has learned something."""
    if not (run.path / "config.yaml").is_file():
        return False
    there = run.config
    if changed := differences(there, config):
        if run.may_begin_anew:
            return False
        raise UsageError(f"{run.path} holds another training ({changed}); take another folder (--run DIR).")
    if has_diverged(beside):
        return True
    measured = there.test or not config.test
    same = measured and all(getattr(there, name) == getattr(config, name) for name in LENGTH)
    if run.last.exists():  # of what a record keeps of trainings the result may be missing too
        status = run.status
        if run.result is None or status.get("saved", status.get("step")) != status.get("step"):
            return False
    return same and run.has_ended


def _steps_made(run: Run) -> int:
    """The latest step that the run's log tells of."""
    with suppress(OSError):
        return max((row["step"] for row in run.metrics), default=0)
    return 0


def _is_held(path: Path) -> bool:
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
