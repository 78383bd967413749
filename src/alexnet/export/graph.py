"""A network as an ONNX graph, written from its table.

Every layer is one node under its own name (conv1, relu1, norm1, pool1 ... fc8), whose output bears that name too, and
every weight is called as in a checkpoint (conv1.weight). So the graph reads like the table, does not change with the
version of torch, and its layers can be tapped by name; the last one's output is called logits. What ONNX has no
operator for becomes a few nodes with a common beginning (norm2.squares ... norm2). Dropout, which evaluation has not,
is left out; the zeros that the first convolution sees beyond the edge are its padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from alexnet.errors import UsageError, unknown
from alexnet.export.origin import pixel_constants
from alexnet.inference.trained import Trained
from alexnet.models.summary import Layer, trace
from alexnet.models.table import Norm, Pool

try:
    import onnx
    import onnxruntime  # noqa: F401 (checks every file that is written)
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    raise UsageError("ONNX files need onnx and onnxruntime: pip install 'alexnet[export]'") from None

OPSET, IR = 17, 8  # of 2022, so that older runtimes and the compilers of accelerators read it
LARGEST = 2**31 - 2**24  # bytes of weights: a file of this format, in protocol buffers, has less than 2 GiB


@dataclass(frozen=True)
class Form:
    """How a network is written."""

    raw: bool = False
    """The network alone: normalised images, float32 [N, C, S, S], to logits. Without it pixels go in, uint8 of 0 to
    255, and probabilities come out beside the logits."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Of the pixels: [N, C, S, S] or, as cameras and image files have them, [N, S, S, C]."""
    lrn: Literal["op", "decomposed"] = "op"
    """Normalisation over channels as ONNX's operator LRN, for each column where the table has columns, or as a pooling
    over channels with elementary operators around it, which more compilers know."""

    def __post_init__(self) -> None:
        for name, value in (("layout", self.layout), ("lrn", self.lrn)):
            if value not in (known := get_args(get_type_hints(Form)[name])):
                raise UsageError(unknown(f"{name} of an ONNX file", str(value), known))
        if self.raw and self.layout != "nchw":
            raise UsageError("--layout is for pixels, and --raw takes normalised images: leave one of them out.")

    @property
    def outputs(self) -> list[str]:
        """The names of what comes out."""
        return ["logits"] if self.raw else ["probabilities", "logits"]


def build_graph(trained: Trained, form: Form = Form()) -> onnx.ModelProto:
    """The network as an ONNX model for any number of images, checked and with the shape of every value.

    Its input is "images" (see `Form`). Raises UsageError for weights that such a file cannot hold.
    """
    variant = trained.model.variant
    weights = {name: value.detach() for name, value in trained.model.state_dict().items()}
    if 4 * sum(value.numel() for value in weights.values()) > LARGEST:
        raise UsageError("--to onnx: these weights need more than the 2 GiB that a single ONNX file holds.")
    graph = _Graph()
    value = "images" if form.raw else _pixels(graph, trained, form)
    extra = 0
    for layer in trace(variant):
        if layer.kind == "pad":  # of the convolution behind it
            extra = layer.padding
        else:
            value = _layer(graph, layer, value, weights, extra, form)
            extra = 0
    graph.call_last("logits")
    if not form.raw:
        graph.add("Softmax", "probabilities", "logits", axis=1)
    channels, side = variant.in_channels, variant.input_size
    shape = [channels, side, side] if form.raw or form.layout == "nchw" else [side, side, channels]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"alexnet-{trained.network}",
            [_value("images", TensorProto.FLOAT if form.raw else TensorProto.UINT8, *shape)],
            [_value(name, TensorProto.FLOAT, variant.num_classes) for name in form.outputs],
            graph.constants,
            doc_string=variant.about,
        ),
        producer_name="alexnet",
        producer_version=version("alexnet"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model)
    return model


def _value(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])


class _Graph:
    """Nodes and constants in the order in which they were added; a node's only output bears its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Tensor | float | list[int]) -> str:
        """float32, or int64 for shapes and positions."""
        array = values.contiguous().numpy() if isinstance(values, Tensor) else np.array(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, name: str, value: str, *shape: int) -> str:
        """0 keeps what the value has there."""
        return self.add("Reshape", name, value, self.constant(f"{name}.shape", list(shape)))

    def by_column(self, name: str, value: str, columns: int, write: Callable[[str, str, int], str]) -> str:
        """Cut the channels into equal parts, `write` nodes for each (a name, its values, its number), and join them."""
        if columns == 1:
            return write(name, value, 0)
        parts = [f"{name}.in{i}" for i in range(1, columns + 1)]
        self.nodes.append(helper.make_node("Split", [value], parts, f"{name}.split", axis=1))
        written = [write(f"{name}.column{i}", part, i - 1) for i, part in enumerate(parts, 1)]
        return self.add("Concat", name, *written, axis=1)

    def call_last(self, name: str) -> None:
        """Give what the last node computes another name."""
        self.nodes[-1].output[0] = name


def _pixels(graph: _Graph, trained: Trained, form: Form) -> str:
    mean, std = pixel_constants(trained)
    value = "images"
    if form.layout == "nhwc":
        value = graph.add("Transpose", "channels_first", value, perm=[0, 3, 1, 2])
    value = graph.add("Cast", "pixels", value, to=TensorProto.FLOAT)
    value = graph.add("Sub", "centred", value, graph.constant("mean", mean))
    return graph.add("Div", "normalised", value, graph.constant("deviation", std))


def _layer(graph: _Graph, layer: Layer, value: str, weights: dict[str, Tensor], extra: int, form: Form) -> str:
    """The nodes of a layer; `extra` is the zeros beyond the right and the bottom edge."""
    name = layer.name
    match layer.kind, layer.row:
        case "conv", _:
            first, last = layer.padding, layer.padding + extra
            return graph.add(
                "Conv",
                *(name, value, *_parameters(graph, name, weights)),
                kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                pads=[first, first, last, last],
                group=layer.groups,
            )
        case "local", _:
            return _local(graph, layer, value, weights)
        case "linear", _:
            return _linear(graph, layer, value, weights)
        case "activation", step:
            return graph.add("Relu" if step == "relu" else "Tanh", name, value)
        case "norm", Norm() as norm:
            return _norm(graph, name, value, norm, layer.in_shape, form)
        case "pool", Pool(size, stride, ceil, average):
            operator = "AveragePool" if average else "MaxPool"
            window = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "ceil_mode": int(ceil)}
            return graph.add(operator, name, value, **window)
        case "average", _:
            return _adaptive_average(graph, layer, value)
        case "flatten", _:
            return graph.add("Flatten", name, value, axis=1)
    assert layer.kind == "dropout"
    return value


def _parameters(graph: _Graph, name: str, weights: dict[str, Tensor]) -> list[str]:
    return [graph.constant(f"{name}.{kind}", weights[f"{name}.{kind}"]) for kind in ("weight", "bias")]


def _linear(graph: _Graph, layer: Layer, value: str, weights: dict[str, Tensor]) -> str:
    name, groups = layer.name, layer.groups
    parts = {kind: weights[f"{name}.{kind}"].chunk(groups) for kind in ("weight", "bias")}

    def product(part: str, value: str, number: int) -> str:
        constants = [graph.constant(f"{part}.{kind}", chunks[number]) for kind, chunks in parts.items()]
        return graph.add("Gemm", part, value, *constants, transB=1)

    return graph.by_column(name, value, groups, product)


def _local(graph: _Graph, layer: Layer, value: str, weights: dict[str, Tensor]) -> str:
    """Every position's window [k * k * C] by a matrix of its own: the windows are gathered, positions come first."""
    name, (channels, side, _), (width, out, _) = layer.name, layer.in_shape, layer.out_shape
    if layer.padding:
        edge = [layer.padding] * 2
        value = graph.add("Pad", f"{name}.padded", value, graph.constant(f"{name}.pads", [0, 0, *edge, 0, 0, *edge]))
    side += 2 * layer.padding
    places = torch.arange(channels * side * side).view(channels, side, side)
    windows = places.unfold(1, layer.kernel, layer.stride).unfold(2, layer.kernel, layer.stride)  # [C, S, S, k, k]
    indices = graph.constant(f"{name}.windows", windows.permute(1, 2, 3, 4, 0).reshape(out * out, -1))
    value = graph.reshape(f"{name}.values", value, 0, channels * side * side)
    value = graph.add("Gather", f"{name}.gathered", value, indices, axis=1)  # [N, S * S, k * k * C]
    value = graph.add("Transpose", f"{name}.positions", value, perm=[1, 0, 2])
    value = graph.add("MatMul", f"{name}.product", value, graph.constant(f"{name}.weight", weights[f"{name}.weight"]))
    bias = graph.constant(f"{name}.bias", weights[f"{name}.bias"].unsqueeze(1))
    value = graph.add("Add", f"{name}.sum", value, bias)  # [S * S, N, width]
    value = graph.add("Transpose", f"{name}.images", value, perm=[1, 2, 0])
    return graph.reshape(name, value, 0, width, out, out)


def _norm(graph: _Graph, name: str, value: str, norm: Norm, shape: tuple[int, ...], form: Form) -> str:
    """x * (k + alpha * mean of x**2 over the window)**-beta, where what lies outside counts as zeros."""
    channels = norm.over == "channels"
    if channels and form.lrn == "op" and norm.size % 2:  # of an even window the operator has another half
        constants = {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "bias": norm.k}
        return graph.by_column(name, value, norm.columns, lambda part, x, _: graph.add("LRN", part, x, **constants))
    before, after = norm.size // 2, (norm.size - 1) // 2
    mean = graph.add("Mul", f"{name}.squares", value, value)
    kernel, pads = [norm.size] * 2, [before, before, after, after]
    if channels:  # pooled along the second axis of [N, columns, channels, pixels]
        count, pixels = shape[0], prod(shape[1:])
        mean = graph.reshape(f"{name}.columns", mean, 0, norm.columns, count // norm.columns, pixels)
        kernel, pads = [norm.size, 1], [before, 0, after, 0]
    mean = graph.add("AveragePool", f"{name}.mean", mean, kernel_shape=kernel, pads=pads, count_include_pad=1)
    if channels:
        mean = graph.reshape(f"{name}.maps", mean, 0, *shape)
    scaled = graph.add("Mul", f"{name}.scaled", mean, graph.constant(f"{name}.alpha", norm.alpha))
    total = graph.add("Add", f"{name}.sum", scaled, graph.constant(f"{name}.k", norm.k))
    power = graph.add("Pow", f"{name}.power", total, graph.constant(f"{name}.exponent", -norm.beta))
    return graph.add("Mul", name, value, power)


def _adaptive_average(graph: _Graph, layer: Layer, value: str) -> str:
    """Rows, then columns, by a matrix: its windows may differ in size by one, which no pooling has. Of maps that have
    the size already nothing is left."""
    side, out = layer.in_shape[1], layer.out_shape[1]
    if side == out:
        return value
    matrix = torch.zeros(out, side)
    for i in range(out):
        start, end = i * side // out, -((i + 1) * side // -out)
        matrix[i, start:end] = 1 / (end - start)
    rows = graph.add("MatMul", f"{layer.name}.rows", graph.constant(f"{layer.name}.matrix", matrix), value)
    return graph.add("MatMul", layer.name, rows, graph.constant(f"{layer.name}.transposed", matrix.T))
