"""The networks that dropout averages over (section 4.2): single ones of them, by a seed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from alexnet.compute import Compute
from alexnet.data.batches import Loader
from alexnet.data.seeds import mixed_seed
from alexnet.errors import UsageError
from alexnet.inference.forward import batch_size, layer_outputs
from alexnet.models.network import AlexNet
from alexnet.models.summary import trace
from alexnet.models.table import Dropout


@torch.inference_mode()
def thinned_logits(
    model: AlexNet, loader: Loader, compute: Compute, seeds: Sequence[int], *, skip_bad: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The answers of thinned networks to every image of a split, in order, central crops: for each batch the logits
    [B, M, K] in float32 of the networks that M seeds draw, and the labels [B].

    A thinned network is what training sees for a moment: the units that its dropout drops give 0 and the others what
    they give in training. Its masks are drawn once, for all images, so that it is one network; what lies before the
    first dropout is computed once for all of them. The network itself stays as it is. Raises UsageError where it has no
    dropout, and DataError at the first image that cannot be read, unless `skip_bad`.
    """
    layers = trace(model.variant)
    first = next((place for place, layer in enumerate(layers) if layer.kind == "dropout"), 0)
    if not first or all(row.rate == 0 for row in (layer.row for layer in layers) if isinstance(row, Dropout)):
        raise UsageError("this network has no dropout: there is a single network of it.")
    masks = [_draw_masks(model, seed, compute) for seed in seeds]
    trunk = layers[first - 1].name
    rest = list(compute.replica(model, in_place=False).named_children())[first:]
    labels: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for views, truth in loader.evaluation_batches(batch_size(loader), skip_bad=skip_bad):
            labels.append(truth)
            yield views[:, 0]

    for found in layer_outputs(model, images(), [trunk], compute):
        shared = compute.fit(found[trunk])
        yield torch.stack([_finish(shared, rest, mask) for mask in masks], dim=1), labels.pop()


def _finish(x: Tensor, rest: Sequence[tuple[str, nn.Module]], masks: dict[str, Tensor]) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # a caller's
        for name, module in rest:
            x = x * masks[name] if name in masks else module(x)
    return x.float()


def _draw_masks(model: AlexNet, seed: int, compute: Compute) -> dict[str, Tensor]:
    """What each dropout of a network multiplies its input by, [1, ...]: what it makes of ones in training."""
    masks = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed_seed(seed, 0))  # and no GPU's
        for layer in trace(model.variant):
            if layer.kind == "dropout":
                drawing = copy.copy(model.get_submodule(layer.name)).train()
                masks[layer.name] = compute.fit(drawing(torch.ones(1, *layer.in_shape)))
    return masks
