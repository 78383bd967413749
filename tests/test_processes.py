"""Trainings as processes: killed, waited for, given up."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from alexnet.config.values import override
from alexnet.errors import DataError, UsageError
from alexnet.files import holding
from alexnet.recipes import recipe
from alexnet.runs.folder import Run
from alexnet.training.processes import Training, has_ended


class Ended:
    """A process that has ended with a code."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


CONFIG = recipe("digits")


def training(folder, codes, monkeypatch):
    left = list(codes)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: Ended(left.pop(0)))
    return Training(CONFIG, folder / "runs" / "a", folder / "jobs" / "a", 1)


def test_a_killed_training_goes_on(tmp_path, monkeypatch):
    one = training(tmp_path, [-9, 75, 0], monkeypatch)
    assert [one.poll(), one.poll(), one.poll()] == [False, False, True]


def test_one_that_is_killed_again_and_again_is_given_up(tmp_path, monkeypatch):
    one = training(tmp_path, [-9] * 9, monkeypatch)
    assert [one.poll(), one.poll()] == [False, False]
    with pytest.raises(ValueError, match="was killed 3 times"):
        one.poll()


def test_one_that_gets_on_is_never_given_up(tmp_path, monkeypatch):
    one = training(tmp_path, [-9] * 9 + [0], monkeypatch)
    one.run.path.mkdir(parents=True)
    polls = []
    for step in range(10):
        (one.run.path / "metrics.jsonl").write_text(json.dumps({"kind": "step", "epoch": 1, "step": step + 1}))
        polls.append(one.poll())
    assert polls == [False] * 9 + [True]


def test_divergence_is_a_result(tmp_path, monkeypatch):
    one = training(tmp_path, [5], monkeypatch)
    assert one.poll()
    assert one.diverged
    one.run.path.mkdir(parents=True)
    one.run.write_config(CONFIG)
    assert has_ended(one.run, CONFIG, tmp_path / "jobs" / "a")
    assert not has_ended(one.run, CONFIG, tmp_path / "jobs" / "b")


def test_one_that_learned_nothing_is_corrected(tmp_path, monkeypatch):
    """What is said of the settings that diverged does not hold of others."""
    one = training(tmp_path, [5, 0], monkeypatch)
    assert one.poll()
    with holding(one.run.path, "x", "y"):
        one.run.write_config(override(CONFIG, {"optim.lr": 1e9}))
        one.run.write_status(state="failed", epoch=0, saved=0)
    with pytest.raises(UsageError, match=r"--optim\.lr 1000000000\.0 there and"):
        has_ended(one.run, CONFIG, tmp_path / "jobs" / "a")
    (one.run.path / "metrics.jsonl").touch()
    assert not has_ended(one.run, CONFIG, tmp_path / "jobs" / "a")
    again = training(tmp_path, [0], monkeypatch)
    assert (again.poll(), again.diverged) == (True, False)


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (3, DataError)])
def test_other_errors_are_raised(tmp_path, monkeypatch, code, kind):
    one = training(tmp_path, [code], monkeypatch)
    one.log.write_text("epoch 1\nerror: no such thing.\n")
    with pytest.raises(kind, match=r"^a: no such thing\. All that it said: .*a\.log"):
        one.poll()


def test_what_another_process_trains_is_waited_for(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "a"
    with holding(run, "x", "y"):
        one = training(tmp_path, [0], monkeypatch)
        assert not one.poll()
    assert (one.poll(), one.poll()) == (False, True)


def test_another_family_that_was_there_sooner_is_waited_for(tmp_path, monkeypatch):
    """A training that was started holds its folder only seconds later, when it has been imported."""
    one = training(tmp_path, [2, 0], monkeypatch)
    with holding(one.run.path, "x", "y"):
        assert (one.poll(), one.poll()) == (False, False)
    assert (one.poll(), one.poll()) == (False, True)


def test_one_whose_last_weights_could_not_be_saved_has_not_ended(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert has_ended(run, run.config, tmp_path / "jobs" / "a")
    run.write_status(**run.status | {"saved": run.status["step"] - 1})
    assert not has_ended(run, run.config, tmp_path / "jobs" / "a")


def test_a_training_has_the_threads_it_was_given(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: seen.append(env) or Ended(0))
    Training(CONFIG, tmp_path / "runs" / "a", tmp_path / "jobs" / "a", 3)
    assert seen[0]["OMP_NUM_THREADS"] == "3"
