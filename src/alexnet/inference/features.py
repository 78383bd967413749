"""Activations of any layer, for researchers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.compute import Compute, resolve_compute
from alexnet.data.images import as_views, find_images, read_picture
from alexnet.errors import UsageError, unknown
from alexnet.inference.forward import layer_outputs
from alexnet.inference.trained import Trained, as_trained
from alexnet.models.network import AlexNet, check_images
from alexnet.models.summary import trace
from alexnet.models.variants import TORCHVISION
from alexnet.models.weights import TORCHVISION_LAYERS
from alexnet.runs.folder import Run

BATCH = 16  # images computed at a time, always so many: the last ones are filled up
ALL = "all"
_UNCHANGED = ("pad", "flatten", "dropout")  # kinds of layers that in evaluation compute nothing
Features = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def extract_features(
    target: Run | Trained | AlexNet | str | Path,
    images: Sequence[str | Path] | str | Path | Tensor,
    layers: Sequence[str] | str = ("fc7",),
    *,
    torchvision_names: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> Features:
    """Outputs of layers in evaluation mode, NumPy arrays float32 [N, ...] by layer name, for image files (folders,
    patterns) or a tensor of images [N, C, H, W] that are normalised already. All are held in memory; `alexnet features`
    writes those of whole data sets.

    `target` is a run, a checkpoint, a weights file, "torchvision", or a network (with a tensor). A layer goes by our
    name (conv5, relu5, pool5, fc7 ...: each what that layer itself gives) or by torchvision's (features.10,
    classifier.4); "all" are those that compute something. `torchvision_names` sets the keys of the result. An image's
    features are the same to the bit whichever images come with it. Raises UsageError, DataError or CheckpointError, and
    ValueError for a tensor that does not fit the network.
    """
    if hasattr(images, "shape") and not isinstance(images, Tensor):
        raise UsageError(f"images are files or a tensor, not a {type(images).__name__}: torch.from_numpy makes one.")
    if isinstance(target, AlexNet):
        if not isinstance(images, Tensor):
            raise UsageError("a network alone does not say how images are prepared: give a tensor, or a checkpoint.")
        if model is not None:
            raise UsageError(f"this is a network already: leave model={model!r} out.")
        network, batches = target, iter(images.split(BATCH))
    else:
        trained = as_trained(target, model)
        network = trained.model
        batches = (
            iter(images.split(BATCH)) if isinstance(images, Tensor) else read_batches(find_images(images), trained)
        )
    names = choose_layers(network, layers, torchvision_names)
    compute = resolve_compute(device, "fp32")
    kept: dict[str, list[Tensor]] = {layer: [] for layer in names}
    with torch.inference_mode(), compute.settings():
        for found in answers(network, batches, list(names), compute):
            for layer, output in found.items():
                kept[layer].append(output.cpu().contiguous())
    return {names[layer]: torch.cat(parts).numpy() for layer, parts in kept.items()}


def choose_layers(network: AlexNet, layers: Sequence[str] | str, torchvision_names: bool = False) -> dict[str, str]:
    """The layers of a network that somebody asks for, by our names, each with the name that it shall bear in a result.

    Layers are given by our names or torchvision's; "all" stands for those that compute something in evaluation. Raises
    UsageError for a name that the network does not have.
    """
    published = torchvision_layers(network)
    if torchvision_names and not published:
        raise UsageError("torchvision's names are those of its own layout: this network has other layers.")
    ours = {theirs: our for our, theirs in published.items()}
    known = {layer.name: layer.kind for layer in trace(network.variant)}
    asked = [layers] if isinstance(layers, str) else list(layers)
    if asked == [ALL]:
        asked = [name for name, kind in known.items() if kind not in _UNCHANGED]
    if not asked:
        raise UsageError("no layer was named (--layers fc7,pool5, or all).")
    wanted = [ours.get(layer, layer) for layer in asked]
    for layer in wanted:
        if layer not in known:
            raise UsageError(unknown("layer", layer, dict.fromkeys([*known, *ours])))
    if torchvision_names and (nameless := [layer for layer in wanted if layer not in published]):
        raise UsageError(f"torchvision has no name for {nameless[0]}: leave it out, or take our names.")
    return {layer: published[layer] if torchvision_names else layer for layer in wanted}


def answers(
    network: AlexNet, batches: Iterable[Tensor], layers: Sequence[str], compute: Compute
) -> Iterator[dict[str, Tensor]]:
    """What layers answer to batches of at most BATCH images [B, C, H, W]: float32 [B, ...] by name, on the device.

    Libraries sum in another order for another number of images, so that last bits differ. Short batches are filled up,
    so that what comes out for an image does not depend on how many were asked for. Raises ValueError for images of
    another shape than the network's.
    """
    counts: deque[int] = deque()

    def full() -> Iterator[Tensor]:
        for batch in batches:
            check_images(batch, network.variant)
            if not batch.is_floating_point():
                raise ValueError(
                    f"images of {batch.dtype} are pixels, and what goes in here is normalised: run.preprocessing() "
                    "makes it of them."
                )
            counts.append(len(batch))
            yield torch.cat([batch, batch.new_zeros(BATCH - len(batch), *batch.shape[1:])])

    for found in layer_outputs(network, full(), layers, compute):
        count = counts.popleft()
        yield {layer: output[:count] for layer, output in found.items()}


def read_batches(paths: Sequence[Path], trained: Trained) -> Iterator[Tensor]:
    """Central crops of image files as a network takes them, [N, C, size, size], BATCH at a time. Raises DataError."""
    channels = trained.model.variant.in_channels
    for start in range(0, len(paths), BATCH):
        pictures = (read_picture(path, channels) for path in paths[start : start + BATCH])
        yield torch.stack([as_views(picture, trained.preprocessing)[0] for picture in pictures])


def in_dtype(values: np.ndarray[Any, Any], dtype: str, layer: str) -> np.ndarray[Any, Any]:
    """A layer's values in another number format. Raises UsageError for values beyond the range of float16."""
    with np.errstate(over="ignore"):
        converted = values.astype(dtype, copy=False)
    if dtype == "float16" and not np.isfinite(converted).all():
        raise UsageError(f"{layer} has values that float16 cannot hold (beyond 65,504): use --dtype float32.")
    return converted


def torchvision_layers(network: AlexNet) -> dict[str, str]:
    """Our layer names to torchvision's (features.0 ... avgpool ... classifier.6); empty for another layout."""
    names = [name for name, _ in network.named_children()]
    return TORCHVISION_LAYERS if names == [layer.name for layer in trace(TORCHVISION)] else {}
