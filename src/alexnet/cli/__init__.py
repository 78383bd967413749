"""The command `alexnet`: one thin function a verb. Torch is imported inside the verbs that compute."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import warnings
from contextlib import ExitStack, redirect_stdout, suppress

from cyclopts import CycloptsError

from alexnet.cli import (  # noqa: F401 (each adds its verbs)
    doctor,
    exporting,
    facts,
    features,
    figures,
    ledger,
    page,
    paper,
    photographs,
    report,
    runs,
    verification,
)
from alexnet.cli.command import announce, app, explain
from alexnet.errors import AlexNetError, TrainingStopped
from alexnet.terminal import printable
from alexnet.training.signals import Interrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors that a user can mend end in one message and the exit code of their kind."""
    # Of large images, palettes and odd EXIF, which are read all the same; what cannot be read is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):  # names of classes and files may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    own_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug, quiet = "--debug" in arguments, "--quiet" in arguments
    arguments = [a for a in arguments if a not in ("--debug", "--quiet")]
    arguments = ["--json" if re.fullmatch("--json=(true|yes|y|t|1)", a, re.IGNORECASE) else a for a in arguments]
    try:
        with ExitStack() as stack:
            if quiet and "--json" not in arguments:
                nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))
                stack.enter_context(redirect_stdout(nothing))
            verb, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False, verbose=False)
            if own_process:
                announce(verb, arguments)
            verb(*bound.args, **bound.kwargs)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk is an error that can be told
    except CycloptsError as problem:
        _fail(explain(problem), 2)
    except Interrupt as struck:
        _fail(f"stopped by {struck} before training began; the same command starts again.", 75)
    except AlexNetError as problem:
        if isinstance(problem, TrainingStopped) and os.environ.get("WORLD_SIZE", "1") != "1":
            # torchrun sends the signal again to those that the first one leaves behind, and these are leaving, too.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if debug:
            raise
        if problem.told:
            sys.exit(problem.exit_code)
        _fail(str(problem), problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `alexnet list | head`
        _drop_output()
        sys.exit(0)
    except OSError as problem:  # above all of the output itself: a full disk
        if debug:
            raise
        _drop_output()
        if isinstance(problem, FileNotFoundError) and problem.filename is None:
            if "temporary" in str(problem):  # tempfile's, which tries several
                _fail(f"{problem.strerror}: name a folder that can be written with TMPDIR.", 1)
            _fail("the current folder was deleted: change to one that exists.", 2)  # os.getcwd
        _fail(f"{problem.filename or 'output'}: {problem.strerror or problem}.", 1)
    except (MemoryError, RuntimeError) as problem:
        out_of_memory = isinstance(problem, MemoryError) or "allocate memory" in str(problem)
        if debug or not (out_of_memory or type(problem).__name__ == "OutOfMemoryError"):  # torch's, of a GPU
            raise
        smaller = "smaller images, or smaller batches where the command has --batch-size"
        _fail(f"this needs more memory than there is: take {smaller}, or --device cpu.", 2)


def _drop_output() -> None:
    """Let nothing more be written, so that the interpreter's own last flush does not fail again."""
    with suppress(OSError, ValueError, AttributeError):  # a stream of a test or a notebook has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    with suppress(OSError):
        shown = "\n".join(map(printable, message.splitlines()))
        print(f"{'stopped' if code == 75 else 'error'}: {shown}", file=sys.stderr, flush=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # which would take the place of the exit code
        _drop_output()
    sys.exit(code)
