"""Several answers to one image made one: over views, over networks, over masks of dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from alexnet.config import TrainConfig
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.inference.evaluation import Subject, Tally, log_probabilities, open_subject
from alexnet.inference.forward import split_logits
from alexnet.metrics import Result
from alexnet.runs.folder import Run


@dataclass(frozen=True)
class Ensemble:
    """Networks on one split, each by itself (`single`, in their order) and with their probabilities averaged."""

    single: tuple[Result, ...]
    averaged: Result

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"single": [result.to_dict() for result in self.single], "averaged": self.averaged.to_dict()}


def evaluate_ensemble(
    targets: Sequence[Run | str | Path],
    split: str | None = None,
    *,
    config: TrainConfig | None = None,
    data: dict[str, Any] | None = None,
    views: int = 1,
    device: str = "auto",
    precision: str | None = None,
    skip_bad: bool = False,
) -> Ensemble:
    """Accuracy of several networks on the same images, and of the mean of their softmax outputs (table 2 of the paper).

    Every network has its own preprocessing and number format, as in `evaluate`, whose arguments these are; images are
    decoded once for those that see them alike. All weigh the same: the released avg-valid.py can also fit a weight for
    each on the validation set. Raises UsageError unless all have the same classes and the same images in the split, and
    what `evaluate` raises.
    """
    load = cache(load_dataset)  # runs of one configuration read their data once
    subjects = [
        open_subject(target, split, config=config, data=data, device=device, precision=precision, load=load)
        for target in targets
    ]
    if not subjects:
        raise UsageError("no network was named.")
    _check_alike(targets, subjects)
    first = subjects[0]
    classes = len(first.dataset.names)
    tallies = [Tally(classes, subject.compute.device) for subject in subjects]
    total: Tensor | None = None  # float64 [N, K]
    truth = torch.empty(0, dtype=torch.int64)
    for group in _seen_alike(subjects):
        parts, labels = [], []
        loader, compute = subjects[group[0]].loader, subjects[group[0]].compute
        with torch.inference_mode(), compute.settings():
            models = [subjects[i].model for i in group]
            for answers, batch_labels in split_logits(models, loader, compute, views=views, skip_bad=skip_bad):
                for i, logits in zip(group, answers, strict=True):
                    tallies[i].add(log_probabilities(logits), batch_labels)
                parts.append(torch.stack([average(logits) for logits in answers]).double().sum(dim=0).cpu())
                labels.append(batch_labels.cpu())
        for i in group:
            subjects[i].loader.bad.update(loader.bad)
        if not parts or (total is not None and not torch.equal(truth, torch.cat(labels))):
            raise DataError(f"not all networks could read the same images of the {first.split} split.")
        truth = torch.cat(labels)
        total = torch.cat(parts) if total is None else total + torch.cat(parts)
    assert total is not None
    together = Tally(classes, torch.device("cpu"))
    together.add((total / len(subjects)).clamp_min(1e-38).log(), truth)
    single = tuple(
        subject.finish(tally.result(subject.split, subject.dataset.names, views), skip_bad)
        for subject, tally in zip(subjects, tallies, strict=True)
    )
    own = ("target", "weights", "sha256", "epoch", "arithmetic")  # what is one network's
    measured: dict[str, Any] = {"ensemble": [{k: s.measured[k] for k in own} for s in single]}
    measured |= {k: v for k, v in single[0].measured.items() if k not in own[:-1]}
    notes = tuple(dict.fromkeys(note for result in single for note in result.notes))
    averaged = together.result(first.split, first.dataset.names, views)
    return Ensemble(single, replace(averaged, measured=measured, notes=notes))


def _check_alike(targets: Sequence[Run | str | Path], subjects: Sequence[Subject]) -> None:
    """Raise UsageError unless all networks answer to the same images with the same classes."""
    digests = {}
    for target, subject in zip(targets, subjects, strict=True):
        dataset = subject.dataset
        if id(dataset) not in digests:  # a run of another configuration has its data to itself
            digest = sha256(repr(dataset.classes).encode())
            dataset.split(subject.split)[1].identify(digest)
            digests[id(dataset)] = digest.hexdigest()
        if digests[id(dataset)] != digests[id(subjects[0].dataset)]:
            shown = (
                f"{t} has {len(s.loader):,} images of {s.dataset.name}, {len(s.dataset.classes)} classes"
                for t, s in ((targets[0], subjects[0]), (target, subject))
            )
            raise UsageError(
                f"only networks of the same data can be averaged, and the {subject.split} splits differ: "
                f"{' and '.join(shown)}; --data.source and --data.root name one for all."
            )


def _seen_alike(subjects: Sequence[Subject]) -> list[list[int]]:
    """The networks, by number, in groups for which images are prepared in the same way."""

    def alike(a: Subject, b: Subject) -> bool:
        x, y = a.loader.prep.mean_image, b.loader.prep.mean_image
        same_mean = x is y or (x is not None and y is not None and torch.equal(x, y))
        same = (a.loader.prep, a.loader.data, a.compute.dtype) == (b.loader.prep, b.loader.data, b.compute.dtype)
        return same and same_mean

    groups: list[list[int]] = []
    for number, subject in enumerate(subjects):
        group = next((group for group in groups if alike(subjects[group[0]], subject)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


def average(logits: Tensor, how: Literal["arithmetic", "geometric"] = "arithmetic") -> Tensor:
    """Probabilities [N, K] of logits [N, M, K], of M views, networks or masks of dropout: the mean of the softmax
    outputs, as the paper averages views and networks; or their geometric mean, brought to a sum of 1, which is the
    softmax of the mean logits, and what halving the outputs of all units stands for (section 4.2)."""
    return logits.softmax(dim=2).mean(dim=1) if how == "arithmetic" else logits.mean(dim=1).softmax(dim=1)
