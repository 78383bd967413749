"""The verbs train and evaluate."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from alexnet.cli.command import (
    TRAIN,
    Count,
    Elsewhere,
    OfElsewhere,
    Views,
    app,
    given_values,
    note_load,
    print_json,
    start_computing,
)
from alexnet.cli.settings import RUN, Given, Settings
from alexnet.config import TrainConfig
from alexnet.errors import AlexNetError, NumericsError, UsageError, listed
from alexnet.training.signals import SignalGuard

if TYPE_CHECKING:
    from alexnet.metrics import Result


@app.command(group=TRAIN, sort_key=0)
def train(
    recipe: str = "digits",
    /,
    *,
    run: Annotated[Path | None, RUN] = None,
    seeds: Annotated[str | None, RUN] = None,
    jobs: Annotated[Count, RUN] = 1,
    config: Given = Settings(),  # noqa: B008 (frozen)
) -> None:
    """Train a recipe, or go on where an interrupted run stopped.

    Every setting below overrides the recipe's; the defaults shown hold for settings that the recipe leaves alone.

    Parameters
    ----------
    recipe
        A name of `alexnet list recipes`, or a YAML file such as an earlier run's config.yaml.
    run
        Run folder; without it runs/RECIPE. The same command again goes on there, and --then beyond its end.
    seeds
        Train with several seeds, "0-4" or "0,1,2", in runs/RECIPE-seeds/seed-N or RUN/seed-N, and show mean and spread.
    jobs
        With --seeds: trainings side by side, which share the cores. To the same bits a run goes on with the same
        number.
    """
    from alexnet.config.values import override
    from alexnet.recipes import recipe as named

    with SignalGuard() as guard:
        typed = given_values(config)
        given: dict[str, Any] | None = typed
        if recipe.endswith((".yaml", ".yml")):  # a whole configuration: nothing in it is left to the run that is there
            from alexnet.runs.folder import load_config

            chosen, given = override(load_config(Path(recipe)), typed), None
        else:
            if (Path(recipe) / "config.yaml").is_file():
                again = shlex.join(["alexnet", "train", f"{Path(recipe) / 'config.yaml'}", "--run", recipe])
                raise UsageError(f"{recipe} is a run, not a recipe; to go on in it: {again}")
            chosen = named(recipe)
        note_load()
        if seeds is not None:
            if "seed" in typed:
                raise UsageError("--seed and --seeds exclude each other.")
            _train_seeds(chosen, given, seeds, run, jobs, guard)
            return
        if jobs > 1:
            raise UsageError(f"--jobs {jobs} trains several seeds side by side: add --seeds, as in --seeds 0-4.")
        from alexnet.training import loop

        start_computing(shared=True)
        loop.train(chosen, run, given=given, guard=guard)


def _train_seeds(
    recipe: TrainConfig, given: dict[str, Any] | None, seeds: str, run: Path | None, jobs: int, guard: SignalGuard
) -> None:
    from alexnet.cli.tables import show_family, show_notes
    from alexnet.runs.folder import has_config
    from alexnet.runs.opening import default_folder
    from alexnet.training.families import beside, family_configs, parse_seeds, train_family
    from alexnet.training.processes import has_diverged

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--seeds starts a process for every run: use --jobs in the place of torchrun.")
    folder = run or default_folder(f"{(given or {}).get('name', recipe.name)}-seeds")
    if has_config(folder):
        raise UsageError(f"{folder} holds a run: the runs of --seeds need a folder that is none, by --run DIR.")
    configs, notes = family_configs(recipe, given, parse_seeds(seeds), folder)
    show_notes(notes)
    runs = list(train_family(configs, jobs, guard).values())
    show_family(runs)
    if diverged := [run.path.name for run in runs if has_diverged(beside(run.path))]:
        raise NumericsError(f"the loss of {listed(diverged)} diverged: lower --optim.lr, with a new --run.")
    if lost := [run.path.name for run in runs if not (run.has_ended and run.result)]:
        raise AlexNetError(f"the result of {listed(lost)} could not be written: the same command measures it again.")


@app.command(group=TRAIN)
def evaluate(
    target: Path,
    /,
    *more: Path,
    split: Literal["test", "val", "train"] | None = None,
    views: Views = 1,
    recipe: str | None = None,
    elsewhere: OfElsewhere = Elsewhere(),  # noqa: B008 (frozen)
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] | None = None,
    skip_bad: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a run, a checkpoint or a weights file: accuracy, error, confidence interval, per class, confusion matrix.

    Several are measured one by one and together, with their softmax outputs averaged.

    Parameters
    ----------
    target
        Run folder, checkpoint (.safetensors) or weights file (.pth, .safetensors, .npz; these need --recipe).
    more
        Others of the same data, to average.
    split
        Part of the data; without it test, or val where the data has no test split (ImageNet).
    views
        1 is the central crop, 2 with its mirror image, 10 the paper's corners and centre with theirs, 9 a grid of three
        by three; the outer ones begin in the border that training's crops had (--data.pad).
    recipe
        What a bare weights file was trained on.
    device
        auto, cpu, cuda or cuda:N.
    precision
        Without it as the run was trained; auto is bf16 where the processor has it, else fp32; int8 rounds weights and
        activations to 8 bits, by the scale of some training images, to see what that costs.
    skip_bad
        Leave out images that cannot be read instead of stopping at the first.
    out
        Folder for the result (.json) and the confusion matrix (.csv and .png), whose names begin with the split and
        end in digits of what was measured; without it the run's folder, whose own result stays as it is, or that of the
        weights file. Of several runs and of published weights nothing is written without it.
    json
        Print the result as JSON (fractions, not percent).
    """
    from alexnet.cli.tables import show_ensemble, show_result
    from alexnet.inference.ensembles import evaluate_ensemble
    from alexnet.inference.evaluation import evaluate as measure
    from alexnet.recipes import recipe as named

    start_computing()
    options: dict[str, Any] = {
        "config": named(recipe) if recipe else None,
        "data": elsewhere.settings(),
        "views": views,
        "device": device,
        "precision": precision,
        "skip_bad": skip_bad,
    }
    if more:
        targets = (target, *more)
        ensemble = evaluate_ensemble(targets, split, **options)
        written, problem = _write(ensemble.averaged, out) if out else ([], None)
        print_json(ensemble.to_dict()) if json else show_ensemble(ensemble, [str(path) for path in targets])
    else:
        result = measure(target, split, **options)
        beside = target if target.is_dir() else target.parent if target.exists() else None
        written, problem = _write(result, folder) if (folder := out or beside) else ([], None)
        print_json(result.to_dict()) if json else show_result(result)
    if written and not json:
        print(f"written: {written[0]}", *(path.name for path in written[1:]), sep="\n         ")
    if problem is not None:
        print(f"note: not everything was written: {problem}", file=sys.stderr)


def _write(result: Result, folder: Path) -> tuple[list[Path], Exception | None]:
    """Write a result and its confusion matrix. Gives the files, or what went wrong: they are a by-product, and the
    numbers are shown all the same."""
    from alexnet.figures import save_figure
    from alexnet.figures.confusion import draw_confusion
    from alexnet.runs.results import result_name, write_result

    stem = result_name(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_result(result, folder, stem)
        save_figure(draw_confusion(result), folder / f"{stem}-confusion.png")
    except Exception as problem:
        return [], problem
    return [folder / f"{stem}{end}" for end in (".json", "-confusion.csv", "-confusion.png")], None
