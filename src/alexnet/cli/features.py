"""The verb features: what layers answer, as arrays."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from alexnet.cli.command import LOOK, Elsewhere, OfElsewhere, app, start_computing
from alexnet.errors import UsageError
from alexnet.files import make_ready, write_atomically, writing
from alexnet.terminal import counting
from alexnet.training.signals import SignalGuard, stoppable


@app.command(group=LOOK)
def features(
    target: str,
    /,
    *images: str,
    split: Literal["test", "val", "train"] | None = None,
    layers: str = "fc7",
    out: Path,
    dtype: Literal["float32", "float16"] = "float32",
    elsewhere: OfElsewhere = Elsewhere(),  # noqa: B008 (frozen)
    skip_bad: bool = False,
    torchvision_names: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Save what layers answer to pictures or to a whole split, one array [N, ...] a layer.

    They go to a folder that is filled while they are computed: a .npy for each layer, labels.npy, images.csv and
    features.json, which says what they are. Interrupt or kill it at any time: the same command goes on, and ends with
    the same bytes. A few pictures go into one .npz file, with their paths. docs/layers.md lists the layers.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, or torchvision for its published weights.
    images
        Files, folders or patterns; without them a split.
    split
        Part of the run's own data, or of --data.source.
    layers
        Layers by our names (conv5, relu5, pool5, fc7, relu7 ...) or torchvision's (features.10), with commas; all are
        those that compute something.
    out
        A folder, or a .npz file for a few pictures.
    dtype
        Number format of the arrays; it is computed in float32 always.
    skip_bad
        Leave a row of NaN for an image of the split that cannot be read instead of stopping at it.
    torchvision_names
        Name the arrays as torchvision names its layers.
    model
        Network of a bare weights file whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    """
    names = [layer.strip() for layer in layers.split(",") if layer.strip()]
    data = elsewhere.settings()
    if images and (split or data):
        raise UsageError("features takes images, or a split of a data set (--split, --data.source): not both.")
    if not images and not (split or data):
        raise UsageError("name images (files, folders, patterns), or a split of the run's data with --split test.")
    if images and skip_bad:
        raise UsageError("--skip-bad is for the images of a split: of files name those that can be read.")
    if out.suffix == ".npz" and not images:
        raise UsageError(f"--out {out}: the features of a split go to a folder; .npz is for a few images.")
    if out.suffix == ".npz":
        make_ready(out, "--out")
    start_computing()
    if out.suffix == ".npz":
        from alexnet.data.images import find_images
        from alexnet.inference.features import extract_features, in_dtype

        paths = find_images(images)
        arrays = extract_features(target, paths, names, torchvision_names=torchvision_names, model=model, device=device)
        _write_archive({name: in_dtype(array, dtype, name) for name, array in arrays.items()}, paths, out)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
    else:
        from alexnet.inference.feature_files import write_features
        from alexnet.inference.pictures import file_pictures, split_pictures

        if images:
            pictures = file_pictures(target, images, model=model, device=device)
        else:
            pictures = split_pictures(target, split, data=data, model=model, device=device, skip_bad=skip_bad)
        with SignalGuard(), stoppable("writing features"), counting() as on_progress:
            described = write_features(
                pictures, out, names, dtype=dtype, torchvision_names=torchvision_names, on_progress=on_progress
            )
        shapes = described["layers"]
        if unreadable := described["unreadable"]:
            print(f"note: {len(unreadable)} image(s) could not be read; their rows are NaN.", file=sys.stderr)
    for name, shape in shapes.items():
        print(f"{name}: {'x'.join(map(str, shape))}")
    print(f"written: {out}")


def _write_archive(arrays: Mapping[str, Any], paths: Sequence[Path], out: Path) -> None:
    """Arrays and the paths of their images as a .npz file. Raises UsageError where it cannot be written."""
    import numpy as np

    content = io.BytesIO()
    np.savez(content, **arrays, paths=np.array([str(p) for p in paths]))
    with writing(out, "--out"):
        write_atomically(out, content.getbuffer())
