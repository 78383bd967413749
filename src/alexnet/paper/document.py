"""docs/paper.md: all claims in the paper's order, from the claims and the published results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alexnet.paper.claims import CLAIMS, Claim
from alexnet.paper.experiment import STATES, Experiment, Table
from alexnet.paper.experiments import experiments
from alexnet.paper.imagenet import STUDIES, imagenet_experiment
from alexnet.paper.results import (
    Finding,
    Outcome,
    command_of,
    findings,
    on_imagenet,
    published_outcome,
    read_outcome,
    time_of,
)

RECORDS = Path(__file__).parents[3] / "records"
_HEAD = """# The paper, claim by claim

A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks"
(2012), makes {count} claims that can be checked with numbers. Here they are in the paper's order, under the numbers
that they have in this project, each with what is known of it at the paper's own scale (by arithmetic, or from the
figures that came with the released code) and what a small experiment of ours found. A small experiment never stands
for the number on ImageNet: it asks whether the effect is there at all.

{found}

Two commands show all of it and repeat the first experiment that trains (about 3 hours on two cores; with `--quick` a
rehearsal of minutes):

```sh
uv run alexnet claims
uv run alexnet reproduce S1 --data.root data
```

"""
_LEGEND = """
## What the words mean

| verdict of a small experiment | means |
|---|---|
| reproduced | the effect is there, at the size that its rule asks for |
| direction only | the effect is there, and smaller or larger than its rule asks for, or in a part of the claim |
| inconclusive | it could not have told, or its parts contradict each other |
| not reproduced | it could have told, and there is no such effect, or the opposite one |
| not testable here | no small experiment can be about it, or none is needed; the reason stands with the claim |
| not yet run | the experiment is written; its command and hours stand with the claim |
| reproduced by construction | it is counted or computed of the network as it is built; nothing is trained |

| at its own scale | means |
|---|---|
| true, false by arithmetic | the figures follow from the network's shapes, and are the paper's or are not |
| plausible by arithmetic | arithmetic only bounds or approximates what the claim says, and agrees |
| the released log agrees (in part), differs | its notes are the errors of the paper (some of them), or others |
| needs ImageNet | a command for it stands with the claim |
| about CIFAR-10 | the claim is about that data set: the small experiment is at its own scale |
| data not to be had | nobody outside can run it |

Where several experiments are about one claim, the least favourable verdict counts; an inconclusive one counts where
there is no other. An experiment that was replaced by a better one (S4's first) counts no more; its record stays.

Every experiment has a rule of its own, which stands with it and was written down before its run, with these
exceptions: S3's was worded anew while it ran, which changed no computation; the rule for differences, S8's too, was
given its words on "more than" after S8's run, whose claims say no such thing; and that for claim 20 was given the
case that a run is too short to show a doubling after S5's run, whose verdict on it was "not reproduced" before. All
figures are computed from the published measurements whenever this page is made. Commands are to be typed as `uv run
alexnet ...` in a clone of the repository.

The number format is the machine's: `--precision auto` computes in bf16 where the processor has instructions for it,
and in float32 elsewhere, so the same command gives somewhat other numbers elsewhere; which it was stands with each
result. The hours beside a command are those of two cores with such instructions (AVX512-BF16); with AVX2 alone, as S0,
S4, S5 and photographs had it, expect two to four times as many.

"The released code" is the authors' own, cuda-convnet, published by the Computer History Museum in 2025
([computerhistory/AlexNet-Source-Code](https://github.com/computerhistory/AlexNet-Source-Code)). Its layer files
number their networks: net 145 is the paper's, 145-half, 147 and 148 are what the paper compares it with, 150 is a
relative that it does not speak of, and their parameter files end with notes of the errors that were measured (the
"log"). The paper's text and that code differ here and there; "weights of the text" and "of the released code" are the
initial weights of one and of the other.
"""


def render() -> str:
    """The page in Markdown. Raises UsageError without SciPy."""
    claims = sorted(CLAIMS, key=_place)
    found = {one.number: findings(one.number, own=False) for one in claims}
    head = ("#", "section", "the paper says", "at its own scale", "small experiment")
    overview = Table(head, tuple(_line(one, found[one.number]) for one in claims))
    explained: dict[str, int] = {}
    sections = [_section(one, found[one.number], explained) for one in claims]
    intro = _HEAD.format(count=len(CLAIMS), found=_found(found))
    beyond = [
        "\n".join([f"\n## {one.id}: {one.title}\n", *_experiment(one, published_outcome(one.id))])
        for one in experiments().values()
        if not one.claims
    ]
    return intro + markdown_table(overview) + _experiments() + _LEGEND + "".join(sections) + "".join(beyond)


def _place(one: Claim) -> list[int]:
    """Where the paper makes a claim, the first place if there are several, to sort by."""
    first = one.section.partition(",")[0]
    return [0] if first == "abstract" else list(map(int, first.split(".")))


def _found(found: Mapping[int, Sequence[Finding]]) -> str:
    """What the small experiments found, claim by claim, in a paragraph."""
    claims: dict[str, list[str]] = {}
    for one in CLAIMS:
        claims.setdefault(state_of(found[one.number]), []).append(f"[{one.number}](#claim-{one.number}) ({one.title})")
    shown = [state for state in claims if state not in ("not yet run", "not testable here")]
    parts = [f"{state.capitalize()}: {', '.join(claims[state])}." for state in shown]
    if open_ones := claims.get("not yet run", []):
        parts.append(f"Not yet run: {', '.join(open_ones)}.")
    if waiting := [one for one in experiments().values() if published_outcome(one.id) is None]:
        hours = sum(one.hours for one in waiting)
        parts.append(f"{len(waiting)} experiments wait, about {hours:.0f} hours on two cores.")
    return "So far: " + " ".join(parts)


def _experiments() -> str:
    """All experiments with their claims and hours."""
    lines = [
        (
            one.id,
            one.title,
            ", ".join(f"[{claim}](#claim-{claim})" for claim in one.claims) or "none",
            f"{one.hours:g}",
            "not yet" if (made := published_outcome(one.id)) is None else str(made.made.get("when"))[:10],
        )
        for one in experiments().values()
    ]
    head = ("experiment", "about", "claims", "hours on two cores", "run")
    return "\n" + markdown_table(Table(head, tuple(lines)))


def _line(one: Claim, found: Iterable[Finding]) -> tuple[str, ...]:
    small = ", ".join(f"{finding.experiment.id}: {state_of([finding])}" for finding in found) or state_of([])
    return f"[{one.number}](#claim-{one.number})", one.section, one.title, _at_its_own_scale(one), small


def _at_its_own_scale(one: Claim) -> str:
    """What is known of a claim at the paper's scale: by a training on ImageNet, where there is a published one."""
    trained = on_imagenet(one.number, own=False)
    return f"{state_of(trained)} on ImageNet" if trained else one.imagenet.state


def _section(one: Claim, found: Iterable[Finding], explained: dict[str, int]) -> str:
    """A claim; `explained` says in whose section each experiment has been told of, which happens once."""
    parts = [
        f"\n## Claim {one.number}\n",
        f"**The paper** ({one.place}): {one.says}\n",
        f"**At its own scale**: {one.imagenet.state}. {one.note}".rstrip() + "\n",
    ]
    for finding in on_imagenet(one.number, own=False):
        parts.append(f"**Trained on ImageNet**: **{finding.verdict.state}**. {finding.verdict.sentence}\n")
        parts += _experiment(finding.experiment, finding.outcome)
    if checks := one.checks():
        head = ("figure", "value", "the paper", "", "source")
        parts.append(markdown_table(Table(head, tuple(check.cells for check in checks))))
    if one.number in STUDIES:
        time = time_of(imagenet_experiment(one.number))
        parts.append(f"On ImageNet: `alexnet reproduce {one.number} --imagenet --data.root FOLDER` ({time})\n")
    found = list(found)
    for finding in found:
        experiment = finding.experiment
        told_of = f"**{experiment.id}, {experiment.title}**: **{state_of([finding])}**. {_told(finding)}"
        parts.append(told_of.rstrip() + "\n")
        if (told := explained.setdefault(experiment.id, one.number)) == one.number:
            parts += _experiment(experiment, finding.outcome)
        else:
            done = "is planned" if finding.outcome is None else "was done"
            parts.append(f"What {done}: [claim {told}](#claim-{told}).\n")
    if not found:
        parts.append(f"**Small experiment**: **{state_of([])}**: {one.without}.\n")
    return "\n".join(parts)


def _told(finding: Finding) -> str:
    return finding.verdict.sentence if finding.outcome is not None else ""


def _experiment(experiment: Experiment, outcome: Outcome | None) -> list[str]:
    """What is done, on which data, by which rule and command, and what was measured if it has been run."""
    parts = [f"What {'is planned' if outcome is None else 'was done'}: {experiment.method}\n"]
    if experiment.data:
        parts.append(f"Data: {experiment.data}\n")
    parts += [f"Rule: {experiment.rule}\n", f"Command: `{command_of(experiment)}` ({time_of(experiment)})\n"]
    if outcome is not None:
        made = outcome.made
        where = f"{made.get('gpu') or made.get('processor')}{formats(made)}"
        record = _record(experiment.id, str(made.get("when")))
        kept = f"[record](../records/{record}/README.md)" if record else "no record"
        trainings = (
            f", {made['runs']} trainings of {made.get('hours')} hours added up (their revisions stand in the record)"
            if made.get("runs")
            else ""
        )
        parts += [
            f"![{experiment.title}](paper/{experiment.id}.png)\n",
            markdown_table(experiment.table(outcome.rows)),
            f"Measured {str(made.get('when'))[:10]} at revision {str(made.get('git'))[:12]} ({kept}){trainings}, on "
            f"{where}, torch {made.get('torch')}.\n",
        ]
    if experiment.open_questions:
        parts.append("Open: " + " ".join(experiment.open_questions) + "\n")
    return parts


@cache
def _record(experiment: str, when: str) -> str | None:
    """The folder under records/ of a result, known by its time."""
    for file in sorted(RECORDS.glob("*/result.json")):
        outcome = read_outcome(file)
        if (outcome.experiment, outcome.made.get("when")) == (experiment, when):
            return file.parent.name
    return None


def formats(made: Mapping[str, Any]) -> str:
    """The number formats that trainings computed in, after the name of a processor; nothing where none is known."""
    return f" in {' and '.join(made['formats'])}" if made.get("formats") else ""


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    lines = [table.head, tuple("---" for _ in table.head), *table.lines]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def summarise() -> str:
    """The verdicts in a sentence of Markdown: how many claims are in which state at the paper's own scale, and how many
    by the published small experiments. Raises UsageError without SciPy."""
    scale = Counter(map(_at_its_own_scale, CLAIMS))
    small = Counter(state_of(findings(one.number, own=False)) for one in CLAIMS)
    counted = [", ".join(f"{state} {count}" for state, count in states.most_common()) for states in (scale, small)]
    return (
        f"**The paper's {len(CLAIMS)} claims** ([docs/paper.md](docs/paper.md)). At its own scale: {counted[0]}. By "
        f"small experiments: {counted[1]}."
    )


def state_of(found: Sequence[Finding]) -> str:
    """What the experiments on one claim say together: the least favourable verdict of those that were run, an
    inconclusive one where there is no other."""
    judged = [finding for finding in found if finding.outcome is not None]
    if not judged:
        return "not yet run" if found else "not testable here"
    told = [finding for finding in judged if finding.verdict.state != "inconclusive"]
    worst = max(told or judged, key=lambda finding: STATES.index(finding.verdict.state))
    assert worst.outcome is not None
    return worst.verdict.state + ("" if worst.outcome.made.get("runs") else " by construction")
