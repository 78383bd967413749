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
from alexnet.paper.experiment import Experiment, Job, Recall, Row, Table, Verdict, has_diverged, seeded
from alexnet.paper.rules import DIFFERENCE, LEVEL, RATIO, judge_difference, judge_level, judge_ratio
from alexnet.paper.statistics import paired_t, welch
from alexnet.recipes import recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

SEEDS = 3
_REHEARSED = {"epochs": 2, "stop_after": None, "data.fraction": 0.05, "model.width": 0.0625, "batch_size": 16}


@dataclass(frozen=True)
class Arm:
    """A network that is trained: a recipe, and what differs from it."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """What a claim says of two figures: that the first is larger, perhaps by how much (0: it does not say)."""

    more: tuple[str, str]
    """An arm and a figure of it."""
    less: tuple[str, str]
    claimed: float = 0.0
    or_more: bool = False
    """Whether the claim says more than that."""


@dataclass(frozen=True)
class Doubling:
    """What claim 20 says of two figures: that the first is about twice the second."""

    more: tuple[str, str]
    less: tuple[str, str]


@dataclass(frozen=True)
class Level:
    """What a claim says of one figure of an arm."""

    of: tuple[str, str]
    claimed: float


@dataclass(frozen=True)
class Study:
    """A claim's experiment on ImageNet."""

    arms: Mapping[str, Arm]
    says: tuple[Difference | Doubling | Level, ...]
    remark: str = ""
    """What a reader should know of the arms."""


def _evaluated(run: Run, recall: Recall, views: int, split: str | None = None) -> dict[str, float]:
    def compute() -> dict[str, float]:
        from alexnet.inference.evaluation import evaluate

        result = evaluate(run, split, views=views)
        return {"top1": 100 * result.top1_error, "top5": 100 * result.top5_error}

    found: dict[str, float] = recall(f"{run.path.name}-{split or 'held-out'}-{views}", compute)
    return found


def _epochs_to_convergence(run: Run, _: Recall) -> float:
    """The epochs after which the validation error stays within a point of its last value."""
    errors = [1 - row["val_top1"] for row in run.epochs]
    beyond = [epoch for epoch, error in enumerate(errors, 1) if error > errors[-1] + 0.01]
    return float(max(beyond, default=0) + 1)


FIGURES: dict[str, Callable[[Run, Recall], float]] = {
    "top-1, ten views, %": lambda run, recall: _evaluated(run, recall, 10)["top1"],
    "top-5, ten views, %": lambda run, recall: _evaluated(run, recall, 10)["top5"],
    "top-1, centre, %": lambda run, recall: _evaluated(run, recall, 1)["top1"],
    "top-5, centre, %": lambda run, recall: _evaluated(run, recall, 1)["top5"],
    "training top-1, %": lambda run, recall: _evaluated(run, recall, 1, "train")["top1"],
    "gap to training, points": lambda run, recall: (
        _evaluated(run, recall, 1)["top1"] - _evaluated(run, recall, 1, "train")["top1"]
    ),
    "epochs to convergence": _epochs_to_convergence,
    "error while training, epoch 1, %": lambda run, recall: 100 * (1 - float(run.epochs[0]["train_top1"])),
}
TOP1, TOP5, CENTRE1, CENTRE5, TRAINING, GAP, EPOCHS, FIRST = FIGURES
_NET = Arm("net145")
_NO_DROPOUT = {"with": Arm("imagenet-paper"), "without": Arm("imagenet-paper", {"model.dropout": 0.0})}
_PAPER = (
    "The recipe follows the paper's text, whose dropout has an off: the released network's rates suit its masks alone."
)


def _costs(top1: float, top5: float, **arms: Arm) -> Study:
    """Networks that lack something of net 145, each less accurate by so many points."""
    says = [Difference((name, TOP1), ("net145", TOP1), top1) for name in arms]
    says += [Difference((name, TOP5), ("net145", TOP5), top5) for name in arms]
    return Study({"net145": _NET, **{name.replace("_", "-"): arm for name, arm in arms.items()}}, _dashed(says))


def _dashed(says: Sequence[Difference]) -> tuple[Difference, ...]:
    return tuple(Difference((d.more[0].replace("_", "-"), d.more[1]), d.less, d.claimed) for d in says)


STUDIES: dict[int, Study] = {
    10: _costs(1.7, 1.2, one_column=Arm("net145-half")),
    11: _costs(1.4, 1.2, no_norms=Arm("net148")),
    13: _costs(0.4, 0.3, no_overlap=Arm("net147")),
    14: Study(
        {"net145": _NET, "no-overlap": Arm("net147")},
        (Difference(("no-overlap", GAP), ("net145", GAP)),),
    ),
    17: Study(
        {"net145": _NET, "no-crops": Arm("net145", {"data.resize": 224, "data.flip": False})},
        (Difference(("no-crops", GAP), ("net145", GAP)),),
        "Without crops the photographs are resized to the network's own 224 pixels, and only the long side is cut.",
    ),
    18: Study(
        {"net145": _NET, "no-colour-noise": Arm("net145", {"data.colour_noise": 0.0})},
        (Difference(("no-colour-noise", TOP1), ("net145", TOP1), 1.0, or_more=True),),
    ),
    19: Study(
        {"net145": _NET},
        (
            Difference(("net145", CENTRE1), ("net145", TOP1), 1.5),
            Difference(("net145", CENTRE5), ("net145", TOP5), 1.3),
        ),
    ),
    20: Study(_NO_DROPOUT, (Doubling(("with", EPOCHS), ("without", EPOCHS)),), _PAPER),
    21: Study(_NO_DROPOUT, (Difference(("without", GAP), ("with", GAP)),), _PAPER),
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
        "--data.root must hold ILSVRC-2010; on 2012 the figures are claim 27's.",
    ),
    27: Study(
        {"net145": _NET},
        (Level(("net145", TOP1), 40.7), Level(("net145", TOP5), 18.2)),
        "The single network alone; for the five averaged: alexnet evaluate RUN RUN RUN RUN RUN --views 10.",
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
        method=f"{SEEDS} seeds of each ({arms}). {study.remark}".strip(),
        rule=_rule(study.says[0]),
        data="ImageNet (ILSVRC-2012 unless said otherwise), original or prepared, under --data.root.",
        hours=3.0 * SEEDS * len(study.arms),
        machine="a GPU that gets 15,000 images a second (an estimate)",
        plan=partial(plan, study),
        measure=partial(measure, study),
        judge=partial(judge, number),
        draw=draw,
        table=table,
    )


def _rule(said: Difference | Doubling | Level) -> str:
    if isinstance(said, Doubling):
        return f"Epochs until the validation error stays within a point of its last value. {RATIO}"
    return LEVEL if isinstance(said, Level) else DIFFERENCE


def plan(study: Study, finished: Mapping[str, Run], quick: bool) -> list[Job]:
    """Every arm with every seed; a rehearsal takes narrow networks, few photographs and two epochs."""
    jobs = []
    for name, arm in study.arms.items():
        config = recipe(arm.recipe, **arm.changes, **(_REHEARSED if quick else {}))
        jobs += seeded(name, config, range(2 if quick else SEEDS))
    return jobs


def measure(study: Study, runs: Mapping[str, Run], recall: Recall) -> list[Row]:
    """One row a figure of a run that the claim speaks of: "arm", "seed", "figure", "value" (null where it diverged)."""
    sides = [side for s in study.says for side in ((s.of,) if isinstance(s, Level) else (s.more, s.less))]
    return [
        {
            "arm": arm,
            "seed": run.config.seed,
            "figure": figure,
            "value": None if has_diverged(run) else FIGURES[figure](run, recall),
        }
        for arm, figure in dict.fromkeys(sides)
        for name, run in runs.items()
        if name.rpartition("-seed")[0] == arm
    ]


def values(rows: Sequence[Row], side: tuple[str, str]) -> list[float]:
    """A figure of an arm, one number a seed in the order of these; diverged runs are left out."""
    chosen = [row for row in rows if (row["arm"], row["figure"]) == side and row["value"] is not None]
    return [row["value"] for row in sorted(chosen, key=lambda row: int(row["seed"]))]


def judge(number: int, rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the common rules; of several figures the least favourable verdict counts."""
    verdicts = []
    for said in STUDIES[number].says:
        if isinstance(said, Level):
            sample = values(rows, said.of)
            verdicts.append(judge_level(sample, said.claimed, f"{said.of[0]}, {said.of[1]}"))
            continue
        more, less = values(rows, said.more), values(rows, said.less)
        if min(len(more), len(less)) < 2:
            verdicts.append(Verdict("inconclusive", f"{said.more[0]}: fewer than two runs to compare."))
            continue
        if isinstance(said, Doubling):
            verdicts.append(judge_ratio(more, less))
            continue
        found = paired_t(more, less) if said.more[0] == said.less[0] else welch(more, less)
        what = f"{said.more[1]} of {said.more[0]} less {said.less[1]} of {said.less[0]}, {len(less)} seeds"
        verdicts.append(judge_difference(found, said.claimed, what, said.or_more))
    order = ["reproduced", "direction only", "inconclusive", "not reproduced"]
    worst = max(verdicts, key=lambda verdict: order.index(verdict.state))
    numbers = {f"{name} {i}": value for i, v in enumerate(verdicts, 1) for name, value in v.numbers.items()}
    return {number: Verdict(worst.state, " ".join(verdict.sentence for verdict in verdicts), numbers)}


def draw(rows: Sequence[Row]) -> Figure:
    """Every figure with its arms side by side, a dot a seed and a line at their mean."""
    names = list(dict.fromkeys(row["figure"] for row in rows)) or [""]
    figure = new_figure(3.2 * len(names), 3.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        arms = list(dict.fromkeys(row["arm"] for row in rows if row["figure"] == name))
        for x, arm in enumerate(arms):
            dots = values(rows, (arm, name))
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
        found = values(rows, side)
        spread = f"{min(found):.2f} to {max(found):.2f}" if found else ""
        lines.append((*side, f"{mean(found):.2f}" if found else "diverged", spread, str(len(found))))
    return Table(("network", "figure", "mean", "from to", "seeds"), tuple(lines))
