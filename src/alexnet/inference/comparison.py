"""Networks side by side on one split, beside what their authors published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alexnet.compute import resolve_compute
from alexnet.config import DataConfig
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.files import make_ready, replacing, writing
from alexnet.inference.evaluation import Subject, check_classes
from alexnet.inference.trained import open_trained
from alexnet.metrics import Result
from alexnet.models.summary import trace

# Top-1 and top-5 accuracy on ILSVRC2012's validation images by network and views: torchvision's and Caffe's own pages,
# "One weird trick" (2014), the paper (section 6.1, one network).
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


def compare(
    data: DataConfig,
    targets: Sequence[str | Path],
    *,
    split: str | None = None,
    views: int = 1,
    model: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    skip_bad: bool = False,
    logits: Path | None = None,
    on_result: Callable[[Compared], None] = lambda compared: None,
) -> list[Compared]:
    """Evaluate runs, checkpoints, weights files or "torchvision" on a split of `data`, each with its own preprocessing.

    `model` names the network of bare weights whose shapes do not tell it. `logits` is a .npz file that receives every
    network's logits [N, V, K] as "0", "1" ... and "labels" [N]; it is written when `on_result` has received every
    network's line, each as soon as its network has ended. Raises UsageError, DataError or CheckpointError.
    """
    if logits:
        make_ready(logits, "--logits")
    opened = [open_trained(target, model) for target in targets]  # all errors before the first long evaluation
    dataset = load_dataset(data)
    name, chosen = dataset.split(split)
    for trained in opened:
        check_classes(trained, dataset)
    compute = resolve_compute(device, precision)
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
