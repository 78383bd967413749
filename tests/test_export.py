"""Programs, torchvision's names, a folder for the Hub, and the verb: each is opened by whom it is meant for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import alexnet
from alexnet.data.augment import Preprocessing
from alexnet.errors import AlexNetError, ExportError, UsageError
from alexnet.inference.trained import Trained, open_trained
from alexnet.models.network import build_model
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run, load_config

ALONE = """
import sys
sys.modules["alexnet"] = None  # as if it were not installed
import json, numpy, torch
extra = {"alexnet.json": ""}
program = torch.export.load("net.pt2", extra_files=extra).module()
assert json.loads(extra["alexnet.json"])["classes"] == [str(i) for i in range(10)]
for count in (1, 7):
    images = torch.from_numpy(numpy.load(f"{count}.npy"))
    probabilities, logits = program(images)
    numpy.save(f"{count}-logits.npy", logits.detach().numpy())
    assert torch.allclose(probabilities.sum(1), torch.ones(count))
"""


def grey(count):
    return torch.randint(0, 256, (count, 1, 32, 32), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def logits_of(target, images):
    trained = open_trained(target)
    with torch.inference_mode():
        return trained.model(trained.preprocessing.normalise(images))


@pytest.mark.slow
def test_program_runs_without_this_package(finished, tmp_path):
    alexnet.export_program(finished, tmp_path / "net.pt2")
    for count in (1, 7):
        np.save(tmp_path / f"{count}.npy", grey(count).numpy())
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True, timeout=120)
    for count in (1, 7):
        own = logits_of(finished, grey(count)).numpy()
        assert np.abs(np.load(tmp_path / f"{count}-logits.npy") - own).max() < 1e-4 * np.abs(own).max()


def test_raw_program(finished, tmp_path):
    alexnet.export_program(finished, tmp_path / "net.pt2", raw=True)
    images = torch.randn(3, 1, 32, 32)
    program = torch.export.load(tmp_path / "net.pt2").module()
    assert torch.allclose(program(images), open_trained(finished).model(images), atol=1e-4)


def ported(**fields):
    model = build_model(**{"name": "torchvision", "num_classes": 7, "input_size": 127} | fields).eval()
    size = model.variant.input_size
    return Trained("untrained", "torchvision", model, Preprocessing(size, None, (0.5,), (0.2,)), tuple("abcdefg"))


def test_torchvision_takes_the_weights(tmp_path):
    models = pytest.importorskip("torchvision.models")
    trained = ported()
    theirs = models.alexnet(num_classes=7).eval()
    images = torch.randn(2, 3, 127, 127)
    for name in ("net.safetensors", "net.pth"):
        path = tmp_path / name
        alexnet.export_torchvision(trained, path)
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        theirs.load_state_dict({key: torch.zeros_like(value) for key, value in weights.items()})
        theirs.load_state_dict(weights, strict=True)
        with torch.inference_mode():
            assert torch.equal(theirs(images), trained.model(images))


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"name": "cifar", "input_size": 32}, "in the place of conv1 3x224x224 -> 64x55x55"),
        ({"name": "owt-padded"}, "norm1 .* in the place of pool1"),
        ({"width": 0.5}, "conv1 .* -> 32x55x55 in the place of conv1"),
        ({"activation": "tanh"}, "tanh1"),
        ({"in_channels": 1}, "conv1 1x224x224"),
        ({"hidden": (4096,)}, "fc7 4096 -> 7 in the place of fc7 4096 -> 4096"),
    ],
    ids=str,
)
def test_other_networks_are_not_torchvisions(fields, difference, tmp_path):
    with pytest.raises(ExportError, match=f"this one differs from it: .*{difference}"):
        alexnet.export_torchvision(ported(**fields), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def hub(finished, tmp_path_factory):
    return alexnet.export_hub(finished, tmp_path_factory.mktemp("hub") / "digits", licence="mit")


def test_hub_folder_is_opened_as_a_run_is(hub, finished):
    assert sorted(f.name for f in hub.iterdir()) == ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    assert torch.equal(logits_of(hub, grey(3)), logits_of(finished, grey(3)))
    assert alexnet.evaluate(hub).top1 == finished.test["top1"]
    assert open_trained(hub).names == open_trained(finished).names
    held = load_checkpoint(hub / "model.safetensors")
    assert not held.extra  # no momentum, no averages
    assert load_config(hub / "recipe.yaml").model == finished.config.model
    everything = "".join(f.read_text(errors="replace") for f in hub.iterdir())
    assert str(finished.path.parent) not in everything


def test_hub_folder_is_verified_as_weights_are(hub, call):
    code, out, err = call("verify", hub)
    assert (code, err) == (0, "")
    assert f"{hub / 'model.safetensors'}: " in out


def test_hub_folder_has_what_the_hub_reads(hub, finished):
    config = json.loads((hub / "config.json").read_text())
    assert config["id2label"] == {str(i): str(i) for i in range(10)}
    assert (config["image_size"], config["num_channels"], config["num_labels"]) == (32, 1, 10)
    card = (hub / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["license"], header["library_name"]) == ("mit", "alexnet")
    (entry,) = header["model-index"][0]["results"]
    assert entry["metrics"][0]["value"] == round(100 * finished.test["top1"], 2)
    assert entry["dataset"] == {"type": "digits", "name": "digits", "split": "test"}


@pytest.mark.parametrize(("device", "where"), [("cpu", "a processor"), ("cuda:0", "a GPU")])
def test_model_card_names_what_the_network_was_trained_on(finished, tmp_path, device, where):
    """A GPU that is there may not have been used."""
    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    session = run.sessions[0] | {"device": device, "gpu": "a GPU", "processor": "a processor"}
    (run.path / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    card = (alexnet.export_hub(run, tmp_path / "hub") / "README.md").read_text()
    assert f"{session['torch']} on {where}." in card


def test_model_card_says_everything(hub, finished):
    card = (hub / "README.md").read_text()
    low, high = finished.test["top1_interval"]
    assert f"| top-1 | {finished.test['top1']:.2%} | {low:.2%} to {high:.2%} |" in card
    departing = [row["number"] for row in finished.ledger if row["departs_from_paper"]]
    assert [int(n) for n in re.findall(r"^\| (\d+) \| [^|]", card, re.M)] == departing
    assert len(departing) > 5
    for title in ("How to load it", "Preprocessing", "Training data", "Training", "Limitations"):
        assert re.search(rf"^## {title}\n\n\S", card, re.M)
    assert "information needed" not in card.lower()
    assert "None" not in card
    assert "nan" not in card
    code = re.search(r"```python\n(.*?)```", card, re.S)[1].splitlines()
    assert len(code) == 3
    compile("\n".join(code), "card", "exec")


def test_results_of_other_weights_are_measured_anew(finished, tmp_path, monkeypatch):
    """The last weights' card does not bear the best ones' figures."""
    monkeypatch.setattr("alexnet.runs.folder.Run.result", {"top1": 2.0, "measured": {"sha256": "0"}})
    folder = alexnet.export_hub(finished.last, tmp_path / "hub")
    header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    top1 = alexnet.evaluate(finished.last).top1
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * top1, 2)
    assert "license" not in header


def test_results_without_a_test_split_are_the_runs_own(without_test, tmp_path):
    header = yaml.safe_load(
        (alexnet.export_hub(without_test, tmp_path / "hub") / "README.md").read_text().split("---\n")[1]
    )
    (entry,) = header["model-index"][0]["results"]
    assert (entry["dataset"]["split"], entry["metrics"][0]["value"]) == ("val", 62.5)


def test_hostile_class_names_stay_text(finished, tmp_path, monkeypatch):
    trained = open_trained(finished)
    names = ("<script>x</script>", "a|b", "*bold*\nsecond", *trained.names[3:])
    monkeypatch.setattr("alexnet.export.hub.open_trained", lambda _: Trained(**{**vars(trained), "names": names}))
    card = (alexnet.export_hub(finished, tmp_path / "hub") / "README.md").read_text()
    assert "<script>" not in card
    assert r"a\|b" in card
    assert "\nsecond" not in card


def test_hub_refuses(finished, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(AlexNetError, match="there exists: name a folder that does not"):
        alexnet.export_hub(finished, tmp_path / "there")
    torch.save(build_model("cifar", width=0.125).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(AlexNetError, match="does not say what it was trained on"):
        alexnet.export_hub(tmp_path / "bare.pth", tmp_path / "hub")
    with pytest.raises(AlexNetError):  # no data there, and no result of these weights
        alexnet.export_hub(finished.last, tmp_path / "hub", data={"root": str(tmp_path), "source": "cifar10"})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bare.pth", "there"]


def test_verb(finished, tmp_path, call):
    code, out, err = call("export", finished.path, "--to", "onnx", "--out", tmp_path / "new" / "net.onnx", "--int8")
    assert (code, err) == (0, "")
    assert re.search(r"^logits differ from the network's own by at most \d\.\de-0\d of the largest$", out, re.M)
    assert re.search(r"^int8: \d+\.\d\d% of 359 test images .* fp32 \d+\.\d\d%: [+-]\d\.\d\d points$", out, re.M)
    assert (tmp_path / "new" / "net.onnx").stat().st_size > 1000
    code, out, _ = call("export", finished.path, "--to", "hub", "--out", tmp_path / "hub")
    assert code == 0
    assert "names no licence" in out
    code, _, err = call("export", finished.path, "--to", "torchvision", "--out", tmp_path / "net.pth")
    assert code == 6
    assert err.startswith("error: --to torchvision is for its own network")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "hub", "--out", "x", "--int8"], "--int8 does nothing with --to hub; it is for --to onnx"),
        (["--to", "torch-export", "--out", "x.pt2", "--lrn", "op"], "--lrn does nothing with --to torch-export"),
        (["--to", "onnx", "--out", "x.onnx", "--license", "mit"], "--license does nothing with --to onnx"),
        (["--to", "onnx", "--out", "x.onnx", "--split", "val"], "add --int8"),
        (["--to", "torch-export", "--out", "x.onnx"], "ends in .pt2"),
    ],
    ids=str,
)
def test_flags_that_would_do_nothing(flags, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("export", "cifar", *flags)
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_onnx(call, tmp_path, monkeypatch, missing):
    """One line says what to install; other formats do without."""
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("graph", "integers", "onnx_file", "sessions"):  # which an earlier test may have imported
        monkeypatch.delitem(sys.modules, f"alexnet.export.{name}", raising=False)
    code, _, err = call("export", "convnet-18pct", "--out", tmp_path / "x.onnx", "--to", "onnx")
    assert code == 2
    assert err == "error: ONNX files need onnx and onnxruntime: pip install 'alexnet[export]'\n"


@pytest.mark.usefixtures("no_figures")
def test_hub_folder_tells_no_path_of_initial_weights(finished, tiny, tmp_path):
    run = alexnet.train(tiny(epochs=1, init=str(finished.best)), tmp_path / "run")
    folder = alexnet.export_hub(run, tmp_path / "hub")
    assert load_config(folder / "recipe.yaml").init == "best.safetensors"
    assert not any(str(finished.path).encode() in file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "hub", "--out", "x", "--split", "test"], "--split does nothing with --to hub; it is for --to onnx"),
        (
            ["--to", "torchvision", "--out", "x.pth", "--recipe", "digits"],
            "--recipe does nothing with --to torchvision",
        ),
        (
            ["--to", "torch-export", "--out", "x.pt2", "--data.root", "d"],
            "--data.root does nothing with --to torch-export; it is for --to onnx and hub",
        ),
        (["--to", "onnx", "--out", "x.onnx", "--model", "bvlc"], "cifar is the name of a network: leave --model bvlc"),
    ],
    ids=str,
)
def test_flags_are_not_ignored_nor_sent_to_where_they_are_refused(flags, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("export", "cifar", *flags)
    assert (code, message in err) == (2, True), err


def test_a_run_is_measured_on_its_own_data(finished, call, tmp_path):
    out = tmp_path / "x.onnx"
    code, _, err = call("export", finished.path, "--to", "onnx", "--out", out, "--int8", "--recipe", "cifar10")
    assert (code, "says what it was trained on: leave the recipe out" in err) == (2, True)
    assert not out.exists()


def test_the_callers_network_is_left_as_it_is(finished, tmp_path):
    trained = open_trained(finished)
    trained.model.train()
    alexnet.export_program(trained, tmp_path / "program.pt2")
    assert trained.model.training
    with pytest.raises(UsageError, match="leave model='owt' out"):
        alexnet.export_program(trained, tmp_path / "other.pt2", model="owt")
