"""The network of a checkpoint, built from its own description."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import torch

from alexnet.config import load
from alexnet.config.data import LARGEST_SIDE
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError
from alexnet.models.ablations import resolve
from alexnet.models.network import AlexNet
from alexnet.models.summary import parameter_shapes
from alexnet.models.table import Variant
from alexnet.models.weights import build_from
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint


def restore(path: Path) -> tuple[AlexNet, Checkpoint]:
    """The network of a checkpoint with its weights, and the checkpoint. Raises CheckpointError."""
    checkpoint = load_checkpoint(path)
    return build_from(_described(checkpoint, path), checkpoint.evaluated, str(path)), checkpoint


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """What evaluation does to the images of a checkpoint's network."""
    return Preprocessing.from_dict(checkpoint.meta["preprocessing"], checkpoint.extra)


def _described(checkpoint: Checkpoint, path: Path) -> Variant:
    """The table of a checkpoint's network. Raises CheckpointError if its description makes no sense: its checksum says
    that nothing has changed since it was written, not that it was written by us."""
    meta = checkpoint.meta
    try:
        table = resolve(**meta["model"])
        parameter_shapes(table)  # can be built
        sound = {
            "preprocessing": _sees(preprocessing_of(checkpoint), table)
            and ("mean_image" in checkpoint.extra or not meta["preprocessing"].get("mean_image")),
            "classes": _name_outputs(meta["classes"], table),
            "names": _name_outputs(meta.get("names", meta["classes"]), table),
        }
        load(meta["config"])
    except KeyError as missing:
        problem = f"{missing} is missing"
    except (AttributeError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as reason:
        problem = str(reason)
    else:
        wrong = [f"{what} {meta[what]!r:.80}" for what, holds in sound.items() if not holds]
        if not wrong:
            return table
        problem = f"{wrong[0]} does not suit a network of {table.num_classes} classes on {table.input_size} pixels"
    raise CheckpointError(f"{path} cannot be used: its description of the network makes no sense ({problem}).")


def _sees(preprocessing: Preprocessing, table: Variant) -> bool:
    """Whether what it makes of an image is what the network takes."""
    seen, image = preprocessing, preprocessing.mean_image
    sides = (seen.size, seen.size if seen.resize is None else seen.resize)
    return (
        seen.size == table.input_size
        and all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in sides)
        and {len(seen.mean), len(seen.std)} <= {1, table.in_channels}
        and all(isinstance(value, int | float) and isfinite(value) for value in (*seen.mean, *seen.std))
        and min(seen.std) > 0
        and seen.upright in (True, False, None)
        and isinstance(seen.pad, int)
        and 0 <= seen.pad <= LARGEST_SIDE
        and (image is None or image.shape == (table.in_channels, seen.size, seen.size))
        and (image is None or (image.dtype == torch.float32 and bool(image.isfinite().all())))
    )


def _name_outputs(names: Any, table: Variant) -> bool:
    """Whether they are one name for each output."""
    return isinstance(names, list) and len(names) == table.num_classes and all(isinstance(name, str) for name in names)
