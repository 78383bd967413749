"""Untrained weights of every scheme are told from trained ones, and what is damaged from what is whole."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.inference import trust
from alexnet.inference.integrity import score_weights, verify_run
from alexnet.inference.trained import open_trained
from alexnet.inference.trust import EDGE, inspect_weights, judge
from alexnet.models.network import build_model
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.training.loop import train
from alexnet.training.progress import Reporter

INITS = ("text", "code", "caffe", "torch", "he", "modern")
FOREIGN = {
    "glorot uniform": nn.init.xavier_uniform_,
    "he uniform": nn.init.kaiming_uniform_,
    "he by fan out": lambda w: nn.init.kaiming_normal_(w, mode="fan_out"),
    "orthogonal": nn.init.orthogonal_,
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "zeros": nn.init.zeros_,
}


@pytest.fixture
def seeded():
    torch.manual_seed(1)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["cifar", "convnet-13pct", "paper"])
def test_fresh_networks_look_untrained(name, init):
    layers = inspect_weights(build_model(name, width=0.125, num_classes=10, init=init))
    assert judge(layers) == "untrained"
    assert max(layer.spectrum for layer in layers) < EDGE / 2


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("start", FOREIGN)
def test_other_programs_initial_weights(start):
    model = build_model("torchvision", width=0.125, num_classes=10, input_size=64)
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            FOREIGN[start](module.weight)
            nn.init.zeros_(module.bias)
    assert judge(inspect_weights(model)) == "untrained"


@pytest.mark.parametrize("shape", [(310, 400), (400, 310)])
def test_large_layers_by_iteration(shape, monkeypatch):
    """The iteration finds what an exact decomposition finds where a direction stands out, and never more."""
    monkeypatch.setattr(trust, "_EXACT", 100)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=shape)
    for strength in (0, 100):
        matrix = noise + strength * np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1])) / 350
        exact = np.linalg.norm(matrix, 2)
        found = trust._largest_singular_value(torch.from_numpy(matrix).float())
        assert found <= exact * (1 + 1e-5)
        assert found == pytest.approx(exact, rel=1e-4 if strength else 0.02)


@pytest.mark.usefixtures("seeded")
def test_scheme_is_named():
    named = {init: build_model("cifar", width=0.125, init=init) for init in ("text", "torch", "he")}
    found = {init: inspect_weights(model)[4].resembles for init, model in named.items()}
    assert found == {"text": "std 0.01, normal", "torch": "torch's default, uniform", "he": "He's, normal"}


def test_trained_networks_look_trained(finished):
    """After two epochs on a few hundred digits, and after one step the biases alone tell."""
    layers = inspect_weights(open_trained(finished).model)
    assert judge(layers) == "trained"
    torch.manual_seed(0)
    model = build_model("cifar", width=0.125, num_classes=10, init="he")
    with torch.no_grad():
        model.fc8.bias.add_(torch.randn(10) * 1e-3)
    assert judge(inspect_weights(model)) == "barely trained"


def test_nothing_is_drawn_from_the_callers_numbers():
    model = build_model("cifar", width=0.125)
    state = torch.random.get_rng_state()
    inspect_weights(model)
    assert torch.equal(state, torch.random.get_rng_state())


# The command.


def untrained(run, path):
    """The run's own checkpoint with fresh weights, whole and signed."""
    content = load_checkpoint(run.best)
    torch.manual_seed(0)
    fresh = deepcopy(open_trained(run).model)
    weights = build_model(fresh.variant).state_dict()
    save_checkpoint(path, Checkpoint(weights, {}, content.meta))
    return path


def test_a_run_is_whole_and_trained(call, finished):
    code, said, err = call("verify", finished.path, "--split", "test", "--device", "cpu")
    assert (code, err) == (0, "")
    assert f"{finished.best}: whole, as its SHA-256 says" in said
    assert "best.safetensors: trained" in said
    assert "95 % interval" in said
    code, said, _ = call("verify", finished.path, "--json", "--split", "test", "--device", "cpu")
    found = json.loads(said)
    assert found["state"] == "trained"
    assert found["score"]["top1"] == pytest.approx(finished.test["top1"])
    assert found["score"]["above_chance"] is True
    assert not any(file["damaged"] for file in found["files"])


def test_untrained_weights_end_with_4(call, finished, tmp_path):
    file = untrained(finished, tmp_path / "published.safetensors")
    code, said, err = call("verify", file)
    assert code == 4
    assert "UNTRAINED" in err
    assert "whole, as its SHA-256 says" in said
    assert json.loads(call("verify", file, "--json")[1])["state"] == "untrained"
    scored = score_weights(open_trained(file), "test", device="cpu")
    assert scored.result.interval[0] < 0.3
    assert scored.chance == pytest.approx(scored.result.confusion.sum(1).max() / 359)


def test_the_result_of_a_run_without_a_test_split_is_verified(without_test):
    def damaged():
        return {state.path.name: state.damaged for state in verify_run(without_test)}

    assert damaged()["val.json"] is None
    (without_test.path / "val.json").write_text("{")
    assert damaged()["val.json"]


@pytest.mark.parametrize("file", ["best.safetensors", "last.safetensors"])
def test_a_damaged_run_ends_with_3(call, finished, tmp_path, file):
    copy = tmp_path / "run"
    copy.mkdir()
    for part in finished.path.glob("*.*"):
        if part.is_file():
            (copy / part.name).write_bytes(part.read_bytes())
    content = bytearray((copy / file).read_bytes())
    content[-7] ^= 4
    (copy / file).write_bytes(content)
    code, said, err = call("verify", copy)
    assert code == 3
    assert f"{copy / file}: DAMAGED" in said
    assert "SHA-256" in err
    known = {
        Path(state["path"]).name: state["known"] for state in json.loads(call("verify", copy, "--json")[1])["files"]
    }
    assert known[file] is None
    assert known["config.yaml"] == "can be read"


def test_damaged_records_are_found(finished, tmp_path):
    (tmp_path / "config.yaml").write_bytes((finished.path / "config.yaml").read_bytes())
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\nnonsense\n')
    (tmp_path / "test.json").write_text("{")
    states = {state.path.name: state.damaged for state in verify_run(Run(tmp_path))}
    assert "1 of 2 lines" in states["metrics.jsonl"]
    assert states["test.json"]
    assert states["config.yaml"] is None


def test_foreign_weights(call, finished, tmp_path):
    """A torch file of a network that must be named; one with values that are not finite; one that is cut short."""
    weights = build_model("cifar", width=0.125, num_classes=10).state_dict()
    small = {name: value[:4].clone() for name, value in weights.items()}
    torch.save(small, tmp_path / "a.pth")
    code, said, err = call("verify", tmp_path / "a.pth")
    assert code == 4
    assert "16 tensors, all finite" in said
    assert "--model" in err
    small["fc6.bias"][0] = float("nan")
    torch.save(small, tmp_path / "b.pth")
    code, _, err = call("verify", tmp_path / "b.pth")
    assert code == 3
    assert "fc6.bias holds values that are not finite" in err
    (tmp_path / "c.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:3000])
    assert call("verify", tmp_path / "c.pth")[0] == 3
    assert call("verify", tmp_path / "nothing.pth")[0] == 4


def rolled(weights):
    return {name: t.roll(1, 0) if name.startswith("fc8") else t for name, t in weights.items()}


def moved(run):
    torch.manual_seed(0)
    weights = build_model(open_trained(run).model.variant).state_dict()
    weights["fc8.bias"] += 1e-3 * torch.randn(10)
    return weights


@pytest.mark.parametrize(
    ("spoil", "said", "asked"),
    [
        (lambda run: rolled(load_checkpoint(run.best).weights), "no better than chance", ["--split", "test"]),
        (moved, "barely trained", []),
    ],
    ids=["chance", "barely"],
)
def test_weights_that_nobody_should_use_end_with_4(call, finished, tmp_path, spoil, said, asked):
    save_checkpoint(tmp_path / "w.safetensors", Checkpoint(spoil(finished), {}, load_checkpoint(finished.best).meta))
    code, _, err = call("verify", tmp_path / "w.safetensors", *asked, "--device", "cpu")
    assert code == 4
    assert said in err


def test_what_is_fitted_to_images_is_not_taken_for_training(tmp_path):
    start = ("whiten", "identity", "lsuv")
    config = recipe("digits", epochs=1, keep="0", start=start, **{"data.fraction": 0.1, "model.width": 0.25})
    fitted = train(config, tmp_path / "run", reporter=Reporter(quiet=True)).milestones[0]
    layers = inspect_weights(open_trained(fitted).model)
    assert judge(layers) == "trained"
    assert judge(layers, config.start) == "untrained"
    assert judge(layers, ("lsuv",)) == "trained"
