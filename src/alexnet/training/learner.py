"""What learns: network, optimiser, schedule and averages; one training step; how all of it is saved and restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.compute import Compute, set_in_place
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.data.augment import central_views
from alexnet.errors import UsageError, unknown
from alexnet.models.columns import ColumnNetwork
from alexnet.models.fast import use_kernels
from alexnet.models.network import AlexNet, blank_model
from alexnet.runs.checkpoint import Checkpoint
from alexnet.training.averaging import Average
from alexnet.training.growing import AnySize, Growth
from alexnet.training.losses import build_loss
from alexnet.training.mixing import mix
from alexnet.training.optim import Course, Optimizer


@dataclass
class Counters:
    """Where a run is; saved with every checkpoint."""

    epoch: int = 0
    """Completed epochs."""
    epoch_step: int = 0
    """Completed steps of the current epoch."""
    step: int = 0
    """Completed steps of the run."""
    bad_in_a_row: int = 0
    skipped: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0
    watched_top1: float = -1.0
    """The best validation accuracy that early stopping has seen."""
    waited: int = 0
    """Epochs without a better one, since the last drop of the rate."""
    scored_step: int = 0
    """The step after which the training split was evaluated last."""
    train_error: float = 1.0
    """The error that was found then."""
    seconds: float = 0.0
    """Time spent in training steps and on their images, over all sessions of the run."""
    elapsed: float = 0.0
    """Wall-clock time of all sessions, with validation, saving and drawing."""

    def status(self, validated: bool) -> dict[str, Any]:
        """What status.json says of them; the best accuracy where there is a validation split, from its first use on."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "skipped": self.skipped,
            "best_val_top1": self.best_top1 if validated and self.best_epoch else None,
            "best_epoch": self.best_epoch,
            "seconds": round(self.seconds, 3),
            "elapsed": round(self.elapsed, 3),
        }


def freeze(model: AlexNet, last: str | None) -> None:
    """Exclude the layers up to the one called `last` from training. Raises UsageError for an unknown name."""
    if last is None:
        return
    names = [name for name, _ in model.named_children()]
    trained = [name for name, module in model.named_children() if any(True for _ in module.parameters())]
    if last not in names:
        raise UsageError(unknown("layer", last, trained))
    if last == trained[-1]:
        raise UsageError(f"--model.freeze-to {last} leaves nothing to train; the layer before is {trained[-2]}.")
    for _, module in list(model.named_children())[: names.index(last) + 1]:
        module.requires_grad_(False)


class Learner:
    """Everything that a step changes."""

    def __init__(
        self, config: TrainConfig, model: AlexNet, steps_per_epoch: int, compute: Compute, world: World
    ) -> None:
        """`model` is on its device already. Raises UsageError where it cannot be shared among the processes."""
        self.config, self.compute = config, compute
        self.data_group, self.column_group = world.split(config.columns)
        self.model: AlexNet | ColumnNetwork = model
        self.growth = Growth(config, model, steps_per_epoch)
        network: nn.Module = model if config.grow_from is None else AnySize(model)
        if self.column_group.size > 1:
            model.load_state_dict(world.broadcast_tensors(model.state_dict()))
            network = self.model = ColumnNetwork(model, self.column_group)
            compute.place(self.model)
            set_in_place(self.model)
        use_kernels(self.model)
        self.network: Any = self.data_group.wrap(network)
        if config.compile:
            self.network = torch.compile(self.network)
        self.steps_per_epoch = steps_per_epoch
        self.loss = build_loss(config)
        self.optimizer = Optimizer(config.optim, self.model)
        self.schedule = Course(config.legs, steps_per_epoch)
        self.average = Average(self.model, config.ema, config.ema_after * steps_per_epoch) if config.ema else None
        self.counters = Counters()
        # This epoch's sums over all processes: loss, correct answers, samples.
        self.totals = torch.zeros(3, dtype=torch.float64, device=compute.device)
        self._unsettled: list[tuple[int, Tensor, Tensor | None]] = []
        self._made = 0  # steps of this session

    def train_step(self, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Gradients of this process's part of a batch of `count` images: [B, C, H, W] and [B]; images that could not be
        read are missing from the part and count as without gradient.

        Returns the loss and number of correct answers, [2], summed over the part.
        """
        images = central_views(images, self.growth.side(self.counters.step))[:, 0]
        if self.config.mix_until is None or self.counters.epoch < self.config.mix_until:
            images, labels = mix(images, labels, self.model.variant.num_classes, self.config)
        self.optimizer.zero_grad()
        sums = torch.zeros(2, dtype=torch.float64, device=images.device)
        accumulate = self.config.accumulate
        parts = list(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True))
        for number, (part, wanted) in enumerate(parts, 1):
            # Processes exchange gradients once a step, at the last part: their numbers of parts may differ.
            wait = self.data_group.size > 1 and number < len(parts)
            with self.network.no_sync() if wait else contextlib.nullcontext():
                loss, correct = self.loss(self._logits, part, wanted)
                # Processes average their gradients, so each one's sum is divided by its share of the batch.
                (loss * (self.data_group.size / count)).backward()
            sums += torch.stack([loss.detach(), correct]).double()
        return sums

    def _logits(self, images: Tensor) -> Tensor:
        with self.compute.autocast():
            logits: Tensor = self.network(images)
        return logits.float()

    def apply_step(self, sums: Tensor, count: int, rows: Tensor | None = None) -> None:
        """Change the weights by the gradients of `train_step`, and count its `sums` over this process's `count`.

        If the loss is not finite on any process, nothing is changed but the number of the step. The device decides
        that: the host never waits for it. `settle` tells which steps it were, with their `rows`.
        """
        seen = self.data_group.sum(torch.cat([sums, torch.full_like(sums[:1], count)]))
        bad = ~seen[0].isfinite()
        self.optimizer.set_lr(self.schedule.lr(self.counters.step), self.counters.epoch + 1)
        self.optimizer.step(bad)
        if self.average:
            self.average.update(self.model, self.counters.step, bad)
        self.totals += seen.where(~bad, 0.0)
        self.counters.step += 1
        self.counters.epoch_step += 1
        self._made += 1
        self._unsettled.append((self.counters.step, bad, rows))

    def traffic(self) -> int | None:
        """Bytes that this process exchanges with the other column's in a step, the mean of this session's steps; None
        where there are no columns, or no steps yet."""
        return self.model.exchanged // self._made if isinstance(self.model, ColumnNetwork) and self._made else None

    def settle(self) -> Iterator[tuple[int, Tensor | None]]:
        """Number and rows of every step since the last call whose loss was not finite, each counted as it is given."""
        flags = torch.stack([bad for _, bad, _ in self._unsettled]).tolist() if self._unsettled else []
        steps, self._unsettled = self._unsettled, []
        for (step, _, rows), bad in zip(steps, flags, strict=True):
            self.counters.bad_in_a_row = self.counters.bad_in_a_row + 1 if bad else 0
            if bad:
                self.counters.skipped += 1
                yield step, rows

    def end_epoch(self) -> None:
        """Close the current epoch."""
        self.counters.epoch += 1
        self.counters.epoch_step = 0
        self.totals.zero_()

    def progress(self) -> dict[str, Any]:
        """Step, mean loss and accuracy of this epoch so far, learning rate."""
        loss, correct, seen = self.totals.tolist()
        return {
            "step": self.counters.step,
            "train_loss": loss / max(seen, 1),
            "train_top1": correct / max(seen, 1),
            "lr": self.optimizer.lr,
        }

    @property
    def epochs(self) -> float:
        """How many epochs were completed, the current one in part."""
        return self.counters.epoch + self.counters.epoch_step / self.steps_per_epoch

    def evaluated(self) -> nn.Module:
        """The network that validation sees: whole, and with the averaged weights where there is an average."""
        if isinstance(self.model, ColumnNetwork):
            whole = blank_model(self.model.variant)
            weights = self.average.weights if self.average else self.model.state_dict()
            whole.load_state_dict(self.column_group.concatenate(weights))
            return self.compute.place(whole)
        return self.average.averaged(self.model) if self.average else self.model

    def checkpoint(self, meta: dict[str, Any]) -> Checkpoint:
        """The complete state, of the whole network: all that hold a column of it make it together."""
        extra = self.optimizer.tensors()
        if self.average:
            extra |= self.average.tensors()
        whole = self.column_group.concatenate
        progress = {
            "counters": asdict(self.counters),
            "schedule": self.schedule.state(self.counters.step),
            "lr": self.optimizer.lr,
        }
        return Checkpoint(whole(self.model.state_dict()), whole(extra) | {"totals": self.totals}, meta | progress)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Undo `checkpoint`."""
        self.model.load_state_dict(self.column_group.cut(checkpoint.weights))
        extra = self.column_group.cut(checkpoint.extra)
        counted = {name: value for name, value in checkpoint.meta["counters"].items() if name != "epoch_seconds"}
        self.counters = Counters(**counted)  # without what earlier versions wrote
        self.schedule.restore(checkpoint.meta["schedule"], self.counters.step)
        if self.schedule.drop_to_come(max(0, self.counters.step - 1)):
            self.counters.waited = 0  # a leg has been added since
        self.totals.copy_(checkpoint.extra["totals"])
        if self.average:
            self.average.restore(extra)
        last_epoch = self.counters.epoch + (self.counters.epoch_step > 0)  # that of the last step, counted from 1
        self.optimizer.restore(extra, checkpoint.meta["lr"], last_epoch)
