"""The command `alexnet`: one thin function a verb. Torch is imported inside the verbs that compute."""

from __future__ import annotations

import sys
import warnings

from cyclopts import CycloptsError

from alexnet.cli import facts, photographs, runs  # noqa: F401 (each adds its verbs)
from alexnet.cli.command import app
from alexnet.errors import AlexNetError
from alexnet.training.signals import Interrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors that a user can mend end in one message and the exit code of their kind."""
    # Of large images, palettes and odd EXIF, which are read all the same; what cannot be read is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except Interrupt as signal:
        _fail(f"stopped by {signal} before training began; the same command starts again.", 75)
    except AlexNetError as problem:
        if debug:
            raise
        if problem.told:
            sys.exit(problem.exit_code)
        _fail(str(problem), problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `alexnet list | head`
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    print(f"{'stopped' if code == 75 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)
