"""The network as a torch module: its input, its hooks, its weights, and torch's ways of taking a program apart."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet import build_model, extract_features, list_models
from alexnet.compute import set_in_place
from alexnet.models.network import blank_model
from alexnet.models.variants import VARIANTS
from test_tables import NET145

NETWORKS = {"paper": VARIANTS["cifar"], "net 145": NET145}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    return build_model(NETWORKS[request.param], width=0.25, init="he").eval()


def test_one_module_in_several_places(model, x):
    """torch's own children() name it once."""
    relu = nn.ReLU()
    with torch.no_grad():
        wanted = model(x)
        for name, layer in list(model.named_children()):
            if isinstance(layer, nn.ReLU):
                setattr(model, name, relu)
        assert torch.equal(model(x), wanted)
        assert torch.equal(model.forward_head(model.forward_features(x)), wanted)
        assert torch.equal(model[4:](model[:4](x)), wanted)
    features = extract_features(model, x, ["relu2", "fc8"], device="cpu")
    torch.testing.assert_close(torch.from_numpy(features["fc8"]), wanted, rtol=1e-4, atol=1e-5)
    assert features["relu2"].min() == 0


@pytest.fixture
def x(model):
    side = model.variant.input_size
    return torch.randn(2, 3, side, side)


@pytest.mark.parametrize("shape", [(2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32), (2, 3, 33, 33)])
def test_wrong_input_shape_is_refused(shape):
    model = build_model("cifar", width=0.125)
    with pytest.raises(ValueError, match=r"\[N, 3, 32, 32\]"):
        model(torch.zeros(shape))


def test_hooks_see_what_a_layer_gave(model, x):
    seen, copies, gradients = {}, {}, []

    def keep(name):
        def hook(_, __, out):
            seen[name], copies[name] = out, out.clone()

        return hook

    for name, module in model.named_children():
        module.register_forward_hook(keep(name))
    model.conv5.register_full_backward_hook(lambda _, __, given: gradients.append(given[0]))
    model(x).sum().backward()
    assert all(torch.equal(seen[name], copies[name]) for name in seen)
    assert gradients[0].shape == seen["conv5"].shape
    assert seen["conv2"].min() < 0 <= seen["relu2"].min()


def test_in_place_is_the_owner_s_choice(model, x):
    gradients, outputs = [], []
    for in_place in (False, True, False):
        set_in_place(model, in_place)
        assert all(module.inplace == in_place for module in model if isinstance(module, nn.ReLU))
        model.zero_grad()
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        gradients.append(model.conv1.weight.grad.clone())
    assert all(torch.equal(outputs[0], out) for out in outputs)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)


@pytest.mark.parametrize("name", [*list_models(), NET145], ids=lambda name: getattr(name, "about", name))
def test_a_blank_network_draws_nothing(name):
    fields = {} if name is NET145 else {"width": 0.125}
    drawn = build_model(name, **fields)
    before = torch.get_rng_state()
    for init in ("text", "torch", "he", "modern"):
        blank = blank_model(name, init=init, **fields)
    assert torch.equal(torch.get_rng_state(), before)
    blank.load_state_dict(drawn.state_dict())
    images = torch.randn(2, 3, *[blank.variant.input_size] * 2)
    assert torch.equal(blank.eval()(images), drawn.eval()(images))


def test_symbolic_tracing(model, x):
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    with pytest.raises(ValueError, match="takes images of"):
        traced(x[..., 1:])
    found = create_feature_extractor(model, ["conv5", "fc7"])(x)
    assert torch.equal(found["conv5"], model[: [n for n, _ in model.named_children()].index("conv5") + 1](x))
    assert found["fc7"].shape == (2, model.fc7.out_features)


def test_export_with_any_number_of_images(model, x):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    three = torch.cat([x, x[:1]])
    torch.testing.assert_close(program(three), model(three), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="takes images of"):
        torch.export.export(model, (x[..., 1:],))


def test_jit_trace(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, and reports every check of a shape
        traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)


def test_vmap_over_batches_and_over_networks(model, x):
    ours = torch.func.vmap(model)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(ours[1], model(2 * x), rtol=1e-4, atol=1e-5)
    weights = {name: torch.stack([p, 2 * p]) for name, p in model.state_dict().items()}
    both = torch.func.vmap(lambda w: torch.func.functional_call(model, w, (x,)))(weights)
    torch.testing.assert_close(both[0], model(x), rtol=1e-4, atol=1e-5)
