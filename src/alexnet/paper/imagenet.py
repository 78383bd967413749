"""The claims that only ImageNet can settle, each as an experiment: which networks, how many seeds, which figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from alexnet.errors import UsageError
from alexnet.figures import new_figure
from alexnet.paper.claims import claim
from alexnet.paper.experiment import STATES, Experiment, Job, Recall, Row, Table, Verdict, has_diverged, seeded
from alexnet.paper.experiments.averages import CLOSE
from alexnet.paper.experiments.specialisation import chroma_shares, contrast
from alexnet.paper.statements import (
    Alike,
    Difference,
    Doubling,
    Level,
    Side,
    Specialising,
    Statement,
    Substantial,
    values_of,
)
from alexnet.recipes import recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

SEEDS = 3
QUERIES, INDEX = 500, 20_000  # photographs whose neighbours are looked for, and among which
_REHEARSED = {"epochs": 2, "stop_after": None, "data.fraction": 0.05, "model.width": 0.0625, "batch_size": 16}


@dataclass(frozen=True)
class Arm:
    """A network that is trained: a recipe, and what differs from it."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A claim's experiment on ImageNet."""

    arms: Mapping[str, Arm]
    says: tuple[Statement, ...]
    remark: str = ""
    """What a reader should know of the arms."""
    seeds: int = SEEDS
    beside: tuple[Side, ...] = ()
    """Figures that no statement is about, which are measured and shown."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """All figures, each once."""
        return tuple(dict.fromkeys([*(side for said in self.says for side in said.sides), *self.beside]))


def _evaluated(run: Run, recall: Recall, views: int, split: str | None = None) -> dict[str, float]:
    def compute() -> dict[str, float]:
        from alexnet.inference.evaluation import evaluate

        result = evaluate(run.last, split, views=views, skip_bad=True)
        return {"top1": 100 * result.top1_error, "top5": 100 * result.top5_error}

    found: dict[str, float] = recall(f"{run.path.name}-{split or 'held-out'}-{views}", compute)
    return found


def _epochs_to_convergence(run: Run, _: Recall) -> float:
    """The epochs after which the validation error stays within a point of its last value."""
    errors = [1 - row["val_top1"] for row in run.epochs]
    beyond = [epoch for epoch, error in enumerate(errors, 1) if error > errors[-1] + 0.01]
    return float(max(beyond, default=0) + 1)


def _neighbours(run: Run, recall: Recall) -> Any:
    from alexnet.paper.evaluations import nearest_training_images

    return recall(f"{run.path.name}-neighbours", lambda: nearest_training_images(run, QUERIES, CLOSE, INDEX))


TOP1 = "top-1, ten views, %"
TOP5 = "top-5, ten views, %"
CENTRE1 = "top-1, centre, %"
CENTRE5 = "top-5, centre, %"
TRAINING = "training top-1, %"
GAP = "gap to training, points"
EPOCHS = "epochs to convergence"
FIRST = "error while training, epoch 1, %"
COLOUR = "colour of one column over that of the other"
NEAR = "training images nearer in pixels than neighbours in fc7, %"
FIGURES: dict[str, Callable[[Run, Recall], Any]] = {
    TOP1: lambda run, recall: _evaluated(run, recall, 10)["top1"],
    TOP5: lambda run, recall: _evaluated(run, recall, 10)["top5"],
    CENTRE1: lambda run, recall: _evaluated(run, recall, 1)["top1"],
    CENTRE5: lambda run, recall: _evaluated(run, recall, 1)["top5"],
    TRAINING: lambda run, recall: _evaluated(run, recall, 1, "train")["top1"],
    GAP: lambda run, recall: _evaluated(run, recall, 1)["top1"] - _evaluated(run, recall, 1, "train")["top1"],
    EPOCHS: _epochs_to_convergence,
    FIRST: lambda run, recall: 100 * (1 - float(run.epochs[0]["train_top1"])),
    COLOUR: chroma_shares,
    NEAR: _neighbours,
}
SHOWN: dict[str, Callable[[Any], float]] = {COLOUR: contrast, NEAR: lambda found: 100 * float(found["mean rank"])}
"""How a figure that is more than a number becomes one, for tables and pictures."""
_NET = Arm("net145")
_NO_DROPOUT = {"with": Arm("imagenet-paper"), "without": Arm("imagenet-paper", {"model.dropout": 0.0})}
_PAPER = (
    "The recipe follows the paper's text, whose dropout has an off: the released network's rates suit its masks alone."
)


_2010 = recipe("net145-2010")
_MIDDLE = ("conv3", "conv4")
# Without a convolution all later layers have the number of the one before.
_EARLIER = tuple(rule.replace("fc7.", "fc6.").replace("fc8.", "fc7.") for rule in recipe("net145").optim.rules)
_NET147 = Arm("net145", {"model.variant": "net147"})
_ALIKE = "All are trained with net 145's schedule, rates and noise; the released ones had their own."
_NORMS = ("norm1", "norm2", "norm2b")
_ON_2010 = (
    "--data.root must hold ILSVRC-2010, and its val/ the images of the test in folders of their classes: the paper and "
    "the released log have these figures on those."
)


def _costs(
    lacking: str,
    arm: Arm,
    top1: float,
    top5: float,
    net: Arm = _NET,
    others: Mapping[str, Arm] | None = None,
    **more: Any,
) -> Study:
    """A network that lacks something of net 145, less accurate by so many points; `others` are trained beside them."""
    points = {TOP1: top1, TOP5: top5}
    says = tuple(Difference((lacking, figure), ("net145", figure), points[figure]) for figure in points)
    return Study({"net145": net, lacking: arm, **(others or {})}, says, **more)


STUDIES: dict[int, Study] = {
    10: _costs(
        "one-column",
        Arm(
            "net145-half",
            {
                "epochs": _2010.epochs,
                "data.noise_until": _2010.data.noise_until,
                "optim.drops": _2010.optim.drops,
                "optim.rules": _2010.optim.rules,
            },
        ),
        top1=1.7,
        top5=1.2,
        net=Arm("net145-2010"),
        remark=f"{_ON_2010} Both networks are trained as the whole one was, and differ in the column alone: the "
        "released half one had rates of its own, and its file does not say when the third drop came.",
    ),
    11: _costs(
        "no-norms",
        Arm("net145", {"model.variant": "net148"}),
        top1=1.4,
        top5=1.2,
        others={f"no-{norm}": Arm("net145", {"model.variant": f"net145-no-{norm}"}) for norm in _NORMS},
        beside=tuple((f"no-{norm}", TOP1) for norm in _NORMS),
        remark="Net 148 lacks three normalisations at once; the networks that lack one of them are shown beside. "
        f"{_ALIKE}",
    ),
    13: _costs("no-overlap", _NET147, 0.4, 0.3, remark=_ALIKE),
    14: Study(
        {"net145": _NET, "no-overlap": _NET147},
        (Difference(("no-overlap", GAP), ("net145", GAP)),),
        _ALIKE,
    ),
    17: Study(
        {"net145": _NET, "no-crops": Arm("net145", {"data.resize": 224, "data.flip": False})},
        (Substantial(("no-crops", GAP), ("net145", GAP)),),
        "Without crops the photographs are resized to the network's own 224 pixels, and only the long side is cut.",
    ),
    18: Study(
        {"net145": _NET, "no-colour-noise": Arm("net145", {"data.noise_probability": 0.0})},
        (Difference(("no-colour-noise", TOP1), ("net145", TOP1), 1.0, or_more=True),),
    ),
    19: Study(
        {"net145": Arm("net145-2010")},
        (
            Difference(("net145", CENTRE1), ("net145", TOP1), 1.5),
            Difference(("net145", CENTRE5), ("net145", TOP5), 1.3),
        ),
        _ON_2010,
    ),
    20: Study(_NO_DROPOUT, (Doubling(("with", EPOCHS), ("without", EPOCHS), recipe("imagenet-paper").epochs),), _PAPER),
    21: Study(_NO_DROPOUT, (Substantial(("without", GAP), ("with", GAP)),), _PAPER),
    23: Study(
        {"net145": _NET, "no-decay": Arm("net145", {"optim.weight_decay": 0.0})},
        (Difference(("no-decay", TRAINING), ("net145", TRAINING)),),
    ),
    24: Study(
        {"biases-1": Arm("imagenet-paper"), "biases-0": Arm("imagenet-paper", {"model.positive_bias": 0.0})},
        (Difference(("biases-0", FIRST), ("biases-1", FIRST)),),
    ),
    26: Study(
        {"net145": Arm("net145-2010")},
        (Level(("net145", TOP1), 37.5), Level(("net145", TOP5), 17.0)),
        f"{_ON_2010} On 2012 the figures are claim 27's.",
    ),
    27: Study(
        {"net145": _NET},
        (Level(("net145", TOP1), 40.7), Level(("net145", TOP5), 18.2)),
        'The single network alone, a part of the claim: "direction only" at most. For the five averaged: alexnet '
        "evaluate RUN RUN RUN RUN RUN --views 10.",
        seeds=5,
    ),
    30: Study({"net145": _NET}, (Specialising(("net145", COLOUR)),), seeds=5),
    31: Study(
        {"net145": _NET},
        (Alike(("net145", NEAR)),),
        f"{QUERIES} photographs of the test, and {INDEX:,} of the training, drawn at random, to find neighbours among.",
        seeds=1,
    ),
    32: Study(
        {
            "net145": _NET,
            **{
                f"without-{layer}": Arm("net145", {"model.without": layer, "optim.rules": _EARLIER})
                for layer in _MIDDLE
            },
        },
        tuple(Difference((f"without-{layer}", TOP1), ("net145", TOP1), 2.0) for layer in _MIDDLE),
        "The paper does not say which layers it means; these two have no pooling of their own.",
    ),
}


def imagenet_experiment(number: int) -> Experiment:
    """The experiment that settles a claim on ImageNet. Raises UsageError for a claim that it cannot settle."""
    if number not in STUDIES:
        known = ", ".join(map(str, STUDIES))
        raise UsageError(
            f"claim {number} has no experiment on ImageNet ({claim(number).imagenet.state}); {known} have."
        )
    study = STUDIES[number]
    arms = "; ".join(f"{name}: {arm.recipe} {dict(arm.changes) or ''}".strip() for name, arm in study.arms.items())
    return Experiment(
        id=f"imagenet-{number}",
        title=f"{claim(number).title}, on ImageNet",
        claims=(number,),
        method=f"{study.seeds} seed{'s' if study.seeds > 1 else ''} of each ({arms}). Errors are of the last weights: "
        f"the split that they are measured on chooses none. {study.remark}".strip(),
        rule=" ".join(
            [
                *dict.fromkeys(said.rule for said in study.says),
                *["Of several figures the least favourable verdict counts."] * (len(study.says) > 1),
            ]
        ),
        data="ImageNet (ILSVRC-2012 unless said otherwise), original or prepared, under --data.root.",
        hours=3.0 * study.seeds * len(study.arms),
        machine="a GPU that gets 15,000 images a second (an estimate)",
        plan=partial(plan, study),
        measure=partial(measure, study),
        judge=partial(judge, number),
        draw=draw,
        table=table,
    )


def plan(study: Study, finished: Mapping[str, Run], quick: bool) -> list[Job]:
    """Every arm with every seed; a rehearsal takes narrow networks, few photographs and two epochs."""
    jobs = []
    for name, arm in study.arms.items():
        config = recipe(arm.recipe, **{**arm.changes, **(_REHEARSED if quick else {})})
        jobs += seeded(name, config, range(min(2, study.seeds) if quick else study.seeds))
    return jobs


def measure(study: Study, runs: Mapping[str, Run], recall: Recall) -> list[Row]:
    """One row a figure of a run: "arm", "seed", "figure", "value" (null where it diverged)."""
    return [
        {
            "arm": arm,
            "seed": run.config.seed,
            "figure": figure,
            "value": None if has_diverged(run) else FIGURES[figure](run, recall),
        }
        for arm, figure in study.sides
        for name, run in runs.items()
        if name.rpartition("-seed")[0] == arm
    ]


def judge(number: int, rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rules of what the claim says; of several statements the least favourable verdict counts, and a part of a
    claim is no more than its direction."""
    verdicts = [said.judge(rows) for said in STUDIES[number].says]
    state = max((verdict.state for verdict in verdicts), key=STATES.index)
    if claim(number).partly and state == "reproduced":
        state = "direction only"
    numbers = {f"{name} {i}": value for i, v in enumerate(verdicts, 1) for name, value in v.numbers.items()}
    return {number: Verdict(state, " ".join(verdict.sentence for verdict in verdicts), numbers)}


def _numbers(rows: Sequence[Row], side: Side) -> list[float]:
    return [SHOWN.get(side[1], float)(value) for value in values_of(rows, side)]


def draw(rows: Sequence[Row]) -> Figure:
    """Every figure with its arms side by side, a dot a seed and a line at their mean."""
    names = list(dict.fromkeys(row["figure"] for row in rows)) or [""]
    figure = new_figure(3.2 * len(names), 3.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        arms = list(dict.fromkeys(row["arm"] for row in rows if row["figure"] == name))
        for x, arm in enumerate(arms):
            dots = _numbers(rows, (arm, name))
            axes.plot([x] * len(dots), dots, "o", color="tab:blue", alpha=0.6)
            if dots:
                axes.plot([x - 0.2, x + 0.2], [mean(dots)] * 2, color="black", lw=1)
        axes.set_xticks(range(len(arms)), arms)
        axes.set_title(name, fontsize=9)
        axes.margins(x=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def table(rows: Sequence[Row]) -> Table:
    """One line for each arm and figure."""
    lines = []
    for side in dict.fromkeys((row["arm"], row["figure"]) for row in rows):
        found = _numbers(rows, side)
        spread = f"{min(found):.2f} to {max(found):.2f}" if found else ""
        lines.append((*side, f"{mean(found):.2f}" if found else "diverged", spread, str(len(found))))
    return Table(("network", "figure", "mean", "from to", "seeds"), tuple(lines))
