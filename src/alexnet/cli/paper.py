"""The verbs on the paper itself: claims, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alexnet.cli.command import PAPER, Count, app, note_load, print_json, start_computing


@app.command(group=PAPER)
def claims(number: int | None = None, /, *, json: bool = False) -> None:
    """List what the paper claims, and whether it holds: by arithmetic, by the released logs, in small experiments.

    Parameters
    ----------
    number
        Show this claim alone, with its figures and their sources.
    json
        Print as JSON.
    """
    from alexnet.cli.claims import describe_claim, show_claim, show_claims
    from alexnet.paper.claims import CLAIMS, claim

    chosen = CLAIMS if number is None else (claim(number),)
    if json:
        print_json([describe_claim(one) for one in chosen])
    elif number is None:
        show_claims(chosen)
    else:
        show_claim(*chosen)


@app.command(group=PAPER)
def reproduce(
    what: str,
    /,
    *,
    root: Annotated[str, Parameter(name="--data.root")] = "data",
    run: Path | None = None,
    jobs: Count | None = None,
    quick: bool = False,
    imagenet: bool = False,
    json: bool = False,
) -> None:
    """Run an experiment on a claim of the paper, or go on where it was stopped: trainings, measurements, verdicts.

    Parameters
    ----------
    what
        An experiment, S0 to S11, photographs or ladder, or the number of a claim, 1 to 32, whose first one is meant
        (`alexnet claims` shows which is about what).
    root
        Folder that holds the data sets, or receives their download.
    run
        Folder for all of it; without it runs/reproduce/EXPERIMENT. The same command again goes on there.
    jobs
        Trainings side by side, which share the cores; without it one a core, at most 4, and 1 on a GPU. To the same
        bits it goes on with the same number.
    quick
        A rehearsal of minutes, whose figures say nothing about the paper.
    imagenet
        The claim at the paper's scale: trains on the ImageNet under --data.root, for hours on a GPU.
    json
        Print the rows and verdicts as JSON.
    """
    from alexnet.cli.claims import choose_experiment, show_outcome
    from alexnet.paper.reporter import Reporter
    from alexnet.paper.reproduce import default_jobs
    from alexnet.paper.reproduce import reproduce as run_experiment
    from alexnet.paper.results import default_folder

    experiment = choose_experiment(what, imagenet)
    folder = run or default_folder(experiment.id, quick)
    if not json:
        note_load()
    start_computing()
    reporter = Reporter(quiet=json)
    outcome = run_experiment(experiment, folder, root=root, jobs=jobs or default_jobs(), quick=quick, reporter=reporter)
    show_outcome(experiment, outcome, folder, json)
