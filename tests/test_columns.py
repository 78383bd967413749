"""A column of the network on each of two processes: the same result as of one process, which opens anywhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import column_process
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.errors import UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.models.ablations import resolve
from alexnet.models.columns import plan
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from column_process import NETWORKS, learn
from conftest import TINY, assert_consistent, assert_same_tensors, tensors
from test_distributed import LAUNCH, finish, launch, ranks

CASES = {
    "paper": {"network": "paper", "steps": 12},
    "net145": {"network": "net145"},
    "net150": {"network": "net150", "steps": 4},
    "mixed": {"network": "mixed", "steps": 6, "accumulate": 2, "bad": 3},
    "frozen": {"network": "paper", "steps": 4, "frozen": "conv4"},
    "float32": {"network": "net145", "dtype": "float32", "steps": 8, "ema": 0.9},
}
LONG = {"paper": CASES["paper"] | {"steps": 50}, "float32": CASES["float32"] | {"steps": 20}}


def together(folder, processes, cases):
    """Have processes learn, and give what each of them then would save of each case."""
    (folder / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, column_process.__file__, folder],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    ends = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(ends)
    return {name: [load_file(folder / f"{name}-{rank}") for rank in range(processes)] for name in cases}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    return together(tmp_path_factory.mktemp("columns"), 2, CASES)


def assert_learnt_as_by_one(settings, learnt):
    """All that a checkpoint holds, of the whole network, in both processes."""
    one = learn(World(), **settings)
    bound = 1e-8 if one["fc8.weight"].dtype == torch.float64 else 1e-3
    for other in learnt:
        assert other.keys() == one.keys()
        assert max(float((other[name] - value).abs().max()) for name, value in one.items()) < bound
    assert int(one["skipped"]) == ("bad" in settings)
    assert float(one["losses"].std()) > 1  # it has moved


@pytest.mark.parametrize("case", CASES)
def test_columns_learn_what_one_process_learns(learnt, case):
    """With dropout on."""
    assert_learnt_as_by_one(CASES[case], learnt[case])


@pytest.mark.slow
def test_columns_learn_it_for_longer(tmp_path):
    learnt = together(tmp_path, 2, LONG)
    for case, settings in LONG.items():
        assert_learnt_as_by_one(settings, learnt[case])


@pytest.mark.slow
def test_two_pairs_share_the_batch(tmp_path):
    cases = {"pairs": {"network": "paper", "steps": 10, "dropout": 0.0}}
    one = learn(World(), **cases["pairs"])
    for other in together(tmp_path, 4, cases)["pairs"]:
        assert max(float((other[name] - value).abs().max()) for name, value in one.items()) < 1e-8


CROSSING = {"conv3": 128, "fc6": 4608, "fc7": 2048, "fc8": 2048}


@pytest.mark.parametrize(
    ("network", "crossing", "parameters"),
    [
        ("net145", CROSSING, 60_965_224),
        ("paper", CROSSING | {"norm1": 2, "norm2": 2}, 60_965_224),
        ("net150", {"fc8": 2048}, 60_714_408),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_what_crosses(network, crossing, parameters, rank):
    """Net 145 as layers-145.cfg has it, but that fc8 is on both processes; its LRN stays within a column, the paper's
    needs two channels beyond the border, and in net 150 nothing crosses but for fc8."""
    parts = plan(NETWORKS[network], World(rank, 2))
    assert {part.whole.name: part.takes for part in parts if part.takes} == crossing
    assert {part.whole.name: part.gives for part in parts if part.gives} == crossing
    assert 2 * sum(part.layer.parameters for part in parts) == parameters


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "torchvision"}, "needs a network of two columns"),
        ({"name": "paper", "groups": 1}, "needs a network of two columns"),
        ({"name": "convnet-13pct"}, "needs a network of two columns"),
        ({"name": "paper", "hidden": (4095, 4096)}, "the width of fc6, 4095, cannot be halved"),
    ],
)
def test_networks_that_have_no_two_columns(fields, message):
    with pytest.raises(UsageError, match=message):
        plan(resolve(**fields), World(0, 2))


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_that_columns_do_not_divide(processes):
    with pytest.raises(UsageError, match="torchrun --nproc-per-node 2"):
        World(size=processes).split(2)


def test_columns_are_not_compiled():
    with pytest.raises(UsageError, match="--compile does not go with --columns 2"):
        TrainConfig(columns=2, compile=True)


@pytest.mark.parametrize("count", [2, 5])
def test_parts_partition(count):
    rows = torch.arange(count)
    parts = [World(rank, 2).cut({"rows": rows, "step": torch.tensor(3.0)}) for rank in (0, 1)]
    assert torch.cat([part["rows"] for part in parts]).equal(rows)
    assert [float(part["step"]) for part in parts] == [3.0, 3.0]


# Adam's state has a scalar beside the moments; the learner keeps an average, and what is not finite is left out.
SETTINGS = {"epochs": 2, "log_every": 1, "ema": 0.9, "label_smoothing": 0.1, "optim.lr": 5e-4}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "run"
    return train(override(TINY, SETTINGS), path, reporter=Reporter(quiet=True))


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_run_goes_on_without_columns(single, tmp_path):
    """Begun by two processes, it is ended by one: with the numbers of the run of one process."""
    path, log = tmp_path / "run", tmp_path / "log"
    finish(launch(single.path / "config.yaml", path, log, "--columns", 2, "--stop-after", 1), log)
    run = Run(path)
    assert_consistent(run)
    measured = evaluate(path)  # its weights, in one process
    assert (measured.top1, measured.count) == (run.test["top1"], run.test["count"])
    assert measured.loss == pytest.approx(run.test["loss"], abs=1e-5)
    (session,) = run.sessions
    assert (session["processes"], session["settings"]["columns"]) == (2, 2)
    for taken in session["per_process"]:
        assert taken["images_per_second"] > 0
        assert taken["peak_memory"] > 10_000_000
        assert taken["exchanged_a_step"] > 10_000
    run = train(override(TINY, SETTINGS), path, reporter=Reporter(quiet=True))
    a, b = tensors(run.last), tensors(single.last)
    assert a.keys() == b.keys()
    # Adam makes whole steps of rounding alone, so that single numbers may differ by several; halves that changed
    # places would be 1.4 apart. The comparison to the last digits is of float64, above.
    for name in a:
        moved = float((a[name] - b[name]).double().norm() / b[name].double().norm().clamp(min=1e-12))
        assert moved < (0.05 if name.endswith(".weight") else 0.5), name
    for mine, theirs in zip(run.epochs, single.epochs, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-3)
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-3)


@pytest.fixture(scope="module")
def whole(single, tmp_path_factory):
    """A run of two columns from beginning to end."""
    path = tmp_path_factory.mktemp("whole") / "run"
    finish(launch(single.path / "config.yaml", path, path.with_name("log"), "--columns", 2), path.with_name("log"))
    return Run(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("struck", [getattr(signal, "SIGKILL", None), signal.SIGTERM])
def test_ended_and_resumed_to_the_same_bits(single, whole, tmp_path, struck):
    """By force all at once, after a step that was saved; by a signal to one of the two, which then both obey."""
    path, log = tmp_path / "run", tmp_path / "log"
    config = [single.path / "config.yaml", "--columns", 2, "--save-minutes", 1e-5]
    process = launch(config[0], path, log, *config[1:])
    while not (Run(path).last.exists() and load_checkpoint(Run(path).last).meta["counters"]["step"] > 2):
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    workers = ranks(process.pid)
    for pid in [process.pid, *workers] if struck == signal.SIGKILL else workers[-1:]:
        os.kill(pid, struck)
    process.wait(100)
    assert load_checkpoint(Run(path).last).epoch < 2, "ended too late for what follows"
    assert (Run(path).status["state"] == "stopped") == (struck == signal.SIGTERM), log.read_text()
    finish(launch(config[0], path, log, *config[1:]), log)
    assert_same_tensors(path / "last.safetensors", whole.last)
    assert_same_tensors(path / "best.safetensors", whole.best)
    assert Run(path).test["loss"] == whole.test["loss"]


def test_one_process_is_told_to_start_two(call, tmp_path):
    code, _, said = call("train", "digits", "--run", tmp_path / "run", "--columns", 2)
    assert code == 2
    assert said.startswith("error: --columns 2 needs 2 processes for each network, not 1: torchrun --nproc-per-node 2")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_network_without_columns_is_refused_in_one_line(tmp_path):
    command = [*LAUNCH, "train", "digits", "--run", tmp_path / "run", "--columns", "2", "--model.groups", "1"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=False)
    said = ended.stderr + ended.stdout
    assert said.count("error: --columns 2 needs a network of two columns") == 1, said
