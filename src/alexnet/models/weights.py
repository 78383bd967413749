"""Weights from other programs: torchvision's layout, data-parallel and compiled prefixes, Caffe blobs.

Nothing here executes code from a file: safetensors, numpy without pickles, or torch.load with weights_only=True.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.errors import CheckpointError, UsageError, listed
from alexnet.models.ablations import resolve
from alexnet.models.network import AlexNet, InFloat32, blank_model
from alexnet.models.summary import Shape, parameter_shapes, trace
from alexnet.models.table import Variant
from alexnet.models.variants import TORCHVISION


def _torchvision_names() -> dict[str, str]:
    """torchvision's models/alexnet.py numbers the modules of two nn.Sequential, with an average between them."""
    names: dict[str, str] = {}
    part, number = "features", 0
    for layer in trace(TORCHVISION):
        if layer.name == "avgpool":
            names[layer.name] = layer.name
            part, number = "classifier", 0
        elif layer.name != "flatten":  # a function there, not a module
            names[layer.name] = f"{part}.{number}"
            number += 1
    return names


TORCHVISION_LAYERS = _torchvision_names()
"""Our names of all layers of torchvision's network (conv1, relu1 ... fc8) to its own (features.0 ... classifier.6)."""
TORCHVISION_NAMES = {our: theirs for our, theirs in TORCHVISION_LAYERS.items() if our.startswith(("conv", "fc"))}
"""Those of the layers with weights, as its state dict has them."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
_WRAPPED = re.compile(r"\b(?:module|_orig_mod)\.")  # by DistributedDataParallel and torch.compile, whole or in parts
_NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Of an archive that is much smaller itself; Caffe's network for 21,841 classes has 1.2 GB in float64.
_LARGEST = 2**31  # bytes
_CAFFE_BLOB = re.compile(r"^(conv[1-5]|fc[678])[/_.]?(0|1|w|b|weight|weights|bias)$")


def apply_weights(model: AlexNet, weights: Mapping[str, Tensor], origin: str, replace_head: bool = False) -> None:
    """Copy tensors, by layer name, into a model whose names and shapes agree.

    With `replace_head` the last layer keeps the model's own weights, whatever `weights` has there. Raises
    CheckpointError naming what is wrong with the file or origin called `origin`; the model is as it was then.
    """
    own = model.state_dict()
    if replace_head:
        weights = {**weights, **{name: own[name].detach().cpu() for name in _last_layer(own)}}
    check_weights(weights, {name: tuple(value.shape) for name, value in own.items()}, origin)
    model.load_state_dict(weights)


def build_from(table: Variant, weights: Mapping[str, Tensor], origin: str) -> AlexNet:
    """The network of a table with weights, by layer name, whose names and shapes agree with it.

    Memory is taken only when they do, so that a file that tells of a network of terabytes does no harm. Raises
    CheckpointError naming what is wrong with the file or origin called `origin`.
    """
    check_weights(weights, parameter_shapes(table), origin)
    with InFloat32():
        model = blank_model(table)
    model.load_state_dict(weights)
    return model


def torchvision_weights(model: AlexNet) -> dict[str, Tensor]:
    """The weights of a network of torchvision's shape under its names, features.0.weight ... classifier.6.bias, for
    `torchvision.models.alexnet(num_classes=...).load_state_dict`. They share the model's memory.

    Raises UsageError for any other network, also where the weights would fit: without the same strides, padding and
    activations it answers otherwise.
    """
    if difference := unlike_torchvision(model.variant):
        raise UsageError(f"this network is not of torchvision's shape ({difference}): build_model('torchvision') is.")
    state = model.state_dict()
    kinds = ("weight", "bias")
    return {f"{theirs}.{kind}": state[f"{our}.{kind}"] for our, theirs in TORCHVISION_NAMES.items() for kind in kinds}


def unlike_torchvision(variant: Variant) -> str | None:
    """The first layer in which a network computes something else in evaluation than torchvision's with as many classes,
    in words; None for one that computes the same."""
    side = max(variant.input_size, TORCHVISION.input_size)  # its weights are the same for images of all sizes
    theirs = resolve(TORCHVISION, num_classes=variant.num_classes, input_size=side)
    for own, other in zip_longest(_computed(replace(variant, input_size=side)), _computed(theirs)):
        if own != other:
            return f"{_shown(own)} in the place of {_shown(other)}"
    return None


def _computed(variant: Variant) -> list[tuple[Any, ...]]:
    """What evaluation computes, layer by layer; dropout may stand where it will."""
    return [
        (
            layer.name,
            layer.in_shape,
            layer.out_shape,
            (layer.kernel, layer.stride, layer.padding, layer.groups),
            layer.row if layer.kind in ("activation", "norm", "pool") else None,
        )
        for layer in trace(variant)
        if layer.kind != "dropout"
    ]


def _shown(layer: tuple[Any, ...] | None) -> str:
    if layer is None:
        return "nothing"
    name, before, after, *_ = layer
    return f"{name} {'x'.join(map(str, before))} -> {'x'.join(map(str, after))}"


def check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, Shape], origin: str) -> None:
    """Raise CheckpointError unless `weights` are of these names and shapes, and all finite numbers."""
    for name in _last_layer(shapes):
        if name in weights and weights[name].shape[:1] != shapes[name][:1]:
            raise CheckpointError(
                f"{origin} has {(*weights[name].shape, 'no')[0]} classes, the model {shapes[name][0]}: "
                "--replace-head (replace_head=True) starts the last layer afresh."
            )
    missing, extra = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or extra:
        raise CheckpointError(
            f"{origin} does not fit this network: missing [{_names(missing)}], not expected [{_names(extra)}]."
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{origin} does not fit this network: {name} is {list(weights[name].shape)} there and {list(shape)} "
                "here (variant, groups or width differ)."
            )
    for name in shapes:
        if problem := unusable(weights[name]):
            raise CheckpointError(f"{origin} cannot be used: {name} {problem}.")


def _last_layer(names: Iterable[str]) -> list[str]:
    """Those of the last layer's parameters, the head."""
    names = list(names)
    return [name for name in names if name.rpartition(".")[0] == names[-1].rpartition(".")[0]]


def _names(names: list[str]) -> str:
    return listed([repr(name) for name in names])


def unusable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be weights, if it cannot."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"is no plain tensor ({tensor.layout}, {tensor.device.type})"
    if tensor.dtype not in _NUMBERS:
        return f"holds {tensor.dtype}, not the floating-point numbers of a network".replace("torch.", "")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "is larger than the numbers that the file holds for it"
    if not tensor.float().isfinite().all():
        return "holds values that are not finite (nan, inf): its training diverged; take an earlier checkpoint"
    return None


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of another program's .safetensors, .pth/.pt or .npz file under our layer names.

    Raises CheckpointError for anything that is not such a file.
    """
    try:
        _refuse_bomb(path)
        if path.suffix == ".npz":
            return _from_caffe(path)
        with path.open("rb") as stream:
            start = stream.read(9)
        read = _read_safetensors if path.suffix == ".safetensors" or start[8:] == b"{" else _read_torch
        return rename(read(path), path)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read ({problem.strerror or problem}).") from None


def _refuse_bomb(path: Path) -> None:
    """An archive, as .npz and .pth are, says how large its content is before anything is unpacked."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # as damaged as the reader will find it
    if size > max(_LARGEST, 4 * path.stat().st_size):
        raise CheckpointError(f"{path} is no weights file: it would unpack to {size / 2**30:,.1f} GiB.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(f"{path} is not a checkpoint or is damaged ({problem}).") from None


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # about foreign pickles, which end in the error below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch.load raises a dozen kinds for damaged or foreign files
        reason = "torch cannot read it"
        if isinstance(problem, RuntimeError | OSError) and str(problem):  # not "pop from empty list", of a text file
            reason = str(problem).splitlines()[0]
        if "Unsupported operand" in str(problem) and not _holds_a_pickle(path):
            reason = "it is no file of torch's"
        elif "weights_only" in str(problem) or "Unsupported" in str(problem):
            reason = "it holds more than tensors, and loading that would execute code from the file"
        raise CheckpointError(f"{path} is not a checkpoint or is damaged ({reason}).") from None


def _holds_a_pickle(path: Path) -> bool:
    """Whether a file is one, or an archive that may hold one; a web page under a wrong name is neither."""
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80" or zipfile.is_zipfile(path)


def rename(content: Any, origin: object) -> dict[str, Tensor]:
    """A state dict in any known layout, of the file or origin called `origin`, under our layer names. Raises
    CheckpointError for anything else, and where two names come to the same."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{origin} is not a checkpoint: it holds no state dict of tensors.")
    return {ours: content[theirs] for ours, theirs in _by_our_names(content, _our_name, origin).items()}


def _our_name(name: str) -> str:
    ours = {theirs: our for our, theirs in TORCHVISION_NAMES.items()}
    layer, dot, kind = _WRAPPED.sub("", name).rpartition(".")
    return f"{ours.get(layer, layer)}{dot}{kind}"


def _by_our_names(names: Iterable[Any], ours: Callable[[str], str], origin: object) -> dict[str, Any]:
    """The names of a file by our own. Raises CheckpointError where two of them stand for the same tensor."""
    found: dict[str, Any] = {}
    for name in names:
        our = ours(str(name))
        if our in found:
            raise CheckpointError(f"{origin} holds {our} twice, as {found[our]!r} and as {name!r}: which one counts?")
        found[our] = name
    return found


def _from_caffe(path: Path) -> dict[str, Tensor]:
    """A Caffe AlexNet saved with numpy: blobs "conv1/0" (weights) and "conv1/1" (bias), or with _w/_b, .weight/.bias.

    Caffe's grouped kernels have torch's shape; its input is BGR, so the first kernels' planes are reversed to RGB.
    """

    def ours(name: str) -> str:
        match = _CAFFE_BLOB.match(name)
        if match is None:
            raise CheckpointError(f"{path}: blob {name!r} is not of an AlexNet (conv1/0, conv1/1 ... fc8/1).")
        return f"{match[1]}.{'weight' if match[2] in ('0', 'w', 'weight', 'weights') else 'bias'}"

    try:
        with np.load(path, allow_pickle=False) as blobs:
            arrays = {our: blobs[theirs] for our, theirs in _by_our_names(blobs.files, ours, path).items()}
    except CheckpointError:
        raise
    except (OSError, ValueError, EOFError, KeyError) as problem:
        raise CheckpointError(f"{path} is not a .npz file of arrays or is damaged ({problem}).") from None
    except Exception as problem:  # zipfile's own errors
        raise CheckpointError(f"{path} is damaged ({problem}).") from None
    if not arrays:
        raise CheckpointError(f"{path} is empty: it holds no blob of an AlexNet (conv1/0, conv1/1 ... fc8/1).")
    weights = {}
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(f"{path}: {name} holds {array.dtype}, not numbers of a network.")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        if name.startswith("fc") and tensor.shape[:2] == (1, 1) and tensor.dim() == 4:  # of Caffe's first format
            tensor = tensor[0, 0]
        weights[name] = tensor.flatten() if name.endswith(".bias") else tensor
    if weights.get("conv1.weight", torch.empty(0)).dim() == 4:
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    return weights
