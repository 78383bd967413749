"""Charts as inline SVG: their text can be selected and read aloud, and their colours are those of the page's style.

The elements are built as a tree, so that text of any origin is escaped. Whatever has a colour has a class, for
report.css to give it one in daylight and another in the dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
from markupsafe import Markup

from alexnet.figures.bitmaps import data_uri, encode
from alexnet.metrics import Result
from alexnet.report.calibration import Calibration
from alexnet.terminal import printable

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 36
NUMBERED = 25
"""Up to this many classes a confusion matrix has names and numbers."""
BLOCKS = 125
"""Into as many blocks of neighbouring classes at most a larger one is condensed."""
LETTER = 6.2  # the mean width of a letter, in the units of a chart
FEW = 40  # points, each of which has a dot


@dataclass(frozen=True)
class Series:
    """A line of a chart: its points, and the class that it is drawn with (train, val, rate, s0 ... s7)."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """An axis of a chart that reaches over some pixels, from its lowest value to its highest."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 2)

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if self.log:
            return [10.0**n for n in range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)]
        raw = (self.high - self.low) / 5
        size = 10.0 ** floor(log10(raw))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * (1 - 1e-9))
        return [n * step for n in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def draw_lines(title: str, series: Sequence[Series], *, percent: bool = False, log: bool = False) -> Markup:
    """Values over epochs; empty where there are none. `percent` shows fractions as percent, `log` has decades where
    the values cover some."""
    drawn = [Series(s.name, s.style, *_finite(s.x, s.y)) for s in series]
    values = [y for s in drawn for y in s.y]
    if not values:
        return Markup()
    log = log and 1e-4 * max(values) < min(values) < 0.1 * max(values)  # one that ends at zero would fill the axis
    low, high = min(values), max(values)
    if not log:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1
        low, high = low - margin if low > margin else 0.0, high + margin
    epochs = [x for s in drawn for x in s.x]
    first, last = min(epochs), max(epochs)
    x = Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    ends = ", ".join(f"{s.name} ends at {_number(s.y[-1], percent)}" for s in drawn[:8] if s.y)
    svg = _svg(WIDTH, HEIGHT, f"{title} over epochs: {ends}.")
    _text(svg, 0, 14, title + (", %" if percent else ""), "title")
    _frame(svg, x, y, percent)
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch", "label", anchor="middle")
    for s in drawn:
        points = [(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True)]
        path = " ".join(f"{a},{b}" for a, b in points)
        _add(svg, "polyline", points=path, class_=f"line {s.style}")
        for a, b in points if len(points) <= FEW else ():
            _add(svg, "circle", cx=a, cy=b, r=2.4, class_=f"dot {s.style}")
    if len(drawn) > 1:
        _legend(svg, drawn, LEFT + 1.2 * LETTER * len(title))
    return _markup(svg)


def draw_intervals(names: Sequence[str], results: Sequence[Result | None]) -> Markup:
    """Top-1 accuracy of several runs with its 95 % interval, a line each; empty where none has a result."""
    tested = [(n, name, result) for n, (name, result) in enumerate(zip(names, results, strict=True)) if result]
    if not tested:
        return Markup()
    ends = [end for _, _, result in tested for end in result.interval]
    margin = 0.1 * (max(ends) - min(ends)) or 0.01
    row, left = 24, 16 + LETTER * min(24, max(len(name) for _, name, _ in tested))
    height = TOP + row * len(tested) + BOTTOM
    x = Axis(max(0, min(ends) - margin), min(1, max(ends) + margin), left, 560 - RIGHT)
    svg = _svg(560, height, "top-1 accuracy of every run with its 95 % interval; the table has the same numbers.")
    _text(svg, 0, 14, "top-1 accuracy with its 95 % interval, %", "title")
    for tick, shown in _ticks(x, percent=True):
        _add(svg, "line", x1=x(tick), x2=x(tick), y1=TOP - 4, y2=height - BOTTOM, class_="grid")
        _text(svg, x(tick), height - BOTTOM + 16, shown, "tick", anchor="middle")
    for place, (n, name, result) in enumerate(tested):
        middle, style = TOP + row * (place + 0.5), f"s{n % 8}"
        low, high = (x(end) for end in result.interval)
        _text(svg, left - 10, middle + 4, printable(name, 24), "name", anchor="end")
        _add(svg, "line", x1=low, x2=high, y1=middle, y2=middle, class_=f"line {style}")
        _add(svg, "circle", cx=x(result.top1), cy=middle, r=4, class_=f"dot {style}")
    return _markup(svg)


def draw_confusion(result: Result) -> Markup:
    """The confusion matrix in percent of each true class: with names and numbers, or of more than 25 classes as a
    picture, in which neighbouring classes may share a cell."""
    counts = result.confusion
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(result.classes) > NUMBERED:
        return _draw_condensed(result)
    share, names = counts / totals, [printable(name, 22) for name in result.classes]
    cell, k = (30 if len(names) > 12 else 38), len(names)
    left = 34 + LETTER * max(map(len, names))
    bottom = 30 + LETTER * max(map(len, names)) * 0.72
    width, height = left + cell * k + 20, 10 + cell * k + bottom
    svg = _svg(width, height, f"Confusion matrix of {k} classes, rows are true classes, columns are answers.")
    svg.set("class", "chart matrix")
    for row, name in enumerate(names):
        top = 10 + row * cell
        _text(svg, left - 8, top + cell / 2 + 4, name, "name", anchor="end")
        at = f"translate({left + (row + 0.62) * cell:.1f} {16 + k * cell}) rotate(-45)"
        _text(svg, 0, 6, name, "name", anchor="end").set("transform", at)
        for column, part in enumerate(share[row].tolist()):
            kind = "hit" if row == column else "miss"
            place: dict[str, Any] = {
                "x": round(left + column * cell + 1, 1),
                "y": top + 1,
                "width": cell - 2,
                "height": cell - 2,
            }
            group = _add(svg, "g")
            said = f"{names[row]} taken for {names[column]}: {counts[row, column]} ({part:.1%})"
            _add(group, "title", said)
            _add(group, "rect", **place, rx=3, class_="cell")
            if counts[row, column]:
                _add(group, "rect", **place, rx=3, class_=kind, fill_opacity=round(_strength(part), 3))
                on = " on" if _strength(part) > 0.6 else ""
                shown = "<1" if part < 0.005 else f"{100 * part:.0f}"
                _text(group, left + (column + 0.5) * cell, top + cell / 2 + 4, shown, f"count{on}", anchor="middle")
    _text(svg, left + k * cell / 2, height - 4, "answer", "label", anchor="middle")
    middle = 10 + k * cell / 2
    _text(svg, 12, middle, "true class", "label", anchor="middle").set("transform", f"rotate(-90 12 {middle})")
    return _markup(svg)


def _draw_condensed(result: Result) -> Markup:
    """Of many classes a cell for each pair, or for each pair of blocks of neighbouring ones: the darker, the larger
    the part of the row, and what is not on the diagonal in the colour of mistakes."""
    k = len(result.classes)
    width = ceil(k / BLOCKS)
    starts = np.arange(0, k, width)
    counts = np.add.reduceat(np.add.reduceat(result.confusion, starts, axis=0), starts, axis=1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*share.shape, 4), dtype=np.uint8)
    pixels[..., :3] = (214, 90, 49)
    pixels[np.arange(len(share)), np.arange(len(share)), :3] = (52, 120, 196)
    pixels[..., 3] = (255 * np.sqrt(share)).round()
    of = "one class" if width == 1 else f"{width} neighbouring classes"
    side, left = 560, 40
    svg = _svg(left + side + 20, side + 44, f"Confusion matrix of {k} classes, a cell stands for {of} by as many.")
    svg.set("class", "chart matrix")
    _add(svg, "rect", x=left, y=6, width=side, height=side, class_="cell")
    picture: dict[str, Any] = {"x": left, "y": 6, "width": side, "height": side, "href": data_uri(encode(pixels))}
    _add(svg, "image", **picture, class_="pixels", preserveAspectRatio="none")
    axis = Axis(0, k, 0, side)
    for tick in axis.ticks():
        _text(svg, left + axis(tick), side + 22, f"{tick:.0f}", "tick", anchor="middle")
        _text(svg, left - 5, 10 + axis(tick), f"{tick:.0f}", "tick", anchor="end")
    _text(svg, left + side / 2, side + 40, "answer, by the number of the class", "label", anchor="middle")
    return _markup(svg)


def draw_reliability(calibration: Calibration) -> Markup:
    """Accuracy against confidence, a bar a bin, which ends at the smaller of the two; the gap to the larger one has a
    colour of its own where the network is surer than it is right, and another where it is less sure. Below, how many
    answers a bin has."""
    height, middle = 300, 220
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, middle, TOP)
    said = f"expected calibration error {100 * calibration.error:.1f} points; the table has the bins."
    svg = _svg(WIDTH, height, f"Accuracy against confidence: {said}")
    _text(svg, 0, 14, "accuracy, %, of answers by confidence", "title")
    _frame(svg, x, y, percent=True)
    edges = np.linspace(0, 1, len(calibration.counts) + 1).tolist()
    most = int(calibration.counts.max())
    bins = zip(pairwise(edges), calibration.accuracy.tolist(), calibration.confidence.tolist(), strict=True)
    for ((start, end), accuracy, confidence), count in zip(bins, calibration.counts.tolist(), strict=True):
        if not count:
            continue
        left, wide = x(start) + 0.75, x(end) - x(start) - 1.5
        group = _add(svg, "g")
        _add(group, "title", f"confidence {confidence:.1%}: accuracy {accuracy:.1%} of {count} answers")
        high, low = sorted((y(accuracy), y(confidence)))
        _add(group, "rect", x=left, width=wide, y=low, height=round(middle - low, 2), class_="bar")
        kind = "gap over" if confidence > accuracy else "gap under"
        _add(group, "rect", x=left, width=wide, y=high, height=round(low - high, 2), class_=kind)
        tall = round(max(1.0, 26 * count / most), 2)
        _add(group, "rect", x=left, width=wide, y=276 - tall, height=tall, class_="share")
    _add(svg, "line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, 294, "confidence, %, and how many answers have it", "label", anchor="middle")
    return _markup(svg)


def _frame(svg: Tree.Element, x: Axis, y: Axis, percent: bool) -> None:
    """Grid lines and numbers of both axes."""
    for tick, shown in _ticks(y, percent):
        _add(svg, "line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid")
        _text(svg, x.start - 6, y(tick) + 4, shown, "tick", anchor="end")
    for tick, shown in _ticks(x, percent):
        if x.high > 1 and tick != int(tick):  # epochs
            continue
        value = f"{tick:.0f}" if x.high > 1 else shown
        _text(svg, x(tick), y.start + 15, value, "tick", anchor="middle")
    _add(svg, "line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis")


def _legend(svg: Tree.Element, series: Sequence[Series], left: float) -> None:
    """The names of the lines beside the title, where there is room for them."""
    right = float(WIDTH - RIGHT)
    if sum(LETTER * len(s.name) + 32 for s in series) > right - left:
        return
    for s in reversed(series):
        right -= LETTER * len(s.name)
        _text(svg, right, 14, s.name, "name")
        _add(svg, "line", x1=right - 18, x2=right - 5, y1=10, y2=10, class_=f"line {s.style}")
        right -= 32


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    points = [(a, b) for a, b in zip(x, y, strict=True) if isfinite(a) and isfinite(b)]
    return [a for a, _ in points], [b for _, b in points]


def _strength(share: float) -> float:
    return 0.06 + 0.94 * float(share**0.7)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.3g}"


def _ticks(axis: Axis, percent: bool) -> list[tuple[float, str]]:
    """An axis's round values with what stands there: as many digits as tell them apart."""
    ticks, shown = axis.ticks(), [""]
    for digits in range(3, 18):
        shown = [_short(100 * tick if percent else tick, digits) for tick in ticks]
        if len({*shown}) == len(shown):
            break
    return list(zip(ticks, shown, strict=True))


def _short(value: float, digits: int) -> str:
    """A number that fits beside an axis: 0.00012 is 1.2e-4."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):.{digits}g}e{int(exponent)}"


def _svg(width: float, height: float, said: str) -> Tree.Element:
    box = f"0 0 {width:.0f} {height:.0f}"
    return Tree.Element("svg", {"viewBox": box, "role": "img", "aria-label": said, "class": "chart"})


def _add(parent: Tree.Element, tag: str, text: str | None = None, **attributes: object) -> Tree.Element:
    """A new element; class_ is class, fill_opacity is fill-opacity."""
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    element = Tree.SubElement(parent, tag, named)
    element.text = text
    return element


def _text(parent: Tree.Element, x: float, y: float, text: str, style: str, *, anchor: str = "start") -> Tree.Element:
    return _add(parent, "text", text, x=round(x, 1), y=round(y, 1), class_=style, text_anchor=anchor)


def _markup(svg: Tree.Element) -> Markup:
    # The tree has escaped whatever came from outside.
    return Markup(Tree.tostring(svg, encoding="unicode"))
