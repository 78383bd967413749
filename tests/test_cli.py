"""The command: what it prints, what it ends with, and how little it imports for that."""

import csv
import hashlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import cli
from alexnet.config.values import override
from alexnet.recipes import RECIPES, recipe
from alexnet.training import loop
from alexnet.training.progress import Reporter
from conftest import INT8, STEPS

PAPER = {"parameters": 60_965_224, "macs": 724_406_816, "neurons": 659_272}
# Commands in turn in one process, which writes on the last line how each of them ended, what was imported by then and
# how many seconds of a processor it took, the first one with its start.
IN_TURN = """
import json, resource, sys
from alexnet.cli import main
ends, before = [], 0.0
for line in sys.argv[1:]:
    sys.argv, code = ["alexnet", *line.split()], 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = [m for m in ("torch", "PIL", "matplotlib", "numpy") if m in sys.modules]
    ends.append((code, heavy, used.ru_utime + used.ru_stime - before))
    before = used.ru_utime + used.ru_stime
print(json.dumps(ends))
"""


@pytest.fixture
def call(call):
    """As everywhere, with the errors unwrapped."""

    def run(*arguments):
        code, out, err = call(*arguments)
        return code, out, " ".join(err.replace("│", " ").split())

    return run


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


# Without torch.


def in_turn(run_cli, lines, **options):
    """The process, and the end of each command."""
    done = run_cli(*lines, command=("-c", IN_TURN), **options)
    assert done.returncode == 0, done.stderr
    return done, dict(zip(lines, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_quick_answers_import_no_torch(run_cli):
    lines = ["--help", "train --help", "list", "info --json", "trian", "train --epocs 3", "train digit"]
    _, ends = in_turn(run_cli, lines)
    assert {line: heavy for line, (_, heavy, _) in ends.items() if heavy} == {}
    assert [line for line, (*_, seconds) in ends.items() if seconds >= 1.5] == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["info", "--help"]], ids=" ".join)
def test_answers_end_in_zero(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out


def test_an_answer_is_a_processs_whole_output(run_cli):
    end = run_cli("--version")
    assert (end.returncode, end.stdout, end.stderr) == (0, "0.1.0\n", "")


def test_help_lists_every_command(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(name in out for name in ("train", "evaluate", "info", "list"))


def test_help_of_train_lists_every_setting(call):
    from alexnet.config import TrainConfig
    from alexnet.config.values import flag, flatten

    _, out, _ = call("train", "--help")
    squeezed = "".join(out.replace("│", "").split())
    assert [flag(name) for name in flatten(TrainConfig()) if flag(name) not in squeezed] == []


@pytest.mark.parametrize("verb", ["list", "--help", *slow("info paper", "info --json")])
def test_pipe_that_closes(verb):
    """`alexnet list | head -1` is no error."""
    read, write = os.pipe()
    os.close(read)
    end = subprocess.run(
        [sys.executable, "-m", "alexnet", *verb.split()], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (end.returncode, end.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full disk")
@pytest.mark.parametrize("where", ["full disk", "closed pipe"])
def test_training_goes_on_where_nobody_hears_of_it(run_cli, finished, tmp_path, where):
    read, write = os.pipe()
    os.close(read)
    if where == "full disk":
        os.close(write)
        write = os.open("/dev/full", os.O_WRONLY)
    line = ["train", finished.path / "config.yaml", "--run", "run"]
    end = run_cli(*line, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "run" / "test.json").exists()
    assert (end.returncode, end.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full disk")
@pytest.mark.parametrize("verb", ["--help", "info --json", *slow("list", "info paper")])
def test_output_on_a_full_disk(verb):
    with open("/dev/full", "w") as full:
        end = subprocess.run(
            [sys.executable, "-m", "alexnet", *verb.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (end.returncode, end.stderr) == (1, "error: output: No space left on device.\n")


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb", "LANG": "C"}], ids=str)
def test_terminals_that_know_little(run_cli, variables):
    lines = ["--help", "train --help", "list", "info", "train dígit"]
    end, ends = in_turn(run_cli, lines, env={**os.environ, **variables})
    assert [code for code, *_ in ends.values()] == [0, 0, 0, 0, 2]
    assert "Traceback" not in end.stderr
    assert variables.get("PYTHONIOENCODING") is None or (end.stdout + end.stderr).isascii()


@pytest.mark.parametrize("after", [0.2, 1.0, *slow(0, 0.05, 0.5, 2.0, 4.0)])
def test_ctrl_c_at_any_time_leaves_no_traceback(after):
    """Amid imports of this package and of torch, and while measuring: it ends as any program does on Ctrl-C."""
    program = "from alexnet.__main__ import main; print('begun', flush=True); main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "benchmark", "cifar", "--batch-size", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.02 + after)  # the handler is set right after that line
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert err == ""
    assert "Traceback" not in out


@pytest.mark.parametrize("kind", ["models", "recipes", "data", "all"])
def test_list(call, kind):
    code, out, _ = call("list", kind)
    assert code == 0
    assert ("caffenet" in out) == (kind in ("models", "all"))
    assert ("cifar10-resized" in out) == (kind in ("recipes", "all"))
    assert ("cifar100, 100 classes" in out.replace("CIFAR-100", "cifar100")) == (kind in ("data", "all"))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], '"train"'),
        (["train", "--epocs", "3"], "--epochs"),
        (["train", "--optim.lrr", "3"], "--optim.lr"),
        (["train", "--lr", "3"], "--optim.lr"),
        (["train", "--lr=3"], "--optim.lr"),
        (["train", "--weight_decay", "0"], "--optim.weight-decay"),
        (["train", "--width", "2"], "--model.width"),
        (["train", "--source", "digits"], "--data.source"),
        (["train", "digit"], "'digits'"),
        (["train", "--model.variant", "papper"], "'paper'"),
        (["train", "--data.source", "digitz"], "'digits'"),
        (["train", "--optim.schedule", "cosin"], '"cosine"'),
        (["info", "papper"], "'paper'"),
        (["list", "modles"], '"models"'),
        (["evaluate", "x", "--splt", "val"], "--split"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_did_you_mean(call, tmp_path, monkeypatch, arguments, hint):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert f"Did you mean {hint}?" in err
    assert out == ""
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--epochs", "x"], "--epochs"),
        (["train", "--epochs", "0"], "--epochs 0"),
        (["train", "--batch-size", "-1"], "--batch-size -1"),
        (["train", "--optim.lr", "nan"], "--optim.lr nan"),
        (["train", "--data.val-fraction", "1"], "--data.val-fraction 1"),
        (["train", "--optim.schedule", "plateau", "--data.val-fraction", "0"], "--data.val-fraction"),
        (["train", "--device", "cuda:99"], "--device cuda:99"),
        (["train", "nothing.yaml"], "nothing.yaml"),
        (["train", "cifar10", "--data.top-classes", "5"], "photographs"),
        (["evaluate"], "TARGET"),
        (["evaluate", "x", "--views", "ten"], "--views"),
        (["evaluate", "x", "--views", "0"], "--views 0"),
        (["compare", "digits", "x", "--views", "3"], "--views 3"),
        (["train", "--batch-size", "1.5"], "--batch-size 1.5 must be a whole number"),
        (["train", "--epochs=2.5"], "--epochs 2.5 must be a whole number"),
        (["train", "--data.resize", "36.5"], "--data.resize 36.5 must be a whole number"),
        (["info", "--batch-size", "0"], "--batch-size 0 is out of range: it must be at least 1."),
        (["benchmark", "--rounds", "0"], "--rounds 0 is out of range: it must be at least 1."),
        (["predict", "x", "y", "--top", "0"], "--top 0 is out of range: it must be at least 1."),
        (["sample", "digits", "--out", "d", "--images", "0"], "--images 0 is out of range: it must be at least 1."),
        (["prepare", "folder", "--data.root", "x", "--out", "y", "--quality", "101"], "at least 1 and at most 100"),
        (["train", "--epochs", "0"], "it must be at least 1"),
        (["train", "--model.dropout", "nan"], "--model.dropout nan is out of range"),
        (["train", "--model.dropout", "1"], "at least 0 and below 1"),
        (["train", "--model.width", "1e6"], "--model.width 1000000.0 is out of range: it must be"),
        (["train", "--model.width", "nan"], "--model.width nan"),
        (["info", "paper", "--model.dropout", "nan"], "--model.dropout nan"),
        (["train", "--device", "meta"], "--device meta cannot be used"),
        (["train", "--data.mean", ".5", "x"], "--data.mean"),
        (["info", "paper", "--input-size", "20"], "the smallest that works is"),
        (["info", "paper", "--model.groups", "3"], "groups"),
        (["info", "--model.variant", "owt"], "the network is named first: alexnet info owt"),
        (["info", "--model.freeze-to", "conv5"], "--model.freeze-to is for training"),
        (["info", "paper", "--batch-size", "many"], "--batch-size"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_usage_errors_end_in_two(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_whole_numbers_may_be_written_as_such(call, monkeypatch):
    calls = given(monkeypatch)
    for value in ("256", "2.56e2", "256.0", "0x100"):
        assert call("train", "--batch-size", value)[0] == 0
    assert {config.batch_size for config, _ in calls} == {256}


def test_several_values_behind_one_flag(call, monkeypatch):
    calls = given(monkeypatch)
    call(
        "train",
        "cifar10",
        "--data.mean",
        ".5",
        ".4",
        ".3",
        "--optim.betas",
        ".8",
        ".9",
        "--optim.rules",
        "biases decay=0",
    )
    ((config, _),) = calls
    assert (config.data.mean, config.optim.betas, config.optim.rules) == (
        (0.5, 0.4, 0.3),
        (0.8, 0.9),
        ("biases decay=0",),
    )


def test_a_run_as_recipe_gets_the_right_command(call, tmp_path, monkeypatch, finished):
    code, _, err = call("train", finished.path)
    assert code == 2
    right = f"alexnet train {finished.path / 'config.yaml'} --run {finished.path}"
    assert right in err
    calls = given(monkeypatch)
    call(*right.split()[1:])
    ((config, run),) = calls
    assert (config, run) == (finished.config, finished.path)


@pytest.mark.parametrize("verb", [["list"], ["info"], ["train"]], ids=str)
def test_quiet(call, tmp_path, monkeypatch, finished, no_figures, verb):
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished.path / "config.yaml", tmp_path / "my.yaml")
    arguments = [*verb, "my.yaml"] if verb == ["train"] else verb
    assert call(*arguments, "--quiet") == (0, "", "")
    assert call("train", "digit", "--quiet")[2].startswith("error: ")
    assert json.loads(call("info", "--json", "--quiet")[1])["parameters"] == PAPER["parameters"]
    assert (tmp_path / "runs" / "digits" / "test.json").exists() == (verb == ["train"])


def test_a_busy_machine_is_told(call, capsys, monkeypatch):
    from alexnet.cli.command import note_load

    given(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert call("train") == (0, "", "")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * (os.cpu_count() or 1), 0.0, 0.0))
    note_load()
    said = capsys.readouterr().out
    assert said.count("note:") == said.count("OMP_NUM_THREADS=1") == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    note_load()
    assert "OMP_NUM_THREADS" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "cifar10", "--data.root", "void", "--data.no-download"], 3, "--data.root"),
        (["evaluate", "nothing.safetensors"], 4, "nothing.safetensors"),
        (["evaluate", "page.pth", "--recipe", "digits"], 4, "not a checkpoint"),
        (["evaluate", "page.safetensors"], 4, "not a checkpoint"),
        (["train", "--init", "page.pth"], 4, "not a checkpoint"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_exit_codes_of_data_and_weights(call, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    for name in ("page.pth", "page.safetensors"):
        (tmp_path / name).write_text("<html>404 Not Found</html>")
    found, _, err = call(*arguments)
    assert found == code
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_traceback_only_on_request(run_cli, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "digit"])
    plain, debug = capsys.readouterr().err, run_cli("train", "digit", "--debug")
    assert plain.startswith("error: unknown recipe 'digit'")
    assert len(plain.splitlines()) == 1
    assert "Traceback" in debug.stderr
    assert "UsageError: unknown recipe 'digit'" in debug.stderr
    assert (end.value.code, debug.returncode != 0) == (2, True)


# info


def test_info_counts_exactly(call):
    code, out, _ = call("info", "--json")
    said = json.loads(out)
    assert code == 0
    assert {name: said[name] for name in PAPER} == PAPER
    assert sum(layer["parameters"] for layer in said["layers"]) == PAPER["parameters"]


def test_info_shows_them(call):
    _, out, _ = call("info", "paper")
    assert all(f"{value:,}" in out for value in PAPER.values())


def test_info_takes_fields(call):
    _, out, _ = call(
        "info", "paper", "--json", "--model.groups", "1", "--model.num-classes", "10", "--input-size", "227"
    )
    said = json.loads(out)
    assert said["fields"] == {"groups": 1, "num_classes": 10, "input_size": 227}
    assert said["layers"][-1]["output"] == [10]


# train and evaluate


def given(monkeypatch):
    """What `train` is called with."""
    calls = []
    monkeypatch.setattr(
        "alexnet.training.loop.train",
        lambda config, run, given, guard: calls.append((override(config, given or {}), run)),
    )
    return calls


@pytest.mark.parametrize("name", RECIPES)
def test_only_what_is_typed_overrides_the_recipe(call, monkeypatch, name):
    calls = given(monkeypatch)
    assert call("train", name)[0] == 0
    assert call("train", name, "--epochs", "3", "--optim.lr", "0.5", "--data.no-flip", "--run", "there")[0] == 0
    (plain, nowhere), (typed, there) = calls
    assert (plain, nowhere) == (RECIPES[name], None)
    assert (typed.epochs, typed.optim.lr, typed.data.flip, str(there)) == (3, 0.5, False, "there")
    assert typed.optim.schedule == RECIPES[name].optim.schedule
    assert typed.data.pad == RECIPES[name].data.pad


def test_typed_defaults_override_too(call, monkeypatch):
    """--epochs 10 is TrainConfig's default, not the recipe's."""
    calls = given(monkeypatch)
    call("train", "digits", "--epochs", "10", "--data.pad", "0", "--optim.schedule", "constant")
    ((config, _),) = calls
    assert (config.epochs, config.data.pad, config.optim.schedule) == (10, 0, "constant")


def test_config_file_with_changes(call, monkeypatch, finished):
    calls = given(monkeypatch)
    call("train", finished.path / "config.yaml", "--seed", "4")
    ((config, _),) = calls
    assert (config.seed, config.model) == (4, finished.config.model)


def test_config_file_with_a_mistake(call, tmp_path):
    (tmp_path / "my.yaml").write_text("epocs: 3\n")
    code, _, err = call("train", tmp_path / "my.yaml")
    assert code == 2
    assert "Did you mean 'epochs'?" in err


def test_train_says_what_and_where(call, tmp_path, finished, no_figures):
    code, out, err = call("train", finished.path / "config.yaml", "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    joined = " ".join(out.split())
    for part in (
        "training digits: 325 images, 2 epochs",
        "epoch 2/2",
        "val accuracy",
        "test accuracy",
        "alexnet evaluate",
    ):
        assert part in joined
    code, out, _ = call("train", finished.path / "config.yaml", "--run", tmp_path / "run")
    assert code == 0
    assert "is finished" in out
    code, _, err = call("train", finished.path / "config.yaml", "--run", tmp_path / "run", "--optim.lr", "0.3")
    assert code == 2
    assert "--optim.lr 0.002 there and 0.3 now" in err


def test_numbers_out_of_range_end_in_five(call, tmp_path, finished, no_figures):
    line = ["train", finished.path / "config.yaml", "--run", tmp_path / "run", "--optim.lr", "1e30"]
    code, out, err = call(*line)
    assert code == 5
    assert "--optim.lr" in err
    assert out.count("not finite") == 3
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["skipped"]) == ("failed", 3)
    assert status["step"] <= STEPS


def test_evaluate_json(call, tmp_path, finished):
    code, out, err = call("evaluate", finished.path, "--json", "--out", tmp_path / "out")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert {"top1", "top5", "loss", "count", "split", "views", "per_class"} <= said.keys()
    assert 0 <= said["top1"] <= said["top5"] <= 1
    assert said["top1"] + said["top1_error"] == pytest.approx(1)
    assert said["count"] == 359
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    stem = names[-1].removesuffix(".json")
    assert names == [f"{stem}-confusion.csv", f"{stem}-confusion.png", f"{stem}.json"]
    assert stem.startswith("test-fp32-")
    assert json.loads((tmp_path / "out" / names[-1]).read_text()) == said


def test_evaluate_for_people(call, tmp_path, finished):
    code, out, _ = call("evaluate", finished.best, "--split", "val", "--out", tmp_path)
    assert code == 0
    assert all(part in out for part in ("top-1", "top-5", "accuracy", "error", "per class", "written:"))
    assert "%" in out


def test_evaluate_other_settings_leave_the_runs_own_result(call, tmp_path, finished):
    """test.json is what training ended with; ten views are another measurement."""
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    before = {f.name for f in run.iterdir()}
    settings = [[], ["--views", "10"], ["--split", "val"], ["--data.root", tmp_path], ["--skip-bad"]]
    formats = ["bf16", *(["int8"] if INT8 else [])]
    settings += [*(["--precision", form] for form in formats), []]
    for setting in settings:
        assert call("evaluate", run, "--json", *setting)[0] == 0
    assert json.loads((run / "test.json").read_text()) == finished.test
    results = [json.loads(f.read_text()) for f in run.glob("*.json") if f.name not in before]
    assert len(results) == len(settings) - 1  # the same measurement repeated replaces its own
    measured = [r["measured"] for r in results]
    digest = hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()
    assert {m["sha256"] for m in measured} == {digest}
    assert {m["target"] for m in measured} == {str(run / "best.safetensors")}
    assert {m["data"]["root"] for m in measured} == {str(tmp_path), str(Path("data").absolute())}
    assert {m["arithmetic"]["format"] for m in measured} == {"fp32", *formats}
    assert {(r["split"], r["views"]) for r in results} == {("test", 1), ("test", 10), ("val", 1)}
    assert {m["skip_bad"] for m in measured} == {True, False}
    assert all({"when", "alexnet", "skipped"} <= m.keys() and m["data"]["fingerprint"] for m in measured)


def test_mirrored_views_of_a_network_that_saw_no_mirrored_image(call, tmp_path, finished):
    """Digits fall by two points of a hundred."""
    for verb in (["evaluate", finished.path, "--out", tmp_path], ["compare", "digits", finished.path]):
        _, out, _ = call(*verb, "--views", "10")
        assert out.count("note:") == 1
        assert "--data.flip" in out
        assert "note:" not in call(*verb)[1]


def test_evaluate_weights_with_a_recipe(call, tmp_path):
    from alexnet import build_model

    torch.save(build_model("cifar", width=0.25, in_channels=1).state_dict(), tmp_path / "weights.pth")
    code, out, _ = call("evaluate", tmp_path / "weights.pth", "--recipe", "digits", "--json")
    assert code == 0
    assert json.loads(out)["count"] == 359
    code, _, err = call("evaluate", tmp_path / "weights.pth")
    assert code == 2
    assert "--recipe" in err


def test_evaluate_where_nothing_can_be_written(call, tmp_path, finished):
    (tmp_path / "file").touch()
    code, out, err = call("evaluate", finished.path, "--json", "--out", tmp_path / "file" / "out")
    assert code == 0
    assert json.loads(out)["count"] == 359
    assert "note: not everything was written" in err


# Names that nobody expects

HOSTILE = ("$x", "$a$", "$$", "$\\frac{$", "new\nline", "x" * 200, "שלום", "猫", "[red]", "\x1b[31m")
HOSTILE += (os.fsdecode(b"\xff\xfe"),)  # a folder whose name is not UTF-8


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A finished run on photographs in class folders of hostile names, and the photographs' folder."""
    root = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for name in HOSTILE:
        for number, part in enumerate(("train", "train", "val", "test")):
            folder = root / "data" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(folder / f"{number}.png")
    data = {"root": str(root / "data"), "resize": 36, "crop": 32, "workers": 1}
    model = {"variant": "cifar", "width": 0.0625}
    config = recipe("folder", epochs=1, batch_size=8, device="cpu", data=data, model=model)
    return loop.train(config, root / "run", reporter=Reporter(quiet=True)), root / "data"


@pytest.mark.parametrize("word", ["true", "Yes", "1"])
def test_json_may_be_asked_for_in_words(run_cli, word):
    ended = run_cli("--quiet", "info", "cifar", f"--json={word}")
    assert json.loads(ended.stdout)["model"] == "cifar"


def test_no_picture_takes_the_place_of_a_name(capsys):
    from alexnet.terminal import Terminal, markup

    Terminal().print(markup("animal:cat:persian [x]"))
    assert capsys.readouterr().out == "animal:cat:persian [x]\n"


def test_training_on_hostile_names_leaves_everything(hostile):
    run, _ = hostile
    names = {f.name for f in run.path.iterdir()}
    assert {"test.json", "test-confusion.csv", "test-confusion.png", "curves.png"} <= names
    assert set(run.test["per_class"]) == set(HOSTILE)
    assert run.status["state"] == "finished"


@pytest.mark.slow
def test_hostile_names_everywhere(call, run_cli, hostile, tmp_path, monkeypatch):
    run, data = hostile
    monkeypatch.chdir(tmp_path)
    evaluate = ["evaluate", run.path, "--out", "out"]
    predict = ["predict", run.path, data / "test", "--sheet", "sheet.png", "--top", "11"]
    for arguments in (
        evaluate,
        [*evaluate, "--json"],
        ["compare", "folder", run.path, "--data.root", data],
        predict,
        ["predict", run.path, data / "test", "--json"],
        ["preview", "folder", "--data.root", data, "--data.resize", "36", "--data.crop", "32", "--images", "11"],
        ["features", run.path, data / "test", "--out", "features.npz"],
        ["sample", "folder", "--data.root", data, "--out", "samples", "--images", "9"],
    ):
        code, out, err = call(*arguments)
        assert (code, err) == (0, ""), arguments
        assert "\x1b" not in out
    for arguments in (evaluate, predict):
        end = run_cli(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert (end.returncode, end.stderr) == (0, "")
        assert end.stdout.isascii()
    files = {f.name for f in tmp_path.iterdir()}
    assert {"sheet.png", "preview.png", "features.npz"} <= files
    (table,) = (tmp_path / "out").glob("*-confusion.csv")
    with table.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    shown = {name.encode(errors="backslashreplace").decode() for name in HOSTILE}
    assert set(header[1:]) == {row[0] for row in rows} == shown


def test_a_failing_picture_costs_no_result(call, monkeypatch, hostile, tmp_path):
    run, data = hostile

    def fail(*_):
        raise RuntimeError("no such glyph")

    monkeypatch.setattr("alexnet.figures.confusion.draw_confusion", fail)
    monkeypatch.setattr("alexnet.figures.predictions.draw_predictions", fail)
    code, out, err = call("evaluate", run.path, "--out", tmp_path)
    assert (code, err.count("note:")) == (0, 1)
    assert "no such glyph" in err
    assert "top-1" in out
    assert len(list(tmp_path.glob("test-*.json"))) == 1
    code, out, err = call("predict", run.path, data / "test" / "$a$", "--sheet", tmp_path / "s.png")
    assert (code, err.count("note:")) == (0, 1)
    assert out.count("%") == 5
    assert not (tmp_path / "s.png").exists()


# Tables at 80 columns


def test_lists_cut_no_name_at_80_columns(call, monkeypatch):
    from alexnet.recipes import ORIGINS

    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("list")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    words = out.split()
    for name in (*RECIPES, *(word for origin in ORIGINS.values() for word in origin.split())):
        assert name in words


def test_comparison_is_readable_at_80_columns(capsys, monkeypatch):
    from alexnet.cli.tables import show_comparison
    from alexnet.inference.comparison import Compared
    from alexnet.metrics import Result

    monkeypatch.setenv("COLUMNS", "80")
    result = Result("val", 0.5652, 0.7907, 1.9, 50_000, 1, ("a", "b"), np.full((2, 2), 12_500), notes=("Look out.",))
    origin = "runs/imagenet-torchvision/best.safetensors"
    lines = [
        Compared(origin, "torchvision", 61_100_840, 714_188_480, result, 1234.5, (0.56522, 0.79066)),
        Compared(origin, "caffenet", 60_965_224, 724_406_816, result, 99.0, (0.574, 0.804)),
    ]
    show_comparison(lines)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for part in ("torchvision", "61.1 M", "714 M", "56.52%", "79.07%", "43.48%", "57.40 / 80.40 %", "top-1 outside"):
        assert part in out
    weights = "".join(line[:19].strip() for line in out.splitlines())
    assert origin in weights
    assert out.count("note: Look out.") == 1


def test_settings_stand_in_groups_and_preview_shows_those_of_images(call):
    _, training, _ = call("train", "--help")
    heads = ["The run", "Training", "Images", "Network", "Optimiser and learning rate"]
    places = [training.index(f"─ {head} ─") for head in heads]
    assert places == sorted(places)
    assert training.index("--run PATH") < places[1] < training.index("--epochs INT") < places[2]
    assert places[2] < training.index("--data.pad INT") < places[3] < training.index("--model.width FLOAT") < places[4]
    _, images, _ = call("preview", "--help")
    assert "--data.pad INT" in images
    assert "--optim.lr" not in images


def test_an_input_that_is_too_small_is_mended_by_info_s_own_flag(call):
    code, _, err = call("info", "paper", "--input-size", "20")
    assert (code, "--input-size 20 is too small for this network: the smallest that works is 64" in err) == (2, True)
    assert "--data" not in err
    assert call("info", "paper", "--input-size", "64")[0] == 0


class Reached(Exception):
    """A verb has called what does its work."""


@pytest.mark.parametrize(
    ("line", "work", "wanted"),
    [
        ("predict t a.png --views 9 --top 3", "alexnet.inference.prediction.predict", {"views": 9, "top": 3}),
        ("predict t a.png --model owt", "alexnet.inference.trained.open_trained", {"model": "owt"}),
        (
            "compare folder w --split train --model owt --precision bf16 --skip-bad",
            "alexnet.inference.comparison.compare",
            {"split": "train", "model": "owt", "precision": "bf16", "skip_bad": True},
        ),
        (
            "prepare folder --data.root r --out o --quality 70 --side 99",
            "alexnet.data.packing.prepare",
            {"quality": 70, "side": 99},
        ),
        (
            "sample digits --out o --split val --seed 4",
            "alexnet.data.samples.write_samples",
            {"split": "val", "seed": 4},
        ),
        (
            "figure answers RUN --split val --index test --skip-bad",
            "alexnet.inference.retrieval.retrieve",
            {"split": "val", "index": "test", "skip_bad": True},
        ),
        (
            "evaluate RUN --data.source cifar10",
            "alexnet.inference.evaluation.evaluate",
            {"data": {"source": "cifar10"}},
        ),
        (
            "features RUN --split val --skip-bad --out o",
            "alexnet.inference.pictures.split_pictures",
            {"split": "val", "skip_bad": True},
        ),
        ("info cifar --batch-size 7", "alexnet.models.describe.describe", {"batch_size": 7}),
    ],
)
def test_flags_arrive(monkeypatch, tmp_path, finished, line, work, wanted):
    monkeypatch.chdir(tmp_path)
    module, name = work.rsplit(".", 1)
    signature, got = inspect.signature(getattr(import_module(module), name)), {}

    def take(*arguments, **named):
        got.update(signature.bind(*arguments, **named).arguments)
        raise Reached

    if name != "open_trained":
        monkeypatch.setattr("alexnet.inference.trained.open_trained", lambda *_: None)
    monkeypatch.setattr(work, take)
    with pytest.raises(Reached):
        cli.main([str(finished.path) if word == "RUN" else word for word in line.split()])
    assert {key: got[key] for key in wanted} == wanted


def test_torchrun_is_for_training_alone(monkeypatch, finished, call):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, error = call("evaluate", finished.path)
    assert code == 2
    assert "without torchrun" in error
