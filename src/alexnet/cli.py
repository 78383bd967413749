"""The command `alexnet`: one thin function a verb. Torch is imported inside the verbs that compute."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter

from alexnet import __version__
from alexnet.config import ModelConfig, TrainConfig, get
from alexnet.errors import AlexNetError, DataError, TrainingStopped, UsageError
from alexnet.signals import Interrupt, SignalGuard

if TYPE_CHECKING:
    from alexnet.prediction import Prediction

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
    split: Literal["test", "val", "train"] | None = None,
    views: int = 1,
    recipe: str | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    source: Annotated[str | None, Parameter(name="--data.source")] = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] | None = None,
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
    skip_bad
        Leave out images that cannot be read instead of stopping at the first.
    out
        Folder for the result (SPLIT.json) and the confusion matrix (.csv and .png); without it the run's folder.
    json
        Print the result as JSON (fractions, not percent).
    """
    from alexnet.evaluation import evaluate as measure
    from alexnet.figures.confusion import write_confusion
    from alexnet.recipes import recipe as named
    from alexnet.tables import show_result

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
    # The run's own test.json is training's: other settings get names of their own.
    parts = [result.split, f"{views}views" if views > 1 else None, source, precision]
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
        show_result(result)
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


@app.command
def prepare(
    source: str,
    /,
    *,
    root: Annotated[str, Parameter(name="--data.root")],
    out: Path,
    side: int = 256,
    quality: int = 90,
    workers: int | None = None,
) -> None:
    """Prepare photographs once, as the paper did, so that training reads them fast: one Arrow file a split.

    Interrupt or kill it at any time: the same command goes on, and ends with the same files. It needs twice the room of
    its result while it works.

    Parameters
    ----------
    source
        A source of photographs: imagenet, stanford-dogs or folder (see `alexnet list data`).
    root
        Folder of the original photographs.
    out
        Folder for the prepared ones; name it as --data.root afterwards.
    side
        Short side in pixels.
    quality
        JPEG quality, 1 to 100.
    workers
        Threads; without it one a core, at most 16.
    """
    from alexnet.config import DataConfig
    from alexnet.data.packing import prepare as pack
    from alexnet.progress import counting
    from alexnet.tables import show_preparation

    with SignalGuard(), _stoppable("preparing"), counting() as on_progress:
        config = DataConfig(source=source, root=root)
        report = pack(config, out, side=side, quality=quality, workers=workers, on_progress=on_progress)
    show_preparation(report, source, out)


@app.command
def predict(
    target: str,
    /,
    *images: str,
    top: int = 5,
    views: int = 1,
    sheet: Path | None = None,
    json: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Say what is on pictures: the most probable classes with their probabilities.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, or torchvision for its published weights.
    images
        Files, folders or patterns. EXIF orientation is applied, and said.
    top
        Classes to show for each.
    views
        1 is the central crop, 10 the paper's corners and centre with their mirror images.
    sheet
        Also draw a sheet of the images with bars, as the paper's figure 4, to this PNG file.
    json
        Print as JSON.
    model
        Network of a bare weights file whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    """
    from alexnet.prediction import predict as ask
    from alexnet.tables import show_predictions
    from alexnet.trained import open_trained

    trained = open_trained(target, model)
    answers = ask(trained, images, top=top, views=views, device=device)
    if json:
        _print_json([answer.to_dict() for answer in answers])
    else:
        show_predictions(answers)
    if sheet is not None and _draw_sheet(answers, sheet):
        print(f"written: {sheet}", file=sys.stderr if json else sys.stdout)
    failed = [answer.error for answer in answers if answer.error]
    if failed:
        raise DataError(f"{len(failed)} of {len(answers)} images could not be read: {failed[0]}")


def _draw_sheet(answers: list[Prediction], sheet: Path) -> bool:
    from alexnet.data.images import read_picture
    from alexnet.figures.predictions import draw_predictions

    good = [answer for answer in answers if not answer.error]
    if good:
        pictures = [read_picture(Path(answer.path)).pixels for answer in good]
        bars = [list(zip(a.classes, a.probabilities, strict=True)) for a in good]
        draw_predictions(pictures, [_title(answer) for answer in good], bars, sheet)
    return bool(good)


def _title(answer: Prediction) -> str:
    """The folder's name where it is one of the classes (then that is what the image shows), else the file's."""
    path = Path(answer.path)
    return path.parent.name if path.parent.name in answer.classes else path.name


@app.command
def features(
    target: str,
    /,
    *images: str,
    layers: str = "fc7",
    out: Path,
    torchvision_names: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Save what layers answer to pictures: one array [N, ...] a layer, and the paths, in a .npz file.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, or torchvision for its published weights.
    images
        Files, folders or patterns.
    layers
        Layers by our names (conv5, relu5, pool5, fc7, relu7 ...) or torchvision's (features.10), with commas.
    out
        The .npz file.
    torchvision_names
        Name the arrays as torchvision names its layers.
    model
        Network of a bare weights file whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    """
    import numpy as np

    from alexnet.checkpoint import write_atomically
    from alexnet.data.images import find_images
    from alexnet.features import extract_features

    paths = find_images(images)
    names = [layer.strip() for layer in layers.split(",") if layer.strip()]
    arrays = extract_features(target, paths, names, torchvision_names=torchvision_names, model=model, device=device)
    content = io.BytesIO()
    np.savez(content, **arrays, paths=np.array([str(p) for p in paths]))  # type: ignore[arg-type]
    try:
        write_atomically(out, content.getbuffer())
    except OSError as problem:
        raise UsageError(f"cannot write {out}: {problem.strerror}; choose another --out.") from None
    for name, array in arrays.items():
        print(f"{name}: {'x'.join(map(str, array.shape))}")
    print(f"written: {out}")


@app.command
def compare(
    source: str,
    /,
    *weights: str,
    root: Annotated[str, Parameter(name="--data.root")] = "data",
    split: Literal["test", "val", "train"] | None = None,
    views: int = 1,
    model: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    skip_bad: bool = False,
    logits: Path | None = None,
    json: bool = False,
) -> None:
    """Compare trained networks on one split, beside the published figures.

    The verdict says whether the published accuracies lie inside the measured 95 % intervals.

    Parameters
    ----------
    source
        Data set (see `alexnet list data`), for example imagenet.
    weights
        Run folders, checkpoints, weights files, or torchvision for its published weights.
    root
        Folder that holds the data set, original or prepared.
    split
        Part of the data; without it test, or val where there is no test split (ImageNet).
    views
        1 is the central crop, 10 the paper's corners and centre with their mirror images.
    model
        Network of bare weights whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    precision
        fp32 unless told otherwise, as the published figures.
    skip_bad
        Leave out images that cannot be read instead of stopping at the first.
    logits
        Also write every network's logits to this .npz file.
    json
        Print as JSON (fractions, not percent).
    """
    from alexnet.comparison import compare as measure
    from alexnet.config import DataConfig
    from alexnet.tables import show_comparison

    if not weights:
        raise UsageError("name the weights to compare: run folders, checkpoints, weights files, or torchvision.")
    lines = measure(
        DataConfig(source=source, root=root),
        weights,
        split=split,
        views=views,
        model=model,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
        logits=logits,
    )
    if json:
        _print_json([line.to_dict() for line in lines])
    else:
        show_comparison(lines)


@app.command
def preview(
    source: str,
    /,
    *,
    recipe: str | None = None,
    out: Path = Path("preview.png"),
    images: int = 4,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Draw what becomes of a few training images on their way into the network.

    Parameters
    ----------
    source
        Data set (see `alexnet list data`).
    recipe
        Recipe whose settings are drawn; without it the first that is made for this source.
    out
        The PNG file.
    images
        How many, drawn by --seed.
    """
    from alexnet.config import override
    from alexnet.preview import draw_pipeline
    from alexnet.recipes import RECIPES
    from alexnet.recipes import recipe as named

    fitting = [name for name, known in RECIPES.items() if known.data.source == source]
    chosen = override(named(recipe or (fitting[0] if fitting else "folder")), {"data.source": source})
    places = draw_pipeline(override(chosen, _given_values(config)), out, images)
    for place in places:
        print(place)
    print(f"written: {out}")


@app.command
def benchmark(
    model: str = "paper",
    /,
    *,
    batch_size: int = 128,
    rounds: int = 5,
    steps: int = 2,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Measure how fast this machine trains and applies a network, beside the usual way and the machine's own ceiling.

    Parameters
    ----------
    model
        A name of `alexnet list models`.
    batch_size
        Images a training step.
    rounds
        The ways take turns this many times; medians are shown.
    steps
        Steps of each way in a round.
    device
        auto, cpu, cuda or cuda:N.
    json
        Print as JSON.
    """
    from alexnet.speed import benchmark as measure
    from alexnet.tables import show_speed

    speed = measure(model, batch_size=batch_size, device=device, rounds=rounds, steps=steps)
    if json:
        _print_json(speed.to_dict())
    else:
        show_speed(speed)


@contextmanager
def _stoppable(what: str) -> Iterator[None]:
    """Turn a signal into the message that the same command goes on."""
    try:
        yield
    except Interrupt as signal:
        raise TrainingStopped(f"{what} was stopped by {signal}; the same command goes on from where it was.") from None


@app.command(name="list")
def list_names(kind: Literal["models", "recipes", "data", "all"] = "all", /) -> None:
    """List what there is: models, recipes, data sets.

    Parameters
    ----------
    kind
        What to list.
    """
    from alexnet.tables import show_names

    show_names(kind)


def _given_fields(config: Any) -> dict[str, Any]:
    known = asdict(config)
    return {name: known[name] for name in _given if name in known}


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
