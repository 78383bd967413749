"""What `alexnet info` says, beside the modules and beside what torch really keeps for a backward pass."""

from __future__ import annotations

import json

import pytest
import torch

from alexnet import build_model, list_models
from alexnet.cli.tables import show_description
from alexnet.compute import set_in_place
from alexnet.models.describe import CLAIMS, describe
from test_tables import CIFAR18, NET145, ONE_HIDDEN, SMALL, THREE_HIDDEN


@pytest.mark.parametrize("variant", list_models())
def test_description_agrees_with_the_modules(variant):
    model, described = build_model(variant, **SMALL), describe(variant, batch_size=3, **SMALL)
    assert described["parameters"] == sum(p.numel() for p in model.parameters())
    assert [row["name"] for row in described["layers"]] == [name for name, _ in model.named_children()]
    x = torch.zeros(1, *described["input"])
    for module, row in zip(model.eval().children(), described["layers"], strict=True):
        x = module(x)
        assert list(x.shape[1:]) == row["output"], row["name"]
    assert described["activation_bytes"] == sum(row["memory"] for row in described["layers"])
    assert described["training_bytes"] == described["activation_bytes"] + 3 * 4 * described["parameters"]
    json.dumps(described)


def kept_by_torch(model, x):
    """Bytes of the storages that the backward pass holds, by the layer that is the first to hold them."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held, kept = {}, dict.fromkeys((name for name, _ in model.named_children()), 0)

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own | held.keys():
            held[storage.data_ptr()] = tensor  # alive, so that no other takes its place
            kept[name] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for name, module in model.named_children():  # noqa: B007 (pack reads it)
            x = module(x)
    return kept


NETWORKS = [(name, {}) for name in list_models()] + [
    ("paper", {"activation": "tanh"}),
    ("paper", {"lrn": "off", "dropout": 0.0}),
    ("torchvision", {"adaptive_pool": 1}),
    *((table, {}) for table in (NET145, CIFAR18, THREE_HIDDEN, ONE_HIDDEN)),
]


@pytest.mark.parametrize(("name", "fields"), NETWORKS, ids=lambda given: getattr(given, "about", str(given)))
def test_memory_is_what_torch_keeps(name, fields):
    if isinstance(name, str):
        fields = SMALL | fields
    described = describe(name, batch_size=3, **fields)
    model = build_model(name, **fields)
    set_in_place(model)
    assert {row["name"]: row["memory"] for row in described["layers"]} == kept_by_torch(
        model, torch.randn(3, *described["input"])
    )


def test_claims_show_the_paper_beside_the_count(capsys):
    show_description(describe("paper"))
    shown = capsys.readouterr().out
    for text in ("60,965,224", "724,406,816", "659,272", "650,000", "290,400"):
        assert text in shown, text
    assert "the paper's figures" in shown
    assert 48 * 55 * 96 == 253_440
    assert "48x55x96" in CLAIMS["neurons"][1]  # figure 2's number for conv1 and where it comes from
    show_description(describe("torchvision"))
    assert "the paper's figures" not in capsys.readouterr().out
    show_description(describe("paper", num_classes=10))
    assert "the paper's figures" not in capsys.readouterr().out
    show_description(describe("paper", num_classes=1000, lrn="code"))  # its own
    assert "the paper's figures" in capsys.readouterr().out
    show_description(describe(NET145))
    assert "net 145: input 3x64x64" in capsys.readouterr().out
