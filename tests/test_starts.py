"""Initial weights that are fitted to images: what each layer then answers, and that a run begins with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alexnet.models.network import build_model
from alexnet.training import starts
from alexnet.training.loop import train
from conftest import assert_same_tensors, differ


def images(count: int = 64, channels: int = 3, side: int = 32) -> torch.Tensor:
    """With correlated neighbours, as photographs have them."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(count, channels, side, side, generator=generator)
    smooth = F.avg_pool2d(rough, 5, 1, 2) + 0.1 * rough
    return smooth / smooth.std()


def network(name: str = "cifar", **fields):
    torch.manual_seed(1)
    return build_model(name, **{"width": 0.25, "init": "he"} | fields)


def patches(seen: torch.Tensor, size: int) -> np.ndarray:
    """All of them, by slicing: [patches, C * size * size]."""
    windows = np.lib.stride_tricks.sliding_window_view(seen.double().numpy(), (size, size), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, seen.shape[1] * size * size)


def test_whitened_answers_are_uncorrelated_and_of_one_variance():
    model, seen = network(), images()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    starts.whiten(model, seen)
    kernels = model.conv1.weight.detach()
    assert torch.equal(kernels[:12], -kernels[12:])
    flat, own = kernels.flatten(1).double().numpy(), patches(seen, 5)
    covariance = flat[:12] @ np.cov(own.T, bias=True) @ flat[:12].T
    variances = np.linalg.eigvalsh(np.cov(own.T, bias=True))[::-1]
    ridge = starts.RIDGE * variances.mean()
    assert covariance == pytest.approx(np.diag(variances[:12] / (variances[:12] + ridge)), abs=1e-5)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n != "conv1.weight")


def test_kernels_without_an_axis_stay():
    """One channel has 25 axes: 50 of 96 kernels."""
    model = network(width=1.0, in_channels=1)
    before = model.conv1.weight.detach().clone()
    starts.whiten(model, images(channels=1))
    changed = (model.conv1.weight != before).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * 50 + [False] * 46
    assert model.conv1.weight.isfinite().all()


@pytest.mark.parametrize("groups", [1, 2])
def test_identities_pass_on_the_maps_of_their_group(groups):
    model = network(groups=groups)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    starts.pass_on(model)
    for name in ("conv3", "conv4", "conv5"):
        layer = model.get_submodule(name)
        maps = torch.randn(2, layer.in_channels, 7, 7)
        for given, answers, kernels, old in zip(
            maps.chunk(layer.groups, dim=1),
            layer(maps).chunk(layer.groups, dim=1),
            layer.weight.chunk(layer.groups),
            before[f"{name}.weight"].chunk(layer.groups),
            strict=True,
        ):
            passed = min(given.shape[1], answers.shape[1])
            torch.testing.assert_close(answers[:, :passed], given[:, :passed])
            assert torch.equal(kernels[passed:], old[passed:])  # else these would be zero and never learn
    untouched = ("conv1", "conv2", "fc6", "fc7", "fc8")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n.startswith(untouched))


@pytest.mark.parametrize("init", ["he", "text", "torch"])
@pytest.mark.parametrize("name", ["cifar", "torchvision"])
def test_every_layer_but_the_last_answers_with_variance_one(name, init):
    model = network(name, init=init, input_size=32 if name == "cifar" else 80)
    head = model.fc8.weight.detach().clone()
    seen = images(32, side=model.variant.input_size)
    starts.scale_to_unit_variance(model, seen)
    assert model.training
    variances = {}
    for layer, module in model.named_children():
        module.register_forward_hook(
            lambda _, __, out, layer=layer: variances.update({layer: float(out.detach().var())})
        )
    model.eval()(seen)
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        assert variances[layer] == pytest.approx(1, abs=0.02), layer
    assert torch.equal(model.fc8.weight, head)


def test_a_layer_that_answers_alike_stays_as_it_is():
    model = network()
    torch.nn.init.zeros_(model.conv2.weight)
    starts.scale_to_unit_variance(model, images(8))
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_a_run_begins_with_them_once(tiny, tmp_path, reporter, monkeypatch):
    """The same for every call, other than without, and not again when the run goes on."""
    kinds = ["whiten", "identity", "lsuv"]
    runs = {
        name: train(tiny(start=start, epochs=1), tmp_path / name, reporter=reporter)
        for name, start in {"one": kinds, "two": kinds[::-1], "none": []}.items()
    }
    assert_same_tensors(runs["one"].last, runs["two"].last)
    assert differ(runs["one"].last, runs["none"].last)
    monkeypatch.setattr(starts, "whiten", None)
    train(tiny(start=kinds, epochs=2), tmp_path / "one", reporter=reporter)


@pytest.mark.usefixtures("no_figures", "no_fsync")
def test_weights_from_a_file_take_their_place(tiny, tmp_path, reporter, finished):
    runs = [
        train(tiny(epochs=1, init=str(finished.best), start=start), tmp_path / str(len(start)), reporter=reporter)
        for start in ((), ("lsuv", "identity"))
    ]
    assert_same_tensors(runs[0].last, runs[1].last)


def test_single_settings_of_a_recipe_may_be_typed(call, monkeypatch):
    """A command line is made a configuration before the recipe is known."""
    seen = []
    monkeypatch.setattr("alexnet.training.loop.train", lambda config, run, given, guard: seen.append(given))
    typed = (["--grow-epochs", "2"], ["--grow-from", "28"], ["--data.alternate-flips"], ["--start", "lsuv", "whiten"])
    typed += (["--stop-after", "15"], ["--stop-train-error", "0.1"], ["--accumulate", "256"])
    for arguments in typed:
        assert call("train", "cifar10-fast", *arguments)[0] == 0
    assert seen == [
        {"grow_epochs": 2.0},
        {"grow_from": 28},
        {"data.alternate_flips": True},
        {"start": ("lsuv", "whiten")},
        {"stop_after": 15},
        {"stop_train_error": 0.1},
        {"accumulate": 256},
    ]
