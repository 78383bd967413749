"""The verbs train and evaluate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from alexnet.cli.command import Views, app, given_values, note_load, print_json, start_computing
from alexnet.config import TrainConfig
from alexnet.errors import UsageError
from alexnet.training.signals import SignalGuard


@app.command
def train(
    recipe: str = "digits",
    /,
    *,
    run: Path | None = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a recipe, or go on where an interrupted run stopped.

    Every setting below overrides the recipe's; the defaults shown hold for settings that the recipe leaves alone.

    Parameters
    ----------
    recipe
        A name of `alexnet list recipes`, or a YAML file such as an earlier run's config.yaml.
    run
        Run folder; without it runs/RECIPE. The same command again goes on there, and --then beyond its end.
    """
    from alexnet.config.values import override
    from alexnet.recipes import recipe as named

    with SignalGuard() as guard:
        given: dict[str, Any] | None = given_values(config)
        if recipe.endswith((".yaml", ".yml")):  # a whole configuration: nothing in it is left to the run that is there
            from alexnet.runs.folder import load_config

            chosen, given = override(load_config(Path(recipe)), given_values(config)), None
        else:
            if (Path(recipe) / "config.yaml").is_file():
                again = shlex.join(["alexnet", "train", f"{Path(recipe) / 'config.yaml'}", "--run", recipe])
                raise UsageError(f"{recipe} is a run, not a recipe; to go on in it: {again}")
            chosen = named(recipe)
        note_load()
        from alexnet.training import loop

        start_computing()
        loop.train(chosen, run, given=given, guard=guard)


@app.command
def evaluate(
    target: Path,
    /,
    *,
    split: Literal["test", "val", "train"] | None = None,
    views: Views = 1,
    recipe: str | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    source: Annotated[str | None, Parameter(name="--data.source")] = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] | None = None,
    skip_bad: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a run, a checkpoint or a weights file: accuracy, error, confidence interval, per class, confusion matrix.

    Parameters
    ----------
    target
        Run folder, checkpoint (.safetensors) or weights file (.pth, .safetensors, .npz; these need --recipe).
    split
        Part of the data; without it test, or val where the data has no test split (ImageNet).
    views
        1 is the central crop, 2 with its mirror image, 10 the paper's corners and centre with theirs.
    recipe
        What a bare weights file was trained on.
    root
        Folder that holds the data set, where it is not the one that the run was trained from.
    source
        Another data set with the same classes.
    device
        auto, cpu, cuda or cuda:N.
    precision
        Without it as the run was trained; auto is bf16 where the processor has it, else fp32; int8 rounds weights and
        activations to 8 bits, by the scale of some training images, to see what that costs.
    skip_bad
        Leave out images that cannot be read instead of stopping at the first.
    out
        Folder for the result (.json) and the confusion matrix (.csv and .png), whose names begin with the split and
        end in digits of what was measured; without it the run's folder, whose own test.json stays as it is.
    json
        Print the result as JSON (fractions, not percent).
    """
    from alexnet.cli.tables import show_result
    from alexnet.figures import save_figure
    from alexnet.figures.confusion import draw_confusion
    from alexnet.inference.evaluation import evaluate as measure
    from alexnet.recipes import recipe as named
    from alexnet.runs.results import result_name, write_result

    start_computing()
    result = measure(
        target,
        split,
        config=named(recipe) if recipe else None,
        data={k: v for k, v in (("root", root), ("source", source)) if v is not None},
        views=views,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
    )
    folder = out or (target if target.is_dir() else target.parent)
    stem = result_name(result)
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_result(result, folder, stem)
        save_figure(draw_confusion(result), folder / f"{stem}-confusion.png")
    except Exception as caught:  # files and figures are a by-product: the numbers are still shown
        problem = caught
    if json:
        print_json(result.to_dict())
    else:
        show_result(result)
        if problem is None:
            print(f"written: {folder / stem}.json", f"{stem}-confusion.csv", f"{stem}-confusion.png", sep="\n         ")
    if problem is not None:
        print(f"note: not everything was written to {folder}: {problem}", file=sys.stderr)
