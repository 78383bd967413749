"""Evaluation: every sample exactly once, softmax averaged over views, in one path for all sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alexnet.checkpoint import is_checkpoint, load_checkpoint
from alexnet.config import DataConfig, TrainConfig, override
from alexnet.data.augment import Preprocessing
from alexnet.data.resident import ResidentSplit
from alexnet.data.sources import Dataset, load_dataset
from alexnet.distributed import World
from alexnet.errors import CheckpointError, UsageError, listed
from alexnet.metrics import Result
from alexnet.models.network import AlexNet, build_model
from alexnet.models.weights import apply_weights, load_weights, read_weights
from alexnet.precision import Precision, choose_precision
from alexnet.run import Run, load_run

BATCH = 500


@torch.inference_mode()
def score(
    model: nn.Module,
    split: ResidentSplit,
    prep: Preprocessing,
    precision: Precision,
    *,
    name: str,
    classes: tuple[str, ...],
    views: int = 1,
    world: World | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Result:
    """Evaluate a network on a split; the model's training mode is restored.

    `on_batch` is called before every batch (a place to stop). With several processes each takes its shard and all get
    the result of the whole.
    """
    world = world or World()
    k = len(classes)
    confusion = torch.zeros(k, k, dtype=torch.int64, device=precision.device)
    totals = torch.zeros(2, dtype=torch.float64, device=precision.device)  # loss, hits among the first five
    training = model.training
    model.eval()
    try:
        for images, labels in split.evaluation_batches(prep, max(1, BATCH // views), views, world.shard):
            on_batch()
            with precision.autocast():
                logits = model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            mean = logits.float().softmax(dim=1).unflatten(0, images.shape[:2]).mean(dim=1)  # [N, V, K] -> [N, K]
            # From the logits where there is one view: the logarithm of a rounded-off probability is infinite.
            log = F.log_softmax(logits.float(), dim=1) if views == 1 else mean.clamp_min(1e-38).log()
            confusion += torch.bincount(labels * k + log.argmax(dim=1), minlength=k * k).view(k, k)
            top5 = log.topk(min(5, k), dim=1).indices
            totals += torch.stack([F.nll_loss(log, labels, reduction="sum"), (top5 == labels[:, None]).sum()]).double()
    finally:
        model.train(training)
    confusion, totals = world.sum(confusion), world.sum(totals)
    count = int(confusion.sum())
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


def restore(path: Path) -> tuple[AlexNet, dict[str, Any]]:
    """The network of a checkpoint with its weights, and its description."""
    checkpoint = load_checkpoint(path)
    model = build_model(**checkpoint.meta["model"])
    apply_weights(model, checkpoint.evaluated, str(path))
    return model, checkpoint.meta


def evaluate(
    target: Run | AlexNet | str | Path,
    split: str = "test",
    *,
    config: TrainConfig | None = None,
    data: dict[str, Any] | None = None,
    views: int = 1,
    device: str = "auto",
    precision: str | None = None,
) -> Result:
    """Accuracy of a run, a run folder, a checkpoint, a weights file or a network.

    A run or checkpoint brings its own data settings and preprocessing, of which `data` replaces single fields
    ({"root": "/elsewhere"}). A bare weights file or a network needs `config` (a recipe) to say what it was trained on.
    Without `precision` it is computed as it was trained. Raises UsageError, DataError or CheckpointError.
    """
    if isinstance(target, str | Path) and Path(target).is_dir():
        target = load_run(target)
    path = target.checkpoint() if isinstance(target, Run) else target
    prep: Preprocessing | None = None
    classes: list[str] | None = None
    if isinstance(path, AlexNet):
        model, trained = path, config
    elif is_checkpoint(Path(path)):
        model, meta = restore(Path(path))
        trained = override(TrainConfig(), meta["config"])
        prep = Preprocessing.from_dict(meta["preprocessing"])
        classes = meta["classes"]
    else:
        model, trained = None, config
        read_weights(Path(path))  # a file that is no checkpoint at all is the error to show first
    if trained is None:
        raise UsageError("these weights do not say what they were trained on: name a recipe (--recipe, config=).")
    place = choose_precision(device, precision or trained.precision)
    settings: DataConfig = override(trained, {"data": data or {}}).data
    dataset = load_dataset(settings)
    if classes is not None and tuple(classes) != dataset.classes:
        raise CheckpointError(
            f"{path} was trained on the classes {listed(classes)}, {settings.source} has "
            f"{listed(dataset.classes)}; name its own data with --data.source."
        )
    if prep is None:
        prep = ResidentSplit(dataset.train, torch.device("cpu"), settings.resize).preprocessing(settings)
    if model is None:
        model = build_for(replace(trained, data=settings), dataset, prep)
        assert not isinstance(path, AlexNet)
        load_weights(model, path)
    if model.variant.num_classes != len(dataset.classes):
        raise CheckpointError(
            f"the network has {model.variant.num_classes} outputs, {settings.source} has "
            f"{len(dataset.classes)} classes."
        )
    resident = ResidentSplit(dataset.split(split), place.device, prep.resize)
    return score(place.place(model), resident, prep, place, name=split, classes=dataset.classes, views=views)


def build_for(config: TrainConfig, dataset: Dataset, prep: Preprocessing) -> AlexNet:
    """The configured network with the sizes that the data gives it."""
    return build_model(**model_fields(config, dataset, prep))


def model_fields(config: TrainConfig, dataset: Dataset, prep: Preprocessing) -> dict[str, Any]:
    """Arguments of `build_model`: the configured fields, completed by the data's.

    Raises UsageError if the two contradict each other.
    """
    given = {k: v for k, v in asdict(config.model).items() if v is not None}
    given["name"] = given.pop("variant")
    channels = dataset.train.images.shape[1]
    fields = {"num_classes": len(dataset.classes), "in_channels": channels, "input_size": prep.size} | given
    if fields["in_channels"] != channels:
        raise UsageError(f"--model.in-channels {fields['in_channels']}: the images have {channels}.")
    if fields["num_classes"] != len(dataset.classes):
        raise UsageError(f"--model.num-classes {fields['num_classes']}: the data has {len(dataset.classes)} classes.")
    return fields
