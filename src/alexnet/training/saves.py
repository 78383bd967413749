"""What a run saves of its learner and takes up again: where it goes on from, its last and its best weights, and which
weights the test result is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from alexnet.compute import Compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig, dump, load
from alexnet.data.augment import Preprocessing
from alexnet.data.splits import Dataset
from alexnet.errors import CheckpointError
from alexnet.files import file_digest
from alexnet.inference.trained import model_fields
from alexnet.models.network import AlexNet
from alexnet.models.weights import apply_weights
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint
from alexnet.runs.folder import set_aside
from alexnet.runs.opening import differences
from alexnet.runs.provenance import describe_weights, number_format
from alexnet.runs.recorder import Recorder
from alexnet.training.learner import Counters, Learner
from alexnet.training.progress import Reporter


def describe(config: TrainConfig, dataset: Dataset, prep: Preprocessing, compute: Compute) -> dict[str, Any]:
    """What a checkpoint says of its weights: configuration, network, classes, preprocessing, the data's fingerprint,
    number format."""
    return {
        "config": dump(config),
        "model": model_fields(config, dataset, prep),
        "classes": list(dataset.classes),
        "names": list(dataset.names),
        "preprocessing": prep.to_dict(),
        "fingerprint": dataset.fingerprint,
        "precision": number_format(compute),
    }


class Saves:
    """The checkpoints of one run. All is read, written and decided by the main process of `world`, for all of them."""

    def __init__(
        self,
        record: Recorder,
        reporter: Reporter,
        world: World,
        describe: Callable[[], dict[str, Any]],
        carried: Callable[[], dict[str, Tensor]],
    ) -> None:
        """`describe` gives what a checkpoint says of its weights; `carried` the tensors that belong to the
        preprocessing."""
        self.record, self._reporter, self._world = record, reporter, world
        self._describe, self._carry = describe, carried
        self._run = record.run

    def resume_point(self) -> Checkpoint | None:
        """Where the run was, None if it begins. Raises CheckpointError if it was saved and nothing of that is left."""
        point: Checkpoint | None = None

        def read() -> tuple[dict[str, Any] | None, str | None]:
            nonlocal point
            point, warning = self._run.resume_point()
            return (point.meta if point else None), warning

        meta, warning = self._world.from_main(read)
        if warning:
            self._reporter.note(warning)
        if meta is None:
            return None
        told = self._world.broadcast_tensors
        return Checkpoint(told(point.weights if point else {}), told(point.extra if point else {}), meta)

    def restore(self, learner: Learner, point: Checkpoint) -> None:
        """Bring a learner to a resume point. Raises CheckpointError where that says something impossible, and where it
        was saved with settings that teach something else: config.yaml was edited, or the file is another run's."""
        try:
            self._check_settings(point)
            counters = point.meta["counters"]
            for name in ("epoch", "epoch_step", "step", "bad_in_a_row", "best_epoch"):
                if index(counters[name]) < 0:
                    raise ValueError(f"{name} {counters[name]}")
            learner.restore(point)
            float(learner.optimizer.lr)
            was, now = point.meta.get("precision"), self._describe()["precision"]
            if was not in (None, now):
                self._reporter.note(f"the run was trained in {was} until now, and goes on in {now}.")
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise CheckpointError(
                f"the checkpoint in {self._run.path} is whole, but nothing can go on from what it says "
                f"({type(problem).__name__}: {reason}); train into another folder with --run DIR."
            ) from None

    def _check_settings(self, point: Checkpoint) -> None:
        changed = differences(*(load(meta["config"]) for meta in (point.meta, self._describe())))
        if changed:
            raise CheckpointError(
                f"the checkpoint in {self._run.path} was saved with other settings than config.yaml has ({changed}): "
                "put back what was changed, or train into another folder with --run DIR."
            )

    def save_last(self, learner: Learner) -> None:
        """Save all that is needed to go on."""
        self.record.save_last(self._whole(learner))

    def save_best(self, learner: Learner) -> bool:
        """Save the weights that validation saw. Returns whether they could be written."""
        return self.record.save_best(self._evaluated(learner))

    def save_milestone(self, learner: Learner) -> None:
        """Keep the weights that validation sees between two epochs, or before the first, where that is asked for."""
        counters = learner.counters
        if counters.epoch_step == 0 and learner.config.keeps(counters.epoch):
            self.record.save_milestone(self._evaluated(learner), counters.epoch)

    def _evaluated(self, learner: Learner) -> Checkpoint:
        """The weights alone that validation sees."""
        whole = self._whole(learner)
        return Checkpoint(whole.evaluated, self._carry(), whole.meta)

    def _whole(self, learner: Learner) -> Checkpoint:
        whole = learner.checkpoint(self._describe())
        return replace(whole, extra=whole.extra | self._carry())

    def check_best(self, counters: Counters, end: int) -> None:
        """Where the best weights of earlier sessions are lost, say so, and let the epochs from here on, up to `end`,
        choose anew."""

        def read() -> str | None:
            try:
                self._read_best(counters, end)
            except CheckpointError as problem:
                kept = set_aside(self._run.best)
                return f"{problem}{f' It is kept as {kept.name}.' if kept else ''}"
            return None

        lost = self._world.from_main(read) if counters.best_epoch else None
        if lost is not None:
            self._reporter.note(
                f"the best weights so far, of epoch {counters.best_epoch}, are lost: {lost} The best epoch from here "
                "on is tested in their place; where none is left, the last one."
            )
            counters.best_top1, counters.best_epoch = -1.0, 0

    def tested(self, learner: Learner, blank: AlexNet, latest: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """The network that the test result is of, and what its file is: that of the best epoch, or where this is lost
        or could never be saved, of the last one; with `latest` the last weights, be they between two epochs. `blank` is
        a network of the same form, to be filled."""

        def last() -> dict[str, Any]:
            whole = self.record.saved_step == learner.counters.step and self._run.last.exists()
            return _as_it_stands(self._run.last if whole else None, learner.counters.epoch)

        def read() -> tuple[str | None, dict[str, Any]]:
            counters = learner.counters
            try:
                apply_weights(blank, self._read_best(counters).evaluated, str(self._run.best))
            except CheckpointError as problem:
                return str(problem), last()
            return None, _as_it_stands(self._run.best, counters.best_epoch)

        if latest:
            return learner.evaluated(), self._world.from_main(last)
        lost, weights = self._world.from_main(read)
        if lost is not None:
            self._reporter.note(f"{lost} The test result is of the last epoch's weights.")
            return learner.evaluated(), weights
        blank.load_state_dict(self._world.broadcast_tensors(blank.state_dict()))
        return blank, weights

    def _read_best(self, counters: Counters, end: int = 0) -> Checkpoint:
        """The best epoch's weights. Raises CheckpointError if they are lost, also if others stand in their place; those
        of an epoch still to come, up to `end`, may: it was the best before a kill, and will be trained again."""
        if not counters.best_epoch:
            raise CheckpointError("No epoch's weights are kept as the best.")
        best = load_checkpoint(self._run.best)
        again = counters.epoch < (best.epoch or 0) <= end
        if (best.epoch != counters.best_epoch and not again) or _identity(best.meta) != _identity(self._describe()):
            raise CheckpointError(f"{self._run.best} is not of this run's epoch {counters.best_epoch}.")
        return best

    def check(self, counters: Counters, outcome: str) -> None:
        """At the end of a run: say how much of it is on the disk. Raises CheckpointError if nothing is; `outcome` is
        what the user then still learns."""
        run = self._run
        saved, there = self._world.from_main(lambda: (self.record.saved_step, run.last.exists() or run.best.exists()))
        if not (saved or counters.best_epoch):
            raise CheckpointError(
                f"not one checkpoint could be saved in {run.path}: the weights are lost, and what remains is "
                f"{outcome}. Make room and start again."
            )
        if not there:
            raise CheckpointError(
                f"{run.path} was moved or deleted while it was trained in, and what came of it since is lost but for "
                f"{outcome}. Bring it back, and the same command goes on from its last checkpoint."
            )
        if saved < counters.step:
            self._reporter.note(
                f"the last checkpoint that could be saved is of step {saved} of {counters.step}: make room, and the "
                "same command trains the rest again."
            )


def _identity(meta: dict[str, Any]) -> tuple[Any, ...]:
    """What tells whether weights are a run's own: network, classes and data. How the weights began is left out, which
    earlier formats say in other words."""
    model = meta.get("model")
    form = {name: value for name, value in model.items() if name != "init"} if isinstance(model, dict) else model
    return form, meta.get("classes"), meta.get("fingerprint")


def _as_it_stands(file: Path | None, epoch: int | None) -> dict[str, Any]:
    return describe_weights(file, file_digest(file) if file is not None else None, epoch)
