"""The command: what it prints, what it ends with, and how little it imports for that."""

import json
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from alexnet.config.values import override
from alexnet.recipes import RECIPES
from conftest import STEPS

PAPER = {"parameters": 60_965_224, "macs": 724_406_816, "neurons": 659_272}
LIGHT = """
import json, sys
from alexnet.cli import main
try:
    main({arguments})
except SystemExit as end:
    print(end.code, file=sys.stderr)
heavy = [m for m in ("torch", "PIL", "matplotlib", "numpy") if m in sys.modules]
print("heavy", *heavy, file=sys.stderr)
"""


@pytest.fixture
def call(call):
    """As everywhere, with the errors unwrapped."""

    def run(*arguments):
        code, out, err = call(*arguments)
        return code, out, " ".join(err.replace("│", " ").split())

    return run


# Without torch.


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["list"],
        ["info", "--json"],
        ["trian"],
        ["train", "--epocs", "3"],
        ["train", "digit"],
    ],
    ids=" ".join,
)
def test_quick_answers_import_no_torch(run_cli, arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    end = run_cli(command=("-c", LIGHT.replace("{arguments}", repr(arguments))))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *_, last = end.stderr.splitlines()
    assert last == "heavy"
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.5


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["info", "--help"]], ids=" ".join)
def test_answers_end_in_zero(run_cli, arguments):
    end = run_cli(*arguments)
    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout


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


def test_pipe_that_closes():
    """`alexnet list | head -1` is no error."""
    command = f"{sys.executable} -m alexnet list | head -1"
    end = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert end.stderr == ""


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
        (["info", "paper", "--input-size", "20"], "the smallest that works is"),
        (["info", "paper", "--model.groups", "3"], "groups"),
        (["info", "paper", "--batch-size", "many"], "--batch-size"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_usage_errors_end_in_two(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


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


def test_traceback_only_on_request(run_cli):
    plain, debug = run_cli("train", "digit"), run_cli("train", "digit", "--debug")
    assert plain.stderr.startswith("error: unknown recipe 'digit'")
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback" in debug.stderr
    assert "UsageError: unknown recipe 'digit'" in debug.stderr
    assert (plain.returncode, debug.returncode != 0) == (2, True)


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
    assert json.loads((tmp_path / "out" / "test.json").read_text()) == said
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"test.json", "test-confusion.csv", "test-confusion.png"}


def test_evaluate_for_people(call, tmp_path, finished):
    code, out, _ = call("evaluate", finished.best, "--split", "val", "--out", tmp_path)
    assert code == 0
    assert all(part in out for part in ("top-1", "top-5", "accuracy", "error", "per class", "written:"))
    assert "%" in out


def test_evaluate_other_settings_leave_the_runs_own_result(call, tmp_path, finished):
    """test.json is what training ended with; ten views are another measurement."""
    shutil.copytree(finished.path, tmp_path / "run")
    code, _, _ = call("evaluate", tmp_path / "run", "--views", "10", "--json")
    assert code == 0
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == finished.test


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
