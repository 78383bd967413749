"""The verb report: what runs learned, where they err and how they were made, as a page to read and to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alexnet.cli.command import HAND_ON, app, data_of, start_computing
from alexnet.errors import UsageError


@app.command(group=HAND_ON)
def report(
    *runs: Path,
    out: Path = Path("report.html"),
    split: Literal["test", "val", "train"] | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Write a report of one run, or of several side by side, as one HTML file that needs nothing else.

    It shows the result with its interval, curves, the confusion matrix, the most confused classes and the worst
    mistakes as pictures, calibration, the first layer, where the run departs from the paper, and how to run it again. A
    family of seeds gets its mean and spread. Beside the page lies the same content as JSON.

    Parameters
    ----------
    runs
        Run folders, or the folder of a family.
    out
        The HTML file; the JSON has the same name with .json.
    split
        Part of the data that is measured; without it test, or val where the data has no test split (ImageNet).
    root
        Folder that holds the data set, where it is not the one that the run was trained from. Without data the report
        has what the run wrote down, and no pictures of mistakes.
    device
        auto, cpu, cuda or cuda:N.
    skip_bad
        Leave out images that cannot be read instead of leaving out the measurement.
    """
    if not runs:
        raise UsageError("name the runs to report on: run folders.")
    from alexnet.cli.tables import show_notes
    from alexnet.report.contents import gather, names_of
    from alexnet.report.document import check_out, write_report
    from alexnet.runs.folder import family_of, load_run

    check_out(out)
    # All errors before the first long evaluation.
    opened = [one for run in runs for one in family_of(run) or [load_run(run)]]
    start_computing()
    data = data_of(root)
    gathered = [
        gather(run, name, split, data=data, device=device, skip_bad=skip_bad)
        for run, name in zip(opened, names_of(opened), strict=True)
    ]
    twin = write_report(gathered, out)
    for run in gathered:
        show_notes([f"{run.name}: {note}" for note in run.notes])
    print(f"written: {out} and {twin}")
