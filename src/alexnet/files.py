"""Files that appear under their name only when they are complete and on the disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEFTOVERS = ".*.*.????????"  # temporary files: .last.safetensors.k3j2h1g0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, for the caller to create and fill, which takes the place of `path` when the
    block ends well: it is synchronised to the disk and renamed, so that a crash or a full disk at any moment leaves
    either the old file or the new one.

    Raises what the block raises, and OSError; no temporary file is left then.
    """
    # The name is random and the mode the umask's: mkstemp's 0600 would hide the file from a group's other members.
    part = Path(tempfile.mktemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, content: Any) -> None:
    """Write bytes (or any buffer) to a file as `replacing` does. Raises OSError."""
    with replacing(path) as part, part.open("xb") as stream:
        stream.write(content)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a process left in a folder when it was killed."""
    for file in folder.glob(LEFTOVERS):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
