"""ONNX files: what onnxruntime computes from them, what stands in them, and that a wrong one is never written."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alexnet.config.values import override
from alexnet.data.augment import Preprocessing
from alexnet.errors import AlexNetError, CheckpointError, ExportError, UsageError
from alexnet.export import graph as graphs
from alexnet.export import integers
from alexnet.export.graph import Form, build_graph
from alexnet.export.integers import Measurement
from alexnet.export.onnx_file import _describe, export_onnx
from alexnet.files import file_digest
from alexnet.inference.evaluation import evaluate
from alexnet.inference.trained import Trained
from alexnet.metrics import wilson_interval
from alexnet.models.network import AlexNet, build_model
from alexnet.models.summary import trace
from alexnet.models.table import Conv, Linear, Norm, Pool, Variant
from alexnet.models.variants import VARIANTS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = ("rabbit", "hare", "café|<b>", "d", "e", "f", "g")


def trained(model, mean_image=False):
    """A network with a preprocessing that is not the identity."""
    table = model.eval().variant
    channels = range(table.in_channels)
    shape = table.in_channels, table.input_size, table.input_size
    return Trained(
        "untrained",
        "paper",
        model,
        Preprocessing(
            table.input_size,
            None,
            tuple(0.3 + 0.1 * i for i in channels),
            tuple(0.2 + 0.05 * i for i in channels),
            mean_image=256 * torch.rand(shape, generator=torch.Generator().manual_seed(5)) if mean_image else None,
        ),
        CLASSES,
    )


def network(name):
    """Narrow, on small images, with large activations, so that normalisation is far from the identity."""
    table = VARIANTS[name]
    side = 99 if table.input_size > 100 else table.input_size
    torch.manual_seed(0)
    model = build_model(name, input_size=side, width=0.125, num_classes=len(CLASSES), init="he")
    with torch.no_grad():
        next(model.parameters()).mul_(3)
        for module in model:
            if (bias := getattr(module, "bias", None)) is not None:
                bias.normal_()
    return model


def pixels(model, count):
    table = model.variant
    generator = torch.Generator().manual_seed(count)
    shape = count, table.in_channels, table.input_size, table.input_size
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def run(path, images, *outputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"images": np.ascontiguousarray(images)})


def reference(told, images):
    """The network's logits, of pixels normalised by numpy."""
    prep = told.preprocessing
    std = 255 * np.array(prep.std)[:, None, None]
    mean = 255 * np.array(prep.mean)[:, None, None] if prep.mean_image is None else prep.mean_image.numpy()
    normalised = torch.from_numpy(((images.numpy() - mean) / std).astype(np.float32))
    with torch.inference_mode():
        return normalised, told.model(normalised).numpy()


def assert_close(a, b):
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_in_both_forms(name, tmp_path):
    told = trained(network(name))
    for form in (Form(), Form(lrn="decomposed", layout="nhwc")):
        export_onnx(told, tmp_path / "net.onnx", form)
        for count in (1, 7):
            images = pixels(told.model, count)
            given = images if form.layout == "nchw" else images.permute(0, 2, 3, 1)
            probabilities, logits = run(tmp_path / "net.onnx", given.numpy(), "probabilities", "logits")
            _, own = reference(told, images)
            assert_close(own, logits)
            assert np.abs(probabilities - torch.from_numpy(own).softmax(1).numpy()).max() < 1e-4


@pytest.mark.parametrize("form", [Form(), Form(layout="nhwc"), Form(raw=True)], ids=str)
@pytest.mark.parametrize("grey", [False, True])
def test_pixels_minus_the_mean_image(form, grey, tmp_path):
    model = build_model("cifar", width=0.125, num_classes=7, in_channels=1 if grey else 3, init="he")
    told = trained(model, mean_image=True)
    export_onnx(told, tmp_path / "net.onnx", form)
    images = pixels(model, 3)
    normalised, own = reference(told, images)
    given = normalised if form.raw else images.permute(0, 2, 3, 1) if form.layout == "nhwc" else images
    assert_close(own, run(tmp_path / "net.onnx", given.numpy(), "logits")[0])


ODD = Variant(
    about="what no network of the list has",
    convs=(
        Conv(12, 5, stride=3, ceil=True, padding=1, then=("tanh", Norm(4, 0.1), Norm(2, 0.2, over="map"), Pool(3, 3))),
        Conv(8, 3, padding=2, groups=2, then=("relu", Norm(6, 0.1, columns=2), Pool(2, 2, ceil=True, average=True))),
    ),
    hidden=(Linear(12, groups=3),),
    output=Linear(7, then=(), positive_bias=False),
    input_size=50,
    adaptive_pool=3,
    init="he",
)


def test_even_windows_three_columns_and_uneven_averages(tmp_path):
    """LRN of an even size reaches to the other side in ONNX; averages over windows of unequal size are no pooling."""
    torch.manual_seed(0)
    told = trained(AlexNet(ODD))
    assert next(layer for layer in trace(ODD) if layer.kind == "average").in_shape == (8, 4, 4)
    written = export_onnx(told, tmp_path / "net.onnx")
    images = pixels(told.model, 5)
    assert_close(reference(told, images)[1], run(tmp_path / "net.onnx", images.numpy(), "logits")[0])
    assert 0 < written.difference < 1e-4


def test_graph_reads_like_the_table():
    told = trained(network("net145"))
    model = build_graph(told)
    by_name = {node.name: node for node in model.graph.node}
    layers = [la for la in trace(told.model.variant) if la.kind not in ("pad", "dropout")]
    places = [list(by_name).index(la.name) for la in layers]
    assert places == sorted(places)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
    for layer in layers:
        assert shapes[by_name[layer.name].output[0]] == ["batch", *layer.out_shape], layer.name
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LRN") == 4  # two layers of two columns; the norm within maps has no operator
    assert kinds.count("Conv") == 5
    assert kinds.count("Gemm") == 3
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in by_name["conv1"].attribute}
    assert attributes["pads"] == [0, 0, (11 - 99) % 4, (11 - 99) % 4]  # implicit zeros right and below
    held = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    for name, value in told.model.state_dict().items():
        assert np.array_equal(held[name], value.numpy())
    assert "LRN" not in {node.op_type for node in build_graph(told, Form(lrn="decomposed")).graph.node}


def test_metadata(finished, tmp_path):
    export_onnx(finished, tmp_path / "run.onnx")
    props = {p.key: p.value for p in onnx.load(tmp_path / "run.onnx").metadata_props}
    assert json.loads(props["classes"]) == [str(i) for i in range(10)]
    assert props["weights_sha256"] == file_digest(finished.best)
    assert (props["run"], props["network"]) == ("digits", "cifar")
    assert json.loads(props["preprocessing"])["size"] == 32
    assert str(tmp_path.parent) not in json.dumps(props)  # where it was trained is nobody's business
    first = (tmp_path / "run.onnx").read_bytes()
    export_onnx(finished, tmp_path / "run.onnx")
    assert (tmp_path / "run.onnx").read_bytes() == first


@pytest.mark.parametrize("wrong", [2.001, math.nan])
def test_what_computes_something_else_is_not_written(wrong, tmp_path, monkeypatch):
    told = trained(network("paper"))
    (tmp_path / "net.onnx").write_bytes(b"earlier")
    true = graphs.trace

    def bent(variant):
        layers = true(variant)
        return [
            graphs.Layer(**{**vars(la), "row": Norm(k=wrong, alpha=1.0)}) if la.kind == "norm" else la for la in layers
        ]

    monkeypatch.setattr(graphs, "trace", bent)
    with pytest.raises(ExportError, match="nothing was written: on a batch of 1 the logits by onnxruntime differ"):
        export_onnx(told, tmp_path / "net.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"earlier"


def test_8_bits_and_what_they_cost(finished, tmp_path):
    written = export_onnx(finished, tmp_path / "run.onnx", int8=Measurement())
    loss = written.loss
    model = onnx.load(tmp_path / "run.onnx")
    assert [v.name for v in model.graph.output] == ["probabilities", "logits"]
    eight = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.INT8 and len(c.dims) > 1]
    assert len(eight) == 8  # the weights of five convolutions and three fully connected layers
    assert (tmp_path / "run.onnx").stat().st_size < 0.35 * finished.best.stat().st_size
    own = evaluate(finished, precision="fp32")
    assert loss.fp32.top1 == own.top1
    assert loss.int8.count == own.count
    assert abs(loss.int8.top1 - own.top1) < 0.05
    told = json.loads({p.key: p.value for p in model.metadata_props}["int8"])
    assert told["top1"] == {"fp32": own.top1, "int8": loss.int8.top1}
    hits = round(loss.int8.top1 * own.count)
    assert told["top1_interval"]["int8"] == list(wilson_interval(hits, own.count))
    raw = export_onnx(finished, tmp_path / "raw.onnx", Form(raw=True), int8=Measurement())
    assert abs(raw.loss.int8.top1 - loss.int8.top1) < 0.02


@pytest.mark.parametrize("fields", [{"layout": "NHWC"}, {"lrn": "decompose"}, {"raw": True, "layout": "nhwc"}], ids=str)
def test_forms_that_are_none(fields):
    with pytest.raises(UsageError, match=r"of an ONNX file|--layout is for pixels"):
        Form(**fields)


def test_8_bits_of_bare_weights_see_what_their_recipe_shows(finished, tmp_path, monkeypatch):
    save_file(finished.model().state_dict(), tmp_path / "bare.safetensors")
    config, own = finished.config, evaluate(finished, precision="fp32")
    kind = {"model": config.model.variant, "int8": Measurement(config=config)}
    # The table has a wider network of that name.
    monkeypatch.setattr("alexnet.inference.trained.resolve", lambda name, **_: finished.model().variant)
    written = export_onnx(tmp_path / "bare.safetensors", tmp_path / "bare.onnx", **kind)
    assert written.loss.fp32.top1 == own.top1
    kind["int8"] = Measurement(config=override(config, {"data.crop": 24}))
    with pytest.raises(CheckpointError, match=r"images of \d+ pixels, and the recipe .* shows it"):
        export_onnx(tmp_path / "bare.safetensors", tmp_path / "no.onnx", **kind)
    assert not (tmp_path / "no.onnx").exists()


def test_a_name_that_is_not_utf8():
    graph = onnx.ModelProto()
    _describe(graph, {"weights": os.fsdecode(b"w\xff.pth")})
    assert graph.metadata_props[0].value == r"w\udcff.pth"


def test_8_bits_need_to_know_the_data(tmp_path):
    with pytest.raises(UsageError, match="--int8 needs images of the training split"):
        export_onnx(trained(network("cifar")), tmp_path / "net.onnx", int8=Measurement())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "out", "message"),
    [
        ("cifar", "net.pt", "ends in .onnx"),
        ("nowhere", "net.onnx", "there is no run"),
        ("convnet-18pct", "file/net.onnx", "cannot write"),
        ("nowhere", "file/net.onnx", "cannot write"),  # before the work
    ],
)
def test_mistakes(target, out, message, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match=message):
        export_onnx(target, tmp_path / out)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_a_network_by_its_name_has_the_same_random_weights_each_time(tmp_path):
    state = torch.random.get_rng_state()
    for name in ("a", "b"):
        export_onnx("convnet-18pct", tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())
    props = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert props["weights"] == "untrained"


@pytest.mark.parametrize(("saturating", "bits"), [(True, 7), (False, 8)])
def test_sums_of_8_bits_do_not_overflow_where_processors_would(finished, tmp_path, monkeypatch, saturating, bits):
    """onnxruntime's reduce_range, for x86 without VNNI; the file says what it was measured on."""
    monkeypatch.setattr(integers, "sums_saturate", lambda: saturating)
    export_onnx(finished, tmp_path / "run.onnx", int8=Measurement())
    model = onnx.load(tmp_path / "run.onnx")
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    largest = max(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max() for t in weights)
    assert largest == 2 ** (bits - 1) - (bits == 8)
    told = json.loads({p.key: p.value for p in model.metadata_props}["int8"])
    assert told["weight_bits"] == bits
    assert {"processor", "onnxruntime"} <= told.keys()


@pytest.mark.parametrize(
    ("machine", "vnni", "saturate"),
    [
        ("x86_64", False, True),
        ("AMD64", False, True),
        ("x86_64", True, False),
        ("x86_64", None, False),
        ("arm64", False, False),
    ],
)
def test_processors_whose_sums_of_bytes_overflow(monkeypatch, machine, vnni, saturate):
    monkeypatch.setattr(integers.platform, "machine", lambda: machine)
    monkeypatch.setattr(integers, "has_vnni", lambda: vnni)
    assert integers.sums_saturate() == saturate
