"""The story of a run: what one process does in it, from loading the data to the test result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from alexnet.compute import Compute, set_in_place
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.config.values import flag
from alexnet.data.batches import Steps
from alexnet.data.loading import open_split
from alexnet.data.seeds import mixed_seed
from alexnet.data.sources import load_dataset
from alexnet.errors import AlexNetError, DataError, NumericsError, listed
from alexnet.figures.curves import draw_curves
from alexnet.inference.trained import build_for
from alexnet.metrics import Result
from alexnet.models import native
from alexnet.models.lrn import missing_kernel
from alexnet.runs.checkpoint import Checkpoint
from alexnet.runs.folder import SCORE, Run
from alexnet.runs.legs import check_end
from alexnet.runs.provenance import describe_process, describe_session, introduce
from alexnet.runs.recorder import Recorder
from alexnet.training.cautions import cautions
from alexnet.training.facts import ledger_of_run
from alexnet.training.faults import Faults
from alexnet.training.learner import Learner, freeze
from alexnet.training.progress import Reporter
from alexnet.training.saves import Saves, describe
from alexnet.training.scoring import Scores
from alexnet.training.signals import Interrupt, SignalGuard
from alexnet.training.starts import begin
from alexnet.training.stopping import count_epoch, describe_stop, is_over, note_end, reached_train_error


class Session:
    """One process's work on a run, from loading the data to the test result."""

    learner: Learner | None = None
    _lapped = 0.0
    _processes: Sequence[dict[str, Any]] = ()  # what the latest epoch took of each

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        data: object,
        compute: Compute,
        world: World,
        reporter: Reporter,
        guard: SignalGuard,
    ) -> None:
        self.config, self.run, self.given, self.compute = config, run, data, compute
        self.world, self.reporter, self.guard = world, reporter, guard
        self.record = Recorder(run, reporter.note_once, world)
        self.saves = Saves(
            *(self.record, reporter, world),
            describe=lambda: describe(config, self.dataset, self.prep, compute),
            carried=lambda: self.prep.tensors(),
        )

    def work(self) -> None:
        """The story of a run."""
        point = self.saves.resume_point()
        meta = point.meta if point else None
        if meta is not None and (note := self.world.from_main(lambda: note_end(self.run, self.config, meta))):
            self.reporter.note(note)
            return
        try:
            learner = self._prepare(point)
            point = None  # its tensors take room
            self._introduce(learner)
            self.saves.check_best(learner.counters, learner.config.end)
            self.saves.save_milestone(learner)
            while not is_over(learner):
                self._train_epoch(learner)
                if learner.counters.epoch_step == learner.steps_per_epoch:
                    self._finish_epoch(learner)
            result = self._test(learner)
            stopped = describe_stop(learner)
            if stopped:
                self._write_ledger(learner, max(1, learner.counters.epoch))
            with self.guard.critical():
                self.saves.check(learner.counters, f"a {result.split} accuracy of {result.top1:.2%}")
                self._end("finished", **({"stopped": stopped} if stopped else {}))
        except BaseException as problem:
            with self.guard.critical():
                self._leave(self.world.first_error(problem) if isinstance(problem, Exception) else problem)
            raise
        finally:
            self.record.close()
        self.reporter.finish(self.run.path, result, stopped)

    def _introduce(self, learner: Learner) -> None:
        """Say and write where, in which arithmetic and on which data this session trains."""
        if self.world.is_main:
            facts = describe_session(self.config, self.dataset, self.compute, learner.model, self.world.size)
            for line in introduce(facts):
                self.reporter.say(line)
            missing = missing_kernel(self.compute.device.type) if facts["lrn"] else None
            if missing is None and self.compute.device.type == "cpu":
                missing = native.missing()  # for pooling and convolutions
            if missing:
                self.reporter.note_once(str(missing))
            self.record.begin_session({"epoch": learner.counters.epoch, "step": learner.counters.step} | facts)
            self._write_ledger(learner, self.config.stop_after)

    def _write_ledger(self, learner: Learner, end: int | None) -> None:
        """Write what a run that ends after so many epochs does where implementations part."""
        if self.world.is_main:
            self.record.write_ledger(ledger_of_run(replace(self.config, stop_after=end), learner.model, self.images))

    def _leave(self, problem: BaseException) -> None:
        """After whatever ended the session: save what was learned where it is sound, and write how it ended."""
        stopped = isinstance(problem, Interrupt | KeyboardInterrupt)
        state = "stopped" if stopped else "failed"
        message = str(problem) if isinstance(problem, Interrupt | AlexNetError) else repr(problem)
        try:
            # These come between two steps; anything else may have struck within one. Columns are saved together, and of
            # these a signal alone is sure to reach both processes at the same step.
            between = Interrupt if self.config.columns > 1 else Interrupt | DataError | OSError
            if self.learner is not None and isinstance(problem, between):
                self._save_last(self.learner)
        except NumericsError as worse:
            state, message = "failed", str(worse)
            raise
        finally:
            self._end(state, message=message)

    def _end(self, state: str, **more: Any) -> None:
        """Write how the session ended. One that ended before training began changes nothing, unless the one before it
        was killed and left a run that seems to be running."""
        if self.learner is not None:
            counters = self.learner.counters
            self._status(state, **more)
            more |= {"epoch": counters.epoch, "step": counters.step, "per_process": self._processes}
            self.record.end_session(state, **more)
        elif self.world.is_main and (status := self.run.status).get("state") == "running":
            self.record.write_status(**status | {"state": state, **more})

    def _prepare(self, point: Checkpoint | None) -> Learner:
        """Data, network and logs, as they were at the checkpoint."""
        config = self.config
        self.dataset = self.world.main_first(lambda: load_dataset(config.data, self.given))  # downloads what is missing
        self.dataset.check_trainable(self.config.measured_on)
        if point:
            seen = point.meta.get("fingerprint")
            self.dataset.check_trained_on(seen, self.run.path, "bring it back, or use another --run DIR")
        if self.dataset.note:
            self.reporter.note_once(self.dataset.note)
        self.images = open_split(self.dataset.train, self.compute.device, config.data)
        self.prep = self.images.prep
        self.compute.seed(config.seed)
        model = build_for(config, self.dataset, self.prep)
        if point is None:  # the other processes get the main one's weights from the learner
            self.world.from_main(lambda: begin(model, config, self.dataset, self.prep))
        freeze(model, config.model.freeze_to)
        self.compute.place(model)
        set_in_place(model, True)  # it is ours alone
        steps_per_epoch = math.ceil(len(self.images) / config.batch_size)
        learner = Learner(config, model, steps_per_epoch, self.compute, self.world)
        if point:
            self.saves.restore(learner, point)
        counters = learner.counters
        check_end(self.run.path, config, counters.epoch + (counters.epoch_step > 0))
        # The status is younger than the checkpoint: it counts the test, and the epoch's end after the saving, too.
        elapsed = self.world.from_main(lambda: self.run.status.get("elapsed"))
        counters.elapsed = max(
            counters.elapsed, elapsed if isinstance(elapsed, float) and math.isfinite(elapsed) else 0.0
        )
        self.record.start(config, counters.step, counters.epoch, counters.scored_step)
        self.faults = Faults(self.record, self.reporter, config.data.max_bad, self.world)
        self.scores = Scores(config, self.dataset, self.images, self.compute, self.world, self.faults)
        self.reporter.start(self.run.path, config, len(self.images), counters)
        for caution in (*cautions(config, self.dataset), *self._too_late(counters.epoch + (counters.epoch_step > 0))):
            self.reporter.note_once(caution)
        self.learner = learner
        self._status("running")
        return learner

    def _too_late(self, begun: int) -> Iterator[str]:
        """What is said of weights that are to be kept (--keep) and are not there, though a later epoch has begun."""
        if gone := [str(e) for e in range(begun) if self.config.keeps(e) and not self.run.milestone(e).exists()]:
            yield f"{flag('keep')}: training is past epoch {listed(gone)}, whose weights are not to be had again."

    def _train_epoch(self, learner: Learner) -> None:
        """The steps of the current epoch that are still to be made; not all of them where the run ends before."""
        config, counters = self.config, learner.counters
        if self._score_training(learner):  # before which an earlier session was stopped
            return
        learner.network.train()
        steps = Steps(config.seed, counters.epoch, config.batch_size, counters.epoch_step, learner.data_group.shard)
        saved = time.monotonic()
        self.world.barrier()  # or the others' first step would last as long as the main process's files
        self._lap(learner)
        for images, labels, rows in self.images.training_batches(steps):
            # All randomness of a step comes from its number, so that a resumed run repeats nothing and misses nothing.
            self.compute.seed(mixed_seed(config.seed, counters.step, learner.data_group.rank))
            sums = learner.train_step(images, labels, len(rows))
            with self.guard.critical():
                learner.apply_step(sums, len(labels), rows)
                logged = counters.step % config.log_every == 0
                last = counters.epoch_step == learner.steps_per_epoch
                if logged or last or not self.compute.queued:  # it waits for what a GPU has yet to do
                    self.faults.skipped(learner, self.dataset.train)
                self.faults.unreadable(self.images, "train", counters)
                seconds = self._lap(learner)
                counters.seconds += seconds
                self.reporter.step(counters.epoch_step, len(rows), seconds)
                if logged:
                    row = {"kind": "step", "epoch": counters.epoch + 1, **learner.progress()}
                    self.record.append_metrics(row)
                    self.reporter.line(row)
                due = time.monotonic() - saved > 60 * config.save_minutes
                due, stop = self.world.either(due, self.guard.deferred and self.guard.requested is not None)
                if due and not stop:
                    self._save_last(learner)
                    saved = time.monotonic()
                    self._lap(learner)
            if stop:
                raise Interrupt(self.guard.requested or "a signal to another process")
            if self._score_training(learner):
                return

    def _score_training(self, learner: Learner) -> bool:
        """Evaluate the training split where a step is one after which that is due. Returns whether the run ends so."""
        if not self.scores.due(learner):
            return False
        counters = learner.counters
        self._save_before_evaluation(learner)
        self.reporter.stage("evaluating the training split")
        result = self.scores.training(learner.evaluated(), counters)
        with self.guard.critical():
            counters.scored_step, counters.train_error = counters.step, round(1 - result.top1, 12)
            row = {"kind": SCORE, "epoch": learner.epochs, "step": counters.step}
            self.record.append_metrics(row := row | {"train_loss": result.loss, "train_top1": result.top1})
            self.reporter.score(row)
            if ends := reached_train_error(learner):
                self._save_last(learner)
            self._lap(learner)
        return ends

    def _lap(self, learner: Learner) -> float:
        """Seconds since the last call; the run's own clock is set too."""
        before, self._lapped = self._lapped, time.monotonic()
        learner.counters.elapsed = self.reporter.elapsed()
        return self._lapped - before

    def _finish_epoch(self, learner: Learner) -> None:
        """Validate, log and save; a signal before the end leaves all of it to the next session."""
        counters = learner.counters
        self._save_before_evaluation(learner)
        self.reporter.stage("validating")
        val = self.scores.validation(learner.evaluated(), counters)
        with self.guard.critical():
            row = {"kind": "epoch", "epoch": counters.epoch + 1, **learner.progress()}
            if val is not None:
                row |= {"val_loss": val.loss, "val_top1": val.top1, "val_top5": val.top5}
                count_epoch(learner, val.top1)
                learner.schedule.observe(val.top1, counters.step - 1)
                self.faults.stalled(learner.model, val, counters.step)
            row["seconds"] = round(counters.seconds, 3)
            if rate := self.reporter.rate():
                row["images_per_second"] = round(rate, 1)
            self._processes = self.world.gather(describe_process(self.compute, rate, learner.traffic()))
            learner.end_epoch()
            self._lap(learner)
            top1 = val.top1 if val is not None else float(counters.epoch)  # without validation the latest is the best
            if top1 >= counters.best_top1 and self._save_best(learner):
                counters.best_top1, counters.best_epoch = top1, counters.epoch
            self.saves.save_milestone(learner)
            self.record.append_metrics(row)
            self._save_last(learner)
            self._status("running")
            self.reporter.epoch(row)
            self.record.save_figure("curves.png", lambda: draw_curves(self.run.epochs))

    def _test(self, learner: Learner) -> Result:
        """What the best weights, or those that ended the run, answer at its end; the test split is seen here alone."""
        self.reporter.stage("testing")
        blank = build_for(self.config, self.dataset, self.prep, blank=True)
        model, weights = self.saves.tested(learner, blank, latest=reached_train_error(learner))
        result = self.scores.test(model, weights, learner.counters)
        with self.guard.critical():
            self.record.write_result(result)
            self._lap(learner)
        return result

    def _save_last(self, learner: Learner) -> None:
        self.faults.skipped(learner, self.dataset.train)
        self.faults.check_weights(learner)
        self.saves.save_last(learner)

    def _save_before_evaluation(self, learner: Learner) -> None:
        """Several processes, whose shards may differ by a batch, do not hear signals while they evaluate: whoever loses
        patience and kills them costs the evaluation and no step."""
        if self.guard.deferred:
            with self.guard.critical():
                self._save_last(learner)

    def _save_best(self, learner: Learner) -> bool:
        self.faults.check_weights(learner)
        return self.saves.save_best(learner)

    def _status(self, state: str, **more: Any) -> None:
        if self.learner is not None:
            more |= self.learner.counters.status(validated=len(self.dataset.val) > 0)
        self.record.write_status(state=state, epochs=self.config.end, **more)
