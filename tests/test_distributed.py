"""Two processes on the CPU: the same result as one, written by one, stopped together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image

from alexnet.compute.distributed import World, join_world
from alexnet.config.values import flag, override
from alexnet.data.sources import load_dataset
from alexnet.errors import UsageError
from alexnet.runs.checkpoint import load_checkpoint
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


@pytest.mark.slow
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
    assert said.count("stopped: stopped by") == 1  # of all that leave, one says so
    assert said.count("training digits") == 1  # one process speaks
    status = Run(path).status
    assert status["state"] == "stopped", said
    assert tensors(path / "last.safetensors")

    assert status["epoch"] < single.config.epochs, "stopped too late for what follows"
    finish(launch(config, path, log), log)
    run = Run(path)
    assert_consistent(run)
    assert len(list(path.glob("tensorboard/train/events.*"))) == 2  # one process writes, in two sessions
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


SEEDS = """
import os, sys, torch
from pathlib import Path
from alexnet import cli
from alexnet.training.learner import Learner

step, file = Learner.train_step, Path(sys.argv[1]) / f"seeds-{os.environ['RANK']}"

def note(self, *batch):
    with file.open("a") as stream:
        print(torch.initial_seed(), file=stream)
    return step(self, *batch)

Learner.train_step = note
cli.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_processes_draw_numbers_of_their_own(single, tmp_path):
    """Or both would drop the same units, each of its own images."""
    script, log = tmp_path / "seeds.py", tmp_path / "log"
    script.write_text(SEEDS)
    arguments = ["train", single.path / "config.yaml", "--run", tmp_path / "run", "--epochs", "1"]
    command = [*LAUNCH[:6], "--", str(script), str(tmp_path), *map(str, arguments)]
    with log.open("w") as stream:
        finish(subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT), log)
    a, b = ((tmp_path / f"seeds-{rank}").read_text().split() for rank in range(2))
    assert len({*a, *b}) == 2 * STEPS == len(a) + len(b)


@pytest.mark.slow
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


AGREE = """
import os, sys, torch
from pathlib import Path
from alexnet.compute.distributed import join_world
from alexnet.errors import DataError

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
with join_world("cpu") as (world, _):
    assert (world.rank, world.size, world.is_main) == (rank, 2, rank == 0)
    assert world.broadcast({"rank": rank}) == {"rank": 0}
    mine = {"a": torch.arange(3.0) + 9 * rank, "b": torch.ones(2, 2, dtype=torch.int64)} if world.is_main else {}
    told = world.broadcast_tensors(mine)
    assert told["a"].tolist() == [0, 1, 2] and told["b"].dtype == torch.int64 and told["b"].shape == (2, 2)
    done = []
    assert world.from_main(lambda: done.append(rank) or "said") == "said"
    assert done == [0] * world.is_main

    def refuse():
        raise DataError(f"refused by {rank}")

    assert world.gather(10 * rank) == [0, 10]
    assert world.either(rank == 1, False, True) == [True, False, True]
    for way in (world.from_main, world.main_first):
        try:
            way(refuse)
        except DataError as problem:
            assert str(problem) == "refused by 0"
        else:
            raise AssertionError("nobody was told")
    file = folder / "download"

    def fetch():
        if world.is_main:
            assert not file.exists()
            file.write_text("whole")
        return file.read_text()  # which fails where it comes first

    assert world.main_first(fetch) == "whole"
    world.barrier()
    (folder / f"done-{rank}").touch()
"""
# All that touches a run's folder or its checkpoints raises in the second process.
ALONE = """
import os, sys
if os.environ["RANK"] == "1":
    from alexnet.runs import checkpoint, folder, opening, recorder
    from alexnet.training import loop

    def forbidden(*_, **__):
        raise AssertionError("the second process touched the run")

    for owner, name in [(folder.Run, n) for n in ("resume_point", "write_config", "write_status")]:
        setattr(owner, name, forbidden)
    folder.Run.status = folder.Run.metrics = folder.Run.config = property(forbidden)
    for owner in (checkpoint, folder, loop, opening, recorder):
        for name in ("load_checkpoint", "save_checkpoint", "open_run", "settled"):
            if hasattr(owner, name):
                setattr(owner, name, forbidden)
from alexnet.cli import main
main(sys.argv[1:])
"""


# One process raises before or in the middle of what all do together; what each of them then raises is written down.
REFUSE = """
import json, os, sys
from pathlib import Path
from alexnet.compute.distributed import join_world
from alexnet.errors import AlexNetError, DataError

folder, culprit, kind, rank = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(os.environ["RANK"])
try:
    with join_world("cpu") as (world, _):
        world.barrier()
        if rank == culprit:
            raise DataError("no such data.") if kind == "refusal" else ZeroDivisionError("a mistake of ours")
        for _ in range(1000):
            world.barrier()  # in which the other is missing
except Exception as problem:
    told = getattr(problem, "told", None)
    (folder / f"raised-{rank}").write_text(json.dumps([type(problem).__name__, str(problem), told]))
"""
# Both leave after they have shared a network, which is part of a cycle and of an error's frames; how many of Gloo's
# threads stay is written down.
LEAVE = """
import os, sys, torch
from pathlib import Path
from alexnet.compute.distributed import join_world
from alexnet.errors import AlexNetError, DataError, TrainingStopped

RAISED = {"stopped": TrainingStopped("stopped."), "failed": DataError("no data."), "interrupted": KeyboardInterrupt()}

def work(world, way):
    network = world.wrap(torch.nn.Linear(2, 2))
    network.itself = [network]
    network(torch.ones(1, 2)).sum().backward()
    if way != "ended":
        raise RAISED[way]

try:
    with join_world("cpu") as (world, _):
        work(world, sys.argv[2])
except (AlexNetError, KeyboardInterrupt) as problem:
    kept = problem
threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
Path(sys.argv[1], f"left-{os.environ['RANK']}").write_text(str(sum("gloo" in name for name in threads)))
"""
# Alone or together: each process ends with the exit code, and one line tells the user, by whoever came first.
EXITS = """
import os, sys
from pathlib import Path
from alexnet import cli
rank, codes = os.environ["RANK"], Path(sys.argv[1])
place = sys.argv[2]
if place == "step" and rank == "1":
    from alexnet.errors import DataError
    from alexnet.training.learner import Learner

    def refuse(*_):
        raise DataError("the second process cannot go on.")

    Learner.train_step = refuse
if place == "stop" and rank == "1":
    import signal
    from alexnet.training.learner import Learner
    step = Learner.train_step

    def struck(self, *arguments):
        if self.counters.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    Learner.train_step = struck
if place == "config" and rank == "0":
    from alexnet.runs.folder import Run

    def full(*_):
        raise OSError(28, "No space left on device")

    Run.write_config = full
code = 0
try:
    cli.main(sys.argv[3:])
except SystemExit as end:
    code = end.code
finally:
    (codes / f"code-{rank}").write_text(str(code))
sys.exit(code)
"""


# Several of these in turn in the same two processes, whose start takes longer than any of them: each with a store of
# its own, in which it finds nothing of the one before, and with a file for what it says. The processes end with the
# last one's exit code.
IN_TURN = """
import json, os, runpy, sys, traceback
from pathlib import Path

rank = os.environ["RANK"]
os.environ["MASTER_ADDR"] = "127.0.0.1"
for folder, os.environ["MASTER_PORT"], *arguments in json.loads(sys.argv[1]):
    said = os.open(f"{folder}/said-{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    script, end = f"{folder}/script.py", 0
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as last:
        end = last.code
    except BaseException:
        traceback.print_exc()
        end = 1
    sys.stdout.flush()
    Path(folder, f"end-{rank}").write_text(str(end))
sys.exit(end)
"""
WAYS = ("ended", "stopped", "failed", "interrupted")
# The last one ends with 2.
REFUSALS = [
    (["--init", "missing.pth"], 4, "error: there is no run, checkpoint or weights file missing.pth"),
    (["--data.source", "digitz"], 2, "error: unknown data source 'digitz'"),
    (["--device", "cuda:7"], 2, "error: --device cuda:7 cannot be used"),
]


def run_script(source, folder, *arguments):
    script = folder / "script.py"
    script.write_text(source)
    command = [*LAUNCH[:6], "--", str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    """How torchrun ended, and a function that gives a quick case's folder, both exit codes and what was said there."""
    root = tmp_path_factory.mktemp("in-turn")
    Run(root).write_config(override(TINY, OVERRIDES))
    cases = {"agree": (AGREE, [])}
    cases |= {f"{kind}-{who}": (REFUSE, [who, kind]) for kind in ("refusal", "mistake") for who in (0, 1)}
    if sys.platform == "linux":
        cases |= {way: (LEAVE, [way]) for way in WAYS}
    for arguments, *_ in REFUSALS:
        name = arguments[0]
        cases[name] = EXITS, ["both", "train", root / "config.yaml", "--run", root / name / "run", *arguments]
    stores, lines = [], []
    for name, (source, arguments) in cases.items():
        (root / name).mkdir()
        (root / name / "script.py").write_text(source)
        stores.append(torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        lines.append([str(part) for part in (root / name, stores[-1].port, root / name, *arguments)])
    ended = run_script(IN_TURN, root, json.dumps(lines))

    def case(name):
        assert len(list((root / name).glob("end-*"))) == 2, ended.stderr
        codes, said = ([(root / name / f"{what}-{rank}").read_text() for rank in (0, 1)] for what in ("end", "said"))
        return root / name, codes, "".join(said)

    return ended, case


@pytest.mark.timeout(300)
def test_processes_agree(in_turn):
    folder, codes, said = in_turn[1]("agree")
    assert codes == ["0", "0"], said
    assert {f.name for f in folder.glob("done-*")} == {"done-0", "done-1"}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no names there")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_who_leaves_takes_the_threads_along(in_turn, way):
    """One that lives on can abort the process at its end, when the work is done."""
    folder, codes, said = in_turn[1](way)
    assert codes == ["0", "0"], said
    assert [(folder / f"left-{rank}").read_text() for rank in (0, 1)] == ["0", "0"]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_main_process_alone_reads_and_writes_the_run(single, tmp_path):
    """Begun from weights, gone on with, and tested."""
    path = tmp_path / "run"
    for epochs in (1, 2):
        ended = run_script(
            ALONE,
            tmp_path,
            "train",
            single.path / "config.yaml",
            "--run",
            path,
            "--init",
            single.best,
            "--epochs",
            epochs,
        )
        assert ended.returncode == 0, ended.stderr + ended.stdout
    assert_consistent(Run(path))
    assert Run(path).test["count"] == single.test["count"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize("kind", ["refusal", "mistake"])
def test_what_one_process_raises_reaches_the_other(in_turn, culprit, kind):
    """As that, and not as a connection that is gone."""
    folder, codes, said = in_turn[1](f"{kind}-{culprit}")
    assert codes == ["0", "0"], said
    first, other = (json.loads((folder / f"raised-{rank}").read_text()) for rank in (culprit, 1 - culprit))
    if kind == "refusal":
        assert first == ["DataError", "no such data.", False]
        assert other == ["DataError", "no such data.", True]
    else:
        assert first[0] == "ZeroDivisionError"
        assert other[0] == "AlexNetError"
        assert other[1] == f"process {culprit}: ZeroDivisionError('a mistake of ours')."
        assert other[2] is True


def assert_told_once(said, line):
    assert said.count(line) == 1, said
    assert sum(line.startswith(("error: ", "stopped: ")) for line in said.splitlines()) == 1, said
    assert "gloo" not in said


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("arguments", "code", "line"), REFUSALS)
def test_a_refusal_is_one_line_and_one_exit_code(in_turn, arguments, code, line):
    _, codes, said = in_turn[1](arguments[0])
    assert codes == [str(code)] * 2, said
    assert_told_once(said, line)
    assert "Traceback (most recent call last)" not in said, said


@pytest.mark.timeout(300)
def test_torchrun_is_told_of_a_refusal_by_the_exit_code(in_turn):
    ended, _ = in_turn
    assert ended.returncode == 1
    assert "exitcode  : 2 " in ended.stderr
    assert ended.stderr.count("Traceback (most recent call last)") == 1, ended.stderr  # its own, of the exit code


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("place", "code", "line"),
    [
        ("config", 2, "No space left on device"),
        ("step", 3, "error: the second process cannot go on"),
        ("stop", 75, "stopped: stopped by "),
    ],
)
def test_what_ends_one_process_later_is_one_line_and_one_exit_code(single, tmp_path, place, code, line):
    run = tmp_path / "run"
    ended = run_script(EXITS, tmp_path, tmp_path, place, "train", single.path / "config.yaml", "--run", run)
    said = ended.stderr + ended.stdout
    assert [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)] == [str(code)] * 2, said
    assert_told_once(said, line)
    assert said.count("Traceback (most recent call last)") == 1, said  # torchrun's own, of the exit code
    if place == "stop":
        assert "exitcode  : -15" not in said
        assert Run(run).status["state"] == "stopped"
        assert load_checkpoint(Run(run).last).meta["counters"]["step"] == 3
    if place == "step":
        assert Run(run).status["state"] == "failed"
        assert "second process cannot go on" in Run(run).status["message"]
        assert load_checkpoint(Run(run).last).epoch == 0


def photographs(root, bad):
    """Class folders of 24 pictures each, the first few of one of which cannot be read."""
    for shade, name in ((40, "dark"), (200, "light")):
        (root / name).mkdir(parents=True)
        for number in range(24):
            file = root / name / f"{number:02}.jpg"
            Image.new("RGB", (40, 40), (shade, shade, shade + number)).save(file)
            if name == "dark" and number < bad:
                file.write_bytes(b"no picture")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("limit", "code"), [(0.45, "0"), (0.15, "3")])
def test_unreadable_photographs_are_counted_over_all_processes(tmp_path, limit, code):
    """Of 8 unreadable ones each process meets some; together they are more than the limit, or not."""
    photographs(tmp_path / "data", 8)
    data = {"root": tmp_path / "data", "crop": 32, "resize": 40, "max_bad": limit, "val_fraction": 0.0}
    settings = {f"data.{name}": value for name, value in data.items()}
    settings |= {"model.variant": "cifar", "model.width": 0.02, "epochs": 1, "batch_size": 12, "device": "cpu"}
    flags = [part for name, value in settings.items() for part in (flag(name), value)]
    ended = run_script(EXITS, tmp_path, tmp_path, "both", "train", "folder", "--run", tmp_path / "run", *flags)
    said = ended.stderr + ended.stdout
    assert [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)] == [code] * 2, said
    noted = [row["reason"] for row in Run(tmp_path / "run").metrics if row["kind"] == "unreadable"]
    assert len(noted) == len(set(noted))
    if code == "0":
        assert len(noted) == 8
        assert said.count("left out: ") == 8
    else:
        assert said.count("photographs of the train split cannot be read") == 1


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


def test_a_group_that_the_program_made_is_joined(monkeypatch, tmp_path):
    """As after mp.spawn, without what torchrun leaves in the environment."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, answer in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)):
        monkeypatch.setattr(torch.distributed, name, lambda answer=answer: answer)
    with join_world("cpu") as (world, device):
        assert (world.rank, world.size, device) == (1, 2, "cpu")
