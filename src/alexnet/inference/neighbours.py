"""Which images a network takes for alike: nearest neighbours by what its layers answer (section 6.1, figure 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.compute import Compute
from alexnet.config import DataConfig
from alexnet.data.augment import Preprocessing
from alexnet.data.batches import Loader
from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.splits import Split
from alexnet.inference.forward import batch_size, layer_outputs
from alexnet.models.network import AlexNet

CHUNK = 4096  # images compared at a time


@dataclass(frozen=True)
class Neighbours:
    """For each of Q queries the nearest images of an index, nearest first: their `rows` [Q, k] in it, and their squared
    Euclidean `distances` [Q, k]."""

    rows: np.ndarray[Any, np.dtype[np.int64]]
    distances: np.ndarray[Any, np.dtype[np.float64]]


def hidden_layer(model: AlexNet) -> str:
    """The layer whose answers the output layer sees: fc7's after ReLU in the paper's network, whose dropout does
    nothing in evaluation. Figure 4 compares images by these."""
    names = [name for name, _ in model.named_children()]
    outputs = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
    return names[names.index(outputs[-1]) - 1]


@torch.inference_mode()
def split_features(
    model: AlexNet, loader: Loader, compute: Compute, layer: str | None = None, *, skip_bad: bool = False
) -> Iterator[Tensor]:
    """What a layer (without a name `hidden_layer`) answers to every image of a split, in order, central crops: batches
    of float32 [B, D]. Raises DataError at the first image that cannot be read, unless `skip_bad`."""
    layer = layer or hidden_layer(model)
    images = (views[:, 0] for views, _ in loader.evaluation_batches(batch_size(loader), skip_bad=skip_bad))
    for found in layer_outputs(model, images, [layer], compute):
        yield found[layer].flatten(1)


@torch.inference_mode()
def find_nearest(queries: Tensor, index: Iterable[Tensor], count: int) -> Neighbours:
    """The `count` nearest vectors to each query [Q, D] among those of `index`, which come in batches [B, D] and are not
    kept, so that an index of any size can be searched.

    Distances are squared Euclidean ones of the vectors as they are, without any scaling (the released findsimilar.py),
    in float64; of equal ones the earlier row is nearer. An index of fewer vectors gives fewer neighbours.
    """
    best = torch.empty(len(queries), 0, dtype=torch.float64, device=queries.device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    start = 0
    for batch in index:
        end = start + len(batch)
        found = torch.arange(start, end, device=queries.device).expand(len(queries), -1)
        both = torch.cat([best, squared_distances(queries, batch.to(queries.device))], dim=1)
        best, order = both.sort(dim=1, stable=True)  # what was found earlier stands first
        best = best[:, :count]
        rows = torch.cat([rows, found], dim=1).gather(1, order[:, :count])
        start = end
    return Neighbours(rows.cpu().numpy(), best.cpu().numpy())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances [A, B] of vectors [A, D] and [B, D], in float64: exact for pixels, whose squares are
    whole numbers."""
    a, b = a.double(), b.double()
    products = a @ b.T
    return products.mul_(-2).add_(a.square().sum(1)[:, None]).add_(b.square().sum(1)).clamp_(min=0)


@torch.inference_mode()
def rank_distances(queries: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """How far off some images are: for each query [Q, D] and each of its `rows` [Q, k] of the index [N, D] the part of
    the other images of the index that are nearer to the query, [Q, k] from 0 (the nearest) to 1 (the farthest); images
    at the same distance count half. Rows drawn at random have .5 on average.

    With pixels as vectors and neighbours by a hidden layer as rows this measures the claim of section 6.1, that images
    near each other in the last hidden layer are generally not close in pixels.
    """
    ranks = []
    for some, theirs in zip(queries.split(64), rows.split(64), strict=True):
        distances = torch.cat([squared_distances(some, part) for part in index.split(CHUNK)], dim=1)
        own = distances.gather(1, theirs)[:, :, None]
        nearer = (distances[:, None] < own).sum(2)
        equal = (distances[:, None] == own).sum(2) - 1  # but for itself
        ranks.append((nearer + equal / 2) / max(1, len(index) - 1))
    return torch.cat(ranks)


def split_pixels(split: Split | Photos, prep: Preprocessing, data: DataConfig) -> Tensor:
    """The central crops of a split as a network with this preprocessing gets them, before they are normalised: uint8
    [N, C, size, size]. Raises DataError for an image that cannot be read."""
    loader = open_split(split, torch.device("cpu"), data, prep.raw())
    return torch.cat([views[:, 0].round().byte() for views, _ in loader.evaluation_batches(batch_size(loader))])
