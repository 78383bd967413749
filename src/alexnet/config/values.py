"""Settings by name: read, replaced and flattened, for any frozen dataclass of settings (no torch here)."""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from alexnet.errors import UsageError, unknown

C = TypeVar("C")


def flag(name: str) -> str:
    """The command line's flag for a dotted field name."""
    return "--" + name.replace("_", "-")


def flatten(config: Any) -> dict[str, Any]:
    """Every field by its dotted name; tuples become lists, so that YAML and JSON can hold them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dotted(asdict(config)).items()}


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings that nest as dictionaries, by their dotted names: {"optim": {"lr": 1}} as {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def override(config: C, values: Mapping[str, Any]) -> C:
    """A copy with fields replaced; keys are dotted names ("optim.lr") or nest as dictionaries ({"optim": {"lr": 1}}).

    Raises UsageError for an unknown name or a value of the wrong type.
    """
    result: C = _override(config, values, "", list(flatten(config)))
    return result


def _override(config: Any, values: Mapping[str, Any], prefix: str, known: list[str]) -> Any:
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        head, _, rest = str(key).partition(".")
        if head not in hints or (rest and not is_dataclass(hints[head])):
            raise UsageError(unknown("setting", f"{prefix}{key}", known, "alexnet train --help"))
        if rest:
            nested.setdefault(head, {})[rest] = value
        elif is_dataclass(hints[head]):
            if is_dataclass(value):
                changes[head] = value
            elif isinstance(value, dict):
                nested.setdefault(head, {}).update(value)
            else:
                raise UsageError(f"setting {prefix}{key} is a group of settings, not {value!r}.")
        else:
            changes[head] = _coerce(value, hints[head], prefix + head)
    for head, inner in nested.items():
        changes[head] = _override(changes.get(head, getattr(config, head)), inner, f"{prefix}{head}.", known)
    return replace(config, **changes)


def coerce_fields(settings: Any, prefix: str) -> None:
    """Give the fields of a frozen dataclass that is being made their types, whoever makes it: a Path for text, a list
    for a tuple and NumPy's numbers are taken. Raises UsageError that names the flag, with `prefix` before the field."""
    for name, hint in get_type_hints(type(settings)).items():
        object.__setattr__(settings, name, _coerce(getattr(settings, name), hint, prefix + name))


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """`value` as the field's type; YAML's 1e-3 (a string there) and integers for floats are taken."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), name)
    if origin is Literal:
        if value in args:
            return value
        raise UsageError(unknown(f"value for {flag(name)}:", str(value), args))
    if origin is tuple:
        if isinstance(value, list | tuple) and (args[-1] is ... or len(value) == len(args)):
            return tuple(_coerce(v, args[0], name) for v in value)
    elif hint is float and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    elif hint is int and not isinstance(value, bool):
        with suppress(TypeError):
            return index(value)
    elif hint is str and isinstance(value, Path):
        return str(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    kind = "a list" if origin is tuple else getattr(hint, "__name__", hint)
    raise UsageError(f"{flag(name)} takes {kind}, not {value!r}.")
