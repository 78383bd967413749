"""The recipes of the release: what every parameter learns by at every epoch, and what is done to the images."""

from __future__ import annotations

import pytest
import torch

from alexnet.config import TrainConfig
from alexnet.models.network import build_model
from alexnet.recipes import recipe
from alexnet.training.optim import Course, Optimizer

STEPS = 4  # an epoch
CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def learned_by(config: TrainConfig, model: torch.nn.Module, epoch: int) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter in the first and in the last step of an epoch, counted from 1."""
    optimizer, course = Optimizer(config.optim, model), Course(config.legs, STEPS)
    found = []
    for step in ((epoch - 1) * STEPS, epoch * STEPS - 1):
        optimizer.set_lr(course.lr(step), epoch)
        found.append({name: (g.lr, g.weight_decay) for g in optimizer.groups for name in g.parameters})
    assert found[0] == found[1]
    return found[0]


def check(found, rates, decays):
    assert {name: rate for name, (rate, _) in found.items()} == pytest.approx(rates)
    assert {name: decay for name, (_, decay) in found.items()} == pytest.approx(decays)


@pytest.mark.parametrize(
    ("epoch", "rate", "conv1", "conv1_bias"),
    [
        (1, 1e-2, 1e-2, 0.02),
        (25, 1e-2, 1e-2, 0.02),
        (26, 1e-3, 1e-3, 0.02),
        (51, 1e-3, 1e-3, 0.02),
        (52, 1e-4, 1e-4, 0.02),
        (66, 1e-4, 1e-4, 0.02),
        (67, 1e-4, 1e-5, 0.02),
        (72, 1e-4, 0.0, 0.0),
        (79, 1e-4, 0.0, 0.0),
        (80, 1e-5, 0.0, 0.0),
        (91, 1e-5, 0.0, 0.0),
    ],
)
def test_net_145_learns_as_its_table_of_rates_says(epoch, rate, conv1, conv1_bias):
    """The released dropout's weights, at rate and decay 5e-4, are ours at a quarter of the rate and four times that."""
    model = build_model("net145", width=0.05)
    rates = {f"{name}.weight": rate for name in (*CONVS, "fc6")} | {"conv1.weight": conv1}
    rates |= {"fc7.weight": rate / 4, "fc8.weight": rate / 4}
    rates |= {f"{name}.bias": 0.02 for name in (*CONVS, "fc6", "fc7", "fc8")} | {"conv1.bias": conv1_bias}
    decays = {name: 0.0 if name.endswith("bias") else 5e-4 for name in rates}
    decays |= {"fc7.weight": 2e-3, "fc8.weight": 2e-3}
    check(learned_by(recipe("net145"), model, epoch), rates, decays)


def test_net_145_sees_what_the_released_code_showed_it():
    config = recipe("net145")
    data = config.data
    assert (config.batch_size, config.epochs, config.optim.momentum, config.optim.name) == (128, 91, 0.9, "paper-sgd")
    assert (data.resize, data.crop, data.flip, data.crop_chunk, data.reshuffle) == (256, 224, True, 32, False)
    assert (data.colour_noise, data.noise_probability, data.noise_divisor, data.noise_until) == (0.1, 1.0, 1.1, 66)
    assert (data.mean_image, data.std) == (True, (1 / 255,) * 3)
    assert not data.random_resized_crop


@pytest.mark.parametrize(
    ("name", "epochs", "rates", "conv1", "biases", "noise"),
    [  # rates by epoch; conv1's weights and all biases but conv1's at the end
        ("net145-2010", 93, {23: 1e-2, 24: 1e-3, 52: 1e-4, 78: 1e-4, 79: 1e-5}, 0.0, 0.002, 67),
        ("net145-half", 96, {20: 1e-2, 21: 1e-3, 48: 1e-3, 49: 1e-4, 96: 1e-4}, 0.0, 0.02, 65),
        ("net147", 90, {23: 1e-2, 24: 1e-3, 52: 1e-4, 80: 1e-5}, 0.0, 0.002, None),
        ("net148", 97, {22: 1e-2, 23: 1e-3, 45: 1e-4, 86: 1e-4, 87: 1e-5}, 0.0, 0.02, 68),
        ("net150", 92, {25: 1e-2, 26: 1e-3, 50: 1e-4, 80: 1e-5}, 0.0, 0.02, 65),
    ],
)
def test_relatives_of_net_145(name, epochs, rates, conv1, biases, noise):
    config = recipe(name)
    model = build_model(config.model.variant, width=0.05)
    assert (config.epochs, config.data.noise_until) == (epochs, noise)
    for epoch, rate in rates.items():
        found = learned_by(config, model, epoch)
        assert found["conv3.weight"] == pytest.approx((rate, 5e-4))
        assert found["fc8.weight"] == pytest.approx((rate / 4, 2e-3))
    found = learned_by(config, model, epochs)
    assert found["conv1.weight"][0] == pytest.approx(conv1)
    assert found["fc6.bias"] == (biases, 0.0)
    assert all(decay == 0 for parameter, (_, decay) in found.items() if parameter.endswith("bias"))


CONVNET = {
    "convnet-18pct": (140, (120, 130), {"conv": 0.004, "fc": 1.0}),
    "convnet-19pct": (140, (120, 130), {"conv": 0.004, "fc": 3.0}),
    "convnet-13pct": (520, (500, 510), {"conv": 0.0, "local": 0.004, "fc": 0.004}),
    "convnet-11pct": (520, (500, 510), {"conv": 0.0, "local": 0.004, "fc": 0.01}),
}


@pytest.mark.parametrize("name", CONVNET)
def test_cuda_convnets_parameter_files(name):
    """epsW .001, epsB .002, momentum .9, wc by layer; two drops by ten near the end, of "all learning rates" in the
    18 % network's file and of epsW in the 11 % network's."""
    config = recipe(name)
    epochs, drops, decay = CONVNET[name]
    size = 24 if config.data.crop else 32
    model = build_model(config.model.variant, input_size=size)
    assert (config.epochs, config.batch_size, config.optim.momentum) == (epochs, 128, 0.9)
    for epoch, part in {
        1: 1.0,
        drops[0]: 1.0,
        drops[0] + 1: 0.1,
        drops[1]: 0.1,
        drops[1] + 1: 0.01,
        epochs: 0.01,
    }.items():
        found = learned_by(config, model, epoch)
        of_bias = 0.002 * (1 if config.data.crop else part)
        rates = {p: of_bias if p.endswith("bias") else 0.001 * part for p, _ in model.named_parameters()}
        kinds = {p: next(kind for kind in decay if p.startswith(kind)) for p in rates}
        check(found, rates, {p: 0.0 if p.endswith("bias") else decay[kind] for p, kind in kinds.items()})


@pytest.mark.parametrize(("name", "crop"), [("convnet-18pct", None), ("convnet-13pct", 24), ("convnet-11pct", 24)])
def test_cuda_convnet_sees_raw_pixels_minus_the_mean_image(name, crop):
    data = recipe(name).data
    assert (data.crop, data.flip, data.mean_image, data.std) == (crop, crop is not None, True, (1 / 255,))
    assert (data.colour_noise, data.pad, data.crop_chunk, data.reshuffle) == (0.0, 0, 1, False)
