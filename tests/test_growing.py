"""Images that grow: which side when, and a network that takes smaller images and is the same at its own size."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.errors import UsageError
from alexnet.models.network import build_model
from alexnet.training.growing import AnySize, Growth
from alexnet.training.learner import Learner


def small(name: str = "cifar", **fields):
    torch.manual_seed(0)
    return build_model(name, width=0.125, dropout=0.0, init="he", **fields)


@pytest.mark.parametrize(
    ("first", "epochs", "expected"),
    [
        (24, 2.0, [24] * 10 + [28] * 10 + [32] * 20),
        (23, 1.5, [23] * 5 + [27] * 5 + [31] * 5 + [32] * 25),
        (31, 3.95, [31] * 40),  # the last step of 39.5
        (None, 0.0, [32] * 40),
    ],
)
def test_sides(first, epochs, expected):
    growth = Growth(TrainConfig(grow_from=first, grow_epochs=epochs), small(), steps_per_epoch=10)
    assert [growth.side(step) for step in range(40)] == expected


@pytest.mark.parametrize(("name", "side"), [("cifar", 32), ("torchvision", 96), ("paper", 99), ("net145", 99)])
def test_at_its_own_size_nothing_is_different(name, side):
    """To the bit, and the pooling that adapts is the network's own: also where it is taken."""
    model = small(name, input_size=side)
    images = torch.randn(2, 3, side, side)
    one = AnySize(model).eval()
    assert torch.equal(one(images), model(images))
    last = dict(model.named_children())[one.last]
    maps = model[: [name for name, _ in model.named_children()].index(one.last)](images)
    assert torch.equal(one.pool(maps), last(maps))
    assert one(torch.randn(2, 3, side - 12, side - 12)).shape == (2, model.variant.num_classes)


def test_smaller_images_pass_through_the_same_layers():
    """Against the network built for the small side with an adaptive pooling in the place of its last one."""
    model = small()
    one = AnySize(model).eval()
    for side in (24, 28):
        images = torch.randn(3, 3, side, side)
        layers = [nn.AdaptiveMaxPool2d(3) if name == "pool5" else layer for name, layer in model.named_children()]
        assert torch.equal(one(images), nn.Sequential(*layers).eval()(images))
        grown = one(images).sum()
        grown.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [*one.state_dict()] == [f"model.{name}" for name in model.state_dict()]


def test_a_step_sees_the_centres_and_the_right_side(monkeypatch):
    config = TrainConfig(grow_from=24, grow_epochs=2.0)
    one = Learner(config, small(), 2, resolve_compute("cpu", "fp32"), World())
    seen = []
    one.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    for _ in range(5):
        one.apply_step(one.train_step(images, labels, 4), 4)
    assert [x.shape[-1] for x in seen] == [24, 24, 28, 28, 32]
    for x, margin in zip(seen, (4, 4, 2, 2, 0), strict=True):
        assert torch.equal(x, images[:, :, margin : 32 - margin, margin : 32 - margin])
    assert all(a.shape[-1] <= b.shape[-1] for a, b in pairwise(seen))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grow_from": 32, "grow_epochs": 1.0}, "--grow-from 32: this network takes 32 pixels"),
        ({"grow_from": 4, "grow_epochs": 1.0}, "can begin with"),
        ({"grow_from": 24}, "--grow-epochs"),
    ],
)
def test_what_cannot_grow(fields, said):
    with pytest.raises(UsageError, match=said):
        Growth(TrainConfig(**fields), small(), 10)


def test_a_network_without_a_pooling_there():
    table = small().variant
    bare = build_model(type(table)(about="", convs=table.convs[:4], hidden=(), input_size=32), num_classes=10)
    with pytest.raises(UsageError, match="--grow-from: conv4 stands before"):
        AnySize(bare)
