"""The networks that people call AlexNet, side by side as literal tables (no torch here).

Sources: the paper (Krizhevsky, Sutskever, Hinton 2012), the original code (cuda-convnet, released 2025), the "one
weird trick" network of cuda-convnet2, Caffe's bvlc_alexnet and CaffeNet, torchvision's models/alexnet.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal, get_args, get_type_hints

from alexnet.errors import UsageError, unknown

Lrn = Literal["off", "code", "formula"]
Activation = Literal["relu", "tanh"]
Init = Literal["text", "code", "caffe", "torch", "modern"]


@dataclass(frozen=True)
class Conv:
    """One convolutional row: the layer itself and what follows its activation."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    normalised: bool = False
    pooled: bool = False
    # The original code computes 1 + ceil((size - kernel) / stride) modules: the kernel runs past the right and bottom
    # edge over implicit zeros, which is how an input of 224 gives 55 (paper, section 3.5, says 224; Caffe crops 227).
    ceil: bool = False


@dataclass(frozen=True)
class Variant:
    """A whole network. Every field can be overridden in `build_model(name, **fields)`."""

    about: str
    convs: tuple[Conv, ...]
    input_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    hidden: tuple[int, ...] = (4096, 4096)
    width: float = 1.0
    """Multiplies every convolutional and hidden width (rounded to a multiple of 8)."""
    dropout: float = 0.5
    dropout_before: bool = False
    """torchvision drops the inputs of fc6 and fc7; the paper drops their outputs (section 4.2)."""
    lrn: Lrn = "code"
    """Local response normalisation: "code" divides alpha by the window's size as the original code does, "formula"
    reads the paper's formula literally (alpha five times larger), "off" leaves it out."""
    lrn_k: float = 2.0
    norm_after_pool: bool = False
    overlap: bool = True
    """Overlapping 3x3 pooling with stride 2 (section 3.4), or plain 2x2 with stride 2."""
    activation: Activation = "relu"
    adaptive_pool: int | None = None
    """Average-pool the last maps to this side, so that fc6 has one shape for every input size (torchvision)."""
    init: Init = "text"
    """Initial weights: "text" as the paper says (section 5), "code" as released, "caffe", "torch" (its layers' own
    defaults, which public ports train from), or "modern" (He)."""


PAPER = Variant(
    about="the paper's network, two columns as groups (sections 3.1-3.5)",
    convs=(
        Conv(96, 11, stride=4, ceil=True, normalised=True, pooled=True),
        Conv(256, 5, padding=2, groups=2, normalised=True, pooled=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, groups=2),
        Conv(256, 3, padding=1, groups=2, pooled=True),
    ),
)
OWT = Variant(
    about="one column, 'One weird trick' (2014), with LRN",
    convs=(
        Conv(64, 11, stride=4, padding=2, normalised=True, pooled=True),
        Conv(192, 5, padding=2, normalised=True, pooled=True),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1),
        Conv(256, 3, padding=1, pooled=True),
    ),
)
BVLC = replace(PAPER, about="Caffe's bvlc_alexnet: 227 crops, LRN with k=1", input_size=227, lrn_k=1.0, init="caffe")

VARIANTS: dict[str, Variant] = {
    "paper": PAPER,
    "owt": OWT,
    "torchvision": replace(
        OWT,
        about="torchvision.models.alexnet: OWT without LRN, dropout before fc6 and fc7",
        lrn="off",
        dropout_before=True,
        adaptive_pool=6,
        init="torch",
    ),
    "bvlc": BVLC,
    "caffenet": replace(
        BVLC, about="Caffe's bvlc_reference_caffenet: LRN after pooling", norm_after_pool=True, init="text"
    ),
    "cifar": replace(
        PAPER,
        about="the paper's widths, groups and LRN for 32x32: the first two kernels 5x5",
        convs=(Conv(96, 5, padding=2, normalised=True, pooled=True), *PAPER.convs[1:]),
        input_size=32,
        num_classes=10,
        init="modern",
    ),
    "cifar-resized": replace(
        OWT,
        about="OWT widths with LRN on 64x64 crops of enlarged small images",
        input_size=64,
        num_classes=10,
        dropout_before=True,
        adaptive_pool=6,
        init="modern",
    ),
}

_HINTS = get_type_hints(Variant)
_RANGES = {"num_classes": (1, None), "in_channels": (1, None), "input_size": (1, None), "dropout": (0, 1)}


def list_models() -> list[str]:
    """Names that `build_model` knows."""
    return list(VARIANTS)


def resolve(name: str, groups: int | None = None, **overrides: Any) -> Variant:
    """The table called `name` with fields replaced; `groups` (1 or 2) sets conv2, conv4 and conv5 at once.

    Raises UsageError for an unknown name, field or value.
    """
    if name not in VARIANTS:
        raise UsageError(unknown("model", name, VARIANTS))
    variant = VARIANTS[name]
    known = [f.name for f in fields(Variant)]
    for field, value in overrides.items():
        if field not in known:
            raise UsageError(unknown("model field", field, [*known, "groups"]))
        choices = get_args(_HINTS[field])
        if choices and isinstance(choices[0], str) and value not in choices:
            raise UsageError(unknown(f"value for model field {field}:", str(value), choices))
        low, high = _RANGES.get(field, (None, None))
        if (low is not None and value < low) or (high is not None and value >= high):
            raise UsageError(
                f"model field {field} = {value} is out of range: at least {low}"
                + (f" and below {high}." if high is not None else ".")
            )
    if groups is not None:
        if groups not in (1, 2):
            raise UsageError(f"model field groups = {groups}: 1 (one column) or 2 (two, as the paper).")
        split = {1, 3, 4}  # conv2, conv4, conv5: the layers within a column (figure 2)
        variant = replace(
            variant, convs=tuple(replace(c, groups=groups) if i in split else c for i, c in enumerate(variant.convs))
        )
    variant = replace(variant, **overrides)
    if not 0 < variant.width < inf:
        raise UsageError(f"model field width = {variant.width}: a positive multiplier, 1.0 for the paper's widths.")
    if variant.width != 1.0:
        variant = replace(
            variant,
            convs=tuple(replace(c, width=_scaled(c.width, variant.width)) for c in variant.convs),
            hidden=tuple(_scaled(h, variant.width) for h in variant.hidden),
        )
    return variant


def _scaled(width: int, by: float) -> int:
    return max(8, round(width * by / 8) * 8)
