"""What a run's network answers to whole splits while it is trained, and to the test split at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from alexnet.compute import Compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.data.batches import Loader
from alexnet.data.loading import open_split
from alexnet.data.splits import Dataset
from alexnet.inference.evaluation import score
from alexnet.metrics import Result
from alexnet.runs.provenance import describe_measurement
from alexnet.training.faults import Faults
from alexnet.training.learner import Counters, Learner


class Scores:
    """Evaluations of one run. In each split as large a part of the images may be unreadable as in training
    (--data.max-bad)."""

    def __init__(
        self, config: TrainConfig, dataset: Dataset, train: Loader, compute: Compute, world: World, faults: Faults
    ) -> None:
        """`train` is the training split; the others are opened here, with its preprocessing."""
        self._config, self._dataset, self._compute = config, dataset, compute
        self._world, self._faults, self._train = world, faults, train
        self._val = self._open(dataset.val) if len(dataset.val) else None

    def _open(self, split: Any) -> Loader:
        return open_split(split, self._compute.device, self._config.data, self._train.prep)

    def validation(self, model: nn.Module, counters: Counters) -> Result | None:
        """The result on the validation split; None where there is none."""
        return self._score(model, self._val, "val", counters) if self._val is not None else None

    def due(self, learner: Learner) -> bool:
        """Whether the training split is to be evaluated after the last step: so many times an epoch, evenly spaced, the
        last time at its end (--score-train)."""
        counters, times, steps = learner.counters, self._config.score_train, learner.steps_per_epoch
        moments = {-(-n * steps // times) for n in range(1, times + 1)}
        return counters.epoch_step in moments and counters.scored_step != counters.step

    def training(self, model: nn.Module, counters: Counters) -> Result:
        """The result on the training split as evaluation sees it: central crops, nothing else done to them."""
        return self._score(model, self._train, "train", counters)

    def test(self, model: nn.Module, weights: dict[str, Any], counters: Counters) -> Result:
        """The result that a run ends with, and on what, how and of which `weights` it was measured."""
        name, held_out = self._dataset.split(self._config.measured_on)
        split = self._val if name == "val" and self._val is not None else self._open(held_out)
        result = self._score(model, split, name, counters)
        measured = describe_measurement(self._config, self._dataset, self._compute, model, self._world.size)
        return replace(result, measured=weights | measured | {"skipped": len(split.bad)})

    def _score(self, model: nn.Module, split: Loader, name: str, counters: Counters) -> Result:
        result = score(
            *(model, split, self._compute),
            name=name,
            classes=self._dataset.names,
            world=self._world,
            skip_bad=True,
        )
        self._faults.unreadable(split, name, counters)
        return result
