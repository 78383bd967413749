"""The result of an evaluation as files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

from alexnet.files import write_atomically
from alexnet.metrics import Result


def result_name(result: Result) -> str:
    """A name for a result's files, which says split, views and number format and ends in digits of a hash of all that
    was measured: two different measurements never share it, and the same one repeated replaces its own files."""
    constant = {name: value for name, value in result.measured.items() if name not in ("when", "skipped")}
    identity = json.dumps([result.split, result.views, constant], sort_keys=True)
    parts = [
        result.split,
        f"{result.views}views" if result.views > 1 else None,
        result.measured.get("arithmetic", {}).get("format"),
        hashlib.sha256(identity.encode()).hexdigest()[:12],
    ]
    return "-".join(part for part in parts if part)


def write_result(result: Result, folder: Path, stem: str) -> None:
    """Write `stem`.json (the result) and `stem`-confusion.csv (counts, a row for each true class) into a folder.

    Raises OSError.
    """
    write_atomically(folder / f"{stem}.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["true \\ predicted", *result.classes])
    writer.writerows([name, *row] for name, row in zip(result.classes, result.confusion.tolist(), strict=True))
    # A class may be named by a folder whose name is not UTF-8.
    write_atomically(folder / f"{stem}-confusion.csv", table.getvalue().encode(errors="backslashreplace"))
