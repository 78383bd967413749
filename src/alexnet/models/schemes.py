"""Published initial weights (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet.models.summary import Layer, Role
from alexnet.models.table import Conv, Linear, Local, Start


@dataclass(frozen=True)
class Scheme:
    """Published initial weights: normal, with a standard deviation for each role; biases are zero, or the positive
    constant in the rows of the table that ask for it."""

    std: dict[Role, float]
    positive_bias: float

    def start(self, layer: Layer) -> Start:
        """Those of one layer with weights."""
        assert layer.role is not None
        assert isinstance(layer.row, Conv | Local | Linear)
        return Start(self.std[layer.role], self.positive_bias if layer.row.positive_bias else 0.0)


SCHEMES = {
    # section 5
    "text": Scheme({"conv": 0.01, "conv3x3": 0.01, "hidden": 0.01, "output": 0.01}, 1.0),
    # the released layer files of net 145
    "code": Scheme({"conv": 0.01, "conv3x3": 0.03, "hidden": 0.01, "output": 0.01}, 1.0),
    # BVLC models/bvlc_alexnet/train_val.prototxt
    "caffe": Scheme({"conv": 0.01, "conv3x3": 0.01, "hidden": 0.005, "output": 0.01}, 0.1),
}


def start_bias(layer: Layer, scheme: str, positive_bias: float | None) -> float | None:
    """The initial bias of a layer whose network has `Variant.init` and `Variant.positive_bias` so; None for torch's
    own, which are drawn."""
    assert isinstance(layer.row, Conv | Local | Linear)
    if layer.row.positive_bias and positive_bias is not None:
        return positive_bias
    if layer.row.start is not None:
        return layer.row.start.bias
    if scheme in SCHEMES:
        return SCHEMES[scheme].start(layer).bias
    return None if scheme == "torch" else 0.0


# "modern" starts the output layer at this part of He's weights. With all of them torchvision's network starts at a loss
# of about 6 (5 classes) and 15 (1000) on photographs instead of ln K (records/2026-11-24-init).
MODERN_HEAD = 0.01
