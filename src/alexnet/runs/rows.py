"""Files of JSON lines, one object a row: appended to one row at a time, and read around what is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, in order, and how many lines are damaged: those that hold no object with string keys.

    A line that a kill cut short at the end of the file is left out and not counted; a file that is not there has no
    rows. Raises OSError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    rows: list[dict[str, Any]] = []
    damaged = 0
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.endswith(b"\n") and line.strip():
            damaged += 1
    return rows, damaged


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at the end of a file, on a line of its own even where the last one was cut short. Raises OSError, also
    for a link: in a folder that is somebody else's it may lead to any file of ours."""
    following = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, following, 0o666), "ab+") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(row).encode() + b"\n")
