"""The report as a document: one HTML file that needs nothing else, and its machine-readable twin."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from alexnet.data.sources import MEMORY, known_to_programs_alone
from alexnet.errors import UsageError
from alexnet.files import make_ready, write_atomically, writing
from alexnet.metrics import Result
from alexnet.report import charts
from alexnet.report.charts import Series
from alexnet.report.contents import Family, RunContents, compare_runs, finite
from alexnet.runs.provenance import now
from alexnet.terminal import printable

FORMAT = 1
"""Of report.json."""
NONE = "\N{EN DASH}"
SPLITS = (("train", "training"), ("val", "validation"))


def write_report(runs: Sequence[RunContents], out: Path) -> Path:
    """Write a report of one run, or of several side by side, to an HTML file, and report.json's content beside it under
    the same name with .json. Returns the second path. Raises UsageError where that cannot be done."""
    check_out(out)
    twin = out.with_suffix(".json")
    with writing(out, "--out"):
        write_atomically(twin, (json.dumps(as_dict(runs), indent=1, allow_nan=False) + "\n").encode())
        write_atomically(out, render(runs).encode(errors="backslashreplace"))
    return twin


def check_out(out: Path) -> None:
    """Raise UsageError for a page that cannot be written there, or whose twin would replace a file that is no report's,
    such as a run's own."""
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise UsageError(f"--out {out} is no name for a page: end it in .html.")
    twin = out.with_suffix(".json")
    if twin.exists() and not _is_report(twin):
        raise UsageError(
            f"--out {out}: {twin}, which goes beside it, is there and is no report's; choose another name."
        )
    make_ready(out, "--out")


def _is_report(file: Path) -> bool:
    try:
        there = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(there, dict) and {"format", "written", "runs"} <= there.keys()


def as_dict(runs: Sequence[RunContents]) -> dict[str, Any]:
    """The report for JSON: its format, when and by which version it was written, each run (`RunContents.to_dict`), and
    of several runs what they have together; numbers that JSON does not know are null."""
    family = compare_runs(runs)
    content: dict[str, Any] = finite(
        {
            "format": FORMAT,
            "written": now(),
            "alexnet": version("alexnet"),
            "runs": [run.to_dict() for run in runs],
            "family": family.to_dict() if family else None,
        }
    )
    return content


def render(runs: Sequence[RunContents]) -> str:
    """The report as HTML. Nothing in it is loaded from elsewhere and nothing runs, which its content security policy
    holds it to; text of any origin is escaped."""
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"percent": percent, "points": points, "number": number, "lines": lines}
    style = files("alexnet.report").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    family = compare_runs(runs)
    return page.get_template("report.html").render(
        runs=runs,
        family=family,
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        charts=charts,
        curves=draw_curves,
        overview=draw_overview,
        again=again,
        by_accuracy=by_accuracy,
        written=now(),
        version=version("alexnet"),
    )


def draw_curves(run: RunContents) -> list[Markup]:
    """Loss, accuracy and learning rate of a run over its epochs, as far as it has them."""
    rows = run.epochs

    def of(figure: str) -> list[Series]:
        return [_series(name, split, rows, f"{split}_{figure}") for split, name in SPLITS]

    return _drawn(
        [
            charts.draw_lines("loss", of("loss")),
            charts.draw_lines("top-1 accuracy", of("top1"), percent=True),
            charts.draw_lines("learning rate", [_series("it", "rate", rows, "lr")], log=True),
        ]
    )


def draw_overview(family: Family, runs: Sequence[RunContents]) -> list[Markup]:
    """Several runs in the same charts, each in the colour that it has in the table."""
    named = [(f"s{n % 8}", run) for n, run in enumerate(runs)]
    return _drawn(
        [
            charts.draw_lines("validation loss", [_series(r.name, s, r.epochs, "val_loss") for s, r in named]),
            charts.draw_lines(
                "validation top-1", [_series(r.name, s, r.epochs, "val_top1") for s, r in named], percent=True
            ),
            charts.draw_lines("training loss", [_series(r.name, s, r.epochs, "train_loss") for s, r in named]),
        ]
    )


def by_accuracy(result: Result) -> list[tuple[str, int, float]]:
    """Every class with its images and its top-1 accuracy, lowest first; a class without images comes last."""
    counts = result.confusion.sum(axis=1).tolist()
    rows = [(name, count, value) for (name, value), count in zip(result.per_class.items(), counts, strict=True)]
    return sorted(rows, key=lambda row: (row[1] == 0, row[2] if row[1] else 0.0))


def again(run: RunContents) -> list[tuple[str, str]]:
    """What to type to do it again: what each command is for, and the command."""
    folder = str(run.run.path)
    settings = str(run.run.path / "config.yaml")
    if known_to_programs_alone(source := run.config.data.source):
        call = f'alexnet.evaluate("{folder}"{", data=..." if source == MEMORY else ""})'
        return [("its accuracy measured again, by a program that has the images", call)]
    split = ["--split", run.result.split] if run.result and run.result.split != "test" else []  # that is what they take
    root = run.measured.result.measured["data"]["root"] if run.measured else None
    own = os.path.abspath(os.path.expanduser(run.config.data.root))
    elsewhere = ["--data.root", root] if root not in (None, own) else []
    typed = [str(run.sessions[0]["command"])] if run.sessions and "command" in run.sessions[0] else []
    return [
        *(("as it was typed", command) for command in typed),
        ("the same training once more", shlex.join(["alexnet", "train", settings, "--run", f"{folder}-again"])),
        ("its accuracy measured again", shlex.join(["alexnet", "evaluate", folder, *split, *elsewhere])),
        ("this report", shlex.join(["alexnet", "report", folder, *split, *elsewhere])),
    ]


def percent(value: float | None, digits: int = 2) -> Markup:
    """A fraction as percent, on one line; a dash stands for none."""
    return Markup(NONE if value is None or value != value else f"{100 * value:.{digits}f}&nbsp;%")


def points(value: float) -> Markup:
    """A difference of two fractions in percentage points, on one line."""
    return Markup(f"{100 * value:.2f}&nbsp;points")


def number(value: Any, digits: int = 4) -> str:
    """A number as people write it; a dash stands for none."""
    if not isinstance(value, int | float) or value != value:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def lines(text: str) -> Markup:
    """Text of several lines, each made printable, with its line breaks."""
    return Markup("\n").join(escape(printable(line)) for line in text.splitlines())


def _printed(value: Any) -> Any:
    """What a template shows: text of any origin on one line, without control characters, and other values as words."""
    if isinstance(value, Mapping):
        return printable(", ".join(f"{key} {_printed(item)}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return printable(", ".join(str(_printed(item)) for item in value)) or NONE
    if value is None or isinstance(value, bool):
        return {None: NONE, True: "yes", False: "no"}[value]
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _series(name: str, style: str, rows: Sequence[dict[str, Any]], key: str) -> Series:
    points = [(r["epoch"], r[key]) for r in rows if isinstance(r.get(key), int | float)]
    return Series(name, style, [x for x, _ in points], [y for _, y in points])


def _drawn(all_charts: Iterable[Markup]) -> list[Markup]:
    return [chart for chart in all_charts if chart]
