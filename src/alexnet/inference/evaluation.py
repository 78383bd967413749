"""Evaluation: every sample exactly once, softmax averaged over views, in one path for all sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.compute import Compute, resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import DataConfig, TrainConfig
from alexnet.config.values import override
from alexnet.data.arrays import is_settings
from alexnet.data.batches import Loader
from alexnet.data.loading import open_split, typical_images
from alexnet.data.sources import MEMORY, load_dataset
from alexnet.data.splits import Dataset
from alexnet.errors import CheckpointError, DataError, UsageError, differing, listed
from alexnet.files import file_digest, read_settled
from alexnet.inference.forward import split_logits
from alexnet.inference.trained import (
    Trained,
    build_for,
    is_hub_folder,
    open_trained,
    read_weights,
    weights_file,
)
from alexnet.metrics import Result
from alexnet.models.int8 import check_int8, quantize
from alexnet.models.network import AlexNet
from alexnet.models.weights import apply_weights
from alexnet.runs.checkpoint import is_checkpoint
from alexnet.runs.folder import Run, load_run
from alexnet.runs.provenance import describe_measurement, describe_weights

TYPICAL = 256  # images that say how large activations are


class Tally:
    """Counts what a network answers, batch by batch, to become a Result."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self._totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, hits among the first five

    def add(self, log: Tensor, labels: Tensor) -> None:
        """Count answers: logarithms of probabilities [B, K] and the labels [B]."""
        k = self._classes
        self._confusion += torch.bincount(labels * k + log.argmax(dim=1), minlength=k * k).view(k, k)
        hits = (log.topk(min(5, k), dim=1).indices == labels[:, None]).sum()
        self._totals += torch.stack([F.nll_loss(log, labels, reduction="sum"), hits]).double()

    def result(self, name: str, classes: tuple[str, ...], views: int, world: World | None = None) -> Result:
        """The figures of the split called `name`, of all processes together. Raises DataError if there are none."""
        world = world or World()
        confusion, totals = world.sum(self._confusion), world.sum(self._totals)
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


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms [B, K] of the probabilities that logits [B, V, K] of V views have on average (section 4.1)."""
    if logits.shape[1] == 1:  # from the logits: the logarithm of a rounded-off probability is infinite
        return F.log_softmax(logits[:, 0], dim=1)
    return logits.softmax(dim=2).mean(dim=1).clamp_min(1e-38).log()


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
    tally = Tally(len(classes), compute.device)
    for (logits,), labels in split_logits([model], loader, compute, views=views, shard=world.shard, skip_bad=skip_bad):
        on_logits(logits, labels)
        tally.add(log_probabilities(logits), labels)
    return tally.result(name, classes, views, world)


@dataclass(frozen=True)
class Subject:
    """A network with all that its evaluation on a split takes, and what that measures on what (`Result.measured`)."""

    model: nn.Module
    loader: Loader
    compute: Compute
    split: str
    dataset: Dataset
    measured: dict[str, Any]
    trained: Trained | None

    def score(self, **options: Any) -> Result:
        """Evaluate it; the options are those of `score`: views, skip_bad, on_logits."""
        classes = self.dataset.names
        with self.compute.settings():
            result = score(self.model, self.loader, self.compute, name=self.split, classes=classes, **options)
        return self.finish(result, options.get("skip_bad", False))

    def finish(self, result: Result, skip_bad: bool = False) -> Result:
        """A result of this network with what was measured on what, and with notes."""
        bad = len(self.loader.bad)
        notes = [f"{bad} image(s) could not be read and were left out."] if bad else []
        if self.trained is not None:
            notes += changed_note(self.trained, self.dataset, self.split)
        measured = self.measured | {"skip_bad": skip_bad, "skipped": bad}
        return replace(result, measured=measured, notes=(*notes, *view_notes(self.loader, self.trained, result.views)))


def evaluate(
    target: Run | AlexNet | str | Path,
    split: str | None = None,
    *,
    config: TrainConfig | None = None,
    data: object = None,
    views: int = 1,
    device: str = "auto",
    precision: str | None = None,
    skip_bad: bool = False,
) -> Result:
    """Accuracy of a run, a run folder, a checkpoint, a weights file or a network.

    `split` is train, val or test; without it test, or val where the data has no test split. A run or checkpoint brings
    its own data settings and preprocessing. A bare weights file or a network needs `config` (a recipe) to say what it
    was trained on.

    `data` replaces single settings, as a dictionary of their names ({"root": "/elsewhere"}), or is the data itself, as
    `train` takes it. Data with a part to train on must be what the network was trained on (fingerprints are compared),
    and is split as it was then; {"test": (images, labels)} alone may be any other data of the same classes.

    Without `precision` it is computed in the number format that it was trained in, or where nothing says that in the
    recipe's ("auto": bf16 where the machine has it); "int8" in 8 bits (`quantize`), with scales from images of the
    training split. `Result.measured` says what was measured on what. Raises UsageError,
    DataError or CheckpointError.
    """
    subject = open_subject(target, split, config=config, data=data, device=device, precision=precision)
    return subject.score(views=views, skip_bad=skip_bad)


def open_subject(
    target: Run | AlexNet | str | Path,
    split: str | None = None,
    *,
    config: TrainConfig | None = None,
    data: object = None,
    device: str = "auto",
    precision: str | None = None,
    load: Callable[[DataConfig], Dataset] | None = None,
) -> Subject:
    """A network made ready for its evaluation on a split; the arguments are those of `evaluate`, and `load` reads the
    data in the place of `load_dataset`. Raises UsageError, DataError or CheckpointError."""
    if isinstance(target, str | Path) and os.path.isdir(target) and not is_hub_folder(target):
        target = load_run(target)
    trained: Trained | None = None
    weights: dict[str, Tensor] = {}
    sha256: str | None = None
    if not isinstance(target, AlexNet):
        path = weights_file(target)
        if is_checkpoint(path):
            trained = open_trained(path)
            if config is not None:
                raise UsageError(f"{path} says what it was trained on: leave the recipe out (--recipe, config=).")
            config, sha256 = trained.config, trained.sha256
        else:
            # A file that is no checkpoint at all is the error to show first.
            weights, sha256 = read_settled(path, lambda path: (read_weights(path), file_digest(path)))
    if config is None:
        raise UsageError("these weights do not say what they were trained on: name a recipe (--recipe, config=).")
    in_8_bits = precision == "int8"
    if in_8_bits and device == "auto":
        device = "cpu"
    own = trained.precision if trained is not None else None
    compute = resolve_compute(device, "fp32" if in_8_bits else precision or own or config.precision)
    if precision is None and own is not None:
        compute = replace(compute, reason=f"{own}: as it was trained")
    config, dataset = _load(config, data, trained, load or load_dataset)
    model: nn.Module
    if trained is not None:
        model, prep = trained.model, trained.preprocessing
        dataset = fit_classes(trained, dataset)
    else:
        _check_training_images(dataset, "the normalisation of a bare network's images")
        prep = open_split(dataset.train, torch.device("cpu"), config.data).prep
        own_network = isinstance(target, AlexNet)
        if isinstance(target, AlexNet):
            model, head = target, getattr(target.get_classifier(), "weight", None)
        else:
            model = build_for(config, dataset, prep, blank=True)
            head = weights.get(list(model.state_dict())[-1])
        if head is not None and head.shape[:1] != (len(dataset.classes),):
            raise CheckpointError(
                f"{'the network' if own_network else path} has {head.shape[:1].numel()} outputs, {dataset.name} has "
                f"{len(dataset.classes)} classes: measure it on data of its own classes (--recipe, config=)."
            )
        if not own_network:
            apply_weights(model, weights, str(path))
    name, chosen = dataset.split(split)
    if in_8_bits:
        _check_training_images(dataset, "the scale of 8-bit numbers")
        check_int8(compute.device)
        with compute.settings():
            model = quantize(model, typical_images(dataset.train, config.data, prep, TYPICAL))
    measured = describe_measurement(config, dataset, compute, model)
    if in_8_bits:
        measured["arithmetic"] |= {"format": "int8", "reason": "int8: as asked"}
    if not isinstance(target, AlexNet):
        epoch = trained.epoch if trained is not None else None
        measured = {"target": str(path.absolute())} | describe_weights(path, sha256, epoch) | measured
    loader = open_split(chosen, compute.device, config.data, prep)
    return Subject(model, loader, compute, name, dataset, measured, trained)


def _load(
    config: TrainConfig, data: object, trained: Trained | None, load: Callable[[DataConfig], Dataset]
) -> tuple[TrainConfig, Dataset]:
    """What a network is measured on: the configured data with other settings, or what a program holds."""
    if data is None or is_settings(data):
        config = override(config, {"data": data or {}})
        return config, load(config.data)
    config = override(config, {"data.source": MEMORY})
    dataset = load_dataset(config.data, data, trained.classes if trained is not None else None)
    if trained is not None and len(dataset.train):
        mend = 'for other data of the same classes name it a test set, data={"test": ...}'
        dataset.check_trained_on(trained.fingerprint, trained.origin, mend)
    return config, dataset


def _check_training_images(dataset: Dataset, purpose: str) -> None:
    if not len(dataset.train):
        raise UsageError(
            f'{purpose} comes from training images: hand these over too, data={{"train": ..., "test": ...}}.'
        )


def changed_note(trained: Trained, dataset: Dataset, split: str) -> list[str]:
    """A sentence where a split was drawn from other images than those that a network was trained on."""
    config = trained.config
    if config is None or config.data.source != dataset.name or trained.fingerprint in (None, dataset.fingerprint):
        return []
    if split not in dataset.drawn:
        return []
    return [
        f"the data differs from what {trained.origin} was trained on (its fingerprint does), and its {split} split is "
        "drawn: if images were added, removed or left out since, some of it were trained on. To measure all of a "
        "folder that is new, move its class folders into a folder test."
    ]


def view_notes(loader: Loader, trained: Trained | None, views: int) -> list[str]:
    """A sentence where views are asked for that are none, or mirrored ones of a network that has never seen a mirrored
    image."""
    notes, seen = [], loader.prep
    if views > 2 and not seen.pad and loader.sides() == (seen.size, seen.size):
        notes.append(
            f"the network sees whole images, without a border (--data.pad): of {views} views "
            f"{'2 differ, those of --views 2' if views == 10 else 'none differ'}."
        )
    if views in (2, 10) and trained is not None and trained.config is not None and not trained.config.data.flip:
        notes.append(
            f"half of the {views} views are mirrored, and the network was trained without mirrored images "
            "(--data.flip): where mirroring changes what an image shows, as of digits, they lower the accuracy; "
            "--views 1 has none."
        )
    return notes


def fit_classes(trained: Trained, dataset: Dataset) -> Dataset:
    """A data set with its classes in the order of a network's: tables and folders order numbers differently. Raises
    CheckpointError as `check_classes`."""
    if trained.classes is not None and sorted(trained.classes) == sorted(dataset.classes):
        dataset = dataset.in_order(trained.classes)
    check_classes(trained, dataset)
    return dataset


def check_classes(trained: Trained, dataset: Dataset) -> None:
    """Raise CheckpointError if a network was trained on other classes than the data's, or on images with another number
    of channels."""
    if trained.classes is not None and trained.classes != dataset.classes:
        raise CheckpointError(
            f"{trained.origin} was trained on the classes {listed(trained.classes)}, {dataset.name} has "
            f"{listed(dataset.classes)} ({differing(trained.classes, dataset.classes)}): measure it on data of its own "
            "classes."
        )
    if trained.model.variant.num_classes != len(dataset.classes):
        raise CheckpointError(
            f"{trained.origin} has {trained.model.variant.num_classes} outputs, {dataset.name} has "
            f"{len(dataset.classes)} classes."
        )
    channels = trained.model.variant.in_channels
    if dataset.train.channels != channels:
        raise CheckpointError(
            f"{trained.origin} takes images of {channels} channel(s), those of {dataset.name} have "
            f"{dataset.train.channels}."
        )
