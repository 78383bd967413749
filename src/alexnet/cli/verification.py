"""The verb verify: whether what lies on the disk is still what was written."""

from __future__ import annotations

from pathlib import Path

from alexnet.cli.command import DATA, app
from alexnet.errors import DataError

SHOWN = 10  # damaged images that are named, of each file


@app.command(group=DATA)
def verify(prepared: Path, /) -> None:
    """Read all of a prepared folder and say what is whole and what is damaged; the exit code is 3 if anything is.

    Parameters
    ----------
    prepared
        A folder that alexnet prepare made.
    """
    from alexnet.data.verification import verify_prepared
    from alexnet.training.progress import counting

    with counting() as on_progress:
        verdicts = verify_prepared(prepared, on_progress)
    for verdict in verdicts:
        count = f"{verdict.images:,} images" if verdict.images else "unreadable"
        state = f"{len(verdict.damaged):,} damaged" if verdict.damaged else verdict.unknown or "whole"
        print(f"{verdict.path}: {count}, {state}")
        for sentence in verdict.damaged[:SHOWN]:
            print(f"  {sentence}")
        if len(verdict.damaged) > SHOWN:
            print(f"  ... and {len(verdict.damaged) - SHOWN:,} more")
    damaged = [str(verdict.path) for verdict in verdicts if verdict.damaged]
    if damaged:
        raise DataError(f"{', '.join(damaged)} damaged: delete what is damaged and run alexnet prepare again.")
