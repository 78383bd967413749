"""The paper's ablations and other fields of `build_model`, as functions from a table to a table (no torch here).

`resolve` applies those that are asked for; what it gives is a plain table, and nothing else needs to know what was
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from math import inf
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from alexnet.config.ranges import Range
from alexnet.errors import UsageError, unknown
from alexnet.models.table import Activation, Conv, Dropout, Init, Linear, Local, Lrn, Norm, Pool, Step, Variant
from alexnet.models.variants import NORM, VARIANTS

_ACTIVATIONS = get_args(Activation)


def resolve(name: str | Variant, **fields: Any) -> Variant:
    """The table called `name`, or a table of one's own, with the changes that `fields` ask for.

    A field of `Variant` is replaced; the others are changes of the whole table (`CHANGES`), made in that order. Raises
    UsageError for an unknown name, field or value.
    """
    if isinstance(name, str) and name not in VARIANTS:
        raise UsageError(unknown("model", name, VARIANTS))
    for field, value in fields.items():
        _check(field, value)
    table = VARIANTS[name] if isinstance(name, str) else name
    _check("init", table.init)
    table = replace(table, **{field: value for field, value in fields.items() if field not in CHANGES})
    for field, change in CHANGES.items():
        if field in fields:
            table = change(table, fields[field])
    return table


def _check(field: str, value: Any) -> None:
    if field not in FIELDS:
        raise UsageError(unknown("model field", field, FIELDS))
    choices = get_args(FIELDS[field])
    if choices and isinstance(choices[0], str) and value not in choices:
        raise UsageError(unknown(f"value for model field {field}:", str(value), choices))
    kinds, words = _KINDS.get(FIELDS[field], (object, ""))
    if not isinstance(value, kinds) or (isinstance(value, bool) and FIELDS[field] in (int, float)):
        raise UsageError(f"model field {field} = {value!r}: it takes {words}.")
    allowed = _RANGES.get(field)
    if allowed is not None and value not in allowed:
        raise UsageError(f"model field {field} = {value} is out of range: it must be {allowed}.")


def _groups(table: Variant, value: int | None) -> Variant:
    """conv2, conv4 and conv5, the layers within a column (figure 2), in 2 groups; or every layer in 1, one column,
    which has no parts that a normalisation could keep to."""
    match value:
        case None:
            return table
        case 1:
            table = _each_row(table, lambda row: row if isinstance(row, Local) else replace(row, groups=1))
            return _each_norm(table, lambda norm: replace(norm, columns=1))
        case 2:
            columns = enumerate(table.convs, 1)
            convs = (replace(row, groups=2) if isinstance(row, Conv) and i in (2, 4, 5) else row for i, row in columns)
            return replace(table, convs=tuple(convs))
    raise UsageError(f"model field groups = {value}: 1 (one column) or 2 (two, as the paper).")


def _hidden(table: Variant, value: Sequence[int | Linear]) -> Variant:
    """Other hidden layers: rows, or widths of rows like the table's last."""
    if not isinstance(value, Sequence) or not all(isinstance(row, Integral | Linear) for row in value):
        raise UsageError(f"model field hidden = {value!r}: it takes a sequence of widths or rows (Linear).")
    like = (table.hidden or (Linear(0),))[-1]
    return replace(
        table, hidden=tuple(row if isinstance(row, Linear) else replace(like, width=int(row)) for row in value)
    )


def _num_classes(table: Variant, value: int) -> Variant:
    return replace(table, output=replace(table.output, width=value))


def _init(table: Variant, value: Init) -> Variant:
    """Initial weights by one scheme in every layer, also where rows have their own."""
    return _each_row(replace(table, init=value), lambda row: replace(row, start=None))


def _lrn(table: Variant, value: Lrn) -> Variant:
    """Local response normalisation: "off" leaves it out, "code" divides alpha by the window's size as the original
    code does, "formula" reads the paper's formula literally (alpha five times larger). A table that has none gets the
    paper's, after the activation of its first two layers (section 3.5)."""
    if value == "off":
        return _each_step(table, lambda step: () if isinstance(step, Norm) else (step,))
    if not any(isinstance(step, Norm) for row in table.convs for step in row.then):
        normalised = (_insert_norm(row) if i < 2 else row for i, row in enumerate(table.convs))
        table = replace(table, convs=tuple(normalised))
    literal = value == "formula"
    return _each_norm(table, lambda n: replace(n, alpha=n.alpha * n.size) if literal and n.over == "channels" else n)


def _insert_norm(row: Conv | Local) -> Conv | Local:
    place = next((i for i, step in enumerate(row.then, 1) if step in _ACTIVATIONS), 0)
    return replace(row, then=(*row.then[:place], NORM, *row.then[place:]))


def _lrn_k(table: Variant, value: float) -> Variant:
    """The constant k of the normalisations over channels."""
    return _each_norm(table, lambda norm: replace(norm, k=value) if norm.over == "channels" else norm)


def _norm_after_pool(table: Variant, value: bool) -> Variant:
    """Normalisation behind the pooling of the same layer, as in CaffeNet, or before it, as in the paper."""

    def ordered(row: Conv | Local) -> Conv | Local:
        two = [step for step in row.then if isinstance(step, Norm | Pool)]
        moved = iter(sorted(two, key=lambda step: isinstance(step, Norm) == value))
        return replace(row, then=tuple(next(moved) if isinstance(step, Norm | Pool) else step for step in row.then))

    return replace(table, convs=tuple(ordered(row) for row in table.convs))


def _overlap(table: Variant, value: bool) -> Variant:
    """Overlapping pooling, windows one pixel wider than their stride (section 3.4), or windows side by side."""
    return _each_step(table, lambda s: (replace(s, size=s.stride + value) if isinstance(s, Pool) else s,))


def _activation(table: Variant, value: Activation) -> Variant:
    return _each_step(table, lambda step: (value if step in _ACTIVATIONS else step,))


def _dropout(table: Variant, value: float) -> Variant:
    return _each_step(table, lambda step: (Dropout(value) if isinstance(step, Dropout) else step,))


def _dropout_before(table: Variant, value: bool) -> Variant:
    """Dropout of the hidden layers' inputs, as in torchvision, or of their outputs, as in the paper (section 4.2)."""

    def moved(row: Linear) -> Linear:
        drops = tuple(step for step in (*row.before, *row.then) if isinstance(step, Dropout))
        before, then = (tuple(s for s in steps if not isinstance(s, Dropout)) for steps in (row.before, row.then))
        if value:
            return replace(row, before=(*before, *drops), then=then)
        return replace(row, before=before, then=(*then, *drops))

    return replace(table, hidden=tuple(moved(row) for row in table.hidden))


def _width(table: Variant, value: float) -> Variant:
    """Every convolutional and hidden width multiplied, and rounded to a multiple of 8."""
    if not 0 < value < inf:
        raise UsageError(f"model field width = {value}: a positive multiplier, 1.0 for the paper's widths.")
    if value == 1:
        return table
    scaled = _each_row(table, lambda row: replace(row, width=max(8, round(row.width * value / 8) * 8)))
    return replace(scaled, output=table.output)


def _widths(table: Variant, value: Sequence[str]) -> Variant:
    """Widths of single layers, each as in "conv3=64": those of the whole table, before anything is left out."""
    wanted: dict[str, int] = {}
    for text in value:
        layer, _, width = text.partition("=")
        if not width.isdecimal() or int(width) < 1:
            raise UsageError(f'model field widths = {text!r}: write a layer and its width as in "conv3=64".')
        wanted[layer] = int(width)
    names = _names(table)
    for layer in wanted.keys() - set(names[:-1]):
        raise UsageError(f"model field widths: {unknown('layer', layer, names[:-1])}")
    rows = [
        replace(row, width=wanted.get(name, row.width))
        for name, row in zip(names, (*table.convs, *table.hidden), strict=False)
    ]
    convs = len(table.convs)
    return replace(table, convs=tuple(rows[:convs]), hidden=tuple(rows[convs:]))  # type: ignore[arg-type]


def _without(table: Variant, value: str | None) -> Variant:
    """A convolutional layer left out with its normalisation (section 7). Its pooling stays, behind the layer before, so
    that all that follows keeps its size."""
    if value is None:
        return table
    names = _names(table)[1 : len(table.convs)]
    if value not in names:
        raise UsageError(f"model field without: {unknown('layer', value, names)}")
    before = names.index(value)  # the place of the layer before it, because `names` begins with the second
    kept, lost = table.convs[before], table.convs[before + 1]
    pools = tuple(step for step in lost.then if isinstance(step, Pool))
    convs = (*table.convs[:before], replace(kept, then=(*kept.then, *pools)), *table.convs[before + 2 :])
    return replace(table, convs=convs)


def _names(table: Variant) -> list[str]:
    """The names of all layers with weights, in order."""
    kinds = ["local" if isinstance(row, Local) else "conv" for row in table.convs]
    return [f"{kind}{i}" for i, kind in enumerate([*kinds, *["fc"] * (len(table.hidden) + 1)], 1)]


def _each_row(table: Variant, change: Callable[[Any], Any]) -> Variant:
    convs, hidden = (tuple(change(row) for row in rows) for rows in (table.convs, table.hidden))
    return replace(table, convs=convs, hidden=hidden, output=change(table.output))


def _each_step(table: Variant, change: Callable[[Step], tuple[Step, ...]]) -> Variant:
    """Every step behind and before every layer replaced by the steps that `change` gives for it."""

    def each(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(new for step in steps for new in change(step))

    def changed(row: Conv | Local | Linear) -> Conv | Local | Linear:
        row = replace(row, then=each(row.then))
        return replace(row, before=each(row.before)) if isinstance(row, Linear) else row

    return _each_row(table, changed)


def _each_norm(table: Variant, change: Callable[[Norm], Norm]) -> Variant:
    return _each_step(table, lambda step: (change(step) if isinstance(step, Norm) else step,))


CHANGES: dict[str, Callable[[Variant, Any], Variant]] = {
    "groups": _groups,
    "hidden": _hidden,
    "num_classes": _num_classes,
    "init": _init,
    "lrn": _lrn,
    "lrn_k": _lrn_k,
    "norm_after_pool": _norm_after_pool,
    "overlap": _overlap,
    "activation": _activation,
    "dropout": _dropout,
    "dropout_before": _dropout_before,
    "width": _width,
    "widths": _widths,
    "without": _without,
}
"""The changes that are more than replacing a field of the table, in the order in which they are made."""

FIELDS: dict[str, Any] = {f.name: get_type_hints(Variant)[f.name] for f in fields_of(Variant)} | {
    name: get_type_hints(change)["value"] for name, change in CHANGES.items()
}
"""Every field of `resolve` and `build_model` with its type."""

_RANGES = {
    **dict.fromkeys(("num_classes", "in_channels", "input_size"), Range(least=1)),
    "dropout": Range(least=0, below=1),
}
_KINDS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    int | None: ((Integral, type(None)), "a whole number or nothing"),
    float: (Real, "a number"),
    float | None: ((Real, type(None)), "a number or nothing"),
    bool: (bool, "true or false"),
}
