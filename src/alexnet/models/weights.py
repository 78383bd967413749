"""Weights from other programs: torchvision's layout, data-parallel and compiled prefixes, Caffe blobs.

Nothing here executes code from a file: safetensors, numpy without pickles, or torch.load with weights_only=True.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.errors import CheckpointError
from alexnet.models.network import AlexNet

# torchvision's models/alexnet.py numbers the modules of two nn.Sequential.
TORCHVISION_NAMES = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
_PREFIXES = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DistributedDataParallel and torch.compile
_CAFFE_BLOB = re.compile(r"^(conv[1-5]|fc[678])[/_.]?(0|1|w|b|weight|weights|bias)$")


def apply_weights(model: AlexNet, weights: Mapping[str, Tensor], origin: str, replace_head: bool = False) -> None:
    """Copy tensors, by layer name, into a model whose names and shapes agree.

    With `replace_head` the last layer keeps the model's own weights, whatever `weights` has there. Raises
    CheckpointError naming what differs, of the file or origin called `origin`.
    """
    own = model.state_dict()
    weights = dict(weights)
    head = [name for name in own if name.rpartition(".")[0] == list(own)[-1].rpartition(".")[0]]
    differing = [n for n in head if n in weights and weights[n].shape[:1] != own[n].shape[:1]]
    if replace_head:
        weights |= {n: own[n] for n in head}
    elif differing:
        raise CheckpointError(
            f"{origin} has {weights[differing[0]].shape[0]} classes, the model {own[differing[0]].shape[0]}: "
            "--replace-head (replace_head=True) starts the last layer afresh."
        )
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(f"{origin} does not fit this network: missing {missing}, not expected {extra}.")
    for name, value in own.items():
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f"{origin} does not fit this network: {name} is {list(weights[name].shape)} there and "
                f"{list(value.shape)} here (variant, groups or width differ)."
            )
    model.load_state_dict(weights)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of another program's .safetensors, .pth/.pt or .npz file under our layer names.

    Raises CheckpointError for anything that is not such a file.
    """
    if path.suffix == ".npz":
        return _from_caffe(path)
    with path.open("rb") as stream:
        start = stream.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return rename(load_file(path), path)
        except (SafetensorError, OSError, ValueError) as problem:
            raise CheckpointError(f"{path} is not a checkpoint or is damaged ({problem}).") from None
    try:
        with warnings.catch_warnings():  # about foreign pickles, which end in the error below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch.load raises a dozen kinds for damaged or foreign files
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        if "weights_only" in str(problem) or "Unsupported" in str(problem):
            reason = "it holds more than tensors, and loading that would execute code from the file"
        raise CheckpointError(f"{path} is not a checkpoint or is damaged ({reason}).") from None
    return rename(content, path)


def rename(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict in any known layout under our layer names."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} is not a checkpoint: it holds no state dict of tensors.")
    plain = {_PREFIXES.sub("", str(name)): tensor for name, tensor in content.items()}
    ours = {theirs: our for our, theirs in TORCHVISION_NAMES.items()}
    renamed = {}
    for name, tensor in plain.items():
        layer, _, kind = name.rpartition(".")
        renamed[f"{ours.get(layer, layer)}.{kind}"] = tensor
    return renamed


def _from_caffe(path: Path) -> dict[str, Tensor]:
    """A Caffe AlexNet saved with numpy: blobs "conv1/0" (weights) and "conv1/1" (bias), or with _w/_b, .weight/.bias.

    Caffe's grouped kernels have torch's shape; its input is BGR, so the first kernels' planes are reversed to RGB.
    """
    try:
        with np.load(path, allow_pickle=False) as blobs:
            arrays = {name: blobs[name] for name in blobs.files}
    except (OSError, ValueError, EOFError, KeyError) as problem:
        raise CheckpointError(f"{path} is not a .npz file of arrays or is damaged ({problem}).") from None
    except Exception as problem:  # zipfile's own errors
        raise CheckpointError(f"{path} is damaged ({problem}).") from None
    weights = {}
    for name, array in arrays.items():
        match = _CAFFE_BLOB.match(name)
        if match is None:
            raise CheckpointError(f"{path}: blob {name!r} is not of an AlexNet (conv1/0, conv1/1 ... fc8/1).")
        layer, kind = match[1], "weight" if match[2] in ("0", "w", "weight", "weights") else "bias"
        if not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(f"{path}: blob {name!r} holds {array.dtype}, not numbers of a network.")
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        weights[f"{layer}.{kind}"] = tensor.flatten() if kind == "bias" else tensor
    if "conv1.weight" in weights:
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    return weights
