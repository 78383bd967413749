"""Networks run forward: over the images of a split, and up to any of their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from alexnet.compute import Compute
from alexnet.data.batches import Loader
from alexnet.errors import DataError
from alexnet.models.arranged import arrange

SMALL_BATCH, BATCH = 500, 100  # images at a time: small ones and photographs


def batch_size(loader: Loader, views: int = 1) -> int:
    """How many images of a split are worth computing at a time."""
    return max(1, (SMALL_BATCH if loader.prep.size <= 64 else BATCH) // views)


def answering(model: nn.Module, compute: Compute) -> Callable[[Tensor], Tensor]:
    """A function from images [N, C, H, W] to logits [N, K] in float32, without gradients, by a replica of the model
    (`Compute.replica`), which stays as it is. It is for the weights of now: once these change, make another."""
    replica = compute.replica(model)
    arrange(replica)

    @torch.no_grad()
    def answer(images: Tensor) -> Tensor:
        with torch.autocast(compute.device.type, enabled=False):  # a caller's
            logits: Tensor = replica(compute.fit(images))
            return logits.float()

    return answer


def split_logits(
    models: Sequence[nn.Module],
    loader: Loader,
    compute: Compute,
    *,
    views: int = 1,
    shard: slice = slice(None),
    skip_bad: bool = False,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The answers of one or several networks to every image of a split's shard, in order: for each batch the logits of
    every network, float32 [B, V, K], and the labels [B]; nothing for a batch in which no image can be read. The images
    are decoded once; the networks stay as they are.

    Raises DataError at the first image that cannot be read, unless `skip_bad`.
    """
    forwards = [answering(model, compute) for model in models]
    for images, labels in loader.evaluation_batches(batch_size(loader, views), views, shard, skip_bad):
        if not len(images):  # none of them could be read
            continue
        flat = images.flatten(0, 1)  # [N, V, C, H, W] -> [N * V, C, H, W]
        yield [forward(flat).unflatten(0, images.shape[:2]) for forward in forwards], labels


def layer_outputs(
    model: nn.Sequential, batches: Iterable[Tensor], layers: Sequence[str], compute: Compute
) -> Iterator[dict[str, Tensor]]:
    """What the named layers of a network answer in evaluation mode to images [B, C, H, W]: for each batch the outputs
    [B, ...] in float32, by name. Layers after the last of them are not computed; the network stays as it is."""
    replica = compute.replica(model, in_place=False)  # a ReLU must not write over what the layer before it gave
    names = [name for name, _ in model.named_children()]
    depth = 1 + max(names.index(layer) for layer in layers)
    for images in batches:
        x = compute.fit(images)
        found: dict[str, Tensor] = {}
        with torch.autocast(compute.device.type, enabled=False):  # a caller's
            for name, module in list(replica.named_children())[:depth]:
                x = module(x)
                if name in layers:
                    found[name] = x.float()
        yield found


@torch.inference_mode()
def collect_logits(
    model: nn.Module, loader: Loader, compute: Compute, views: int = 1, *, skip_bad: bool = False
) -> tuple[Tensor, Tensor]:
    """A network's answers to a whole split: logits float32 [N, V, K] and labels [N], on the CPU. Raises DataError at an
    image that cannot be read, or with `skip_bad` where none can be."""
    with compute.settings():
        answers = split_logits([model], loader, compute, views=views, skip_bad=skip_bad)
        parts = [(z.cpu(), y.cpu()) for (z,), y in answers]
    if not parts:
        raise DataError("no image of the split can be read.")
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(labels)
