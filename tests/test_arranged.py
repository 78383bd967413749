"""Layers arranged for inference on a CPU: they answer as the network does, and leave alone what they do not know."""

import pytest
import torch
from torch import nn

from alexnet import build_model
from alexnet.compute import Compute
from alexnet.inference.forward import answering
from alexnet.models import arranged
from alexnet.models.arranged import Arranged, arrange

FP32, BF16 = (Compute(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16))
SMALL = {"width": 0.125, "num_classes": 5, "init": "he"}


def small(name="paper", **fields):
    torch.manual_seed(0)
    model = build_model(name, **(SMALL | fields)).eval()
    return model, torch.randn(3, 3, model.variant.input_size, model.variant.input_size)


def layers(network):
    return [type(module) for module in network.modules()]


@pytest.mark.parametrize("name", ["paper", "torchvision", "cifar", "net145", "convnet-11pct"])
@pytest.mark.parametrize(("compute", "off"), [(FP32, 1e-5), (BF16, 1e-2)], ids=["fp32", "bf16"])
def test_they_answer_as_the_network_does(name, compute, off):
    """At every batch size, in whatever order these come."""
    model, images = small(name, **({"width": 1.0} if name.startswith("convnet") else {}))
    plain, forward = compute.replica(model), answering(model, compute)
    for count in (3, 1, 2, 3):
        with torch.inference_mode():
            wanted, given = plain(compute.fit(images[:count])).float(), forward(images[:count])
        assert (given - wanted).abs().max() <= off * wanted.abs().max()
        assert torch.equal(forward(images[:count]), given)


def test_relus_are_part_of_the_layer_before_them():
    """But one behind a pooling or a normalisation stays."""
    for name, relus in (("paper", 0), ("net145", 2)):  # net145 pools between conv1, conv5 and theirs
        replica = FP32.replica(small(name)[0])
        arrange(replica)
        assert layers(replica).count(nn.ReLU) == relus
        assert layers(replica).count(Arranged) == 8


def test_convolutions_keep_few_arrangements():
    model, images = small("cifar")
    replica = FP32.replica(model)
    arrange(replica)
    with torch.inference_mode():
        for count in range(1, 12):
            replica(FP32.fit(images[:1].expand(count, -1, -1, -1)))
    assert len(replica.conv1._arranged) == 8


def test_what_is_not_known_stays():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Shifted(nn.Conv2d):
        def forward(self, x):
            return 1 + super().forward(x)

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        Shifted(4, 4, 3, padding=1), nn.Flatten(), Doubled(4 * 8 * 8, 5),
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 8, 8)
    wanted = network(FP32.fit(images)).detach()
    torch.testing.assert_close(answering(network, FP32)(images), wanted)


def test_without_oneDNN_the_network_stays(monkeypatch):
    monkeypatch.setattr(arranged, "_OPERATORS", ("not there",))
    replica = FP32.replica(small("cifar")[0])
    before = layers(replica)
    arrange(replica)
    assert layers(replica) == before


def test_bf16_stays_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for compute, count in ((BF16, 0), (FP32, 8)):
        replica = compute.replica(small("cifar")[0])
        arrange(replica)
        assert layers(replica).count(Arranged) == count


def test_a_watched_network_stays():
    model, images = small("cifar")
    seen = []
    model.relu3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        answering(model, BF16)(images)
    assert len(seen) == 1


def test_the_network_itself_stays_as_it_is():
    model, images = small("cifar")
    before = layers(model)
    with torch.inference_mode():
        answering(model, FP32)(images)
    assert layers(model) == before
    model(images).sum().backward()  # and it still learns
