"""The verbs for photographs: prepare, sample, preview, predict, compare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from alexnet.cli.command import (
    DATA,
    LOOK,
    TRAIN,
    Count,
    Views,
    app,
    given_values,
    print_json,
    start_computing,
    within,
)
from alexnet.cli.settings import GivenOfImages, ImageSettings
from alexnet.config import DataConfig
from alexnet.config.ranges import Range
from alexnet.errors import AlexNetError, DataError, UsageError
from alexnet.terminal import counting, printable
from alexnet.training.signals import SignalGuard, stoppable

if TYPE_CHECKING:
    from alexnet.inference.comparison import Compared
    from alexnet.inference.prediction import Prediction


@dataclass(frozen=True)
class Columns:
    """The columns of a table of photographs."""

    path_column: Annotated[str, Parameter(name="--data.path-column")] = DataConfig.path_column
    """Source table: the column of paths."""
    label_column: Annotated[str, Parameter(name="--data.label-column")] = DataConfig.label_column
    """Source table: the column of labels."""
    split_column: Annotated[str | None, Parameter(name="--data.split-column")] = DataConfig.split_column
    """Source table: the column that says train, val or test; without it the column "split" where there is one."""


OfTable = Annotated[Columns, Parameter(name="*")]


@app.command(group=DATA)
def prepare(
    source: str,
    /,
    *,
    root: Annotated[str, Parameter(name="--data.root")],
    out: Path,
    side: Annotated[int, within(Range(least=16, most=4096))] = 256,
    quality: Annotated[int, within(Range(least=1, most=100))] = 90,
    orientation: Annotated[Literal["apply", "ignore"] | None, Parameter(name="--data.orientation")] = None,
    workers: Annotated[int | None, within(Range(least=1, most=1024))] = None,
    columns: OfTable = Columns(),
) -> None:
    """Prepare photographs once, as the paper did, so that training reads them fast: one Arrow file a split.

    Interrupt or kill it at any time: the same command goes on, and ends with the same files. It needs twice the room of
    its result while it works.

    Parameters
    ----------
    source
        A source of photographs: imagenet, stanford-dogs, folder or table (see `alexnet list data`).
    root
        Folder of the original photographs, or the table's CSV file.
    out
        Folder for the prepared ones; name it as --data.root afterwards.
    side
        Short side in pixels.
    quality
        JPEG quality, 1 to 100.
    orientation
        Turn photographs upright as their EXIF tag says, or not; without it those of source folder and table are turned.
    workers
        Threads; without it one a core, at most 16.
    """
    from alexnet.cli.tables import show_notes, show_preparation
    from alexnet.data.packing import prepare as pack

    notes: list[str] = []
    with SignalGuard(), stoppable("preparing"), counting() as on_progress:
        config = DataConfig(source=source, root=root, orientation=orientation, **asdict(columns))
        report = pack(
            config, out, side=side, quality=quality, workers=workers, on_progress=on_progress, on_note=notes.append
        )
    show_notes(notes)
    show_preparation(report, source, out, side)


@app.command(group=DATA)
def sample(
    source: str,
    /,
    *,
    out: Path,
    images: Count = 8,
    split: Literal["test", "val", "train"] | None = None,
    root: Annotated[str, Parameter(name="--data.root")] = "data",
    seed: Annotated[int, within(Range(least=0))] = 0,
    columns: OfTable = Columns(),
) -> None:
    """Write a few images of a data set as files in class folders, for predict and features.

    Parameters
    ----------
    source
        Data set (see `alexnet list data`).
    out
        Folder for the class folders.
    images
        How many.
    split
        Part of the data; without it test, or val where there is no test split (ImageNet).
    root
        Folder that holds the data set, or receives its download.
    seed
        Draws them.
    """
    from alexnet.data.samples import write_samples

    for file in write_samples(DataConfig(source=source, root=root, **asdict(columns)), out, images, split, seed):
        print(printable(str(file)))


@app.command(group=DATA)
def preview(
    source: str,
    /,
    *,
    recipe: str | None = None,
    out: Path = Path("preview.png"),
    images: Annotated[int, within(Range(least=1, most=100))] = 4,
    config: GivenOfImages = ImageSettings(),  # noqa: B008 (frozen)
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
        How many, drawn by --seed. Any other setting of training is taken too, as by `alexnet train`.
    """
    from alexnet.config.values import override
    from alexnet.data.preview import pipeline_stages
    from alexnet.figures import check_png, save_figure
    from alexnet.figures.stages import draw_stages
    from alexnet.recipes import RECIPES
    from alexnet.recipes import recipe as named

    check_png(out, "--out")
    fitting = [name for name, known in RECIPES.items() if known.data.source == source]
    chosen = override(named(recipe or (fitting[0] if fitting else "folder")), {"data.source": source})
    given = given_values(config)
    if "data.source" in given:
        raise UsageError(f"the data set is named first, {source}: leave --data.source out.")
    shown = pipeline_stages(override(chosen, given), images)
    save_figure(draw_stages([s.stages for s in shown], [s.name for s in shown]), out)
    for image in shown:
        print(printable(image.place))
    print(f"written: {out}")


@app.command(group=LOOK)
def predict(
    target: str,
    /,
    *images: str,
    top: Count = 5,
    views: Views = 1,
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
        1 is the central crop, 2 with its mirror image, 10 the paper's corners and centre with theirs, 9 a grid of three
        by three; the outer ones begin in the border that training's crops had (--data.pad).
    sheet
        Also draw the images above bars, as the paper's figure 4, to this PNG file, and more than twenty to NAME-1.png,
        NAME-2.png ... An image whose folder is named after one of the classes is taken to show that class.
    json
        Print as JSON.
    model
        Network of a bare weights file whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    """
    from alexnet.cli.tables import show_predictions
    from alexnet.figures import check_png
    from alexnet.inference.prediction import predict as ask
    from alexnet.inference.trained import open_trained

    if sheet is not None:
        check_png(sheet, "--sheet")
    start_computing()
    trained = open_trained(target, model)
    answers = ask(trained, images, top=top, views=views, device=device)
    if json:
        print_json([answer.to_dict() for answer in answers])
    else:
        show_predictions(answers)
    for page in _draw_sheets(answers, sheet) if sheet is not None else ():
        print(f"written: {page}", file=sys.stderr if json else sys.stdout)
    failed = [answer.error for answer in answers if answer.error]
    if failed:
        raise DataError(f"{len(failed)} of {len(answers)} images could not be read: {failed[0]}")


def _draw_sheets(answers: list[Prediction], sheet: Path) -> Iterator[Path]:
    """Draw the images that could be read, in pages; gives every file that was written."""
    from alexnet.data.images import read_picture
    from alexnet.figures import save_figure
    from alexnet.figures.bitmaps import shrink
    from alexnet.figures.predictions import PAGE, SIDE, Answer, draw_predictions

    good = [answer for answer in answers if not answer.error]
    for page, start in enumerate(range(0, len(good), PAGE), 1):
        file = sheet if len(good) <= PAGE else sheet.with_stem(f"{sheet.stem}-{page}")
        try:
            shown = [
                Answer(
                    shrink(read_picture(Path(a.path)).pixels, SIDE),
                    list(zip(a.classes, a.probabilities, strict=True)),
                    Path(a.path).name,
                    a.truth,
                )
                for a in good[start : start + PAGE]
            ]
            save_figure(draw_predictions(shown), file)
        except AlexNetError:
            raise
        except Exception as problem:  # the answers stand, whatever a plotting library makes of odd names
            print(f"note: no {file}: {problem!r}", file=sys.stderr)
        else:
            yield file


@app.command(group=TRAIN)
def compare(
    source: str,
    /,
    *weights: str,
    root: Annotated[str, Parameter(name="--data.root")] = "data",
    split: Literal["test", "val", "train"] | None = None,
    views: Views = 1,
    model: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    skip_bad: bool = False,
    logits: Path | None = None,
    json: bool = False,
    columns: OfTable = Columns(),
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
        1 is the central crop, 2 with its mirror image, 10 the paper's corners and centre with theirs, 9 a grid of three
        by three; the outer ones begin in the border that training's crops had (--data.pad).
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
    from alexnet.cli.tables import show_comparison
    from alexnet.inference.comparison import compare as measure

    if not weights:
        raise UsageError("name the weights to compare: run folders, checkpoints, weights files, or torchvision.")
    start_computing()
    lines: list[Compared] = []

    def show(line: Compared) -> None:
        """Each network as it ends, which may take hours, and all of them before their logits are written."""
        lines.append(line)
        if len(lines) < len(weights):
            found = f"{line.result.top1:.2%} top-1, {line.result.top5:.2%} top-5"
            with suppress(OSError):  # the reader has gone: what is left may still be written to a file
                print(f"{printable(line.origin)}: {found}", file=sys.stderr if json else sys.stdout, flush=True)
        elif json:
            print_json([line.to_dict() for line in lines])
        else:
            show_comparison(lines)

    measure(
        DataConfig(source=source, root=root, **asdict(columns)),
        weights,
        split=split,
        views=views,
        model=model,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
        logits=logits,
        on_result=show,
    )
