"""A run's folder tells: machine, arithmetic, data, code, settings, sessions, rates, and what was measured on what."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet import build_model, evaluate
from alexnet.compute import resolve_compute
from alexnet.config import DataConfig, TrainConfig
from alexnet.config.values import flatten
from alexnet.data.sources import load_dataset
from alexnet.models import native
from alexnet.models.lrn import fused
from alexnet.models.native import Lack
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet.runs.opening import FREE
from alexnet.runs.provenance import (
    arithmetic,
    command_line,
    describe_data,
    describe_session,
    number_format,
    source_revision,
)
from alexnet.training import session
from alexnet.training.loop import train
from conftest import STEPS, TINY, needs_int8, text

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")


def files(run):
    """What a stranger reads: the JSON and YAML of the folder, and nothing of this package."""
    read = {name: json.loads((run.path / name).read_text()) for name in ("test.json", "status.json")}
    return read | {
        name: [json.loads(line) for line in (run.path / name).read_text().splitlines()]
        for name in ("sessions.jsonl", "metrics.jsonl")
    }


def test_a_folder_alone_tells_a_stranger(finished):
    """Done-when 3: on which machine, in which arithmetic, with which data, code and settings, in how many sessions, at
    which rates, and what was measured on what."""
    read = files(finished)
    began, ended = read["sessions.jsonl"]
    assert began["host"] == platform.node()
    assert began["platform"] == platform.platform()
    assert began["cores"] == os.cpu_count()
    assert {"processor", "gpu"} <= began.keys()

    assert (began["device"], began["format"], began["reason"]) == ("cpu", "fp32", "fp32: as asked")
    assert began["lrn"] == ("kernel in C" if fused.missing("cpu") is None else "convolution")
    assert began["convolutions"] == ("Winograd's products" if fused.missing("cpu") is None else "torch's")
    assert (began["processes"], began["threads"]) == (1, torch.get_num_threads())

    data = load_dataset(TINY.data)
    assert began["data"] == {
        "source": "digits",
        "root": str(Path("data").absolute()),
        "fingerprint": data.fingerprint,
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
    }
    assert (began["python"], began["torch"]) == (platform.python_version(), torch.__version__)
    assert (began["numpy"], began["alexnet"]) == (np.__version__, "0.1.0")
    assert began["git"] == source_revision(ROOT / "src" / "alexnet")
    assert began["command"] == command_line()
    assert flatten(finished.config) == flatten(TINY)
    assert began["settings"] == {name: value for name, value in flatten(TINY).items() if name in FREE}

    assert (began["epoch"], began["step"]) == (0, 0)
    assert (ended["state"], ended["epoch"], ended["step"]) == ("finished", 2, 2 * STEPS)
    assert began["started"] <= ended["ended"]
    assert all(row["images_per_second"] > 0 for row in read["metrics.jsonl"] if row["kind"] == "epoch")

    test = read["test.json"]
    assert (test["split"], test["count"], test["views"]) == ("test", len(data.test), 1)
    measured = test["measured"]
    assert measured["weights"] == "best.safetensors"
    assert measured["sha256"] == hashlib.sha256((finished.path / measured["weights"]).read_bytes()).hexdigest()
    assert measured["epoch"] == read["status.json"]["best_epoch"]
    assert measured["data"] == began["data"]
    assert measured["arithmetic"] == {name: began[name] for name in measured["arithmetic"]}
    assert (measured["skipped"], measured["alexnet"], measured["git"]) == (0, began["alexnet"], began["git"])
    assert began["started"] <= measured["when"] <= ended["ended"]


def test_start_says_it_in_two_lines(tiny, tmp_path, reporter):
    train(tiny(epochs=1, precision="auto"), tmp_path / "run", reporter=reporter)
    said = text(reporter)
    assert said.count(resolve_compute("cpu", "auto").reason) == 1
    assert f"on {platform.node()} (" in said
    assert f"torch {torch.__version__}" in said
    assert "data: digits (root " in said
    assert load_dataset(TINY.data).fingerprint[:12] in said


def test_one_record_a_session(tiny, tmp_path, reporter, monkeypatch):
    """Finished, failed by an exception of its own in the middle, killed, and stretched: nothing is overwritten."""
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    written = [(run.path / "sessions.jsonl").read_bytes()]
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_finish_epoch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny(), run.path, reporter=reporter)
    written.append((run.path / "sessions.jsonl").read_bytes())
    with (run.path / "sessions.jsonl").open("a") as stream:  # a session that was killed while it wrote its end
        stream.write(json.dumps({"started": "2026-01-01T00:00:00+00:00", "epoch": 1}) + '\n{"ended": "20')
    train(tiny(**{"data.workers": 3, "log_every": 2}), run.path, reporter=reporter)
    whole = (run.path / "sessions.jsonl").read_bytes()
    assert all(whole.startswith(part) for part in written)
    one, two, three, four = run.sessions
    assert [s.get("state") for s in run.sessions] == ["finished", "failed", None, "finished"]
    assert two["message"] == "ZeroDivisionError('division by zero')"
    assert (two["epoch"], two["step"]) == (1, 2 * STEPS)
    assert three == {"started": "2026-01-01T00:00:00+00:00", "epoch": 1}
    assert (one["settings"]["data.workers"], four["settings"]["data.workers"]) == (None, 3)
    assert (one["settings"]["epochs"], four["settings"]["log_every"]) == (1, 2)


def test_environment_of_an_old_run_stays_and_is_read(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    old = {"alexnet": "0.1.0", "git": "758db2c", "threads": 4}
    (run.path / "sessions.jsonl").unlink()
    (run.path / "environment.json").write_text(json.dumps(old))
    assert run.sessions == [old]
    train(tiny(), run.path, reporter=reporter)
    assert json.loads((run.path / "environment.json").read_text()) == old
    assert run.sessions[0] == old
    assert [s.get("state") for s in run.sessions[1:]] == ["finished"]


def test_a_finished_run_that_stays_as_it_is_has_no_new_session(finished, reporter):
    before = (finished.path / "sessions.jsonl").read_bytes()
    train(finished.config, finished.path, reporter=reporter)
    assert (finished.path / "sessions.jsonl").read_bytes() == before


# Which arithmetic.


def test_missing_kernel_is_said_once_and_written(tiny, tmp_path, reporter, monkeypatch):
    reason = "no C compiler was found (cc): slower; install one, or set CC."
    monkeypatch.setitem(fused._missing, "cpu", Lack("no C compiler was found (cc)", "slower", "install one, or set CC"))
    run = train(tiny(epochs=2), tmp_path / "run", reporter=reporter)
    assert " ".join(text(reporter).split()).count(reason) == 1
    assert run.sessions[0]["lrn"] == "convolution"
    assert run.test["measured"]["arithmetic"]["lrn"] == "convolution"


def test_network_without_normalisation(tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.setitem(fused._missing, "cpu", Lack("no C compiler was found", "slower", "install one"))
    run = train(tiny(epochs=1, **{"model.lrn": "off"}), tmp_path / "run", reporter=reporter)
    assert run.sessions[0]["lrn"] is None
    assert "no C compiler" not in text(reporter)


def test_without_a_compiler_a_network_without_normalisation_is_slower_too(tiny, tmp_path, reporter, monkeypatch):
    lack = Lack("no C compiler was found", "slower", "install one")
    monkeypatch.setattr(native, "_found", lambda: (None, lack))
    run = train(tiny(epochs=1, **{"model.lrn": "off"}), tmp_path / "run", reporter=reporter)
    assert run.sessions[0]["convolutions"] == "torch's"
    assert " ".join(text(reporter).split()).count(str(lack)) == 1


def test_convolutions_are_judged_by_the_images_of_one_call(finished):
    """Which --accumulate and several processes make fewer: too few for it to pay."""
    if native.missing():
        pytest.skip("there is no library of kernels")
    data, compute = load_dataset(TINY.data), resolve_compute("cpu", "fp32")
    model, said = build_model("cifar", width=0.5), []
    for fields, processes in (({}, 1), ({"accumulate": 64}, 1), ({"batch_size": 8}, 8)):
        session = describe_session(replace(TINY, **fields), data, compute, model, processes)
        said.append(session["convolutions"])
    assert said == ["Winograd's products", "torch's", "torch's"]


@pytest.mark.parametrize(("device", "name"), [("cpu", "kernel in C"), ("cuda", "kernel in Triton")])
def test_arithmetic_names_the_kernel_of_the_device(monkeypatch, device, name):
    compute = replace(resolve_compute("cpu", "bf16"), device=torch.device(device))
    model = build_model("cifar", width=0.05)
    monkeypatch.setitem(fused._missing, device, None)
    found = arithmetic(compute, model, 3)
    assert (found["device"], found["format"], found["lrn"], found["processes"]) == (device, "bf16", name, 3)


@pytest.mark.parametrize("trained", ["fp32", "bf16"])
def test_evaluation_takes_the_runs_own_arithmetic(finished, tmp_path, call, trained):
    """Not that of the machine it is evaluated on, which may be another; unless one is asked for."""
    content = load_checkpoint(finished.best)
    config = content.meta["config"] | {"precision": "auto"}
    meta = content.meta | {"precision": trained, "config": config}
    save_checkpoint(tmp_path / "w.safetensors", Checkpoint(content.weights, {}, meta))
    own = evaluate(tmp_path / "w.safetensors").measured["arithmetic"]
    assert (own["format"], own["reason"]) == (trained, f"{trained}: as it was trained")
    other = evaluate(tmp_path / "w.safetensors", precision="fp32").measured["arithmetic"]
    assert (other["format"], other["reason"]) == ("fp32", "fp32: as asked")
    code, said, _ = call("evaluate", tmp_path / "w.safetensors", "--out", tmp_path / "out")
    assert code == 0
    assert f"(cpu, {trained}: as it was trained)" in said
    (written,) = (tmp_path / "out").glob("*.json")
    assert json.loads(written.read_text())["measured"]["arithmetic"]["format"] == trained


def test_training_writes_its_number_format_with_the_weights(tiny, tmp_path, reporter):
    run = train(tiny(epochs=1, precision="auto"), tmp_path / "run", reporter=reporter)
    assert load_checkpoint(run.best).meta["precision"] == number_format(resolve_compute("cpu", "auto"))


@needs_int8
def test_evaluation_in_8_bits_says_so(finished):
    assert evaluate(finished, precision="int8").measured["arithmetic"]["format"] == "int8"


# Which code.


def repository(folder, name, package="src/alexnet"):
    """A git repository with a project of that name and a package folder, committed."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        git(folder, *arguments)
    return folder / package


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_revision_of_our_own_repository(tmp_path):
    package = repository(tmp_path, "alexnet")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert source_revision(package) == head
    git(tmp_path, "tag", "v9")
    assert source_revision(package) == head
    (package / "__init__.py").write_text("changed = True")
    assert source_revision(package) == f"{head}-dirty"


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("thesis", "src/alexnet"),  # a copy of the source in somebody's own project
        ("thesis", ".venv/lib/python3.12/site-packages/alexnet"),
        ("alexnet", ".venv/lib/python3.12/site-packages/alexnet"),  # a clone of ours, and another version installed
    ],
)
def test_revision_of_a_repository_that_merely_encloses_is_not_ours(tmp_path, name, package):
    assert source_revision(repository(tmp_path, name, package)) is None


def test_revision_without_any_repository(tmp_path):
    assert source_revision(tmp_path) is None
    assert source_revision(tmp_path / "missing") is None


def test_revision_does_not_listen_to_the_variables_of_a_hook(tmp_path, monkeypatch):
    package = repository(tmp_path / "ours", "alexnet")
    repository(tmp_path / "other", "thesis")
    head = git(tmp_path / "ours", "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert source_revision(package) == head


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/alexnet", "train", "digits", "--run", "my run"], "alexnet train digits --run 'my run'"),
        (["/x/alexnet/__main__.py", "train"], "alexnet train"),
        (["study.py", "-v"], "study.py -v"),
        ([], "''"),
    ],
)
def test_command_line_can_be_typed_again(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == command


def test_data_under_the_home_folder_are_told_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(data=DataConfig(source="cifar10", root="~/sets"))
    assert describe_data(config, SimpleNamespace(train=(), val=(), test=(), fingerprint=""))["root"] == str(
        tmp_path / "sets"
    )
