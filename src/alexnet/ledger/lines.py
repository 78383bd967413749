"""All points in order, and the ledger as lines, as rows for files, and in a sentence (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.ledger import layers, learning, normalisation, pixels, shapes, testing
from alexnet.ledger.facts import Facts
from alexnet.ledger.points import Line, Point

POINTS: tuple[Point, ...] = tuple(
    sorted(
        (*normalisation.POINTS, *layers.POINTS, *shapes.POINTS, *pixels.POINTS, *learning.POINTS, *testing.POINTS),
        key=lambda point: point.number,
    )
)


def examine(facts: Facts) -> tuple[Line, ...]:
    """The ledger of a network or run: a line for every point, in order."""
    return tuple(Line(point, point.judge(facts)) for point in POINTS)


def as_rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines as JSON holds them: number, name, paper, release, effect, this, departs_from_paper, departs_from_release
    (true, false, or null where there is nothing to depart from)."""
    return [
        {
            "number": line.point.number,
            "name": line.point.name,
            "paper": line.point.paper,
            "release": line.point.release,
            "effect": line.point.effect,
            "this": line.answer.this,
            "departs_from_paper": line.answer.paper,
            "departs_from_release": line.answer.release,
        }
        for line in lines
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> str:
    """At how many of the points something departs, and at which."""
    paper, release = (
        [str(row["number"]) for row in rows if row[key]] for key in ("departs_from_paper", "departs_from_release")
    )
    verb = "departs" if len(paper) == 1 else "depart"
    return (
        f"of {len(rows)} points, {len(paper)} {verb} from the paper{_listed(paper)} and {len(release)} from the "
        f"released source{_listed(release)}"
    )


def _listed(numbers: list[str]) -> str:
    return f" ({', '.join(numbers)})" if numbers else ""
