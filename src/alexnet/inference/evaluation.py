"""Evaluation: every sample exactly once, softmax averaged over views, in one path for all sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.compute import Compute, resolve_compute
from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.data.batches import Loader
from alexnet.data.loading import open_split, typical_images
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Dataset
from alexnet.distributed import World
from alexnet.errors import CheckpointError, DataError, UsageError, listed
from alexnet.inference.forward import split_logits
from alexnet.inference.trained import Trained, build_for, load_weights, open_trained, read_weights, weights_file
from alexnet.metrics import Result
from alexnet.models.int8 import quantize
from alexnet.models.network import AlexNet
from alexnet.runs.checkpoint import is_checkpoint
from alexnet.runs.folder import Run, load_run
from alexnet.runs.provenance import describe_measurement, describe_weights

TYPICAL = 256  # images that say how large activations are


@torch.inference_mode()
def score(
    model: nn.Module,
    loader: Loader,
    compute: Compute,
    *,
    name: str,
    classes: tuple[str, ...],
    views: int = 1,
    world: World | None = None,
    skip_bad: bool = False,
    on_logits: Callable[[Tensor, Tensor], None] = lambda logits, labels: None,
) -> Result:
    """Evaluate a network, which stays as it is, on the split called `name`.

    `on_logits` receives every batch's logits [B, V, K] and labels [B]. With several processes each takes its shard and
    all get the result of the whole. Raises DataError at an image that cannot be read, unless `skip_bad`.
    """
    world = world or World()
    k = len(classes)
    confusion = torch.zeros(k, k, dtype=torch.int64, device=compute.device)
    totals = torch.zeros(2, dtype=torch.float64, device=compute.device)  # loss, hits among the first five
    for (logits,), labels in split_logits([model], loader, compute, views=views, shard=world.shard, skip_bad=skip_bad):
        on_logits(logits, labels)
        mean = logits.softmax(dim=2).mean(dim=1)  # [N, V, K] -> [N, K]
        # From the logits where there is one view: the logarithm of a rounded-off probability is infinite.
        log = F.log_softmax(logits[:, 0], dim=1) if views == 1 else mean.clamp_min(1e-38).log()
        confusion += torch.bincount(labels * k + log.argmax(dim=1), minlength=k * k).view(k, k)
        top5 = log.topk(min(5, k), dim=1).indices
        totals += torch.stack([F.nll_loss(log, labels, reduction="sum"), (top5 == labels[:, None]).sum()]).double()
    confusion, totals = world.sum(confusion), world.sum(totals)
    count = int(confusion.sum())
    if count == 0:
        raise DataError(f"no image of the {name} split can be read.")
    return Result(
        split=name,
        top1=float(confusion.diag().sum()) / count,
        top5=float(totals[1]) / count,
        loss=float(totals[0]) / count,
        count=count,
        views=views,
        classes=classes,
        confusion=confusion.cpu().numpy(),
    )


def evaluate(
    target: Run | AlexNet | str | Path,
    split: str | None = None,
    *,
    config: TrainConfig | None = None,
    data: dict[str, Any] | None = None,
    views: int = 1,
    device: str = "auto",
    precision: str | None = None,
    skip_bad: bool = False,
) -> Result:
    """Accuracy of a run, a run folder, a checkpoint, a weights file or a network.

    `split` is train, val or test; without it test, or val where the data has no test split. A run or checkpoint brings
    its own data settings and preprocessing, of which `data` replaces single fields ({"root": "/elsewhere"}). A bare
    weights file or a network needs `config` (a recipe) to say what it was trained on. Without `precision` it is
    computed in the number format that it was trained in; "int8" in 8 bits (`quantize`), with scales from images of the
    training split. `Result.measured` says what was measured on what. Raises UsageError, DataError or CheckpointError.
    """
    if isinstance(target, str | Path) and os.path.isdir(target):
        target = load_run(target)
    trained: Trained | None = None
    if not isinstance(target, AlexNet):
        path = weights_file(target)
        if is_checkpoint(path):
            trained = open_trained(path)
            config = trained.config
        else:
            read_weights(path)  # a file that is no checkpoint at all is the error to show first
    if config is None:
        raise UsageError("these weights do not say what they were trained on: name a recipe (--recipe, config=).")
    in_8_bits = precision == "int8"
    own = trained.precision if trained is not None else None
    compute = resolve_compute(device, "fp32" if in_8_bits else precision or own or config.precision)
    if precision is None and own is not None:
        compute = replace(compute, reason=f"{own}: as it was trained")
    config = override(config, {"data": data or {}})
    dataset = load_dataset(config.data)
    model: nn.Module
    if trained is not None:
        model, prep = trained.model, trained.preprocessing
        check_classes(trained, dataset)
    else:
        prep = open_split(dataset.train, torch.device("cpu"), config.data).prep
        model = target if isinstance(target, AlexNet) else build_for(config, dataset, prep, blank=True)
        if not isinstance(target, AlexNet):
            load_weights(model, path)
        if model.variant.num_classes != len(dataset.classes):
            raise CheckpointError(
                f"the network has {model.variant.num_classes} outputs, {dataset.name} has {len(dataset.classes)} "
                "classes."
            )
    name, chosen = dataset.split(split)
    with compute.settings():
        if in_8_bits:
            model = quantize(model, typical_images(dataset.train, config.data, prep, TYPICAL))
        loader = open_split(chosen, compute.device, config.data, prep)
        result = score(model, loader, compute, name=name, classes=dataset.names, views=views, skip_bad=skip_bad)
    measured = describe_measurement(config, dataset, compute, model)
    measured |= {"skip_bad": skip_bad, "skipped": len(loader.bad)}
    if in_8_bits:
        measured["arithmetic"] |= {"format": "int8", "reason": "int8: as asked"}
    if not isinstance(target, AlexNet):
        weights = describe_weights(path, trained.epoch if trained is not None else None)
        measured = {"target": str(path.absolute())} | weights | measured
    notes = [f"{len(loader.bad)} image(s) could not be read and were left out."] if loader.bad else []
    return replace(result, measured=measured, notes=(*notes, *mirror_notes(trained, views)))


def mirror_notes(trained: Trained | None, views: int) -> list[str]:
    """A sentence where mirrored views are asked of a network that has never seen a mirrored image."""
    if views == 1 or trained is None or trained.config is None or trained.config.data.flip:
        return []
    return [
        f"half of the {views} views are mirrored, and the network was trained without mirrored images (--data.flip): "
        "where mirroring changes what an image shows, as of digits, they lower the accuracy; --views 1 has none."
    ]


def check_classes(trained: Trained, dataset: Dataset) -> None:
    """Raise CheckpointError if a network was trained on other classes than the data's."""
    if trained.classes is not None and trained.classes != dataset.classes:
        raise CheckpointError(
            f"{trained.origin} was trained on the classes {listed(trained.classes)}, {dataset.name} has "
            f"{listed(dataset.classes)}; name its own data with --data.source."
        )
    if trained.model.variant.num_classes != len(dataset.classes):
        raise CheckpointError(
            f"{trained.origin} has {trained.model.variant.num_classes} outputs, {dataset.name} has "
            f"{len(dataset.classes)} classes."
        )
