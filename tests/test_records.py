"""records/keep.py: what a record keeps of a run folder; records/killed.py: whether a killed run goes on the same."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet import evaluate, recipe, train
from alexnet.errors import TrainingStopped
from alexnet.paper.reporter import Reporter
from alexnet.paper.reproduce import reproduce
from alexnet.runs.folder import Run
from alexnet.runs.results import result_name, write_result
from test_resume import strike
from toy_experiment import TOY

RECORDS = Path(__file__).parents[1] / "records"
KEEP, KILLED = RECORDS / "keep.py", RECORDS / "killed.py"


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """A function that keeps a folder in this process, in `tmp_path`, and returns its error, if any."""
    monkeypatch.chdir(tmp_path)

    def run(source, out):
        try:
            runpy.run_path(str(KEEP))["main"](Path(source), out=Path(out))
        except SystemExit as end:
            return end.code

    return run


@pytest.mark.usefixtures("no_figures")
def test_a_run_is_kept_without_weights_and_names_of_the_machine(tmp_path, keep):
    root = tmp_path / "somewhere"
    settings = {"epochs": 1, "data.fraction": 0.1, "data.root": f"{root}/", "model.width": 0.125}
    train(recipe("digits", **settings), tmp_path / "runs" / "one")
    result = evaluate(tmp_path / "runs" / "one", views=10)
    write_result(result, tmp_path / "runs" / "one", result_name(result))
    (tmp_path / "runs" / "one.log").write_text(f"on host7 (AMD EPYC): cpu\ndata: {root}/x, {tmp_path}/runs/one\n")
    assert keep("runs/one", "records/a") is None
    kept = tmp_path / "records" / "a" / "one"
    assert {"config.yaml", "metrics.jsonl", "sessions.jsonl", "test.json"} <= {file.name for file in kept.iterdir()}
    (views,) = kept.glob("*10views*")
    assert json.loads(views.read_text())["views"] == 10
    assert not list(kept.rglob("*.safetensors"))
    session = json.loads((kept / "sessions.jsonl").read_text().splitlines()[0])
    assert "host" not in session
    assert session["data"]["root"] == "data"
    assert (kept / "log.txt").read_text() == "on this machine (AMD EPYC): cpu\ndata: data/x, runs/one\n"
    again = subprocess.run([sys.executable, KEEP, "runs/one", "--out", "records/a"], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (
        1,
        "error: records/a/one/config.yaml is there already: name another --out.\n",
    )
    assert not any(str(tmp_path) in file.read_text() for file in kept.rglob("*") if file.suffix != ".png")


def test_the_result_of_a_run_without_a_test_split_is_kept(without_test, tmp_path, keep):
    assert keep(without_test.path.name, "a") is None
    kept = {file.name for file in (tmp_path / "a" / without_test.path.name).iterdir()}
    assert {"val.json", "val-confusion.png"} <= kept


def test_families_are_kept_with_their_table_without_pictures(without_test, tmp_path, keep):
    shutil.copytree(without_test.path, tmp_path / "levers" / "plain,-5-epochs" / "seed-0")
    (tmp_path / "levers" / "table.md").write_text("| what |")
    assert keep("levers", "a") is None
    kept = {str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*") if file.is_file()}
    names = ("config.yaml", "metrics.jsonl", "sessions.jsonl", "status.json", "val.json")
    assert kept == {"table.md"} | {f"plain,-5-epochs/seed-0/{name}" for name in names}


def test_a_reproduction_of_which_nothing_has_ended_is_refused(tmp_path, keep):
    (tmp_path / "S3").mkdir()
    (tmp_path / "S3" / "experiment.json").write_text("{}")
    assert keep("S3", "a") == "error: S3 has neither a result nor a training that has ended."
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("no_figures", "no_fsync", "no_processes")
def test_a_reproduction_goes_on_in_the_record_of_its_part(tmp_path, monkeypatch, keep):
    """Without weights, and without training again what had ended."""
    reporter, toy = Reporter(quiet=True), replace(TOY, run_by_run=True)
    whole = reproduce(toy, tmp_path / "toy", quick=True, jobs=2, reporter=reporter)
    (tmp_path / "toy" / "result.json").unlink()
    last = tmp_path / "toy" / "runs" / "best-seed1" / "status.json"
    last.write_text(last.read_text().replace("finished", "stopped"))
    (tmp_path / "toy" / "measurements" / "best-seed1.json").unlink()
    assert keep("toy", "part") is None
    assert {run.name for run in (tmp_path / "part" / "runs").iterdir()} == {"rate0.001", "rate0.002"}
    assert not list((tmp_path / "part").rglob("*.safetensors"))
    started = []
    monkeypatch.setattr(Reporter, "started", lambda _, job: started.append(job.name))
    assert reproduce(toy, tmp_path / "part", quick=True, jobs=2, reporter=Reporter(quiet=True)).rows == whole.rows
    assert started == ["best-seed1"]


def test_a_reproduction_without_trainings_is_kept(tmp_path, keep):
    (tmp_path / "S0").mkdir()
    for name in ("experiment.json", "result.json", "table.md"):
        (tmp_path / "S0" / name).write_text("{}")
    assert keep("S0", "a") is None
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"result.json", "table.md"}


@pytest.fixture
def stopped(tiny, tmp_path, monkeypatch, reporter):
    """A run that was stopped in its first epoch."""
    config = tiny(epochs=3, log_every=1, **{"data.fraction": 1.0})
    with monkeypatch.context() as patch:
        strike(patch, "train_step")
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", reporter=reporter)
    return Run(tmp_path / "run")


@pytest.mark.slow
def test_a_killed_copy_goes_on_to_the_same_bits(stopped, tmp_path):
    main, run = runpy.run_path(str(KILLED))["main"], stopped
    before = {file.name: file.stat().st_mtime_ns for file in run.path.iterdir()}
    with pytest.raises(SystemExit) as end:
        main(run.path, minutes=1e-4)
    assert end.value.code == 0
    found = json.loads((run.path / "killed.json").read_text())
    assert (found["same"], found["differing"], found["to_epoch"]) == (True, [], 1)
    assert found["tensors"] > 16, "weights and what the optimiser holds of them"
    assert found["from_step"] < found["killed_after_step"]
    assert {f.name: f.stat().st_mtime_ns for f in run.path.iterdir() if f.name != "killed.json"} == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]


@pytest.mark.slow
def test_a_killed_copy_that_goes_on_otherwise_is_told(stopped, monkeypatch):
    """Its last checkpoint is read as one with another weight."""
    main = runpy.run_path(str(KILLED))["main"]
    held = main.__globals__["held"]

    def altered(run):
        tensors = held(run)
        return tensors | {"fc8.bias": tensors["fc8.bias"] + 1e-7} if run.path.name == "killed" else tensors

    monkeypatch.setitem(main.__globals__, "held", altered)
    with pytest.raises(SystemExit) as end:
        main(stopped.path, minutes=1e-4)
    assert end.value.code == 1
    found = json.loads((stopped.path / "killed.json").read_text())
    assert (found["same"], found["differing"]) == (False, ["fc8.bias"])
