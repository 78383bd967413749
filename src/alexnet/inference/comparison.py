"""Networks side by side on one split, beside what their authors published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alexnet.compute import resolve_compute
from alexnet.config import DataConfig
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import UsageError
from alexnet.files import make_ready, replacing, writing
from alexnet.inference.evaluation import Subject, check_classes, fit_classes
from alexnet.inference.trained import names_its_network, open_trained
from alexnet.metrics import Result
from alexnet.models.summary import trace
from alexnet.runs.folder import Run

# Top-1 and top-5 accuracy on ILSVRC2012's validation images by network and views: torchvision's and Caffe's own pages,
# "One weird trick" (2014), the paper (section 6, table 2, one network).
PUBLISHED: dict[tuple[str, int], tuple[float, float]] = {
    ("torchvision", 1): (0.56522, 0.79066),
    ("owt", 1): (0.5745, 0.8019),
    ("owt", 10): (0.5958, 0.8185),
    ("bvlc", 1): (0.571, 0.802),
    ("caffenet", 1): (0.574, 0.804),
    ("paper", 10): (0.593, 0.818),
}


@dataclass(frozen=True)
class Compared:
    """One network's line: what it is, what it scored, and the published (top-1, top-5) where there is one."""

    origin: str
    network: str
    parameters: int
    macs: int
    result: Result
    images_per_second: float
    published: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Whether the published accuracies lie in the measured 95 % intervals."""
        if self.published is None:
            return ""
        words = []
        intervals = (self.result.interval, self.result.top5_interval)
        for name, figure, (low, high) in zip(("top-1", "top-5"), self.published, intervals, strict=True):
            words.append(f"{name} {'inside' if low <= figure <= high else 'outside'}")
        return ", ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the values by class."""
        result = self.result.to_dict()
        del result["per_class"]
        result["skipped"] = result.pop("measured")["skipped"]
        return {
            "weights": self.origin,
            "network": self.network,
            "parameters": self.parameters,
            "macs": self.macs,
            **result,
            "images_per_second": self.images_per_second,
            "published": list(self.published) if self.published else None,
            "verdict": self.verdict or None,
        }


_CUT = ("val_fraction", "split_seed", "fraction", "top_classes", "resplit", "test_fraction")


def _cut_of(data: DataConfig, split: str | None) -> dict[str, Any]:
    """The settings that say which images are in a split."""
    return {name: getattr(data, name) for name in (*_CUT, *(("per_class",) if split == "train" else ()))}


def compare(
    data: DataConfig,
    targets: Sequence[Run | str | Path],
    *,
    split: str | None = None,
    views: int = 1,
    model: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    skip_bad: bool = False,
    logits: str | Path | None = None,
    on_result: Callable[[Compared], None] = lambda compared: None,
) -> list[Compared]:
    """Evaluate runs, checkpoints, weights files or "torchvision" on a split of `data`, each with its own preprocessing.

    Where `data` does not say how images are held out, they are held out as in the runs that are compared, so that a
    split that is drawn holds nothing that they were trained on. `model` names the network of bare weights whose shapes
    do not tell it. `logits` is a .npz file that receives every network's logits [N, V, K] as "0", "1" ... and "labels"
    [N]; it is written when `on_result` has received every network's line, each as soon as its network has ended. Raises
    UsageError, DataError or CheckpointError.
    """
    logits = None if logits is None else Path(logits)
    if logits:
        make_ready(logits, "--logits")
    if isinstance(targets, str):
        targets = [targets]
    bare = [not names_its_network(target) for target in targets]
    if model is not None and not any(bare):
        raise UsageError(
            f"--model {model} is for bare weights, and these say which networks they are of: leave it out."
        )
    # All errors before the first long evaluation.
    opened = [open_trained(target, model if of_any else None) for target, of_any in zip(targets, bare, strict=True)]
    trained_on = [trained.config.data for trained in opened if trained.config is not None]
    cuts = [_cut_of(theirs, split) for theirs in trained_on if theirs.source == data.source]
    if cuts and _cut_of(data, split) == _cut_of(DataConfig(), split):
        data = replace(data, **cuts[0])
    dataset = fit_classes(opened[0], load_dataset(data))
    name, chosen = dataset.split(split)
    if name in dataset.drawn and any(cut != cuts[0] for cut in cuts):
        raise UsageError(
            f"these runs held out different images (settings such as --data.split-seed differ), so that the {name} "
            "split of one is what another was trained on: compare runs of the same."
        )
    compute = resolve_compute(device, precision)
    for trained in opened:
        check_classes(trained, dataset)
        open_split(chosen, compute.device, data, trained.preprocessing)  # prepared photographs may not fit
    compared: list[Compared] = []
    arrays: dict[str, Any] = {}
    for number, trained in enumerate(opened):
        loader = open_split(chosen, compute.device, data, trained.preprocessing)
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(batch: Tensor, labels: Tensor, kept: list[tuple[Tensor, Tensor]] = kept) -> None:
            kept.append((batch.cpu(), labels.cpu()))

        subject = Subject(trained.model, loader, compute, name, dataset, {}, trained)
        started = time.perf_counter()
        result = subject.score(views=views, skip_bad=skip_bad, **({"on_logits": keep} if logits else {}))
        seconds = time.perf_counter() - started
        if logits:
            arrays[str(number)] = np.concatenate([z.numpy() for z, _ in kept])
            arrays["labels"] = np.concatenate([y.numpy() for _, y in kept])
        variant = trained.model.variant
        layers = trace(variant)
        line = Compared(
            trained.origin,
            trained.network,
            sum(layer.parameters for layer in layers),
            sum(layer.macs for layer in layers),
            result,
            result.count / seconds,
            PUBLISHED.get((trained.network, views))
            if (data.source, name, len(dataset.classes)) == ("imagenet", "val", 1000)
            else None,
        )
        compared.append(line)
        on_result(line)
    if logits:
        with writing(logits, "--logits"), replacing(logits) as part, part.open("xb") as stream:
            np.savez_compressed(stream, **arrays)
    return compared
