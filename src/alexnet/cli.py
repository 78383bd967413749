"""The command `alexnet`: one thin function a verb. Torch is imported inside the verbs that compute."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter

from alexnet import __version__
from alexnet.config import ModelConfig, TrainConfig, get
from alexnet.errors import AlexNetError
from alexnet.signals import Interrupt, SignalGuard

if TYPE_CHECKING:
    from alexnet.metrics import Result

app = App(
    name="alexnet",
    help="AlexNet (2012): train it, evaluate it, look into it. Every command takes --help; --debug shows tracebacks.",
    version=__version__,
)
_given: list[str] = []


def _remember_given(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Keep the names of the settings that stand on the command line: only these override the recipe's."""
    _given[:] = [".".join(a.keys) for a in arguments if a.tokens and a.keys]


def _given_values(config: Any) -> dict[str, Any]:
    return {name: get(config, name) for name in _given}


app.config = (_remember_given,)


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
        Run folder; without it runs/RECIPE. The same command again goes on there, a larger --epochs too.
    """
    from alexnet.config import override
    from alexnet.recipes import recipe as named

    with SignalGuard() as guard:
        if recipe.endswith((".yaml", ".yml")):
            from alexnet.run import load_config

            chosen = load_config(Path(recipe))
        else:
            chosen = named(recipe)
        chosen = override(chosen, _given_values(config))
        from alexnet import training

        training.train(chosen, run, guard=guard)


@app.command
def evaluate(
    target: Path,
    /,
    *,
    split: Literal["test", "val", "train"] = "test",
    views: int = 1,
    recipe: str | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    source: Annotated[str | None, Parameter(name="--data.source")] = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a run, a checkpoint or a weights file: accuracy, error, confidence interval, per class, confusion matrix.

    Parameters
    ----------
    target
        Run folder, checkpoint (.safetensors) or weights file (.pth, .safetensors, .npz; these need --recipe).
    split
        Part of the data.
    views
        1 is the central crop, 10 the paper's corners and centre with their mirror images.
    recipe
        What a bare weights file was trained on.
    root
        Folder that holds the data set, where it is not the one that the run was trained from.
    source
        Another data set with the same classes.
    device
        auto, cpu, cuda or cuda:N.
    precision
        Without it as the run was trained; auto is bf16 where the processor has it, else fp32.
    out
        Folder for the result (SPLIT.json) and the confusion matrix (.csv and .png); without it the run's folder.
    json
        Print the result as JSON (fractions, not percent).
    """
    from alexnet.evaluation import evaluate as measure
    from alexnet.figures.confusion import write_confusion
    from alexnet.recipes import recipe as named

    result = measure(
        target,
        split,
        config=named(recipe) if recipe else None,
        data={k: v for k, v in (("root", root), ("source", source)) if v is not None},
        views=views,
        device=device,
        precision=precision,
    )
    folder = out or (target if target.is_dir() else target.parent)
    # The run's own test.json is training's: other settings get names of their own.
    parts = [split, f"{views}views" if views > 1 else None, source, precision]
    stem = "-".join(p for p in (None if target.is_dir() or out else target.stem, *parts) if p)
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_confusion(result, folder, stem)
    except (AlexNetError, OSError) as caught:  # the figures are a by-product: the numbers are still shown
        problem = caught
    if json:
        _print_json(result.to_dict())
    else:
        _show_result(result)
        if problem is None:
            print(f"written: {folder / stem}.json, {stem}-confusion.csv, {stem}-confusion.png")
    if problem is not None:
        print(f"note: not everything was written to {folder}: {problem}", file=sys.stderr)


@app.command
def info(
    model: str = "paper",
    /,
    *,
    config: Annotated[ModelConfig, Parameter(name="model")] = ModelConfig(),  # noqa: B008 (frozen)
    input_size: int | None = None,
    batch_size: int = 128,
    json: bool = False,
) -> None:
    """Show a network layer by layer: kernels, shapes, parameters, multiply-accumulates, neurons, memory.

    Parameters
    ----------
    model
        A name of `alexnet list models`.
    config
        Fields that replace the table's, for example --model.groups 1.
    input_size
        Side of the input in pixels; without it the table's.
    batch_size
        Images a batch, for the memory column.
    json
        Print as JSON.
    """
    from alexnet.describe import describe, show

    fields = {name.removeprefix("model."): value for name, value in _given_fields(config).items()}
    description = describe(model, batch_size, **fields, **({"input_size": input_size} if input_size else {}))
    if json:
        _print_json(description)
    else:
        show(description)


@app.command(name="list")
def list_names(kind: Literal["models", "recipes", "data", "all"] = "all", /) -> None:
    """List what there is: models, recipes, data sets.

    Parameters
    ----------
    kind
        What to list.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from alexnet.models.variants import VARIANTS
    from alexnet.recipes import ORIGINS, RECIPES

    console = Console()

    def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
        shown = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*map(escape, row))
        console.print(shown, "")

    if kind in ("models", "all"):
        table(
            "models (alexnet info MODEL)",
            ["name", "input", "what it is"],
            [[n, str(v.input_size), v.about] for n, v in VARIANTS.items()],
        )
    if kind in ("recipes", "all"):
        table(
            "recipes (alexnet train RECIPE)",
            ["name", "data", "model", "epochs", "settings from"],
            [[n, r.data.source, r.model.variant, str(r.epochs), ORIGINS[n]] for n, r in RECIPES.items()],
        )
    if kind in ("data", "all"):
        from alexnet.data.sources import SOURCES

        table("data (--data.source NAME)", ["name", "what it is"], [[n, s.about] for n, s in SOURCES.items()])


def _given_fields(config: Any) -> dict[str, Any]:
    known = asdict(config)
    return {name: known[name] for name in _given if name in known}


def _show_result(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    (low, high), (low5, high5) = result.interval, result.top5_interval
    table = Table("", "accuracy", "error", "95 % interval of the accuracy", box=None, pad_edge=False)
    table.add_row("top-1", f"{result.top1:.2%}", f"{result.top1_error:.2%}", f"{low:.2%} to {high:.2%}")
    table.add_row("top-5", f"{result.top5:.2%}", f"{result.top5_error:.2%}", f"{low5:.2%} to {high5:.2%}")
    console.print(f"{result.split}: {result.count} images, {result.views} view(s), loss {result.loss:.4f}")
    console.print(table)
    console.print("\ntop-1 accuracy per class")
    grid = Table(box=None, pad_edge=False, show_header=False)
    cells = [f"{name} {value:.1%}" for name, value in result.per_class.items()]
    for start in range(0, len(cells), 5):
        grid.add_row(*cells[start : start + 5])
    console.print(grid)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def main(arguments: list[str] | None = None) -> None:
    """Run the command; errors that a user can mend end in one message and the exit code of their kind."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except Interrupt as signal:
        _fail(f"stopped by {signal} before training began; the same command starts again.", 75)
    except AlexNetError as problem:
        if debug:
            raise
        _fail(str(problem), problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `alexnet list | head`
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    print(f"{'stopped' if code == 75 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)
