"""The result of an evaluation as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from alexnet.files import write_atomically
from alexnet.metrics import Result


def write_result(result: Result, folder: Path, stem: str) -> None:
    """Write `stem`.json (the result) and `stem`-confusion.csv (counts, a row for each true class) into a folder.

    Raises OSError.
    """
    write_atomically(folder / f"{stem}.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["true \\ predicted", *result.classes])
    writer.writerows([name, *row] for name, row in zip(result.classes, result.confusion.tolist(), strict=True))
    write_atomically(folder / f"{stem}-confusion.csv", table.getvalue().encode())
