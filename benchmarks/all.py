"""Measure everything again and rewrite the tables: benchmarks/README.md and the speed table of README.md.

    uv run python benchmarks/all.py [SECTION ...]

Each section's rows are kept in benchmarks/results/, so that one can be measured again alone. Run it on a quiet machine.
The input has a script of its own (input.py), because it wants real photographs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import convolutions
import cyclopts
import loop
import lrn
import networks
import whole
from common import Row, machine

from alexnet.compute import configure_process, resolve_compute

SECTIONS: dict[str, Callable[..., list[Row]]] = {
    "networks": networks.measure,
    "convolutions": convolutions.measure,
    "lrn": lrn.measure,
    "loop": loop.measure,
    "whole": whole.measure,
}
HERE = Path(__file__).parent


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| what | measured | goal | |", "|---|---:|---:|---|"]
    for row in rows:
        goal = ""
        if row.goal is not None:
            limit = row.form.format(row.goal)
            goal = f"{'at most' if row.below else 'at least'} {limit}{'' if row.met else ', missed'}"
        lines.append(f"| {row.what} | {row.form.format(row.value)} | {goal} | {row.detail} |")
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the marks of `name` replaced."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in text or end not in text:
        raise SystemExit(f"the marks {start} and {end} are missing")
    return re.sub(
        f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.DOTALL
    )


def render(folder: Path) -> None:
    """Rewrite both READMEs under `folder` from its results."""
    found: dict[str, dict[str, Any]] = {
        path.stem: json.loads(path.read_text()) for path in sorted((folder / "benchmarks" / "results").glob("*.json"))
    }
    ordered = {name: found[name] for name in SECTIONS if name in found}
    rows = {name: [Row(**row) for row in section["rows"]] for name, section in ordered.items()}
    everything = "\n\n".join(
        f"### {name}\n\n`{section['command']}`; {section['machine']}\n\n{table(rows[name])}"
        for name, section in ordered.items()
    )
    whole = folder / "benchmarks" / "README.md"
    whole.write_text(between(whole.read_text(encoding="utf-8"), "results", everything))
    front = folder / "README.md"
    best = [row for name in ordered for row in rows[name] if row.headline]
    front.write_text(between(front.read_text(encoding="utf-8"), "speed", table(best)))


def main(*sections: str, device: str = "auto", toy: bool = False, only_tables: bool = False) -> None:
    """Measure and write.

    Parameters
    ----------
    sections
        Some of networks, convolutions, lrn, loop, whole; without any all of them.
    device
        auto, cpu, cuda or cuda:N.
    toy
        Tiny sizes, printed and not kept: to see that everything runs.
    only_tables
        Rewrite the tables from the kept results.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    configure_process()
    for name in () if only_tables else sections or SECTIONS:
        rows = SECTIONS[name](device=device, toy=toy)
        print(f"{name}\n{table(rows)}\n", flush=True)
        if rows and not toy:  # convolutions.py measures processors alone
            place = resolve_compute(device, "auto").device
            command = f"uv run python benchmarks/all.py {name}" + (f" --device {device}" if device != "auto" else "")
            told = {"command": command, "machine": machine(place), "rows": [asdict(row) for row in rows]}
            path = HERE / "results" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(told, indent=1) + "\n")
    if not toy:
        render(HERE.parent)


if __name__ == "__main__":
    cyclopts.run(main)
