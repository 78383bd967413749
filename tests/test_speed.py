"""The benchmark: the peer computes the same, the numbers fit together, the command prints them."""

import json

import pytest
import torch
from torch import nn

from alexnet.models.network import build_model
from alexnet.speed import Rates, Speed, benchmark, usual


def test_the_peer_computes_the_same():
    """Only then is its time a fair measure."""
    model = build_model("cifar", width=0.25, num_classes=7).eval()
    peer = usual(model)
    assert any(isinstance(m, nn.LocalResponseNorm) for m in peer.modules())
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(peer(images), model(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.LocalResponseNorm) for m in model.modules())  # a copy was changed


def test_ratios_are_medians_over_pairs():
    rates = {"a": Rates("a", None, [10, 20, 40]), "training, b": Rates("training, b", "a", [20, 20, 120])}
    speed = Speed("paper", 8, "cpu", rates, matmul=6e9, ceiling=1.0, photographs=True)
    assert speed.ratio("training, b") == 2  # of 2, 1 and 3; the ratio of the medians is 1
    assert speed.ratio("a") is None
    assert speed.hours == pytest.approx(1_281_167 * 90 / 20 / 3600)


def test_command(run_cli):
    done = run_cli(
        "benchmark", "cifar", "--batch-size", "4", "--rounds", "1", "--steps", "1", "--device", "cpu", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["ratios"]) <= set(told["images_per_second"])
    assert all(value > 0 for value in told["images_per_second"].values())
    assert told["ceiling"] > 0
    assert told["hours_for_90_epochs"] is None
    assert run_cli("benchmark", "papr").returncode == 2


def test_torchvisions_own_network_is_its_peer():
    torchvision = pytest.importorskip("torchvision")
    from alexnet.speed import _torchvision

    assert isinstance(_torchvision(), torchvision.models.AlexNet)
    assert benchmark("cifar", batch_size=2, device="cpu", rounds=1, steps=1).to_dict()["model"] == "cifar"
