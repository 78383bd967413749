"""The verb figure: the paper's figures 1, 3 and 4 of any run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from alexnet.cli.command import LOOK, app, data_of, print_json, start_computing, within
from alexnet.config.ranges import Range
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

figure = App(name="figure", group=LOOK, help="Draw one of the paper's figures of your own runs, as a PNG file.")
app.command(figure)


@figure.command
def errors(
    *runs: Path,
    out: Path = Path("errors.png"),
    names: str | None = None,
    level: Annotated[float, within(Range(above=0, below=1))] = 0.25,
    json: bool = False,
) -> None:
    """Draw the training error over epochs of one or several runs (figure 1).

    It is the error of the whole training split where runs were trained with --score-train, else the mean over each
    epoch's batches while training; the figure says which.

    Parameters
    ----------
    runs
        Run folders; the first is drawn solid, the second dashed.
    out
        The PNG file.
    names
        Names for the runs, with commas; without it those of the folders.
    level
        Error at which the curves are compared, as a fraction.
    json
        Print the curves and where they cross the level as JSON.
    """
    from alexnet.figures import check_png
    from alexnet.figures.errors import draw_errors
    from alexnet.runs.folder import load_run
    from alexnet.runs.scores import training_errors

    if not runs:
        raise UsageError("name the runs to draw: run folders.")
    given = [name.strip() for name in names.split(",")] if names else [None] * len(runs)
    if len(given) != len(runs):
        raise UsageError(f"--names has {len(given)} names for {len(runs)} runs: give each one.")
    check_png(out, "--out")
    curves = [training_errors(load_run(run), name) for run, name in zip(runs, given, strict=True)]
    _save(draw_errors(curves, level), out, json)
    reached = [curve.crossing(level) for curve in curves]
    if json:
        print_json(
            [
                {
                    "name": curve.name,
                    "measured": curve.measured,
                    "epochs": list(curve.epochs),
                    "errors": list(curve.errors),
                    "level": level,
                    "reached": epoch,
                }
                for curve, epoch in zip(curves, reached, strict=True)
            ]
        )
        return
    for curve, epoch in zip(curves, reached, strict=True):
        when = f"after {epoch:.2f} epochs" if epoch is not None else f"not in {curve.epochs[-1]:g} epochs"
        ratio = (
            f", {epoch / reached[0]:.2f} times {curves[0].name}'s"
            if epoch and reached[0] and curve is not curves[0]
            else ""
        )
        print(f"{curve.name}: training error of {level:.0%} {when}{ratio} ({curve.measured})")


@figure.command
def kernels(
    target: str,
    /,
    *,
    out: Path = Path("kernels.png"),
    model: str | None = None,
    json: bool = False,
) -> None:
    """Draw the kernels of the first layer, column by column, with each kernel's share of colour in percent (figure 3).

    The share is the part of a kernel's energy that lies outside the grey direction; random weights have 67 %.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, or torchvision for its published weights.
    out
        The PNG file.
    model
        Network of a bare weights file whose shapes do not tell it.
    json
        Print the shares as JSON (fractions), a list for each column.
    """
    import numpy as np

    from alexnet.figures import check_png
    from alexnet.figures.kernels import draw_kernels
    from alexnet.inference.kernels import colour_shares, count_columns, first_kernels
    from alexnet.inference.trained import open_trained

    check_png(out, "--out")
    start_computing()
    trained = open_trained(target, model)
    weights, columns = first_kernels(trained), count_columns(trained)
    shares = colour_shares(weights) if weights.shape[1] == 3 else None
    _save(draw_kernels(weights, columns, shares), out, json)
    blocks = np.array_split(shares, columns) if shares is not None else []
    if json:
        print_json({"kernels": list(weights.shape), "columns": columns, "colour": [block.tolist() for block in blocks]})
    for number, block in enumerate(blocks if not json else (), 1):
        least, middle, most = np.quantile(block, [0, 0.5, 1])
        print(
            f"column {number}: colour is {block.mean():.1%} of a kernel's energy on average "
            f"({least:.1%} to {most:.1%}, median {middle:.1%})"
        )


@figure.command
def answers(
    target: Path,
    /,
    *images: str,
    out: Path = Path("answers.png"),
    queries: Annotated[int | None, within(Range(least=1, most=20))] = None,
    neighbours: Annotated[int, within(Range(least=0, most=12))] = 6,
    split: Literal["test", "val", "train"] | None = None,
    index: str = "train",
    seed: Annotated[int | None, within(Range(least=0))] = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    recipe: str | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Draw images with their five most probable classes and their nearest neighbours among the training images, by what
    the last hidden layer answers (figure 4).

    Parameters
    ----------
    target
        Run folder, checkpoint or weights file (which needs --recipe).
    images
        Files, folders or patterns, at most 20 images; without any, images of --split. The folder of an image may bear
        its class's name.
    out
        The PNG file.
    queries
        How many images of the split; without it 8.
    neighbours
        How many neighbours of each.
    split
        Part of the data that the images are drawn from; without it test, or val where the data has no test split.
    index
        Where neighbours are looked for: train, val or test of the data, or a folder of images.
    seed
        Draws the images; without it 0.
    root
        Folder that holds the data set, where it is not the one that the run was trained from.
    recipe
        What a bare weights file was trained on.
    device
        auto, cpu, cuda or cuda:N.
    skip_bad
        Leave out images that cannot be read instead of stopping at the first.
    """
    from alexnet.figures import check_png
    from alexnet.figures.neighbours import draw_neighbours
    from alexnet.inference.retrieval import retrieve
    from alexnet.recipes import recipe as named

    check_png(out, "--out")
    start_computing()
    found = retrieve(
        target,
        images,
        queries=queries,
        neighbours=neighbours,
        split=split,
        index=index,
        seed=seed,
        config=named(recipe) if recipe else None,
        data=data_of(root),
        device=device,
        skip_bad=skip_bad,
    )
    _save(draw_neighbours(found), out)


def _save(drawn: Figure, out: Path, quiet: bool = False) -> None:
    from alexnet.figures import save_figure

    save_figure(drawn, out)
    print(f"written: {out}", file=sys.stderr if quiet else sys.stdout)
