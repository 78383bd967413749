"""The verb doctor: what this machine has, and what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from alexnet.cli.command import MACHINE, app, print_json
from alexnet.errors import AlexNetError
from alexnet.speed.doctor import Finding, examine
from alexnet.terminal import Terminal, markup

COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


@app.command(group=MACHINE)
def doctor(*, root: Annotated[str, Parameter(name="--data.root")] = "data", json: bool = False) -> None:
    """Say what this machine has, what is missing, what that would bring, and what to type for it.

    Number formats, cores, memory, C compiler, GPU, extras, disk and data. The exit code is 0 unless something is broken
    without which nothing works.

    Parameters
    ----------
    root
        Folder in which data sets are looked for.
    json
        Print as JSON.
    """
    findings = []
    for finding in examine(root):
        findings.append(finding)
        if not json:
            _show(finding)
    if json:
        print_json([asdict(finding) for finding in findings])
    if broken := [finding.name for finding in findings if finding.state == "broken"]:
        raise AlexNetError(f"{', '.join(broken)} broken: nothing can be trained or applied before that is mended.")


def _show(finding: Finding) -> None:
    """A line as soon as it is known, with what it would bring and the mend beneath."""
    console = Terminal()
    state = f"[{COLOURS[finding.state]}]{finding.state:7}[/]"
    rows = [(f"{state}  {finding.name:18} ", finding.found)]
    for label, text in (("brings", finding.brings), ("mend", finding.mend)):
        if text and finding.state != "ok":
            rows.append((f"{'':9}{label + ':':>18} ", text))
    if not console.is_terminal:  # whole lines for a log
        for head, text in rows:
            console.print(head + markup(text), soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for head, text in rows:
        grid.add_row(head, markup(text))
    console.print(grid)
