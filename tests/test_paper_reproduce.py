"""A reproduction in its folder: what it trains, what it leaves, what kills and other programs can do to it."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from alexnet import files
from alexnet.compute import usable_cores
from alexnet.errors import DataError, UsageError
from alexnet.files import holding
from alexnet.paper import publishing, results
from alexnet.paper.experiment import Job
from alexnet.paper.reporter import Reporter
from alexnet.paper.reproduce import reproduce
from alexnet.runs.folder import Run
from alexnet.training.processes import Training
from conftest import TINY, override, without_figures, without_processes
from toy_experiment import TOY

TOY_FILE = Path(__file__).with_name("toy_experiment.py")


def start(folder, how="quick"):
    """The toy as a process."""
    environment = {**os.environ, "PYTHONPATH": str(TOY_FILE.parent)}
    return subprocess.Popen([sys.executable, TOY_FILE, folder, how], env=environment, stderr=subprocess.PIPE, text=True)


def table(folder):
    return json.loads((folder / "result.json").read_text())["rows"]


def quiet(experiment, folder, **options):
    return reproduce(experiment, folder, quick=True, reporter=Reporter(quiet=True), **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished rehearsal of the toy; only to be read."""
    folder = tmp_path_factory.mktemp("toy") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda _: None)
        without_figures(patch)
        without_processes(patch)
        quiet(TOY, folder, jobs=2)
    return folder


def test_what_it_leaves(done):
    result = json.loads((done / "result.json").read_text())
    names = [row["name"] for row in result["rows"]]
    assert names == sorted(names)
    assert {"rate0.001", "rate0.002", "best-seed1"} == set(names) == set(result["configs"])
    tests = {name: Run(done / "runs" / name).test["top1"] for name in names}
    assert {row["name"]: row["top1"] for row in result["rows"]} == tests
    best = max(("rate0.001", "rate0.002"), key=lambda name: tests[name])
    assert result["configs"]["best-seed1"]["optim"]["lr"] == float(best.removeprefix("rate"))
    assert (result["quick"], result["made"]["runs"]) == (True, 3)
    assert result["verdicts"]["15"]["state"] == "reproduced"
    assert (done / "table.md").read_text().startswith("| name | top-1 |")
    assert (done / "figure.png").stat().st_size > 100


def test_the_same_again_trains_nothing(done, monkeypatch, no_fsync):
    monkeypatch.setattr(Training, "_start", lambda _: pytest.fail("a training was started"))
    before = {f: f.read_bytes() for f in done.rglob("*.safetensors")}
    outcome = quiet(TOY, done)
    assert outcome.rows == table(done)
    assert {f: f.read_bytes() for f in done.rglob("*.safetensors")} == before


def test_measurements_are_made_once(done):
    kept = done / "measurements" / "rate0.001.json"
    before = kept.read_text()
    kept.write_text("0.25")
    try:
        rows = {row["name"]: row["square"] for row in quiet(TOY, done).rows}
        assert rows["rate0.001"] == 0.25
    finally:
        kept.write_text(before)
        quiet(TOY, done)


def test_trainings_on_different_images_are_not_compared(done, tmp_path, capsys):
    """--data.root may name another folder when a reproduction goes on."""
    shutil.copytree(done, tmp_path / "toy")
    sessions = tmp_path / "toy" / "runs" / "rate0.002" / "sessions.jsonl"
    rows = [json.loads(line) for line in sessions.read_text().splitlines()]

    def moved(**changes):
        told = [row | {"data": row["data"] | changes} if "data" in row else row for row in rows]
        sessions.write_text("".join(json.dumps(row) + "\n" for row in told))

    moved(root="/elsewhere")
    assert reproduce(TOY, tmp_path / "toy", quick=True, reporter=Reporter()).rows == table(done)
    assert "1 of 3 trainings that had ended before were of another --data.root: /elsewhere" in " ".join(
        capsys.readouterr().out.split()
    )
    moved(root="/elsewhere", fingerprint="another")
    with pytest.raises(UsageError, match=r"rate0\.002 on others, in /elsewhere: delete the runs of one of them"):
        quiet(TOY, tmp_path / "toy")


@pytest.mark.parametrize("early", [True, False])
def test_run_by_run_what_has_ended_is_measured_while_others_train(early, done, tmp_path, monkeypatch, no_fsync):
    """Once in a process of the training's own, with as many threads as here."""
    if not early:
        without_processes(monkeypatch)
    shutil.copytree(done, tmp_path / "toy", ignore=shutil.ignore_patterns("best-seed1*", "result.json"))
    measured = []

    def measure(runs, recall):
        measured.append(set(runs))
        return TOY.measure(runs, recall)

    rows = quiet(replace(TOY, measure=measure, run_by_run=early), tmp_path / "toy", jobs=usable_cores()).rows
    assert rows == table(done)
    first, whole = {"rate0.001", "rate0.002"}, {"rate0.001", "rate0.002", "best-seed1"}
    assert measured == ([first, whole] if early else [whole])


def test_other_settings_are_refused(done):
    other = replace(TOY, plan=lambda finished, quick: [Job("rate0.001", override(TINY, {"seed": 7}))])
    with pytest.raises(UsageError, match=r"holds another training \(.*seed 0 there and 7 now"):
        quiet(other, done)


def test_other_reproductions_and_folders_are_refused(done, tmp_path):
    with pytest.raises(UsageError, match="holds another reproduction"):
        quiet(replace(TOY, id="T2"), done)
    with pytest.raises(UsageError, match="holds another reproduction"):
        reproduce(TOY, done, quick=False, reporter=Reporter(quiet=True))
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds something else"):
        quiet(TOY, tmp_path)
    with holding(done, "x", "y"), pytest.raises(UsageError, match="another process is reproducing"):
        # Within one process a lock of another object is another's.
        quiet(TOY, done)


def test_rehearsals_are_not_published(done, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "PUBLISHED", tmp_path)
    with pytest.raises(UsageError, match="rehearsal"):
        publishing.publish([done], tmp_path)
    with pytest.raises(DataError, match="holds no result"):
        publishing.publish([tmp_path], tmp_path)


def test_publishing_keeps_rows_and_not_the_host(tmp_path, monkeypatch):
    for module in (publishing, results):
        monkeypatch.setattr(module, "PUBLISHED", tmp_path / "published")
    rows = [{"kind": "check", "what": "x", "difference": 1e-9}]
    rows += [
        {"kind": kind, "what": what, "ours": 1, "released": 1, "difference": 0}
        for kind, what in (
            ("parameters", "net 145"),
            ("neurons", "net 145"),
            ("maps", "m"),
            ("parameters", "net 145-half"),
        )
    ]
    (tmp_path / "S0").mkdir()
    results.Outcome("S0", False, rows, {"host": "secret", "git": "abc"}).write(
        tmp_path / "S0" / "result.json", configs={}
    )
    assert publishing.publish([tmp_path / "S0"], tmp_path) == ["S0"]
    content = json.loads((tmp_path / "published" / "S0.json").read_text())
    assert content == {"experiment": "S0", "quick": False, "rows": rows, "made": {"git": "abc"}}
    assert (tmp_path / "paper" / "S0.png").is_file()
    assert "**reproduced by construction**. Parameters of the network" in (tmp_path / "paper.md").read_text()


# Single trainings, without waiting for real ones: a process that ends as it is told to.


def test_command_names_what_there_is(call):
    code, _, err = call("reproduce", "S99")
    assert code == 2
    assert "S1" in err
    code, _, err = call("reproduce", "5")
    assert (code, "claim 5 has no small experiment: arithmetic settles it." in err) == (2, True)
    code, _, err = call("reproduce", "5", "--imagenet")
    assert (code, "claim 5 has no experiment on ImageNet (true by arithmetic)" in " ".join(err.split())) == (2, True)
    code, _, err = call("reproduce", "S1", "--imagenet")
    assert code == 2


def wait_for(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_three_moments_it_ends_with_the_same_table(tmp_path):
    """With SIGKILL: one of the trainings, which is started again, and twice the reproduction alone, whose trainings go
    on without it and are waited for."""
    folder, whole = tmp_path / "toy", tmp_path / "whole"
    assert start(whole, "full").wait() == 0
    rng = random.Random(0)
    process = start(folder, "full")
    wait_for(process, lambda: list((folder / "runs").glob("*/last.safetensors")))
    victim = next((folder / "runs").glob("*/last.safetensors")).parent
    os.kill(Run(victim).status["pid"], signal.SIGKILL)
    for trainings in (2, 3):
        wait_for(process, lambda n=trainings: len(list((folder / "runs").glob("*/config.yaml"))) >= n)
        time.sleep(rng.uniform(0, 3))
        assert process.poll() is None
        process.kill()
        process.wait()
        process = start(folder, "full")
    assert process.wait() == 0
    assert table(folder) == table(whole)
    assert len(Run(victim).sessions) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signal_stops_the_trainings_and_the_same_goes_on(done, tmp_path):
    folder = tmp_path / "toy"
    process = start(folder)
    wait_for(process, lambda: list((folder / "runs").glob("*/last.safetensors")))
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 75
    assert "the same command goes on" in said
    for status in (folder / "runs").glob("*/status.json"):
        assert json.loads(status.read_text())["state"] in ("stopped", "finished")
    assert start(folder).wait() == 0
    assert table(folder) == table(done)


def test_where_there_is_no_terminal_a_line_tells_of_the_time_left_now_and_then(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 400))  # seconds
    monkeypatch.setattr("alexnet.paper.reporter.time.monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), width=200)
    shown = Reporter(console=console)
    plan = TOY.plan({}, True)
    shown.start(TOY, tmp_path, plan, {})
    for _ in range(4):
        shown.look(plan, {}, [])
    assert console.file.getvalue().count(f"0 of {len(plan)} trainings, at most ? left") == 2
