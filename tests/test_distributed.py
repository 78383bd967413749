"""Two processes on the CPU: the same result as one, written by one, stopped together."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from alexnet.config import override
from alexnet.data.sources import load_dataset
from alexnet.distributed import World, join_world
from alexnet.errors import UsageError
from alexnet.runs.folder import Run
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import STEPS, TINY, assert_consistent, tensors

# Without the -- torchrun takes --run for an abbreviation of its own --run-path (Python 3.11).
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "alexnet"]
# No dropout: its masks differ between one process and two. Two epochs: later a unit at the edge of its ReLU may differ.
# A last batch of 325 - 5 * 64 = 5 images: 3 and 2; and test images in odd number.
OVERRIDES = {"epochs": 2, "log_every": 1, "model.dropout": 0.0, "ema": 0.9, "optim.name": "sgd", "optim.lr": 0.002}


def launch(config, path, log, *more):
    command = [*LAUNCH, "train", str(config), "--run", str(path), *map(str, more)]
    with log.open("a") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)


def finish(process, log):
    try:
        assert process.wait(200) == 0, log.read_text()
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def ranks(parent):
    """The processes that torchrun started."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in children.stdout.split()]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "run"
    return train(override(TINY, OVERRIDES), path, reporter=Reporter(quiet=True))


@pytest.mark.timeout(500)
def test_two_processes_stopped_and_resumed_equal_one(single, tmp_path):
    path, log = tmp_path / "run", tmp_path / "log"
    config = single.path / "config.yaml"
    # Long enough to be struck; the second session then stops at the epochs of the single run.
    process = launch(config, path, log, "--epochs", 2000)
    while not Run(path).metrics and process.poll() is None:
        time.sleep(0.01)
    workers = ranks(process.pid)
    assert len(workers) == 2, log.read_text()
    os.kill(workers[-1], signal.SIGTERM)
    began = time.monotonic()
    while Run(path).status.get("state") != "stopped" and process.poll() is None:
        time.sleep(0.05)
    assert time.monotonic() - began < 10
    process.wait(120)
    said = log.read_text()
    assert "stopped: stopped by" in said
    assert said.count("training digits") == 1  # one process speaks
    status = Run(path).status
    assert status["state"] == "stopped", said
    assert tensors(path / "last.safetensors")

    assert status["epoch"] < single.config.epochs, "stopped too late for what follows"
    finish(launch(config, path, log), log)
    run = Run(path)
    assert_consistent(run)
    assert len(list(path.glob("events.*"))) == 2  # one process writes, in two sessions
    a, b = tensors(run.last), tensors(single.last)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-3)
    for mine, theirs in zip(run.epochs, single.epochs, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)
    assert run.test["count"] == single.test["count"] == len(load_dataset(single.config.data).test)
    assert run.test["loss"] == pytest.approx(single.test["loss"], abs=1e-4)
    assert run.epochs[-1]["step"] == 2 * STEPS


@pytest.mark.timeout(500)
def test_uneven_shards_in_parts(single, tmp_path):
    """A last batch of 17 images: shards of 9 and 8, which torch.chunk cuts into 3 and 4 parts."""
    values = yaml.safe_load((single.path / "config.yaml").read_text())
    values |= {"batch_size": 77, "epochs": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    log = tmp_path / "log"
    process = launch(tmp_path / "config.yaml", tmp_path / "run", log, "--accumulate", 4)
    try:
        assert process.wait(100) == 0, log.read_text()
    except subprocess.TimeoutExpired:
        for pid in ranks(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        pytest.fail("the processes wait for each other: " + log.read_text())
    assert_consistent(Run(tmp_path / "run"))


def test_one_process_is_the_identity():
    world = World()
    values = torch.arange(3)
    assert world.is_main
    assert world.sum(values) is values
    assert [world.any(c) for c in (True, False)] == [True, False]
    assert list(range(5))[world.shard] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shards_partition(size):
    shards = [list(range(10))[World(rank, size).shard] for rank in range(size)]
    assert sorted(row for shard in shards for row in shard) == list(range(10))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_process_without_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UsageError, match="no GPU of its own"), join_world("cuda"):
        pass
