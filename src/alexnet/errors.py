"""What can go wrong for a user, each kind with the exit code that the command ends with."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence


class AlexNetError(ValueError):
    """An error that the user can mend; the message says what, where and how."""

    exit_code = 1
    told = False
    """Whether another of several processes tells the user."""


class UsageError(AlexNetError):
    """A flag, a field or a name that cannot be used as given."""

    exit_code = 2


class DataError(AlexNetError):
    """A data set that is missing, damaged or does not fit."""

    exit_code = 3


class CheckpointError(AlexNetError):
    """A checkpoint or weights file that cannot be read, trusted or applied."""

    exit_code = 4


class NumericsError(AlexNetError):
    """Training that left the range of finite numbers."""

    exit_code = 5


class ExportError(AlexNetError):
    """A network that another program's format cannot hold, or that computes something else there."""

    exit_code = 6


class TrainingStopped(AlexNetError):
    """A signal ended the run; what was trained is saved and the same command goes on."""

    exit_code = 75


def unknown(kind: str, name: str, known: Iterable[str], listed_by: str | None = None) -> str:
    """The message for a name that is not in `known`: the nearest match first, then all of them, or the command that
    lists them, where they are too many to read."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    rest = f"Known: {', '.join(known)}." if listed_by is None else f"{listed_by} lists all {len(known)}."
    return f"unknown {kind} {name!r}.{hint} {rest}"


def differing(expected: Iterable[str], found: Iterable[str]) -> str:
    """In what names differ from those that were expected: which are missing, which are more, or that they are the same
    in another order. Names of both kinds that read alike (other case, spaces, composed accents) are spelt in ASCII."""
    expected, found = set(expected), set(found)
    missing, more = sorted(expected - found), sorted(found - expected)
    alike = {_read(name) for name in missing} & {_read(name) for name in more}
    parts = [listed([ascii(name) if _read(name) in alike else name for name in names]) for names in (missing, more)]
    return f"missing {parts[0] or 'none'}, more {parts[1] or 'none'}" if missing or more else "in another order"


def _read(name: str) -> str:
    """What is read of a name."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def listed(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    return ", ".join(names[:5]) + (f" ... ({len(names)} in all)" if len(names) > 5 else "")
