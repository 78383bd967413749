"""What other tools do with the network: torch.func, fx, export, ONNX, hooks, captum, copies and pickles."""

from __future__ import annotations

import copy
import io
import pickle
from functools import lru_cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet.models.int8 import quantize
from alexnet.models.lrn import LocalResponseNorm
from alexnet.models.network import build_model
from conftest import needs_int8

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    ),
]

SIDES = {
    "paper": 99,
    "net145": 99,
    "cifar": 32,
    "convnet-13pct": 24,
    "torchvision": 224,
}  # to ONNX by TorchScript, an average of 6x6 maps must do nothing
every_network = pytest.mark.parametrize("name", SIDES)


@lru_cache(maxsize=1)
def fresh(name):
    torch.manual_seed(0)
    model = build_model(name, input_size=SIDES[name], width=0.125, num_classes=10, dropout=0.0, init="he")
    with torch.no_grad():
        model.conv1.weight *= 3  # so that normalisation is far from the identity
    return model.eval()


@pytest.fixture
def model(name):
    return copy.deepcopy(fresh(name))


def last_convolution(model):
    return [key for key, layer in model.named_children() if isinstance(layer, nn.Conv2d)][-1]


def images(name, count):
    return torch.randn(count, 3, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(count))


def outputs(model, x, names):
    """Of these layers, by plain forward hooks."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: found.update({name: y.clone()}))
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def assert_close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@every_network
def test_gradients_of_each_sample(name, model):
    x, labels = images(name, 3), torch.tensor([1, 0, 7])
    weights = {key: value.detach() for key, value in model.named_parameters()}

    def loss(weights, image, label):
        logits = torch.func.functional_call(model, weights, (image[None],))
        return F.cross_entropy(logits, label[None])

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, labels)
    for i in range(3):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad.abs().max() > 0
            assert_close(together[key][i], parameter.grad)


@every_network
def test_traced_by_fx(name, model):
    traced, x = torch.fx.symbolic_trace(model), images(name, 2)
    for program in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert torch.equal(program(x), model(x))
    targets = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {key for key, layer in model.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)} <= targets


@every_network
def test_torchvisions_feature_extractor(name, model):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    x, names = (
        images(name, 2),
        ["relu1", "pool2", last_convolution(model), [key for key, _ in model.named_children()][-1]],
    )
    names += [key for key in ("norm1", "relu5", "fc7") if hasattr(model, key)]
    expected = outputs(model, x, names)
    nodes = {"norm1": "norm1.local_response_norm"}  # a module of ours is the operations within
    extractor = extraction.create_feature_extractor(model, {nodes.get(key, key): key for key in names})
    features = extractor(x)
    assert features.keys() == expected.keys()
    for key, feature in features.items():
        assert torch.equal(feature, expected[key]), key


@every_network
def test_exported_for_any_batch(name, model):
    program = torch.export.export(model, (images(name, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert "torch.ops.alexnet" not in program.graph_module.code
    for count in (1, 7):
        assert_close(program.module()(images(name, count)), model(images(name, count)), 1e-5)


def written_by_dynamo(model, x):
    pytest.importorskip("onnxscript")
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=batch, verbose=False)
    return program.model_proto.SerializeToString()


def written_by_torchscript(model, x):
    stream = io.BytesIO()
    try:
        torch.onnx.export(model, (x,), stream, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    except TypeError:
        pytest.skip("this torch has no exporter by way of TorchScript")
    return stream.getvalue()


@every_network
@pytest.mark.parametrize("write", [written_by_dynamo, written_by_torchscript])
def test_onnx(write, name, model):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    content = write(model, images(name, 2))
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    norms = sum(isinstance(layer, LocalResponseNorm) and layer.columns == 1 for layer in model)
    assert kinds.count("LRN") == (norms if write is written_by_torchscript else 0)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        x = images(name, count)
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(logits), model(x).detach())


@every_network
def test_copies_and_pickles(name, model):
    x = images(name, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


@needs_int8
@pytest.mark.parametrize("name", [name for name in SIDES if name != "convnet-13pct"])
def test_copies_and_pickles_in_8_bits(name, model):
    x = images(name, 2)
    eight = quantize(model, images(name, 4))
    for other in (copy.deepcopy(eight), pickle.loads(pickle.dumps(eight))):
        assert torch.equal(other(x), eight(x))


@every_network
def test_hooks_see_what_a_convolution_gave(name, model):
    found, kept = {}, {}

    def keep(name):
        def hook(_, __, y):
            found[name], kept[name] = y, y.detach().clone()

        return hook

    convolutions = [key for key, layer in model.named_children() if isinstance(layer, nn.Conv2d)]
    for key in convolutions:
        model.get_submodule(key).register_forward_hook(keep(key))
    with torch.no_grad():
        model(images(name, 2))
    assert list(found) == convolutions
    for key in convolutions:
        assert found[key].min() < 0
        assert torch.equal(found[key], kept[key])


@every_network
def test_gradients_of_a_layers_outputs(name, model):
    """What Grad-CAM needs."""
    seen, last = [], last_convolution(model)
    model.get_submodule(last).register_full_backward_hook(lambda _, __, gradients: seen.append(gradients[0]))
    model(images(name, 2))[:, 3].sum().backward()
    assert seen[0].shape == outputs(model, images(name, 2), [last])[last].shape
    assert seen[0].abs().max() > 0


@every_network
def test_captum(name, model):
    attribution = pytest.importorskip("captum.attr")
    x, last = images(name, 2), last_convolution(model)
    layer, given = model.get_submodule(last), outputs(model, images(name, 2), [last])[last]
    assert torch.equal(attribution.LayerActivation(model, layer).attribute(x), given)
    maps = attribution.LayerGradCam(model, layer).attribute(x, target=3)
    assert maps.shape == (2, 1, *given.shape[2:])
    assert maps.abs().max() > 0
