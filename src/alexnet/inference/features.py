"""Activations of any layer, for researchers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.compute import resolve_compute
from alexnet.data.images import as_views, find_images, read_picture
from alexnet.errors import UsageError, unknown
from alexnet.inference.forward import layer_outputs
from alexnet.inference.trained import Trained, open_trained
from alexnet.models.network import AlexNet, check_images
from alexnet.models.summary import trace
from alexnet.models.variants import TORCHVISION
from alexnet.models.weights import TORCHVISION_LAYERS
from alexnet.runs.folder import Run

BATCH = 64
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
    """Outputs of layers in evaluation mode, float32 [N, ...] by layer name, for image files (folders, patterns) or a
    tensor of images [N, C, H, W] that are normalised already.

    `target` is a run, a checkpoint, a weights file, "torchvision", or a network (with a tensor). A layer goes by our
    name (conv5, relu5, pool5, fc7 ...: each what that layer itself gives) or by torchvision's (features.10,
    classifier.4); `torchvision_names` sets the keys of the result. Raises UsageError, DataError or CheckpointError.
    """
    if isinstance(target, AlexNet):
        if not isinstance(images, Tensor):
            raise UsageError("a network alone does not say how images are prepared: give a tensor, or a checkpoint.")
        network, batches = target, iter(images.split(BATCH))
    else:
        trained = target if isinstance(target, Trained) else open_trained(target, model)
        network = trained.model
        batches = iter(images.split(BATCH)) if isinstance(images, Tensor) else _read(find_images(images), trained)
    published = torchvision_layers(network)
    ours = {theirs: our for our, theirs in published.items()}
    names = [name for name, _ in network.named_children()]
    wanted = [ours.get(layer, layer) for layer in ([layers] if isinstance(layers, str) else layers)]
    if not wanted:
        raise UsageError("no layer was named (--layers fc7,pool5).")
    for layer in wanted:
        if layer not in names:
            raise UsageError(unknown("layer", layer, dict.fromkeys([*names, *ours])))
    if torchvision_names and not published:
        raise UsageError("torchvision's names are those of its own layout: this network has other layers.")
    if torchvision_names and (nameless := [layer for layer in wanted if layer not in published]):
        raise UsageError(f"torchvision has no name for {nameless[0]}: leave it out, or take our names.")
    compute = resolve_compute(device, "fp32")
    kept: dict[str, list[Tensor]] = {layer: [] for layer in wanted}
    with torch.inference_mode(), compute.settings():
        for found in layer_outputs(network, _checked(batches, network), wanted, compute):
            for layer, output in found.items():
                kept[layer].append(output.cpu().contiguous())
    return {published[layer] if torchvision_names else layer: torch.cat(parts).numpy() for layer, parts in kept.items()}


def _checked(batches: Iterator[Tensor], network: AlexNet) -> Iterator[Tensor]:
    for batch in batches:
        check_images(batch, network.variant)
        yield batch


def _read(paths: Sequence[Path], trained: Trained) -> Iterator[Tensor]:
    """Central crops of image files, [N, C, size, size] at a time."""
    channels = trained.model.variant.in_channels
    for start in range(0, len(paths), BATCH):
        pictures = (read_picture(path, channels) for path in paths[start : start + BATCH])
        yield torch.stack([as_views(picture, trained.preprocessing)[0] for picture in pictures])


def torchvision_layers(network: AlexNet) -> dict[str, str]:
    """Our layer names to torchvision's (features.0 ... avgpool ... classifier.6); empty for another layout."""
    names = [name for name, _ in network.named_children()]
    return TORCHVISION_LAYERS if names == [layer.name for layer in trace(TORCHVISION)] else {}
