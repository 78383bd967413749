"""Weights from files: layouts, prefixes, Caffe blobs, damaged and hostile files, heads of another size."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet.errors import CheckpointError
from alexnet.inference.integrity import verify_weights
from alexnet.inference.trained import load_weights, open_trained, read_weights, weights_file
from alexnet.models import weights as weights_module
from alexnet.models.network import build_model
from alexnet.models.weights import TORCHVISION_NAMES
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

resource = pytest.importorskip("resource")  # which Windows has not

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
     lambda state: prefixed("_orig_mod.module.")(torchvision_names(state)),
     lambda state: {n.replace("features.", "features.module."): v for n, v in torchvision_names(state).items()}],
    ids=["ours", "torchvision", "module", "_orig_mod", "both", "both-torchvision", "parts"],
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
    """BGR first kernels, old four-dimensional biases and fully connected weights, grouped kernels of half the
    inputs."""
    arrays = {}
    for layer in TORCHVISION_NAMES:
        module, (weight, bias) = trained.get_submodule(layer), BLOBS[style]
        kernels = module.weight.detach().numpy()
        old = layer.startswith("fc") and len(bias_shape) == 4
        arrays[weight.format(layer)] = kernels[:, ::-1] if layer == "conv1" else kernels[None, None] if old else kernels
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
    "notes.txt": b"export A=1\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_no_weights(tmp_path, name):
    (tmp_path / name).write_bytes(FOREIGN[name])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        load_weights(network(), tmp_path / name)
    assert "weights_only" not in str(caught.value)
    assert "execute code" not in str(caught.value), "which is said of pickles that would"
    assert "pop from" not in str(caught.value)  # how torch's reader stumbles over text
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


# Files that lie.


def refusal(path, target=None, **fields):
    """The one line that a file is refused with; a network to be loaded is as before."""
    model = target or network(**fields)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # none of numpy's, about numbers that float32 cannot hold
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 600
    return said


BAD_NUMBERS = {
    "nan": (float("nan"), torch.float32), "inf": (float("inf"), torch.float32), "minus": (-float("inf"), torch.float16),
    "too large for float32": (1e300, torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize("kind", ["pth", "safetensors", "checkpoint", "npz"])
def test_numbers_that_are_none(trained, tmp_path, kind, bad):
    value, dtype = BAD_NUMBERS[bad]
    state = {name: tensor.to(dtype) for name, tensor in trained.state_dict().items()}
    state["fc7.weight"].view(-1)[-1] = value
    path = tmp_path / ("file." + ("safetensors" if kind == "checkpoint" else kind))
    if kind == "pth":
        torch.save(state, path)
    elif kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        save_checkpoint(path, Checkpoint(state, {}, {}))
    assert "fc7.weight" in (said := refusal(path))
    assert "not finite" in said


def test_a_head_that_is_replaced_may_hold_anything(trained, tmp_path):
    state = trained.state_dict() | {"fc8.weight": torch.full((3, 1), float("nan")), "fc8.bias": torch.ones(3).int()}
    torch.save(state, tmp_path / "diverged.pth")
    model = network()
    load_weights(model, tmp_path / "diverged.pth", replace_head=True)
    assert torch.equal(model.fc7.weight, trained.fc7.weight)
    assert model.fc8.weight.isfinite().all()


@pytest.fixture
def diverged(finished, tmp_path):
    """A checkpoint in order but for one number."""
    content = load_checkpoint(finished.best)
    content.weights["fc8.weight"][3, 2] = float("nan")
    save_checkpoint(tmp_path / "diverged.safetensors", content)
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    return tmp_path / "diverged.safetensors"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate {file}", "evaluate {file} --precision int8", "evaluate {digits} --recipe digits",
        "predict {file} {picture}", "features {file} {picture} --out {folder}/out.npz", "compare digits {file}",
        "train digits --init {file} --model.width 0.125 --run {folder}/run",
        "train digits --init {bare} --model.width 0.125 --run {folder}/run",
    ],
)  # fmt: skip
def test_every_command_says_that_weights_are_not_finite(call, diverged, command):
    folder, bare = diverged.parent, diverged.with_name("bare.pth")
    torch.save(load_file(diverged), bare)
    model = build_model("cifar", width=0.25, in_channels=1)  # as the recipe has it
    nn.init.constant_(model.fc6.bias, float("nan"))
    torch.save(model.state_dict(), folder / "digits.pth")
    named = {"file": diverged, "bare": bare, "folder": folder, "digits": folder / "digits.pth"}
    code, out, err = call(*command.format(**named, picture=folder / "picture.png").split())
    assert code == 4, err
    said = " ".join(err.split())
    assert "not finite" in said
    assert "Traceback" not in said + out
    assert not (folder / "run").exists()
    assert not (folder / "out.npz").exists()


HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@pytest.mark.parametrize("dtype", HALVES)
def test_other_floating_point_numbers_are_taken(trained, tmp_path, dtype):
    torch.save({name: value.to(HALVES[dtype]) for name, value in trained.state_dict().items()}, tmp_path / "other.pth")
    model = network()
    load_weights(model, tmp_path / "other.pth")
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, trained.state_dict()[name].to(HALVES[dtype]).float())


ODD = {
    "int64": (lambda t: t.long(), "holds int64"), "bool": (lambda t: t.bool(), "holds bool"),
    "complex": (lambda t: t.to(torch.complex64), "holds complex64"), "int8": (lambda t: t.char(), "holds int8"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn"),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8), "holds quint8"),
    "sparse": (lambda t: t.to_sparse(), "no plain tensor"), "meta": (lambda t: t.to("meta"), "no plain tensor"),
    "expanded": (lambda t: t[:1].clone().expand(t.shape), "larger than the numbers"),
    "scalar": (lambda t: t[0, 0], r"fc7.weight is \[\] there"), "empty": (lambda t: t[:0], r"is \[0, \d+\] there"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch's, about the kinds of tensors that it gives up
@pytest.mark.parametrize("odd", ODD)
def test_tensors_of_other_kinds(trained, tmp_path, odd):
    change, said = ODD[odd]
    torch.save(trained.state_dict() | {"fc7.weight": change(trained.fc7.weight.detach().clone())}, tmp_path / "odd.pth")
    model, before = network(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=said):
        load_weights(model, tmp_path / "odd.pth")
    if odd not in ("scalar", "empty"):  # which are wrong for this network only
        assert said in str(verify_weights(tmp_path / "odd.pth").damaged)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000  # KiB
    assert model.fc7.weight.isfinite().all()


def test_views_and_transposed_tensors_are_taken(trained, tmp_path):
    """Strides are only wrong where the file holds too few numbers for them."""
    state = dict(trained.state_dict())
    state["fc7.weight"] = state["fc7.weight"].t().contiguous().t()
    state["conv2.weight"] = state["conv2.weight"].to(memory_format=torch.channels_last)
    torch.save(state, tmp_path / "strided.pth")
    model = network()
    load_weights(model, tmp_path / "strided.pth")
    assert same(model, trained)


TWICE = {
    "module": ("module.conv1.weight", "conv1.weight"), "torchvision": ("features.0.weight", "conv1.weight"),
    "prefixes": ("_orig_mod.fc8.bias", "module.fc8.bias"), "both": ("module.classifier.6.bias", "fc8.bias"),
}  # fmt: skip


@pytest.mark.parametrize("names", TWICE)
def test_the_same_tensor_under_two_names(trained, tmp_path, names):
    one, two = TWICE[names]
    state = dict(trained.state_dict())
    value = state.pop(two.removeprefix("module."))
    torch.save(state | {one: value, two: value + 1}, tmp_path / "two.pth")
    said = refusal(tmp_path / "two.pth")
    assert f"as {one!r} and as {two!r}" in said


@pytest.mark.parametrize("names", [("conv1/0", "conv1_w"), ("fc8/1", "fc8.bias"), ("fc8/1", "fc8/1")])
def test_the_same_blob_under_two_names(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, about the name it writes twice
        for name in names:
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.zeros(3, np.float32))
    assert "twice" in refusal(tmp_path / "two.npz")


def bomb(path, name, size):
    """An archive of zeros that unpacks to `size` bytes."""
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
    with archive, archive.open(name, "w", force_zip64=True) as stream:
        for _ in range(size >> 20):
            stream.write(bytes(1 << 20))


@pytest.mark.parametrize("name", ["bomb.npz", "bomb.pth"])
def test_archives_that_unpack_to_gigabytes(tmp_path, monkeypatch, name):
    """The limit lowered from 2 GiB, so that the test takes no minute; nothing may be unpacked."""
    monkeypatch.setattr(weights_module, "_LARGEST", 64 << 20)
    bomb(tmp_path / name, "conv1/0.npy" if name.endswith("npz") else "archive/data.pkl", 200 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "would unpack to 0.2 GiB" in refusal(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000


def test_compressed_weights_are_taken(trained, tmp_path):
    """Also where they are mostly zeros, and small once packed."""
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(parameter.abs() > 3)
    np.savez_compressed(tmp_path / "small.npz", **{n: v.flip(1).numpy() if n == "conv1.weight" else v.numpy()
                                                   for n, v in trained.state_dict().items()})  # fmt: skip
    model = network()
    load_weights(model, tmp_path / "small.npz")
    assert same(model, trained)


def test_npz_whose_array_claims_terabytes(tmp_path):
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32)) | {"shape": (2**40,)}
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive, archive.open("conv1/0.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    refusal(tmp_path / "claim.npz")


def test_npz_of_no_or_flat_blobs(tmp_path):
    np.savez(tmp_path / "empty.npz")
    assert "holds no blob" in refusal(tmp_path / "empty.npz")
    with pytest.raises(CheckpointError, match="holds no blob"):
        open_trained(tmp_path / "empty.npz", "bvlc")
    np.savez(tmp_path / "flat.npz", **{"conv1/0": np.zeros(3), "fc8/1": np.zeros(3)})
    refusal(tmp_path / "flat.npz")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "longer than the file": (struct.pack("<Q", 2**62) + b"{", b""),
    "gigabytes": (struct.pack("<Q", 2**33) + b"{", b""),
    "megabytes of nothing": (b"{" + b" " * 30_000_000 + b"}", b""),
    "nested": (b'{"a":' + b"[" * 50_000, b""),
    "tensor of terabytes": (json.dumps({"conv1.weight": F32 | {"shape": [2**40]}}).encode(), bytes(8)),
    "overflow": (json.dumps({"conv1.weight": F32 | {"shape": [2**63, 4]}}).encode(), bytes(8)),
    "outside": (json.dumps({"conv1.weight": F32 | {"data_offsets": [8, 16]}}).encode(), bytes(8)),
    "backwards": (json.dumps({"conv1.weight": F32 | {"data_offsets": [8, 0]}}).encode(), bytes(8)),
    "unknown numbers": (json.dumps({"conv1.weight": F32 | {"dtype": "F7"}}).encode(), bytes(8)),
    "six bits": (json.dumps({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode(), bytes(3)),
    "metadata of numbers": (json.dumps({"__metadata__": {"alexnet": 3}}).encode(), b""),
    "many names": (json.dumps({f"{i}": F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(99)}).encode(), b""),
    "description of no JSON": (json.dumps({"__metadata__": {"alexnet": "{", "sha256": "0"}}).encode(), b""),
    "description of a list": (json.dumps({"__metadata__": {"alexnet": "[1]", "sha256": "0"}}).encode(), b""),
    "endless format": (json.dumps({"__metadata__": {"alexnet": '{"format": Infinity}', "sha256": "0"}}).encode(), b""),
    "nested description": (json.dumps({"__metadata__": {"alexnet": "[" * 99_999, "sha256": "0"}}).encode(), b""),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors_headers_that_lie(tmp_path, name):
    header, body = HEADERS[name]
    start = b"" if name in ("longer than the file", "gigabytes") else struct.pack("<Q", len(header))
    path = tmp_path / "lie.safetensors"
    path.write_bytes(start + header + body)
    refusal(path)
    with pytest.raises(CheckpointError, match=r"lie\.safetensors"):
        open_trained(path)


DESCRIPTIONS = {
    "no model": (["model"], None), "no preprocessing": (["preprocessing"], None), "no classes": (["classes"], None),
    "no config": (["config"], None), "model a list": (["model"], []), "model a number": (["model"], 3),
    "no name": (["model", "name"], None), "unknown variant": (["model", "name"], "alexnet2"),
    "variant a list": (["model", "name"], ["cifar"]), "variant a number": (["model", "name"], 1),
    "unknown field": (["model", "heads"], 3), "width a word": (["model", "width"], "wide"),
    "width of terabytes": (["model", "width"], 1e6), "width endless": (["model", "width"], 1e308),
    "classes of terabytes": (["model", "num_classes"], 10**12), "classes a word": (["model", "num_classes"], "ten"),
    "classes a fraction": (["model", "num_classes"], 10.0), "classes true": (["model", "num_classes"], True),
    "size too small": (["model", "input_size"], 3), "size another": (["model", "input_size"], 40),
    "size a fraction": (["model", "input_size"], 32.0), "channels": (["model", "in_channels"], 3),
    "channels a list": (["model", "in_channels"], [1]), "dropout a word": (["model", "dropout"], "half"),
    "dropout nan": (["model", "dropout"], float("nan")), "lrn": (["model", "lrn"], 3),
    "k a word": (["model", "lrn_k"], "two"),
    "rows": (["model", "convs"], [[96, 5]]), "no rows": (["model", "convs"], []),
    "hidden words": (["model", "hidden"], ["a"]), "hidden fractions": (["model", "hidden"], [16.0]),
    "output": (["model", "output"], 10), "adaptive": (["model", "adaptive_pool"], "6"),
    "crop another": (["preprocessing", "size"], 31), "crop a word": (["preprocessing", "size"], "32"),
    "resize": (["preprocessing", "resize"], 10**7), "resize a word": (["preprocessing", "resize"], "32"),
    "mean a number": (["preprocessing", "mean"], 0.5), "mean words": (["preprocessing", "mean"], ["a"]),
    "mean of three": (["preprocessing", "mean"], [0.1, 0.2, 0.3]),
    "mean nan": (["preprocessing", "mean"], [float("nan")]),
    "std zero": (["preprocessing", "std"], [0.0]), "std empty": (["preprocessing", "std"], []),
    "upright a word": (["preprocessing", "upright"], "yes"), "no mean image": (["preprocessing", "mean_image"], True),
    "one class less": (["classes"], list("012345678")), "classes numbers": (["classes"], list(range(10))),
    "classes a text": (["classes"], "0123456789"), "classes nothing": (["classes"], {}),
    "one name more": (["names"], list("0123456789x")), "names lists": (["names"], [[]] * 10),
    "config a list": (["config"], [1]), "config of the future": (["config", "format"], 99),
    "unknown setting": (["config", "speed"], 3), "setting of another type": (["config", "epochs"], "many"),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_that_make_no_sense(finished, tmp_path, call, name):
    """Each is under a valid checksum. One line names the file; nothing large is asked of the machine's memory."""
    (*way, key), value = DESCRIPTIONS[name]
    content = load_checkpoint(finished.best)
    place = content.meta
    for step in way:
        place = place[step]
    if value is None:
        del place[key]
    else:
        place[key] = value
    path = tmp_path / "lie.safetensors"
    save_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=r"lie\.safetensors") as caught:
        open_trained(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    code, _, err = call("evaluate", path)
    assert code == 4, err


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 31, 32), torch.zeros(3, 32, 32), torch.full((1, 32, 32), float("nan")),
              torch.zeros(1, 32, 32).long()],
)  # fmt: skip
def test_mean_images_that_do_not_suit(finished, tmp_path, image):
    content = load_checkpoint(finished.best)
    content.meta["preprocessing"]["mean_image"] = True
    path = tmp_path / "lie.safetensors"
    content.extra["mean_image"] = torch.zeros(1, 32, 32)
    save_checkpoint(path, content)
    assert open_trained(path).preprocessing.mean_image is not None
    content.extra["mean_image"] = image
    save_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=r"lie\.safetensors.*preprocessing.* does not suit"):
        open_trained(path)


def test_initial_weights_of_a_checkpoint_without_classes(finished, tmp_path, call):
    content = load_checkpoint(finished.best)
    for number, theirs in enumerate([None, "0123456789", [0, 1], {}]):
        content.meta["classes"] = theirs
        path = tmp_path / f"{number}.safetensors"
        save_checkpoint(path, content)
        code, _, err = call("train", "digits", "--model.width", "0.125", "--init", path, "--run", tmp_path / "run")
        assert code == 4
        assert "was trained on the classes" in " ".join(err.split())


@pytest.mark.parametrize("outputs", [0, 10**12])
def test_bare_weights_that_claim_many_classes(tmp_path, outputs):
    shapes = {"conv1.weight": (64, 3, 11, 11), "conv2.weight": (192, 64, 5, 5), "fc8.bias": (outputs,)}
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match=r"many\.pth"):
        open_trained(tmp_path / "many.pth")


@pytest.mark.parametrize("name", ["convnet-13pct", "convnet-18pct"])
def test_bare_weights_whose_head_is_not_the_last_by_name(tmp_path, name):
    """safetensors sorts names: fc5 stands before local4."""
    model = build_model(name, num_classes=7)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    opened = open_trained(tmp_path / "bare.safetensors", name)
    assert len(opened.names) == 7
    assert all(torch.equal(a, b) for a, b in zip(opened.model.parameters(), model.parameters(), strict=True))


def test_a_folder_that_is_no_run_is_called_so(tmp_path, finished, call):
    (tmp_path / "photos").mkdir()
    shutil.copytree(finished.path, tmp_path / "family" / "seed-0")
    for folder, message in (("photos", "it has no config.yaml"), ("family", "but it holds the runs seed-0")):
        code, _, error = call("predict", tmp_path / folder, "x.png")
        assert code == 2
        assert "is not a run folder" in " ".join(error.split())
        assert message in " ".join(error.split())


def test_whole_network_of_one_number_a_tensor(tmp_path):
    """The right shapes, by strides of zero: the file holds one number for each."""
    model = build_model("torchvision", width=0.125, num_classes=5)
    state = {name: torch.ones(1).expand(value.shape) for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "thin.pth")
    assert (tmp_path / "thin.pth").stat().st_size < 50_000
    assert "larger than the numbers" in refusal(tmp_path / "thin.pth", model)


def test_thousands_of_strange_names_are_one_short_line(trained, tmp_path):
    torch.save({f"layer\n{i}": torch.zeros(1) for i in range(5_000)}, tmp_path / "strange.pth")
    said = refusal(tmp_path / "strange.pth")
    assert "(5000 in all)" in said


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 5000])
def test_names_that_no_file_can_have(call, tmp_path, name):
    for read in (weights_file, open_trained, read_weights):
        with pytest.raises(CheckpointError, match=r"there is no run, checkpoint or weights file"):
            read(name)
    if "\0" not in name:
        for command in (["evaluate", name], ["predict", name, "picture.png"]):
            code, _, err = call(*command)
            assert code == 4, err


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    for read in (weights_file, open_trained, read_weights):
        with pytest.raises(CheckpointError, match="there is no run, checkpoint or weights file"):
            read(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_files_that_may_not_be_read(trained, tmp_path, monkeypatch, suffix):
    """As PermissionError, which a superuser who runs the tests would never meet."""
    path = tmp_path / f"secret{suffix}"
    torch.save(trained.state_dict(), path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(np, "load", refuse)
    monkeypatch.setattr(zipfile, "is_zipfile", lambda _: False)
    assert "Permission denied" in refusal(path)


def test_a_head_of_ones_own_on_another_device(trained):
    """A model on a GPU keeps its head, and takes the rest from the CPU."""

    class OnGpu(torch.Tensor):
        device = property(lambda _: torch.device("cuda"))

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    fresh = network(num_classes=3)
    state = fresh.state_dict()
    own = {name: tensor.clone() for name, tensor in state.items() if name.startswith("fc")}
    head = sorted(own)[-1].rpartition(".")[0]
    fresh.state_dict = lambda: {name: tensor.as_subclass(OnGpu) for name, tensor in state.items()}
    load_weights(fresh, trained.state_dict(), replace_head=True)
    assert torch.equal(fresh.get_submodule(head).weight, own[f"{head}.weight"])
    assert torch.equal(fresh.conv1.weight, trained.conv1.weight)
