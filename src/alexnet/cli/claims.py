"""What the command says of the paper's claims and of an experiment's outcome, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from alexnet.cli.command import print_json
from alexnet.errors import UsageError
from alexnet.paper.claims import Claim, claim
from alexnet.paper.document import state_of
from alexnet.paper.experiment import Experiment
from alexnet.paper.experiments import experiments, experiments_on
from alexnet.paper.imagenet import imagenet_experiment
from alexnet.paper.results import Finding, Outcome, command_and_time, experiment_called, findings, on_imagenet, runnable
from alexnet.terminal import Terminal, markup


def describe_claim(one: Claim) -> dict[str, Any]:
    """Everything about a claim, for JSON."""
    standing = one.imagenet
    return {
        "number": one.number,
        "section": one.section,
        "title": one.title,
        "says": one.says,
        "imagenet": {
            **asdict(standing),
            "checks": [asdict(check) for check in one.checks()],
            "measured": list(map(_described, on_imagenet(one.number))),
        },
        "experiments": list(map(_described, findings(one.number))),
        "without": None if experiments_on(one.number) else one.without,
        "commands": list(map(command_and_time, runnable(one.number))),
    }


def _described(finding: Finding) -> dict[str, Any]:
    made = finding.outcome and finding.outcome.made
    return {"id": finding.experiment.id, **asdict(finding.verdict), "own": finding.own, "made": made}


def show_claims(chosen: Sequence[Claim]) -> None:
    """A row a claim: where the paper says it, the paper's scale, the small experiments, and what to type for them."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("#", "where", "the paper says", "at its own scale", "small experiment", "reproduce"):
        table.add_column(name, overflow="fold")
    for one in chosen:
        number, where = str(one.number), one.section.replace("abstract", "abs").replace(", ", "\n")
        large = [one.imagenet.state.removeprefix("the "), *map(_short, on_imagenet(one.number))]
        small = [*map(_short, findings(one.number))] or [state_of([])]
        typed = [experiment.id for experiment in runnable(one.number)]
        table.add_row(number, where, one.title, *("\n".join(map(markup, cell)) for cell in (large, small, typed)))
    console = Terminal()
    console.print(table)
    for experiment in experiments().values():
        if not experiment.claims:
            console.print(f"{experiment.id}, beside the claims: {markup(experiment.title)}", soft_wrap=True)
    console.print(
        "\n(own): measured in runs/reproduce of this folder.\n"
        "alexnet claims NUMBER shows the figures and the commands.\n"
        "alexnet reproduce, a word of the last column, --data.root FOLDER: runs it.",
        soft_wrap=not console.is_terminal,
    )


def _short(finding: Finding) -> str:
    return f"{finding.experiment.id}: {state_of([finding])}{' (own)' if finding.own else ''}"


def show_claim(one: Claim) -> None:
    """A claim with its figures, their sources, and what the experiments found."""
    console = Terminal()

    def say(title: str, text: str) -> None:
        console.print(f"[bold]{title}[/bold] {markup(text)}", soft_wrap=not console.is_terminal)

    say(f"claim {one.number} ({one.place}):", one.says)
    say("at the paper's scale:", f"{one.imagenet.state}. {one.imagenet.sentence}".strip())
    found, told = findings(one.number), set()
    for finding in (*on_imagenet(one.number), *found):
        if finding.outcome is None:  # its command stands below
            say(f"{_short(finding)}.", "")
            continue
        say(f"{_short(finding)}.", finding.verdict.sentence)
        if finding.experiment.id not in told:  # a user's own result and the published one have one rule
            say("  rule:", finding.experiment.rule)
            told.add(finding.experiment.id)
    if not found:
        say("small experiment:", f"{state_of([])}: {one.without}.")
    for experiment in runnable(one.number):
        say("to run it:", command_and_time(experiment))


def choose_experiment(what: str, imagenet: bool) -> Experiment:
    """The experiment that a user means by an id or by the number of a claim. Raises UsageError."""
    number = int(what) if what.isdecimal() else None
    if imagenet:
        if number is None:
            raise UsageError(f"--imagenet takes the number of a claim, not {what!r}: see alexnet claims.")
        return imagenet_experiment(number)
    if number is not None:
        one = claim(number)
        if not (on_it := experiments_on(number)):
            raise UsageError(f"claim {number} has no small experiment: {one.without}.")
        return on_it[0]
    return experiment_called(what)


def show_outcome(experiment: Experiment, outcome: Outcome, folder: Path, json: bool) -> None:
    """An experiment's table and verdicts."""
    verdicts = outcome.verdicts(experiment)
    if json:
        print_json({**asdict(outcome), "verdicts": {number: asdict(verdict) for number, verdict in verdicts.items()}})
        return
    console = Terminal()
    shown = experiment.table(outcome.rows)
    table = Table(*map(markup, shown.head), box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for line in shown.lines:
        table.add_row(*map(markup, line))
    console.print(table)
    console.print(f"rule: {markup(experiment.rule)}", soft_wrap=not console.is_terminal)
    for number, verdict in verdicts.items():
        text = f"claim {number}, {claim(number).title}: [bold]{verdict.state}[/bold]. {markup(verdict.sentence)}"
        console.print(text, soft_wrap=not console.is_terminal)
    if outcome.quick:
        console.print("a rehearsal (--quick): these figures say nothing about the paper.")
    console.print(f"written: {markup(str(folder))}: result.json, table.md, figure.png", soft_wrap=True)
