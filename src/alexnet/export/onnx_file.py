"""A network as an ONNX file: with its pixels' preparation and its probabilities, its classes and where it comes from.

The file appears only when onnxruntime has computed the network's own logits from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from alexnet.export.graph import Form, build_graph  # says what to install where onnx is missing
from alexnet.export.integers import Loss, Measurement, open_measured, quantise
from alexnet.export.origin import Target, check_out, check_parity, identify, open_network, write_file
from alexnet.export.sessions import open_session
from alexnet.terminal import printable

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT = Form()


@dataclass(frozen=True)
class Written:
    """What became of an export: `difference` is the largest of onnxruntime's float32 logits from the network's own,
    over the largest of these; `loss` what 8 bits cost."""

    path: Path
    difference: float
    loss: Loss | None = None


def export_onnx(
    target: Target,
    out: str | Path,
    form: Form = DEFAULT,
    *,
    int8: Measurement | None = None,
    model: str | None = None,
) -> Written:
    """Write a network as ONNX: "images" in, "probabilities" and "logits" out, for any number of images.

    `target` is a run, a checkpoint, a weights file (of the network `model` where its shapes do not tell), "torchvision"
    for its published weights, or a name of `list_models` for a network with random weights. What the images must be
    (crop, scale, mean) is in the file's metadata beside classes, run and the weights' SHA-256, and with `form` as it is
    by default also in the graph: pixels of 0 to 255 go in. `alexnet.export.graph.Form` has others (raw, layout, lrn).
    With `int8`, an `alexnet.export.integers.Measurement`, weights and activations are integers of 8 bits between
    QuantizeLinear and DequantizeLinear, whose scales are of the run's training images, and what that costs is measured
    on a split of its data and written into the metadata. Returns the path, how far the logits are from the network's
    own, and with `int8` that cost.

    Raises ExportError, and leaves nothing, if onnxruntime does not compute the network's own logits; UsageError,
    DataError or CheckpointError.
    """
    out = Path(out)
    check_out(out, "onnx", ".onnx")
    trained = open_network(target, model)
    if int8 is not None:
        trained, data, dataset = open_measured(trained, int8)
    graph = build_graph(trained, form)
    difference = check_parity(trained, _logits(graph, trained.preprocessing.normalise, form), "onnxruntime")
    told = {**identify(trained), "input": asdict(form), "parity": difference}
    loss: Loss | None = None
    if int8 is not None:
        graph, loss = quantise(graph, trained, form, data, dataset, int8.split)
        told |= {"int8": loss.to_dict()}
    _describe(graph, told)
    write_file(out, graph.SerializeToString())
    return Written(out, difference, loss)


def _logits(graph: ModelProto, normalise: Callable[[Tensor], Tensor], form: Form) -> Callable[[Tensor], Tensor]:
    session = open_session(graph, form)
    return lambda pixels: session(normalise(pixels) if form.raw else pixels)


def _describe(graph: ModelProto, told: Mapping[str, Any]) -> None:
    """Metadata by name: texts as they can be shown, everything else as JSON."""
    texts = {name: printable(value) if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    from onnx import helper

    helper.set_model_props(graph, texts)
