"""Training: `train(config)` makes a run folder, or goes on in one."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet.compute import Precision, choose_precision
from alexnet.config import TrainConfig, flatten
from alexnet.data.loading import Loader, open_split
from alexnet.data.sources import load_dataset
from alexnet.distributed import World, join_world
from alexnet.errors import CheckpointError, DataError, NumericsError, TrainingStopped, UsageError, listed
from alexnet.figures.curves import draw_curves
from alexnet.inference.evaluation import build_for, model_fields, score
from alexnet.inference.trained import load_weights, restore, weights_file
from alexnet.metrics import Result
from alexnet.models.network import AlexNet
from alexnet.runs.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from alexnet.runs.folder import Run, open_run
from alexnet.runs.recorder import Recorder
from alexnet.seeds import mixed_seed
from alexnet.training.learner import Learner, freeze
from alexnet.training.progress import Reporter
from alexnet.training.signals import Interrupt, SignalGuard

BAD_IN_A_ROW = 3  # non-finite losses that end a run


def train(
    config: TrainConfig,
    run_dir: str | Path | None = None,
    *,
    reporter: Reporter | None = None,
    guard: SignalGuard | None = None,
) -> Run:
    """Train in `run_dir` (default runs/<name>), or go on there with the same configuration; `epochs` may have grown.

    Kill it at any time: the same call ends with the same weights, to the bit (CPU, same machine and thread count).
    Under torchrun the batch is shared among the processes. Raises UsageError, DataError, CheckpointError,
    NumericsError after three non-finite losses in a row, and TrainingStopped when a signal ended it.
    """
    path = Path(run_dir) if run_dir is not None else Path("runs") / config.name
    with ExitStack() as stack:
        guard = guard or stack.enter_context(SignalGuard())
        try:
            world, device = stack.enter_context(join_world(config.device))
            guard.deferred = world.size > 1
            reporter = stack.enter_context(reporter or Reporter(quiet=not world.is_main))
            precision = choose_precision(device, config.precision)
            run = stack.enter_context(open_run(config, path)) if world.is_main else Run(path)
            world.any(False, precision.device)  # nobody reads the folder before the main process has it
            _Session(config, run, precision, world, reporter, guard).work()
        except Interrupt as signal:
            raise TrainingStopped(f"stopped by {signal}; the same command goes on from where it was.") from None
        except torch.OutOfMemoryError:
            raise UsageError(
                f"out of GPU memory with --batch-size {config.batch_size} in --accumulate {config.accumulate} parts: "
                "double --accumulate or halve the batch."
            ) from None
    return run


class _Session:
    """One process's work on a run, from loading the data to the test result."""

    learner: Learner | None = None

    def __init__(
        self, config: TrainConfig, run: Run, precision: Precision, world: World, reporter: Reporter, guard: SignalGuard
    ) -> None:
        self.config, self.run, self.precision = config, run, precision
        self.world, self.reporter, self.guard = world, reporter, guard
        self.record = Recorder(run, reporter.note_once, world.is_main)
        self._bad_noted: set[str] = set()

    def work(self) -> None:
        """The story of a run."""
        point, warning = self.run.resume_point()
        if warning:
            self.reporter.note(warning)
        done = point.meta["counters"]["epoch"] if point else 0
        if done >= self.config.epochs and self.run.status.get("state") == "finished":
            self.reporter.note(
                f"{self.run.path} is finished ({done} epochs) and stays as it is. To go on: --epochs {2 * done}. "
                "To start another: --run DIR."
            )
            return
        try:
            learner = self._prepare(point)
            while learner.counters.epoch < self.config.epochs:
                self._train_epoch(learner)
                self._finish_epoch(learner)
            result = self._test(learner)
            with self.guard.critical():
                self._status("finished")
        except Interrupt as signal:
            with self.guard.critical():
                if self.learner is not None:
                    self._save_last(self.learner)
                self._status("stopped", message=str(signal))
            raise
        except (NumericsError, DataError) as problem:
            if self.learner is not None:
                if isinstance(problem, DataError):  # between steps: what was learned is sound
                    self._save_last(self.learner)
                self._status("failed", message=str(problem))
            raise
        finally:
            self.record.close()
        self.reporter.finish(self.run.path, result)

    def _prepare(self, point: Checkpoint | None) -> Learner:
        """Data, network and logs, as they were at the checkpoint."""
        config = self.config
        self.dataset = load_dataset(config.data)
        if point and point.meta["fingerprint"] != self.dataset.fingerprint:
            raise DataError(
                f"the data under {config.data.root} is not what {self.run.path} was trained on "
                "(its fingerprint differs); restore it or train into another folder with --run DIR."
            )
        if self.dataset.note:
            self.reporter.note_once(self.dataset.note)
        self.images = open_split(self.dataset.train, self.precision.device, config.data, config.data.resize)
        self.prep = self.images.preprocessing(config.data)
        self.val: Loader | None = None
        if len(self.dataset.val):
            self.val = open_split(self.dataset.val, self.precision.device, config.data, config.data.resize)
        torch.manual_seed(config.seed)
        model = build_for(config, self.dataset, self.prep)
        if config.init is not None and point is None:
            self._start_from(model, config.init)
        freeze(model, config.model.freeze_to)
        self.precision.place(model)
        learner = Learner(config, model, math.ceil(len(self.images) / config.batch_size), self.precision, self.world)
        if point:
            learner.restore(point)
        counters = learner.counters
        self.record.start(config, counters.step, counters.epoch)
        if self.world.is_main:
            self._bad_noted = {row["reason"] for row in self.run.metrics if row["kind"] == "unreadable"}
        self.reporter.start(self.run.path, config, len(self.images), counters.epoch, counters.step)
        self.learner = learner
        self._status("running")
        return learner

    def _start_from(self, model: AlexNet, init: str) -> None:
        """Initial weights from a file; one of ours says what classes its last layer stands for."""
        path, replace_head = weights_file(init), self.config.replace_head
        if is_checkpoint(path) and not replace_head:
            theirs, ours = load_checkpoint(path).meta["classes"], list(self.dataset.classes)
            if theirs != ours:
                raise CheckpointError(
                    f"{path} was trained on the classes {listed(theirs)}, the data has {listed(ours)}: --replace-head "
                    "starts the last layer afresh."
                )
        load_weights(model, path, replace_head)

    def _train_epoch(self, learner: Learner) -> None:
        """The steps of the current epoch that are still to be made."""
        config, counters = self.config, learner.counters
        learner.forward.train()
        batches = self.images.training_batches(
            *(config.data, self.prep, config.batch_size, config.seed, counters.epoch, counters.epoch_step),
            self.world.shard,
        )
        saved = started = time.monotonic()
        for images, labels, rows in batches:
            if self.guard.deferred and self.world.any(self.guard.requested is not None, images.device):
                raise Interrupt(self.guard.requested or "a signal to another process")
            # All randomness of a step comes from its number, so that a resumed run repeats nothing and misses nothing.
            torch.manual_seed(mixed_seed(config.seed, counters.step, self.world.rank))
            sums = learner.train_step(images, labels, len(rows))
            with self.guard.critical():
                learner.apply_step(sums, len(labels), rows)
                logged = counters.step % config.log_every == 0
                if logged or not self.precision.queued:
                    self._settle(learner)
                self._note_bad(self.images)
                now = time.monotonic()
                counters.seconds += now - started
                started = now
                self.reporter.step(counters.epoch_step, len(rows))
                if logged:
                    row = {"kind": "step", "epoch": counters.epoch + 1, **learner.progress()}
                    self.record.metrics(row)
                    self.reporter.line(row)
                if now - saved > 60 * config.save_minutes:
                    self._save_last(learner)
                    saved = started = time.monotonic()

    def _finish_epoch(self, learner: Learner) -> None:
        """Validate, log and save; a signal before the end leaves all of it to the next session."""
        counters = learner.counters
        self._settle(learner)
        val = self._score(learner.evaluated(), self.val, "val") if self.val is not None else None
        with self.guard.critical():
            row = {"kind": "epoch", "epoch": counters.epoch + 1, **learner.progress()}
            if val is not None:
                row |= {"val_loss": val.loss, "val_top1": val.top1, "val_top5": val.top5}
                learner.schedule.observe(val.top1)
            row |= {"seconds": round(counters.seconds, 3), "images_per_second": round(self.reporter.rate(), 1)}
            learner.start_epoch()
            self._warn_if_stalled(learner, row["train_loss"])
            top1 = val.top1 if val is not None else float(counters.epoch)  # without validation the latest is the best
            if top1 >= counters.best_top1 and self._save_best(learner):
                counters.best_top1, counters.best_epoch = top1, counters.epoch
            self.record.metrics(row)
            self._save_last(learner)
            self._status("running")
            self.reporter.epoch(row)
            self.record.figure("curves.png", lambda: draw_curves(self.run.epochs))

    def _test(self, learner: Learner) -> Result:
        """The test result of the best weights; the test split is looked at here alone."""
        self.world.any(False, self.precision.device)  # the main process has written them
        model = learner.evaluated()
        if self.run.best.exists():
            model = self.precision.place(restore(self.run.best)[0])
        name, held_out = self.dataset.split()
        split = open_split(held_out, self.precision.device, self.config.data, self.prep.resize)
        result = self._score(model, split, name)
        with self.guard.critical():
            self.record.result(result)
        return result

    def _score(self, model: nn.Module, split: Loader, name: str) -> Result:
        """Evaluate on images of which as large a part may be unreadable as in training (--data.max-bad)."""
        result = score(
            *(model, split, self.prep, self.precision),
            name=name,
            classes=self.dataset.names,
            world=self.world,
            skip_bad=True,
        )
        self._note_bad(split)
        return result

    def _note_bad(self, split: Loader) -> None:
        """Write down photographs that could not be read, once each. Raises DataError if they are too many."""
        for why in [why for why in list(split.bad.values()) if why not in self._bad_noted]:
            assert self.learner is not None
            counters = self.learner.counters
            self._bad_noted.add(why)
            self.record.metrics(
                {"kind": "unreadable", "epoch": counters.epoch + 1, "step": counters.step, "reason": why}
            )
            self.reporter.note(f"left out: {why}")
        if len(split.bad) > self.config.data.max_bad * len(split):
            raise DataError(
                f"{len(split.bad)} of {len(split)} photographs cannot be read, the last: "
                f"{list(split.bad.values())[-1]} Remove or replace them, or allow more: --data.max-bad 0.01."
            )

    def _settle(self, learner: Learner) -> None:
        """Write down the steps that were left out because their loss was not finite, and their images."""
        for step, rows in learner.settle():
            assert rows is not None
            sources = self.dataset.train.places(rows.cpu().numpy())
            self.record.metrics(
                {"kind": "skipped", "epoch": learner.counters.epoch + 1, "step": step, "sources": sources}
            )
            self.reporter.note(f"step {step}: the loss is not finite; skipped (its images are in metrics.jsonl)")
            if learner.counters.bad_in_a_row >= BAD_IN_A_ROW:
                raise NumericsError(
                    f"{BAD_IN_A_ROW} losses in a row were not finite, the last at step {step}. {self._last_good()}"
                )

    def _last_good(self) -> str:
        good = f"{self.run.last} is the last good checkpoint. " if self.run.last.exists() else ""
        return f"{good}Lower --optim.lr, add --optim.warmup-epochs, or use --precision fp32, with a new --run."

    def _warn_if_stalled(self, learner: Learner, loss: float) -> None:
        """The paper's initialisation (.01 everywhere, section 5) can leave a network predicting all classes alike."""
        k = len(self.dataset.classes)
        if abs(loss / math.log(k) - 1) < 0.01:
            remedy = "" if learner.model.variant.init == "modern" else "--model.init modern, --model.init code, or "
            self.reporter.note_once(
                f"the training loss stays at ln({k}) = {math.log(k):.3f}: the network predicts all classes alike. "
                f"Try {remedy}another --optim.lr."
            )

    def _meta(self) -> dict[str, Any]:
        return {
            "config": flatten(self.config),
            "model": model_fields(self.config, self.dataset, self.prep),
            "classes": list(self.dataset.classes),
            "names": list(self.dataset.names),
            "preprocessing": asdict(self.prep),
            "fingerprint": self.dataset.fingerprint,
        }

    def _save_last(self, learner: Learner) -> None:
        self._settle(learner)
        self._check_weights(learner)
        self.record.last(learner.checkpoint(self._meta()))

    def _save_best(self, learner: Learner) -> bool:
        self._check_weights(learner)
        whole = learner.checkpoint(self._meta())
        return self.record.best(Checkpoint(whole.evaluated, {}, whole.meta))

    def _check_weights(self, learner: Learner) -> None:
        if not all(bool(p.isfinite().all()) for p in learner.model.parameters()):
            raise NumericsError(f"the weights are not finite. {self._last_good()}")

    def _status(self, state: str, **more: Any) -> None:
        if self.learner is not None:
            counters = self.learner.counters
            more |= {
                "epoch": counters.epoch,
                "step": counters.step,
                "skipped": counters.skipped,
                "best_val_top1": counters.best_top1 if self.val is not None else None,
                "best_epoch": counters.best_epoch,
            }
        self.record.status(state=state, epochs=self.config.epochs, **more)
