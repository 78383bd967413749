"""The verb export: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from alexnet.cli.command import HAND_ON, app, data_of, start_computing
from alexnet.errors import UsageError
from alexnet.terminal import printable

if TYPE_CHECKING:
    from alexnet.export.integers import Measurement


@app.command(group=HAND_ON)
def export(
    target: str,
    /,
    *,
    to: Literal["onnx", "torch-export", "torchvision", "hub"],
    out: Path,
    raw: bool = False,
    layout: Literal["nchw", "nhwc"] | None = None,
    lrn: Literal["op", "decomposed"] | None = None,
    int8: bool = False,
    split: Literal["test", "val", "train"] | None = None,
    recipe: str | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    licence: Annotated[str | None, Parameter(name=("--license", "--licence"))] = None,
    model: str | None = None,
) -> None:
    """Write a network for other programs: ONNX, torch.export, torchvision's names, or the Hugging Face Hub.

    ONNX files and programs take pixels of 0 to 255 of the network's crop, any number of images, and give probabilities
    and logits; classes, preprocessing and the weights' SHA-256 are inside. A file is written only when its logits are
    the network's own.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, torchvision for its published weights, or a name of `alexnet list models`
        for a network with random weights.
    to
        onnx (.onnx), torch-export (.pt2), torchvision (.safetensors or .pth: a state dict for
        torchvision.models.alexnet), hub (a folder with weights, configuration and model card).
    out
        The file, or for hub the folder.
    raw
        The network alone: normalised images to logits (onnx, torch-export).
    layout
        How the pixels lie: nchw unless told otherwise, or nhwc (onnx).
    lrn
        Normalisation over channels as ONNX's one operator LRN, unless told otherwise, or decomposed into a pooling and
        elementary operators. Normalisation within maps is always decomposed.
    int8
        Weights and activations in 8 bits, by the scale of some training images, and what that costs (onnx).
    split
        Where that is measured; without it test, or val where the data has no test split.
    recipe
        With --int8: what a bare weights file was trained on.
    root
        Folder that holds the data set, where it is not the one that the run was trained from (--int8, hub).
    licence
        Licence of the weights by its identifier on the Hub, for example mit (hub).
    model
        Network of a bare weights file whose shapes do not tell it.
    """
    _refuse_idle(
        to,
        {
            "--raw": (raw, ("onnx", "torch-export")),
            "--layout": (layout, ("onnx",)),
            "--lrn": (lrn, ("onnx",)),
            "--int8": (int8, ("onnx",)),
            "--split": (split, ("onnx",)),
            "--recipe": (recipe, ("onnx",)),
            "--data.root": (root, ("onnx", "hub")),
            "--license": (licence, ("hub",)),
            "--model": (model, ("onnx", "torch-export", "torchvision")),
        },
    )
    if to == "onnx" and not int8 and (split or recipe or root):
        raise UsageError("--split, --recipe and --data.root say where 8 bits are measured: add --int8.")
    start_computing()
    match to:
        case "onnx":
            from alexnet.export.graph import Form
            from alexnet.export.onnx_file import export_onnx

            form = Form(raw, layout or "nchw", lrn or "op")
            where = _measurement(split, root, recipe) if int8 else None
            written = export_onnx(target, out, form, int8=where, model=model)
            _say_parity(written.difference)
            if (loss := written.loss) is not None:
                points = 100 * (loss.int8.top1 - loss.fp32.top1)
                low, high = loss.int8.interval
                print(
                    f"int8: {loss.int8.top1:.2%} of {loss.int8.count:,} {loss.int8.split} images (95 % interval "
                    f"{low:.2%} to {high:.2%}), fp32 {loss.fp32.top1:.2%}: {points:+.2f} points"
                )
        case "torch-export":
            from alexnet.export.program import export_program

            _say_parity(export_program(target, out, raw, model=model))
        case "torchvision":
            from alexnet.export.torchvision import export_torchvision

            export_torchvision(target, out, model=model)
        case "hub":
            from alexnet.export.hub import export_hub

            export_hub(target, out, licence=licence, data=data_of(root))
            if licence is None:
                print("note: the model card names no licence: --license ID, for example mit.")
    print(f"written: {printable(str(out))}")


def _refuse_idle(to: str, flags: dict[str, tuple[object, tuple[str, ...]]]) -> None:
    """Raise UsageError for a flag that would do nothing."""
    for flag, (given, forms) in flags.items():
        if given and to not in forms:
            raise UsageError(f"{flag} does nothing with --to {to}; it is for --to {' and '.join(forms)}.")


def _measurement(split: str | None, root: str | None, recipe: str | None) -> Measurement:
    from alexnet.export.integers import Measurement
    from alexnet.recipes import recipe as named

    return Measurement(split, data_of(root), named(recipe) if recipe else None)


def _say_parity(difference: float) -> None:
    print(f"logits differ from the network's own by at most {difference:.1e} of the largest")
