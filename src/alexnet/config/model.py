"""Which network: the settings of `--model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet.config.ranges import Range, check_ranges
from alexnet.config.values import coerce_fields

FORMER = {"owt": "owt-padded"}
"""Names whose tables have changed, and the names of the tables that they had: in configurations before format 4 and
checkpoints before format 3."""


@dataclass(frozen=True)
class ModelConfig:
    """The network: a table by name, and fields that replace the table's."""

    variant: str = "paper"
    """Network: see `alexnet list models`."""
    num_classes: int | None = None
    """Outputs; without it as many as the data has classes."""
    in_channels: int | None = None
    """Image channels; without it the data's."""
    width: float | None = None
    """Multiplier of all layer widths."""
    widths: tuple[str, ...] = ()
    """Widths of single layers, as they are after --model.width: "conv3=64"."""
    without: str | None = None
    """Leave out this convolutional layer, not the first one (section 7); its pooling stays."""
    dropout: float | None = None
    """Dropout rate."""
    lrn: Literal["off", "code", "formula"] | None = None
    """Local response normalisation: alpha divided by the window as in the released code, as it stands as the paper's
    formula reads, or off (all normalisation, that within maps too)."""
    overlap: bool | None = None
    """Overlapping 3x3 pooling, or plain 2x2."""
    activation: Literal["relu", "tanh"] | None = None
    """Activation function."""
    groups: int | None = None
    """Groups of conv2, conv4 and conv5: 2 is the paper's two columns; 1 is none in any layer, and normalisation over
    all channels."""
    init: Literal["text", "code", "caffe", "torch", "he", "modern"] | None = None
    """Initial weights: the paper's text, the released code, Caffe's, torch's defaults, He's, or He's with an output
    layer near zero (modern)."""
    positive_bias: float | None = None
    """Initial biases of the second, fourth and fifth convolutions and of the hidden layers; without it those that the
    initial weights come with, 1 in the paper's."""
    freeze_to: str | None = None
    """Keep the layers up to this one as they are (conv5: all convolutions), for fine-tuning."""

    def __post_init__(self) -> None:
        coerce_fields(self, "model.")
        check_ranges(
            self,
            "model.",
            num_classes=Range(least=1, most=1_000_000),
            in_channels=Range(least=1, most=1024),
            width=Range(above=0, most=16),
            dropout=Range(least=0, below=1),
            groups=Range(least=1, most=1024),
            positive_bias=Range(),
        )
