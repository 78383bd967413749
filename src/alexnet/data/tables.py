"""Photographs as a table lists them: a CSV file with a column of paths, one of labels, and perhaps one of splits."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.config import DataConfig
from alexnet.config.values import flag
from alexnet.data.folders import SPLITS
from alexnet.data.photos import FileStore, Photos, file_size
from alexnet.data.sources import COLUMNS
from alexnet.data.splits import Published, order_classes
from alexnet.errors import DataError, listed, unknown

SPLIT_COLUMN = "split"  # where none is named


def read_table(config: DataConfig) -> Published:
    """Read the photographs that a CSV file, `config.root`, names with their labels; .tsv files have tabs for commas.

    The columns are called as `config.path_column`, `config.label_column` and `config.split_column` say; without a
    column of splits the photographs are split anew. Paths are absolute, or relative to the file's folder; spaces around
    labels, splits and columns' names are none of theirs. Raises DataError for a table that cannot be read, columns that
    it does not have, rows that are not whole, photographs that are not there, and one that has two labels, or may be
    trained on and measured on too: in two splits, or twice where splits are drawn.
    """
    table = Path(os.path.expanduser(config.root))
    rows: dict[str, list[tuple[str, str]]] = {}
    sizes: dict[str, list[int]] = {}
    missing: list[str] = []
    for line, path, label, split in _read_rows(table, config):
        where = f"{table}, line {line}"
        if not path or not label:
            raise DataError(
                f"{where}: {'the path' if not path else f'the label of {path}'} is empty; mend or remove it."
            )
        name = "all" if split is None else SPLITS.get(split)
        if name is None:
            raise DataError(f"{where}: {unknown('split', split or '', SPLITS)}")
        try:
            sizes.setdefault(name, []).append(file_size(table.parent / path))
        except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
            missing.append(f"line {line}: {path} ({getattr(problem, 'strerror', None) or problem})")
            continue
        rows.setdefault(name, []).append((path, label))
    if missing:
        raise DataError(
            f"{table} names photographs that cannot be read: {listed(missing)}; paths start from its folder."
        )
    if not rows:
        raise DataError(f"{table} has no rows below its column names.")
    _refuse_repeated(table, rows, config)
    classes = order_classes(label for part in rows.values() for _, label in part)
    numbers = {name: number for number, name in enumerate(classes)}
    if "train" in rows and (untaught := sorted({*numbers} - {label for _, label in rows["train"]})):
        raise DataError(
            f"{table}: no row of the split train has the label {listed(untaught)}, which others have: name the classes "
            "alike in all splits, or add rows."
        )
    parts: dict[str, Photos] = {}
    for name, part in rows.items():
        store = FileStore(table.parent, [path for path, _ in part], sizes[name])
        parts["all" if rows.keys() == {"train"} else name] = Photos.whole(store, [numbers[label] for _, label in part])
    return Published(classes, dict(parts))


def _refuse_repeated(table: Path, rows: dict[str, list[tuple[str, str]]], config: DataConfig) -> None:
    """Raise DataError for a photograph that has two labels, or that may be trained on and measured on too: it is in two
    splits, or twice among those that splits are drawn from. Else it may be repeated within a split, to count more."""
    anew = config.resplit or rows.keys() in ({"all"}, {"train"})
    pool = {"all", "train", "test"} if anew else {"train"} if "val" not in rows and config.val_fraction else set()
    seen: dict[str, tuple[str, str]] = {}
    for name, part in rows.items():
        for path, label in part:
            place = os.path.normpath(path)
            if (before := seen.get(place)) is None:
                seen[place] = name, label
            elif before[1] != label:
                raise DataError(f"{table} names {path} with the labels {before[1]} and {label}: keep one of the rows.")
            elif before[0] != name:
                raise DataError(f"{table} names {path} in the splits {before[0]} and {name}: keep one of the rows.")
            elif name in pool:
                raise DataError(
                    f"{table} names {path} twice, and splits are drawn: the same photograph could be trained on and "
                    f"measured on. Remove a row, or say in a column {SPLIT_COLUMN} where each photograph belongs."
                )


def _read_rows(table: Path, config: DataConfig) -> Iterator[tuple[int, str, str, str | None]]:
    """The line, path, label and split of every row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = []
            for field in COLUMNS:
                name = getattr(config, field)
                if name is None:
                    places.append(header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None)
                elif name not in header:
                    raise DataError(
                        f"{table}: {unknown('column', name, header)} {flag(f'data.{field}')} names another."
                    )
                else:
                    places.append(header.index(name))
            path, label, split = places
            assert path is not None
            assert label is not None
            for row in reader:
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{table}, line {reader.line_num}: {len(row)} values for {len(header)} columns (a comma in a "
                        'value? "quote it").'
                    )
                yield reader.line_num, row[path], row[label].strip(), None if split is None else row[split].strip()
    except OSError as problem:
        raise DataError(
            f"cannot read the table {table}: {problem.strerror}; point --data.root to the .csv file."
        ) from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{table} is not a CSV file in UTF-8 ({problem}).") from None
