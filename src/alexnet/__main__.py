"""The command `alexnet`, also as `python -m alexnet`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command in a process of its own."""
    # Ctrl-C ends it as it ends any other program, also amid imports, whose code may report the exception or swallow
    # it. What must be saved is: training and preparing have handlers, and files appear only when they are complete.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from alexnet.cli import main as command

    command()


if __name__ == "__main__":
    main()
