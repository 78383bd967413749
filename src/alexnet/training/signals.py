"""SIGTERM and Ctrl-C: stop quickly, at a place where what was trained can be saved (no torch here)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from alexnet.errors import TrainingStopped

# On Windows a process tells another one by SIGBREAK.
_HEARD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


class Interrupt(BaseException):
    """Raised where a signal struck, outside of `critical` parts. Not an Exception, so that no library swallows it."""


class SignalGuard:
    """While entered: the first SIGTERM or Ctrl-C raises Interrupt, at once or when the `critical` part ends.

    The second Ctrl-C ends the process with 130. With `deferred` (several processes, which must leave together) nothing
    is raised asynchronously and the loop asks `requested` itself. Only the main thread can install handlers; elsewhere
    this does nothing.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.deferred = False
        self._depth = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            for number in _HEARD:
                if signal.getsignal(number) is None:  # its handler, of the program around Python, could not be restored
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.deferred and self.requested is not None:
            return  # torchrun sends SIGTERM again as soon as one process has left: each shall end with its own code
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if number == signal.SIGINT:
                os._exit(130)
            return
        self.requested = signal.Signals(number).name
        if not self._depth and not self.deferred:
            raise Interrupt(self.requested)

    @contextlib.contextmanager
    def critical(self) -> Iterator[None]:
        """A part that must complete: a signal is kept until its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self.requested is not None and not self._depth and not self.deferred:
            raise Interrupt(self.requested)


@contextlib.contextmanager
def stoppable(what: str | None = None) -> Iterator[None]:
    """A block whose Interrupt becomes TrainingStopped, which says that the same command goes on."""
    try:
        yield
    except Interrupt as name:
        stopped = f"{what} was stopped" if what else "stopped"
        raise TrainingStopped(f"{stopped} by {name}; the same command goes on from where it was.") from None
