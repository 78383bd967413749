"""Weights from files: layouts, prefixes, Caffe blobs, damaged and hostile files, heads of another size."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alexnet.errors import CheckpointError
from alexnet.inference.trained import load_weights, read_weights
from alexnet.models.network import build_model
from alexnet.models.weights import TORCHVISION_NAMES
from alexnet.runs.checkpoint import Checkpoint, save_checkpoint

FIELDS = {"name": "cifar", "width": 0.125}


def network(**fields) -> nn.Module:
    return build_model(**{**FIELDS, **fields})


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(1)
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def same(model: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{TORCHVISION_NAMES[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in state.items()}


def prefixed(prefix: str):
    return lambda state: {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "layout",
    [dict, torchvision_names, prefixed("module."), prefixed("_orig_mod."), prefixed("module._orig_mod."),
     lambda state: prefixed("_orig_mod.module.")(torchvision_names(state))],
    ids=["ours", "torchvision", "module", "_orig_mod", "both", "both-torchvision"],
)  # fmt: skip
def test_layouts_and_prefixes(trained, tmp_path, layout, suffix):
    path = tmp_path / f"weights{suffix}"
    state = {name: value.clone() for name, value in layout(trained.state_dict()).items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    fresh = network()
    assert not same(fresh, trained)
    load_weights(fresh, path)
    assert same(fresh, trained)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_wrapped_state_dicts(trained, tmp_path, wrapper):
    path = tmp_path / "wrapped.pth"
    torch.save({wrapper: prefixed("module.")(trained.state_dict()), "epoch": 3, "args": {"lr": 0.1}}, path)
    fresh = network()
    load_weights(fresh, path)
    assert same(fresh, trained)


def test_safetensors_under_another_name(trained, tmp_path):
    path = tmp_path / "weights.pth"
    save_file(trained.state_dict(), path)
    fresh = network()
    load_weights(fresh, path)
    assert same(fresh, trained)


@pytest.mark.parametrize("averaged", [False, True])
def test_our_checkpoint_with_what_resuming_needs(trained, tmp_path, averaged):
    """last.safetensors holds optimiser state too; of a run that keeps an average, the average counts."""
    path = tmp_path / "last.safetensors"
    extra = {"optimizer/fc8.bias/momentum_buffer": torch.zeros(10), "totals": torch.zeros(3)}
    state = trained.state_dict()
    if averaged:
        extra |= {f"ema/{name}": value for name, value in state.items()}
        state = {name: torch.zeros_like(value) for name, value in state.items()}
    save_checkpoint(path, Checkpoint(state, extra, {}))
    fresh = network()
    load_weights(fresh, path)
    assert same(fresh, trained)


def test_altered_checkpoint_is_refused(trained, tmp_path):
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, Checkpoint(trained.state_dict(), {}, {}))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged"):
        load_weights(network(), path)


BLOBS = {
    "numbers": ("{}/0", "{}/1"), "letters": ("{}_w", "{}_b"), "words": ("{}.weight", "{}.bias"),
    "plural": ("{}_weights", "{}_bias"),
}  # fmt: skip


@pytest.mark.parametrize("style", BLOBS)
@pytest.mark.parametrize("bias_shape", [(-1,), (1, 1, 1, -1)], ids=["flat", "four"])
def test_caffe_blobs(trained, tmp_path, style, bias_shape):
    """BGR first kernels, old four-dimensional biases, grouped kernels of half the inputs."""
    arrays = {}
    for layer in TORCHVISION_NAMES:
        module, (weight, bias) = trained.get_submodule(layer), BLOBS[style]
        kernels = module.weight.detach().numpy()
        arrays[weight.format(layer)] = kernels[:, ::-1] if layer == "conv1" else kernels
        arrays[bias.format(layer)] = module.bias.detach().numpy().reshape(bias_shape)
    assert arrays[BLOBS[style][0].format("conv2")].shape[1] == trained.conv1.out_channels // 2
    path = tmp_path / "caffe.npz"
    np.savez(path, **arrays)
    fresh = network()
    load_weights(fresh, path)
    assert same(fresh, trained)


@pytest.mark.parametrize(
    "arrays",
    [{"conv9/0": np.zeros(3)}, {"conv1/0": np.array([{}], dtype=object)}, {"conv1/0": np.array(["text"])}],
    ids=["other-layer", "pickled", "text"],
)
def test_npz_of_something_else(tmp_path, arrays):
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match=r"other\.npz"):
        load_weights(network(), path)


FOREIGN = {
    "page.pth": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "page.safetensors": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "page.npz": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "empty.pth": b"",
    "empty.safetensors": b"",
    "empty.npz": b"",
    "short.pt": b"PK\x03",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_no_weights(tmp_path, name):
    (tmp_path / name).write_bytes(FOREIGN[name])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        load_weights(network(), tmp_path / name)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 1e-5, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_truncated_files(trained, tmp_path, suffix, part):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".npz":
        np.savez(path, **{f"{n.replace('.', '_')}": v.numpy() for n, v in trained.state_dict().items()})
    else:
        (save_file if suffix == ".safetensors" else torch.save)(trained.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"cut{suffix}"):
        load_weights(fresh, path)
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.npz", "evil.safetensors"])
@pytest.mark.parametrize("kind", ["torch", "torch-old", "pickle", "numpy"])
def test_code_in_a_file_is_not_executed(tmp_path, kind, name):
    marker, path = tmp_path / "executed", tmp_path / name
    with path.open("wb") as stream:
        if kind == "pickle":
            pickle.dump(Evil(marker), stream)
        elif kind == "numpy":
            np.savez(stream, **{"conv1/0": np.array([Evil(marker)], dtype=object)})
        else:
            torch.save({"conv1.weight": Evil(marker)}, stream, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(CheckpointError, match=r"evil\."):
        load_weights(network(), path)
    assert not marker.exists()
    if kind == "pickle":  # the file would have done it
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_head_of_another_size(trained, tmp_path):
    path = tmp_path / "ten.pth"
    torch.save(trained.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"10 classes.*\b37\b.*--replace-head"):
        load_weights(network(num_classes=37), path)


@pytest.mark.parametrize("num_classes", [37, 10])
def test_replace_head_keeps_the_models_own_last_layer(trained, tmp_path, num_classes):
    path = tmp_path / "ten.pth"
    torch.save(torchvision_names(trained.state_dict()), path)
    fresh = network(num_classes=num_classes)
    own = {name: value.clone() for name, value in fresh.fc8.state_dict().items()}
    load_weights(fresh, path, replace_head=True)
    for name, value in fresh.state_dict().items():
        expected = own[name.removeprefix("fc8.")] if name.startswith("fc8") else trained.state_dict()[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("replace_head", [False, True])
def test_another_width_is_named_as_such(trained, tmp_path, replace_head):
    """Not as another number of classes: both have ten."""
    path = tmp_path / "narrow.pth"
    torch.save(trained.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"does not fit.*width") as caught:
        load_weights(network(width=0.25), path, replace_head)
    assert "10 classes" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"groups": 1}, {"in_channels": 1}], ids=str)
def test_another_shape_names_the_layer(trained, tmp_path, fields):
    path = tmp_path / "weights.pth"
    torch.save(trained.state_dict(), path)
    layer = "conv2" if "groups" in fields else "conv1"
    with pytest.raises(CheckpointError, match=rf"{layer}\.weight is \[.*\] there and \[.*\] here"):
        load_weights(network(**fields), path)


def test_missing_and_unexpected_layers_are_named(trained, tmp_path):
    state = dict(trained.state_dict())
    del state["conv3.bias"]
    state["bn1.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"missing \['conv3.bias'\].*not expected \['bn1.weight'\]"):
        load_weights(network(), tmp_path / "other.pth")


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.ones(2)], torch.ones(2)], ids=["empty", "int", "list", "one"])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth.*no state dict"):
        read_weights(tmp_path / "odd.pth")


def test_no_such_file(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(CheckpointError, match=r"there is no .*weights file"):
            load_weights(network(), path)
