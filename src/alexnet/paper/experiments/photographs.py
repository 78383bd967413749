"""Photographs: overfitting, views and neighbours once more, on images that are none of CIFAR's."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.values import override
from alexnet.figures import new_figure
from alexnet.paper.arms import MOST_RATES, Arms, search_rate, values, with_gap
from alexnet.paper.experiment import Experiment, Job, Recall, Row, Table, Verdict, has_diverged
from alexnet.paper.experiments import overfitting
from alexnet.paper.experiments.averages import ALIKE, CLOSE, judge_neighbours
from alexnet.paper.experiments.overfitting import BOTH, CROPS, DROPOUT, MEASURED
from alexnet.paper.experiments.specialisation import chroma_shares
from alexnet.paper.plots import COLOURS, draw_curves, strips, tidy
from alexnet.paper.rules import DIFFERENCE, judge_difference
from alexnet.paper.statistics import mcnemar, paired_bootstrap
from alexnet.recipes import recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

    from alexnet.runs.folder import Run

EPOCHS, CONSTANT = 40, 30  # of which so many at the first rate
RATES = (0.005, 0.01, 0.02)
WHOLE = "whole-network"
QUERIES = 500  # test photographs whose neighbours are looked for
_CROPS = {"data.pad": 8, "data.flip": True}
ARMS = Arms(
    TrainConfig(
        name="photographs",
        epochs=EPOCHS,
        batch_size=64,
        data=DataConfig(source="folder", val_fraction=0.1, resize=112, crop=112),
        model=ModelConfig(variant="paper", width=0.5, init="modern"),
        optim=OptimConfig(
            name="paper-sgd", lr=RATES[1], decay_biases=False, schedule="step", drops=(CONSTANT, CONSTANT + 5)
        ),
    ),
    {
        BOTH: {"model.dropout": 0.5, **_CROPS},
        CROPS: {"model.dropout": 0.0, **_CROPS},
        DROPOUT: {"model.dropout": 0.5},
    },
    seeds=3,
    rehearsal={"epochs": 2, "optim.drops": (1,), "data.fraction": 0.05, "model.width": 0.125},
)
NETWORK = recipe(
    "folder",
    **{"model.variant": "paper", "data.val_fraction": 0.1, "data.resize": 128, "data.crop": 112},
)


def plan(finished: Mapping[str, Run], quick: bool) -> list[Job]:
    """The whole network and, with a seed of its own, the arm that has both at every rate; then all arms at the best."""
    small = {"epochs": 2, "optim.warmup_epochs": 1, "data.fraction": 0.05, "model.width": 0.125}
    whole = Job(f"{WHOLE}-seed0", override(NETWORK, small if quick else {}))
    rates, most = (RATES[:2], 2) if quick else (RATES, MOST_RATES)
    tried, best = search_rate(
        lambda rate: Job(f"rate{rate:g}", override(ARMS.config(BOTH, quick), {"optim.lr": rate})), rates, finished, most
    )
    if best is None:
        return [whole, *tried]
    arms = replace(ARMS, base=override(ARMS.base, {"optim.lr": best}))
    return [whole, *tried, *arms.plan(finished, quick)]


def measure(runs: Mapping[str, Run], recall: Recall) -> list[Row]:
    """One row a run, as those of S5, with the "rate"; that of the whole network holds "views", "neighbours", "kernels"
    and "chroma" too."""
    named = replace(ARMS, arms={**ARMS.arms, WHOLE: {}})
    rows = named.measure({**MEASURED, "rate": lambda run, _: run.config.optim.lr}, runs, recall)
    for row in rows:
        run = runs[f"{row['arm']}-seed{row['seed']}"]
        if row["arm"] == WHOLE and not has_diverged(run):
            from alexnet.paper import evaluations

            row["views"] = recall("views", partial(_compare_views, run))
            row["neighbours"] = recall("neighbours", partial(evaluations.nearest_training_images, run, QUERIES, CLOSE))
            row["kernels"] = recall("kernels", partial(_pack_kernels, run))
            row["chroma"] = chroma_shares(run, recall)
    return rows


def _compare_views(run: Run) -> dict[str, int]:
    """How many test images one view and ten have right, and how many only one of the two."""
    from alexnet.paper import evaluations

    answers = evaluations.answers_of_views(run)
    one, ten = (np.argmax(answers[way], axis=1) == np.array(answers["labels"]) for way in ("1 view", "10 views"))
    counted = {"one": one, "ten": ten, "only one": one & ~ten, "only ten": ten & ~one}
    return {"images": len(one), **{name: int(hits.sum()) for name, hits in counted.items()}}


def _pack_kernels(run: Run) -> dict[str, Any]:
    """Conv1's kernels in 255 steps each: their shape, each one's largest weight, and the steps in base64."""
    from alexnet.inference.kernels import first_kernels
    from alexnet.inference.trained import open_trained

    kernels = first_kernels(open_trained(run.last))
    peaks = np.abs(kernels).max(axis=(1, 2, 3))
    steps = (127 * kernels / np.maximum(peaks, 1e-12)[:, None, None, None]).round().astype(np.int8)
    return {
        "shape": list(kernels.shape),
        "peaks": [float(f"{peak:.4g}") for peak in peaks],
        "steps": b64encode(steps.tobytes()).decode(),
    }


def unpack_kernels(packed: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Conv1's kernels [N, 3, h, w] of a row, each to a part in 127 of its largest weight."""
    steps = np.frombuffer(b64decode(packed["steps"]), dtype=np.int8).reshape(packed["shape"])
    kernels: np.ndarray[Any, np.dtype[np.float64]] = steps / 127 * np.array(packed["peaks"])[:, None, None, None]
    return kernels


def _arms(rows: Sequence[Row]) -> list[Row]:
    """The rows of the arms, with the validation errors at the first rate, as S5 judges them."""
    arms = [row for row in rows if row["arm"] != WHOLE]
    return [row | {"validation errors": (row["validation errors"] or [])[:CONSTANT]} for row in arms]


def _whole(rows: Sequence[Row]) -> Row | None:
    """The row of the whole network, unless it diverged."""
    return next((row for row in rows if row["arm"] == WHOLE and row["test"] is not None), None)


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    verdicts = overfitting.judge(_arms(rows))
    whole = _whole(rows)
    if whole is None:
        lost = Verdict("inconclusive", "The whole network was not trained to the end.")
        verdicts |= {19: lost, 31: lost}
    else:
        verdicts |= {19: judge_views(whole["views"]), 31: judge_neighbours([whole["neighbours"]])}
    return {claim: verdicts[claim] for claim in EXPERIMENT.claims}


def judge_views(views: Mapping[str, int]) -> Verdict:
    """The verdict on ten views against one, from what they have right."""
    counts = [views["only ten"], views["only one"], views["images"] - views["only ten"] - views["only one"]]
    ten, one = (np.repeat(right, counts) for right in ([100.0, 0.0, 0.0], [0.0, 100.0, 0.0]))
    found = paired_bootstrap(ten, one)
    what = f"Top-1 error of 1 view less that of 10, points, one network and {views['images']:,} photographs"
    verdict = judge_difference(found, 1.5, what)
    p = mcnemar(ten, one)
    return Verdict(verdict.state, f"{verdict.sentence} McNemar's test: p = {p:.2g}.", verdict.numbers | {"p": p})


def draw(rows: Sequence[Row]) -> Figure:
    """Above every run's gap and the validation errors of the arms, below the kernels of the whole network."""
    from alexnet.figures.kernels import fill_kernels

    whole, arms = _whole(rows), _arms(rows)
    gaps = with_gap(arms)
    figure = new_figure(9.5, 7.2 if whole else 3.4)
    above: FigureBase = figure
    if whole:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.4, 3.8))[:, 0]
        fill_kernels(below, unpack_kernels(whole["kernels"]), 2, np.array(whole["chroma"]))
    left, right = above.subplots(1, 2)
    strips(left, {arm: values(gaps, arm, "gap") for arm in ARMS.arms}, "test error less training error, points")
    for arm, colour in zip(ARMS.arms, COLOURS, strict=False):
        curves = [row["validation errors"] for row in rows if row["arm"] == arm and row["test"] is not None]
        if curves:
            draw_curves(right, range(1, len(curves[0]) + 1), curves, arm.replace("-", " "), colour)
    right.set(xlabel="epoch", ylabel="validation error, %")
    if arms:
        right.legend(frameon=False, fontsize=8)
    tidy(right)
    return figure


def table(rows: Sequence[Row]) -> Table:
    """Errors, gap and epochs of the three arms, and the errors of the whole network."""
    shown = overfitting.table(_arms(rows))
    whole = _whole(rows)
    if whole is None:
        return shown
    test, train, views = whole["test"], whole["train"], whole["views"]
    one, ten = (f"{100 * (1 - views[name] / views['images']):.2f}" for name in ("one", "ten"))
    lines = (
        ("whole network, last weights", "1", f"{test:.2f}", f"{train:.2f}", f"{test - train:.2f}", ""),
        ("whole network, best weights, 1 view", "1", one, "", "", ""),
        ("whole network, best weights, 10 views", "1", ten, "", "", ""),
    )
    return Table(shown.head, (*shown.lines, *lines))


EXPERIMENT = Experiment(
    id="photographs",
    title="overfitting, views and neighbours on photographs",
    claims=(17, 19, 20, 21, 31),
    method="The paper's network at half its widths on photographs of 112x112, two columns as the paper's: with crops "
    "(of photographs with a frame of 8 pixels, so that 112 of 128 are seen, as 224 of 256) and reflections, with "
    f"dropout, and with both; three seeds, batches of 64, {CONSTANT} epochs at a constant rate and five more at each "
    f"of two rates divided by ten. All have one rate, the best of {', '.join(map(str, RATES))} on validation for the "
    f"network with both, with another seed, or of up to {MOST_RATES} rates while the best lies at an end of those "
    f"tried. Beside them the whole network, trained for {NETWORK.epochs} epochs with the recipe `folder` on crops of "
    "112 pixels of photographs of 128: its answers to one view and to ten, its first kernels, and the neighbours of "
    f"{QUERIES} test photographs by its last hidden layer and by pixels. Figure 4 with the photographs themselves: "
    f"alexnet figure answers runs/reproduce/photographs/runs/{WHOLE}-seed0.",
    rule=f"Claims 17, 20 and 21, as S5. {overfitting.EXPERIMENT.rule} Claim 19, of the whole network, with a bootstrap "
    f"over photographs: {DIFFERENCE} {ALIKE}",
    data="Imagenette (ten classes of ImageNet, 9,469 photographs to train on, of which a tenth validates, and 3,925 to "
    "test), or any folder with train/ and test/ and a folder for each class. --data.root is this folder or, much "
    "faster, what `alexnet prepare folder --data.root FOLDER --out PREPARED --side 128` made of it.",
    hours=2.5,
    plan=plan,
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
    run_by_run=True,
    open_questions=(
        "Ten classes and 8,500 photographs overfit sooner than a thousand classes and 1.2 million.",
        "After 100 epochs of so few photographs the first kernels still look like the random ones that they were: "
        "figure 3's edges and blobs of colour need more of them.",
        "Whether columns specialise (claim 30) is not asked: the arms of a seed begin with the same first kernels, so "
        "that there are but four starts.",
        "On standardised pixels the response normalisation is all but a constant, in the paper it acts within each "
        "column.",
    ),
)
