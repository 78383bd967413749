"""What goes wrong on the way of a run: written down, said, and when it is too much, the end of the run."""

from __future__ import annotations

from math import ceil
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from alexnet.compute.distributed import World
from alexnet.data.batches import Loader
from alexnet.data.photos import Photos
from alexnet.data.splits import Split
from alexnet.errors import DataError, NumericsError
from alexnet.metrics import Result
from alexnet.models.columns import ColumnNetwork
from alexnet.models.network import AlexNet
from alexnet.runs.recorder import Recorder
from alexnet.training.learner import Counters, Learner
from alexnet.training.progress import Reporter

BAD_IN_A_ROW = 3  # losses that are not finite, which end a run
ENOUGH_STEPS = 100  # before a network that answers alike is worth a note: every one does at first


class Faults:
    """The faults of one run. Each is written to its metrics once, also over several sessions."""

    def __init__(self, record: Recorder, reporter: Reporter, max_bad: float, world: World) -> None:
        """`max_bad` is the part of a split's photographs that may be unreadable (--data.max-bad)."""
        self._record, self._reporter, self._max_bad, self._world = record, reporter, max_bad, world
        self._noted = {row.get("reason") for row in record.metrics_so_far if row["kind"] == "unreadable"}
        self._shared: WeakKeyDictionary[Loader, dict[int, str]] = WeakKeyDictionary()  # what all processes know

    def unreadable(self, split: Loader, name: str, counters: Counters) -> None:
        """Note photographs of the split called `name` that could not be read, by whichever process. Raises DataError,
        in all of them, if they are too many."""
        if not split.decodes:
            return
        known = self._shared.setdefault(split, {})
        if self._world.any(len(split.bad) > len(known)):
            for bad in self._world.gather(dict(split.bad)):  # meanwhile threads may find others: of these next time
                known |= bad
            split.bad |= known
        for why in [why for why in known.values() if why not in self._noted]:
            self._noted.add(why)
            self._record.append_metrics(
                {"kind": "unreadable", "epoch": counters.epoch + 1, "step": counters.step, "reason": why}
            )
            self._reporter.note(f"left out: {why}")
        if len(known) > self._max_bad * len(split):
            enough = ceil(1000 * len(known) / len(split)) / 1000
            raise DataError(
                f"{len(known)} of {len(split)} photographs of the {name} split cannot be read, the last: "
                f"{list(known.values())[-1]} To go on, allow so many: --data.max-bad {enough:g}. Without them, or "
                "with others in their place, it is other data, for a new run."
            )

    def skipped(self, learner: Learner, train: Split | Photos) -> None:
        """Note the steps that were left out because their loss was not finite, with the places of their images in the
        training split. Raises NumericsError after three in a row."""
        for step, rows in learner.settle():
            assert rows is not None
            sources = train.places(rows.cpu().numpy())
            self._record.append_metrics(
                {"kind": "skipped", "epoch": learner.counters.epoch + 1, "step": step, "sources": sources}
            )
            self._reporter.note(f"step {step}: the loss is not finite; skipped (its images are in metrics.jsonl)")
            if learner.counters.bad_in_a_row >= BAD_IN_A_ROW:
                raise NumericsError(
                    f"{BAD_IN_A_ROW} losses in a row were not finite, the last at step {step}. {self._remedy()}"
                )

    def check_weights(self, learner: Learner) -> None:
        """Raise NumericsError if a weight is not finite, of whichever column."""
        if learner.column_group.any(not all(bool(p.isfinite().all()) for p in learner.model.parameters())):
            raise NumericsError(f"the weights are not finite. {self._remedy()}")

    def _remedy(self) -> str:
        last = self._world.from_main(self._record.last_good)
        good = f"{last} is the last good checkpoint. " if last else ""
        return f"{good}Lower --optim.lr, add --optim.warmup-epochs, or use --precision fp32, with a new --run."

    def stalled(self, model: AlexNet | ColumnNetwork, val: Result, steps: int) -> None:
        """Note a network that has not begun to learn after enough steps. The paper's initial weights (.01 everywhere,
        section 5) can leave one there, whose answer hardly depends on the image."""
        if steps >= ENOUGH_STEPS and is_constant(val):
            remedy = "" if model.variant.init == "modern" else "--model.init modern, --model.init code, or "
            self._reporter.note_once(
                f"after {ENOUGH_STEPS} steps and more the network still gives all images of the validation split the "
                f"same class, and its loss is not below that of a constant answer. Try {remedy}another --optim.lr."
            )


def is_constant(result: Result) -> bool:
    """Whether a network answers alike whatever the image: its predictions vary by less than a twentieth of what the
    true classes do (entropies, in nats), and its loss is that of always giving each class's frequency, or above."""
    truth, predicted = (_entropy(result.confusion.sum(axis=axis)) for axis in (1, 0))
    return predicted < 0.05 * truth and result.loss > 0.98 * truth


def _entropy(counts: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    parts = counts[counts > 0] / counts.sum()
    return float(-(parts * np.log(parts)).sum())
