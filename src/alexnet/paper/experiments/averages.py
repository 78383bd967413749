"""S8: what is averaged at test time, and what the last hidden layer finds alike (sections 4.1, 4.2, 6 and figure 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.values import override
from alexnet.figures import new_figure
from alexnet.paper.experiment import Experiment, Job, Recall, Row, Table, Verdict, has_diverged, seeded
from alexnet.paper.rules import DIFFERENCE, judge_difference
from alexnet.paper.statistics import Estimate, mcnemar, paired_bootstrap, softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

Array = np.ndarray[Any, Any]
SEEDS = range(1, 6)
MASKS = 100
QUERIES = 1000  # test images whose neighbours are looked for
CLOSE = 0.01  # the part of the training images that counts as close in pixels
EQUAL = 0.5  # points of error that are taken for none

ALIKE = (
    "Claim 31 is reproduced if more of the neighbours by the last hidden layer than of those by pixels show the "
    "image's class, and more than half of them are not among the nearest 1 % in pixels, both by the interval and in "
    'every network; "direction only" without the latter; "not reproduced" if fewer show the class, else '
    '"inconclusive".'
)
# 28 of 32 pixels, flips and dropout: the paper's 224 of 256.
NETWORK = TrainConfig(
    name="averages",
    epochs=20,
    data=DataConfig(source="cifar10", val_fraction=0.04, crop=28, flip=True),
    model=ModelConfig(variant="cifar", width=0.25, dropout=0.5),
    optim=OptimConfig(lr=0.05, schedule="one-cycle", nesterov=True, decay_biases=False),
)


def plan(_: Mapping[str, Run], quick: bool) -> list[Job]:
    """Five networks that differ in their seeds; in the rehearsal two small ones."""
    if not quick:
        return seeded("network", NETWORK, SEEDS)
    return seeded("network", override(NETWORK, {"epochs": 2, "data.fraction": 0.1, "model.width": 0.125}), SEEDS[:2])


def measure(runs: Mapping[str, Run], recall: Recall) -> list[Row]:
    """Rows of kind "error" (a way to answer, per network, percent), "paired" (two ways on the same images: how many
    images have which difference, summed over the networks), "masks" and "neighbours" (one a network)."""
    whole = {name: run for name, run in runs.items() if not has_diverged(run)}
    if not whole:
        return []
    from alexnet.paper import evaluations

    answers = [recall(f"{name}-answers", partial(evaluations.answers_of_views, run)) for name, run in whole.items()]
    masks = [recall(f"{name}-masks", partial(evaluations.thinned_answers, run, MASKS)) for name, run in whole.items()]
    labels = np.array(answers[0]["labels"])
    ways = {way: np.array([a[way] for a in answers]) for way in answers[0] if way != "labels"}  # [M, N, K]
    hits = {way: ways[way].argmax(axis=2) == labels for way in ways}
    ensemble = {
        "all, 1 view": np.mean(softmax(ways["1 view"]), axis=0).argmax(axis=1) == labels,
        "all, 10 views": np.mean(ways["10 views"], axis=0).argmax(axis=1) == labels,
        "all, 10 views, logits": np.mean(ways["10 views, logits"], axis=0).argmax(axis=1) == labels,
    }
    halved = {way: np.array([m["hits"][way] for m in masks], dtype=bool) for way in masks[0]["hits"]}
    rows: list[Row] = [_error(way, found) for way, found in hits.items()]
    rows += [_error(way, found[None]) for way, found in ensemble.items()]
    rows += [_error(way, found) for way, found in halved.items()]
    rows.append({"kind": "error", "way": "one mask", "errors": [m["one"] for m in masks], "images": len(labels)})
    rows += [_paired(f"{way} against 1 view", hits[way], hits["1 view"]) for way in hits if way != "1 view"]
    rows += [_paired(f"{way} against one", found, hits[way.removeprefix("all, ")]) for way, found in ensemble.items()]
    rows += [
        _paired(f"halved outputs against {way}", halved["halved outputs"], halved[way])
        for way in halved
        if way != "halved outputs"
    ]
    rows += [{"kind": "masks", **{k: v for k, v in m.items() if k not in ("hits", "one")}} for m in masks]
    near = (
        recall(f"{name}-neighbours", partial(evaluations.nearest_training_images, run, QUERIES, CLOSE))
        for name, run in whole.items()
    )
    return rows + [{"kind": "neighbours", **row} for row in near]


def _error(way: str, hits: Array) -> Row:
    errors = [round(100 * float(1 - network.mean()), 4) for network in hits]
    return {"kind": "error", "way": way, "errors": errors, "images": hits.shape[1]}


def _paired(what: str, a: Array, b: Array) -> Row:
    """What is left of two ways' hits for the tests: how many images have which sum over the networks of a - b, and for
    each network how many images only a, and only b, has right."""
    count = len(b)
    a = np.broadcast_to(a, b.shape)
    sums, images = np.unique(a.sum(axis=0) - b.sum(axis=0, dtype=int), return_counts=True)
    only = [[int((x & ~y).sum()), int((y & ~x).sum())] for x, y in zip(a, b, strict=True)]
    return {
        "kind": "paired",
        "what": what,
        "networks": count,
        "sums": sums.tolist(),
        "counts": images.tolist(),
        "only": only,
    }


# The verdicts, from the rows alone.


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    if sum(row["kind"] == "masks" for row in rows) < 2:
        none = Verdict("inconclusive", "Fewer than two networks were trained to the end.")
        return dict.fromkeys(EXPERIMENT.claims, none)
    judges: dict[int, Callable[[Sequence[Row]], Verdict]] = {19: _views, 22: _halving, 27: _ensemble}
    near = judge_neighbours([row for row in rows if row["kind"] == "neighbours"])
    return {**{claim: judged(rows) for claim, judged in judges.items()}, 31: near}


def difference(rows: Sequence[Row], what: str) -> Estimate:
    """How many points more of the images the first of two ways has right: a bootstrap over images, each with the mean
    of its differences over the networks."""
    row = next(row for row in rows if row.get("what") == what)
    values = np.repeat(np.array(row["sums"]) / row["networks"], row["counts"])
    return _points(paired_bootstrap(values, np.zeros(len(values))))


def _points(found: Estimate) -> Estimate:
    return replace(found, value=100 * found.value, low=100 * found.low, high=100 * found.high)


def _largest_p(rows: Sequence[Row], what: str) -> float:
    """The largest p-value of McNemar's test of single networks."""
    row = next(row for row in rows if row.get("what") == what)
    return max(mcnemar([1] * a + [0] * b, [0] * a + [1] * b) for a, b in row["only"])


def _views(rows: Sequence[Row]) -> Verdict:
    what = "10 views against 1 view"
    verdict = judge_difference(difference(rows, what), 1.5, f"Top-1 error of 1 view less that of 10, points{_of(rows)}")
    p = _largest_p(rows, what)
    sentence = f"{verdict.sentence} McNemar's test of single networks: p at most {p:.2g}."
    return Verdict(verdict.state, sentence, verdict.numbers | {"largest p": p})


def _ensemble(rows: Sequence[Row]) -> Verdict:
    found = difference(rows, "all, 10 views against one")
    return judge_difference(found, 2.6, f"Top-1 error of one network less that of all averaged, points{_of(rows)}")


def _of(rows: Sequence[Row]) -> str:
    return f", {sum(row['kind'] == 'masks' for row in rows)} networks"


def _halving(rows: Sequence[Row]) -> Verdict:
    found = difference(rows, "halved outputs against masks, geometric mean")
    masks = [row for row in rows if row["kind"] == "masks"]
    near, other, single, chance = (
        float(np.mean([row[name] for row in masks]))
        for name in ("halved to geometric", "halved to arithmetic", "one to geometric", "half to half")
    )
    numbers = {"difference": found.value, "low": found.low, "high": found.high, "distance": near, "arithmetic": other}
    numbers |= {"single": single, "chance": chance}
    sentence = (
        f"Halved outputs have {found} points more images right than the geometric mean of {MASKS} masks{_of(rows)}; "
        f"their distributions are {near:.3f} apart (total variation), those of halved outputs and the arithmetic mean "
        f"{other:.3f}, of one mask and the geometric mean {single:.3f}, and of two means of half of the masks each "
        f"{chance:.3f}."
    )
    if found.low > -EQUAL and found.high < EQUAL:
        return Verdict("reproduced" if near < min(other, single) else "direction only", sentence, numbers)
    beyond = found.high < -EQUAL or found.low > EQUAL
    return Verdict("not reproduced" if beyond else "inconclusive", sentence, numbers)


def judge_neighbours(found: Sequence[Row]) -> Verdict:
    """The verdict on claim 31 from what `evaluations.nearest_training_images` says of one network or several, by the
    rule `ALIKE`."""
    # The networks share their queries, but not which query is which row: each by itself, and the worst counts.
    far, more = ([_mean_sixth(row[name]) for row in found] for name in ("far", "more agree"))
    least, agree = min(far, key=lambda e: e.low), min(more, key=lambda e: e.low)
    rank = float(np.mean([row["mean rank"] for row in found]))
    hidden, pixels = (float(np.mean([row["agree"][k] for row in found])) for k in (0, 1))
    numbers = {"far": least.value, "far, low": least.low, "agree": hidden, "agree, pixels": pixels, "mean rank": rank}
    numbers |= {"more agree, low": agree.low}
    sentence = (
        f"{hidden:.0%} of the six nearest by the last hidden layer show the image's class, {pixels:.0%} of "
        f"those by pixels. Not among the {CLOSE:.0%} nearest in pixels are {least.value:.0%} of the former (95 % "
        f"interval {least.low:.0%} to {least.high:.0%}, of the network with the fewest), and on average {rank:.0%} of "
        f"the training images are nearer in pixels, {len(found)} network{'s' if len(found) > 1 else ''}."
    )
    if agree.low <= 0:
        return Verdict("not reproduced" if agree.high < 0 else "inconclusive", sentence, numbers)
    return Verdict("reproduced" if least.low > 0.5 else "direction only", sentence, numbers)


def _mean_sixth(counts: Mapping[str, int]) -> Estimate:
    values = np.repeat([int(value) / 6 for value in counts], list(counts.values()))
    return paired_bootstrap(values, np.zeros(len(values)))


def draw(rows: Sequence[Row]) -> Figure:
    """Errors of the ways to answer, a dot a network, and where neighbours by the hidden layer lie in pixels."""
    figure = new_figure(9.5, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    errors = [row for row in rows if row["kind"] == "error"]
    for place, row in enumerate(errors):
        left.plot(row["errors"], [place] * len(row["errors"]), "o", ms=4, color="tab:blue", alpha=0.5)
        left.plot(np.mean(row["errors"]), place, "|", ms=14, mew=2, color="black")
    left.set_yticks(range(len(errors)), [row["way"] for row in errors])
    left.set(xlabel="top-1 error, %", ylim=(len(errors) - 0.5, -0.5))
    left.set_title("a dot a network, a line their mean", fontsize=9, color="0.35", loc="left")
    left.grid(axis="x", alpha=0.25)
    for row in (row for row in rows if row["kind"] == "neighbours"):
        parts = 100 * np.array(row["ranks"]) / max(1, sum(row["ranks"]))
        right.plot(np.arange(10) + 0.5, parts, "o-", ms=3, lw=1, color="tab:blue", alpha=0.6)
    right.axhline(10, color="gray", lw=0.8, ls=":")
    right.set_xticks(range(11), [f"{10 * tenth}" for tenth in range(11)])
    right.set(xlabel="training images nearer in pixels, %", ylabel="neighbours by the last hidden layer, %")
    right.set_ylim(bottom=0)
    right.set_title("dotted: neighbours drawn at random", fontsize=9, color="0.35", loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def table(rows: Sequence[Row]) -> Table:
    """A line for each way to answer."""
    lines = []
    for row in (row for row in rows if row["kind"] == "error"):
        errors = row["errors"]
        spread = f"{np.std(errors, ddof=1):.2f}" if len(errors) > 1 else ""
        lines.append((row["way"], f"{np.mean(errors):.2f}", spread, str(len(errors))))
    return Table(("answer", "top-1 error, %", "deviation", "networks"), tuple(lines))


EXPERIMENT = Experiment(
    id="S8",
    title="Views, averages, halved outputs and neighbours",
    claims=(19, 22, 27, 31),
    method="Five networks that differ in their seeds: the paper's with a quarter of its widths on random crops of 28 "
    "of 32 pixels and reflections, with dropout, 20 epochs. Their answers to the test images come from 1, 9 (a grid) "
    "and 10 views, from all five averaged, by probabilities and by logits, and from 100 dropout masks, each one "
    "network for all images. For 1,000 test images the six nearest training images by the last hidden layer (squared "
    "Euclidean distance) are ranked by their distance in pixels.",
    rule="Errors are compared on the same images, with a bootstrap over images of each one's mean over the networks. "
    f"Claims 19 (1.5 points) and 27 (2.6): {DIFFERENCE} Claim 22 is reproduced if the error with halved outputs and "
    "that of the geometric mean of 100 masks differ by less than 0.5 points either way, by the whole interval, and the "
    "halved network's probabilities are nearer to that mean than to the arithmetic one, and than single masks are; "
    '"direction only" without the latter; "not reproduced" if the interval lies beyond 0.5 points, else '
    '"inconclusive". '
    + ALIKE
    + " Power: where 6 % of 10,000 images change sides, an interval reaches half a point to either side, "
    "a third of what is claimed.",
    data="CIFAR-10, a substitute for ImageNet, whose ten classes leave no top-5 error to speak of: the test set. "
    "--data.root is the folder that holds cifar-10-batches-py, or receives the download.",
    hours=1.0,
    plan=plan,
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
    open_questions=(
        "A single mask's error is within half a point of the geometric mean's too: for claim 22 the distances decide.",
        "The intervals are over images, for these five networks: how far the gain of an average varies between sets of "
        "five is not measured.",
        "Whether the paper's own averages weighed all networks the same is not recorded: the released avg-valid.py can "
        "fit a weight for each.",
    ),
)
