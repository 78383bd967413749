"""`reproduce(experiment)`: its runs, its measurements and its verdicts, in one folder that a kill cannot spoil.

The folder holds jobs/ (each training's settings and what it said), runs/ (a run folder each), measurements/ (what was
evaluated of them), and at the end result.json, table.md and figure.png.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alexnet.compute import usable_cores
from alexnet.config import dump
from alexnet.config.values import override
from alexnet.errors import UsageError
from alexnet.figures import save_figure
from alexnet.files import holding, write_atomically
from alexnet.paper.document import markdown_table
from alexnet.paper.experiment import Experiment, Job, Recall, Row, missing
from alexnet.paper.reporter import Reporter
from alexnet.paper.results import Outcome
from alexnet.runs.folder import Run
from alexnet.runs.provenance import environment, now
from alexnet.training.processes import GLANCE, SideBySide, has_ended
from alexnet.training.signals import SignalGuard, stoppable


def reproduce(
    experiment: Experiment,
    folder: Path,
    *,
    root: str = "data",
    jobs: int = 1,
    quick: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Run an experiment in a folder, or go on there, with so many trainings side by side.

    Kill it at any time: everything follows from the folder, and the same call ends with the same rows (with the same
    `jobs`, on the same machine: the number of threads rounds differently). Raises UsageError for a folder that belongs
    to something else or is in use, what a training ends with, and TrainingStopped when a signal ended it, after the
    trainings have saved.
    """
    with ExitStack() as stack:
        guard = stack.enter_context(SignalGuard())
        with stoppable():
            stack.enter_context(holding(folder, "reproducing in", "name another folder with --run DIR"))
            _claim_folder(folder, experiment, quick)
            reporter = stack.enter_context(reporter or Reporter())
            runs = _train(experiment, folder, root, jobs, quick, guard, reporter)
            reporter.stage("measuring")
            rows = _measure(experiment, folder, runs)
            made = {"when": now(), **environment(), **_made_of(runs.values())}
            outcome = Outcome(experiment.id, quick, json.loads(json.dumps(rows)), made)
            with guard.critical():
                _write(experiment, outcome, runs, folder, reporter)
    return outcome


def default_jobs() -> int:
    """Trainings side by side: small networks use one core well; a GPU is shared by none."""
    import torch

    return 1 if torch.cuda.is_available() else min(usable_cores(), 4)


def _claim_folder(folder: Path, experiment: Experiment, quick: bool) -> None:
    """Mark a new folder as this experiment's, and refuse one that is another's."""
    mark, whose = folder / "experiment.json", {"experiment": experiment.id, "quick": quick}
    if mark.is_file():
        try:
            found = json.loads(mark.read_bytes())
        except ValueError:
            found = None
        if found != whose:
            raise UsageError(f"{folder} holds another reproduction ({found}); name another folder with --run DIR.")
    else:
        if any(not file.name.startswith(".") for file in folder.iterdir()):
            raise UsageError(f"{folder} exists and holds something else; name another folder with --run DIR.")
        write_atomically(mark, json.dumps(whose).encode())
    for part in ("jobs", "runs", "measurements"):
        (folder / part).mkdir(exist_ok=True)


def _train(
    experiment: Experiment,
    folder: Path,
    root: str,
    side_by_side: int,
    quick: bool,
    guard: SignalGuard,
    reporter: Reporter,
) -> dict[str, Run]:
    """All trainings of the plan, each ended, by name."""
    threads = max(1, usable_cores() // side_by_side)
    ended: dict[str, Run] = {}
    measured = 0

    def wanted() -> list[Job]:
        """The plan as it is now, which grows as trainings end."""
        while True:
            plan = [_located(job, root) for job in experiment.plan(ended, quick)]
            assert len({job.name for job in plan}) == len(plan), "two jobs of one name"
            new = {job.name: run for job in missing(plan, ended) if (run := _ended(folder, job)) is not None}
            if not new:
                return plan
            ended.update(new)

    plan = wanted()
    reporter.start(experiment, folder, plan, ended)
    _check_data(ended)
    known = {os.path.abspath(os.path.expanduser(root)), None}
    others = [data["root"] for run in ended.values() if (data := _data_of(run)) and data["root"] not in known]
    if others:
        before = f"{len(others)} of {len(ended)} trainings that had ended before"
        reporter.note(f"{before} were of another --data.root: {', '.join(sorted(set(others)))}")
    with SideBySide(side_by_side, guard) as trainings:
        while waiting := missing(plan, ended):
            for job in waiting:
                if job.name not in trainings.running and not trainings.is_full:
                    trainings.start(job.name, job.config, *_places(folder, job), threads)
                    reporter.started(job)
            if experiment.run_by_run and measured < len(ended):  # while others train
                _measure(experiment, folder, ended)
                measured = len(ended)
            done = trainings.take_ended()
            if done:
                plan = wanted()
                _check_data(ended)
            reporter.look(plan, ended, [training.run for training in trainings.running.values()])
            if not done:
                time.sleep(GLANCE)
    return ended


def _check_data(runs: Mapping[str, Run]) -> None:
    """Raise UsageError where trainings that read their data alike saw different images: --data.root named another
    folder meanwhile, and what they say cannot be compared."""
    seen: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, run in sorted(runs.items()):
        if (data := _data_of(run)) is not None:
            settings = dump(run.config)["data"] | {"root": None}
            other, theirs = seen.setdefault(json.dumps(settings, sort_keys=True), (name, data))
            if theirs["fingerprint"] != data["fingerprint"]:
                raise UsageError(
                    f"{other} was trained on the images in {theirs['root']} and {name} on others, in {data['root']}: "
                    "delete the runs of one of them, or name another folder with --run DIR."
                )


def _data_of(run: Run) -> Mapping[str, Any] | None:
    """The data that a run began with, as it says (`describe_data`)."""
    return next((session["data"] for session in run.sessions if "data" in session), None)


def _measure(experiment: Experiment, folder: Path, runs: dict[str, Run]) -> list[Row]:
    return experiment.measure({name: runs[name] for name in sorted(runs)}, _recall(folder / "measurements"))


def _located(job: Job, root: str) -> Job:
    """The job with its data under `root`, and the run named after it."""
    return replace(job, config=override(job.config, {"data.root": root, "name": job.name}))


def _places(folder: Path, job: Job) -> tuple[Path, Path]:
    """Where a job's run is, and beside what its settings and what it says."""
    return folder / "runs" / job.name, folder / "jobs" / job.name


def _ended(folder: Path, job: Job) -> Run | None:
    """The run of a job if it has ended."""
    path, beside = _places(folder, job)
    run = Run(path)
    return run if has_ended(run, job.config, beside) else None


def _recall(folder: Path) -> Recall:
    """Measurements that are made once, each in a file of its own."""

    def recall(name: str, compute: Callable[[], Any]) -> Any:
        file = folder / f"{name}.json"
        assert file.parent == folder, name
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError):
            value = compute()
            write_atomically(file, json.dumps(value).encode())
            return json.loads(json.dumps(value))  # the same types as after a kill

    return recall


def _made_of(runs: Iterable[Run]) -> dict[str, Any]:
    """How many trainings there were, how many hours they took and in which number formats they computed."""
    runs = list(runs)
    hours = round(sum(float(run.status.get("elapsed", 0)) for run in runs) / 3600, 2)
    found = {str(session["format"]) for run in runs for session in run.sessions if "format" in session}
    return {"runs": len(runs), "hours": hours, "formats": sorted(found)}


def _write(experiment: Experiment, outcome: Outcome, runs: dict[str, Run], folder: Path, reporter: Reporter) -> None:
    verdicts = {number: asdict(verdict) for number, verdict in outcome.verdicts(experiment).items()}
    outcome.write(
        folder / "result.json",
        verdicts=verdicts,
        configs={name: dump(run.config) for name, run in sorted(runs.items())},
    )
    write_atomically(folder / "table.md", markdown_table(experiment.table(outcome.rows)).encode())
    try:
        save_figure(experiment.draw(outcome.rows), folder / "figure.png")
    except UsageError as problem:  # matplotlib is an extra
        reporter.note(f"no figure: {problem}")
