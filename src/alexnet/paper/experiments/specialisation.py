"""S9: whether the kernels of two columns specialise, one on colour and one on form (section 6.1, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import TYPE_CHECKING

from alexnet.config.values import override
from alexnet.figures import new_figure
from alexnet.paper.arms import WHERE100, Arms
from alexnet.paper.experiment import Experiment, Recall, Row, State, Table, Verdict
from alexnet.paper.experiments.columns import CIFAR100, REHEARSAL
from alexnet.paper.plots import COLOURS, tidy
from alexnet.paper.rules import SIGNIFICANT
from alexnet.paper.statistics import permutation_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

TWO_COLUMNS, CONTROL = "two-columns", "no-groups"
MOST, CHANCE = 0.8, 0.2  # of the runs
LARGELY = 2.0  # times the share of colour
SPECIALISED = (
    f'"Reproduced" if they do in {MOST:.0%} of the runs or more, and in the median run one column has at least '
    f'{LARGELY:g} times the share of colour of the other (the paper: "largely"), "direction only" if they do in more '
    f"than {CHANCE:.0%} (which chance alone exceeds once in a hundred times with ten runs, twice with five), else "
    '"not reproduced".'
)
LEAST = 5  # runs that say something
POWER = (
    f'What would be "not reproduced" is "inconclusive" if the test would have missed such columns: if, of the kernels '
    f"in even and in odd places, those in odd ones were given {LARGELY:g} times their share of colour (at most all), "
    f"and the test found that in fewer than {MOST:.0%} of the runs."
)
TESTED = (
    f"In each run a permutation test (p < {SIGNIFICANT}) says whether the two columns of conv1 differ in the mean "
    "share of colour of their kernels."
)
COLUMNS = (
    f'{TESTED} {SPECIALISED} "Inconclusive" with fewer than {LEAST} runs, or if kernels in even and odd places, which '
    f"have nothing to do with columns, differ in more than {CHANCE:.0%} of them. {POWER}"
)
ARMS = Arms(
    override(
        CIFAR100,
        {"name": "specialisation", "epochs": 20, "optim.drops": (14, 18), "model.width": 0.5, "data.std": (0.25,)},
    ),
    {TWO_COLUMNS: {}, CONTROL: {"model.groups": 1}},
    seeds=10,
    rehearsal=REHEARSAL | {"model.width": 0.25},
)


def chroma_shares(run: Run, recall: Recall) -> list[float]:
    """The first layer's kernels' shares of colour at the end of a run (`colour_shares`)."""

    def compute() -> list[float]:
        from alexnet.inference.kernels import colour_shares, first_kernels
        from alexnet.inference.trained import open_trained

        return [round(float(share), 5) for share in colour_shares(first_kernels(open_trained(run.last)))]

    found: list[float] = recall(f"{run.path.name}-chroma", compute)
    return found


def halves(shares: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The kernels of the first column and of the second."""
    middle = len(shares) // 2
    return shares[:middle], shares[middle:]


def contrast(shares: Sequence[float]) -> float:
    """The mean share of colour of the half that has more of it, over that of the other."""
    less, more = sorted(mean(half) for half in halves(shares))
    return more / max(less, 1e-9)


def judge_specialisation(runs: Sequence[Sequence[float]]) -> tuple[State, str, dict[str, float]]:
    """By the rule `SPECIALISED`, from the shares of each run with columns: a state, and what to tell of it."""
    differ = [p_value(shares) < SIGNIFICANT for shares in runs]
    times = median([contrast(shares) for shares in runs]) if runs else 1.0
    sentence = (
        f"The columns of conv1 differ in their share of colour (p < {SIGNIFICANT}) in {sum(differ)} of {len(runs)} "
        f"runs, in the median run by a factor of {times:.2g}; the paper: in every run."
    )
    numbers = {"columns": float(sum(differ)), "runs": float(len(runs)), "times": times}
    if runs and mean(differ) >= MOST and times >= LARGELY:
        return "reproduced", sentence, numbers
    return "direction only" if runs and mean(differ) > CHANCE else "not reproduced", sentence, numbers


def judge_columns(runs: Sequence[Sequence[float]], control: Sequence[Sequence[float]] = ()) -> Verdict:
    """The verdict on columns that specialise, by `SPECIALISED`, from the shares of runs with columns and of a control.

    Where there are no runs without columns to compare with, the control are the same kernels in halves that have
    nothing to do with columns: those in even and those in odd places (the rule `COLUMNS`).
    """
    state, sentence, numbers = judge_specialisation(runs)
    differ = [p_value(shares) < SIGNIFICANT for shares in control or [[*each[::2], *each[1::2]] for each in runs]]
    if control:
        sentence += f" The halves of conv1 differ so in {sum(differ)} of {len(differ)} runs without groups."
    else:
        sentence += f" Kernels in even and odd places differ so in {sum(differ)}."
    weak = min(len(runs), len(differ)) < LEAST or mean(differ) > CHANCE
    if state == "not reproduced" and not weak:
        found = mean(p_value([*each[::2], *(min(1.0, LARGELY * s) for s in each[1::2])]) < SIGNIFICANT for each in runs)
        sentence += f" Planted columns would have been found in {found:.0%}."
        weak = found < MOST
    return Verdict("inconclusive" if weak else state, sentence, numbers | {"control": float(sum(differ))})


def p_value(shares: Sequence[float]) -> float:
    """The p-value that it does not matter for a kernel's share of colour in which half it stands."""
    return permutation_test(*halves(shares))


def _shares(rows: Sequence[Row], arm: str) -> list[list[float]]:
    return [row["chroma"] for row in rows if row["arm"] == arm and row["chroma"] is not None]


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    without = _shares(rows, CONTROL)
    if not without:
        return {30: Verdict("inconclusive", "No run without groups ended, to compare with.")}
    return {30: judge_columns(_shares(rows, TWO_COLUMNS), without)}


def draw(rows: Sequence[Row]) -> Figure:
    """For each run the share of colour of every kernel, the first half's and the second's beside each other."""
    figure = new_figure(5.4, 4.6)
    for axes, arm in zip(figure.subplots(2, 1, sharex=True, sharey=True), (TWO_COLUMNS, CONTROL), strict=True):
        for row in (row for row in rows if row["arm"] == arm and row["chroma"] is not None):
            for side, half, colour in zip((-0.16, 0.16), halves(row["chroma"]), COLOURS, strict=False):
                place = row["seed"] + side
                axes.plot([place] * len(half), half, "o", ms=3.5, color=colour, alpha=0.4, mew=0)
                axes.plot([place - 0.13, place + 0.13], [mean(half)] * 2, lw=2.5, color=colour)
        axes.set(ylabel="share of colour", title=arm.replace("-", " "), ylim=(-0.02, 1.02))
        tidy(axes)
    axes.set_xlabel("run (its two halves of conv1, with their means)")
    return figure


def table(rows: Sequence[Row]) -> Table:
    """One line a run."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["arm"] != TWO_COLUMNS, row["seed"])):
        if row["chroma"] is None:
            cells = ["none"] * 3
        else:
            cells = [*(f"{mean(half):.3f}" for half in halves(row["chroma"])), f"{p_value(row['chroma']):.4f}"]
        lines.append((row["arm"], str(row["seed"]), *cells))
    return Table(("arm", "seed", "first half", "second half", "p"), tuple(lines))


EXPERIMENT = Experiment(
    id="S9",
    title="columns that specialise (figure 3)",
    claims=(30,),
    method="The `cifar` network, the paper's layers for images of 32 pixels, at half its width, with crops, "
    "reflections and dropout, in two columns and, as a control, without groups, where the halves of conv1 mean "
    "nothing. All channels are divided by the same number, so that grey stays grey. He's initial weights with an "
    "output layer near zero, 20 epochs, a rate of 0.02 divided by ten after 14 and 18, ten seeds. Of each of the 48 "
    "kernels of conv1 the share of its squared weights is measured that lies outside the direction of equal red, "
    "green and blue, and the means of the two halves are compared.",
    rule=f"In each run a permutation test (p < {SIGNIFICANT}) says whether the halves differ in their mean share of "
    f'colour. {SPECIALISED} "Inconclusive" if the control\'s halves differ in more than {CHANCE:.0%} of its runs, '
    f"or fewer than five runs of either ended. {POWER}",
    data="CIFAR-100 in the place of ImageNet: all 50,000 training images. " + WHERE100,
    hours=4.0,
    plan=ARMS.plan,
    measure=ARMS.measuring({"chroma": chroma_shares}),
    judge=judge,
    draw=draw,
    table=table,
    run_by_run=True,
    open_questions=(
        "Kernels of 5x5 pixels on images of 32 have less room for form than kernels of 11x11 on images of 224.",
        "At the scale of these pixels the normalisation is all but a constant, in the paper it acts within each "
        "column.",
    ),
)
