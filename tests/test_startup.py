"""How a command begins: what it imports, and what it says before torch is there."""

from __future__ import annotations

import json
import sys

import pytest

from alexnet.cli import app
from alexnet.cli.command import OPTIONS

# Commands one after the other in one process that cannot import torch: how each ended, and what it had said by then.
WITHOUT_TORCH = """
import contextlib, io, json, sys
from alexnet.cli import main

class Reached(BaseException):
    pass

class Gate:
    def find_spec(self, name, *_):
        if name == "torch":
            raise Reached

sys.meta_path.insert(0, Gate())
ends = {}
for line in LINES:
    sys.argv, said, end = ["alexnet", *line.split()], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except Reached:
            end = "torch"
        except SystemExit as code:
            end = code.code
    ends[line] = end, said.getvalue()
print(json.dumps(ends))
"""
SLOW = [
    "train digits --epochs 3",
    "evaluate runs/digits",
    "compare digits torchvision",
    "predict runs/digits a.png",
    "features runs/digits a.png --out f.npz",
    "figure kernels runs/digits",
    "preview digits",
    "reproduce S1",
    "ledger digits",
    "benchmark cifar",
]
NEEDLESS = (
    "torchvision",
    "matplotlib",
    "scipy",
    "sklearn",
    "pyarrow",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
)


def ends_without_torch(run_cli, lines):
    code = WITHOUT_TORCH.replace("LINES", repr(lines))
    ended = run_cli(command=("-c", code))
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_the_first_line_comes_before_torch(run_cli, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    ends = ends_without_torch(run_cli, SLOW)
    for line in SLOW:
        end, said = ends[line]
        first, *_ = said.splitlines()
        assert (end, first) == ("torch", f"alexnet 0.1.0: {line}")


def test_quick_answers_do_without_torch(run_cli):
    lines = ["--help", "--version", "list", "info paper", "claims 15", "train --help", "trian", "predict x --views ten"]
    ends = ends_without_torch(run_cli, lines)
    assert [ends[line][0] for line in lines] == [0, 0, 0, 0, 0, 0, 2, 2]
    assert not [line for line, (_, said) in ends.items() if said.startswith("alexnet 0.1.0: ")]
    assert ends["--version"][1] == "0.1.0\n"


def test_json_and_quiet_stay_alone(run_cli):
    lines = ["predict runs/digits a.png --json", "evaluate runs/digits --quiet"]
    ends = ends_without_torch(run_cli, lines)
    assert ends == {line: ["torch", ""] for line in lines}


def test_one_of_several_processes_says_it(run_cli, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ends_without_torch(run_cli, ["benchmark cifar"]) == {"benchmark cifar": ["torch", ""]}


def test_a_prediction_imports_nothing_needless(run_cli, finished, tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 9).save(tmp_path / "a.png")
    code = (
        "import sys\n"
        "from alexnet.cli import main\n"
        "main(sys.argv[1:])\n"
        f"print('needless', *[name for name in {NEEDLESS!r} if name in sys.modules])\n"
    )
    ended = run_cli("predict", finished.path, "a.png", command=("-c", code))
    assert ended.returncode == 0, ended.stderr
    *answers, last = ended.stdout.splitlines()
    assert answers[0] == "a.png"
    assert last.split() == ["needless"]


def verbs():
    return [name for name in app if not name.startswith("-")]


def test_every_verb_is_in_a_group():
    assert [name for name in verbs() if OPTIONS in app[name].group or not app[name].group] == []


def test_help_shows_groups_in_their_order(call):
    code, out, _ = call("--help")
    titles = ["Train and measure", "Look", "Data", "The paper", "This machine", "Options"]
    assert code == 0
    assert [
        line.split("─ ")[1].split(" ─")[0] for line in out.splitlines() if "╭" in line and "Hand on" not in line
    ] == titles
    assert out.index(" train ") < out.index(" compare ") < out.index(" predict ") < out.index(" --version ")


@pytest.mark.skipif(sys.platform == "win32", reason="shells of Unix")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_a_shell(call, tmp_path, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = call("--install-completion", "--shell", shell, "--output", tmp_path / "script")
    assert (code, err) == (0, "")
    script = (tmp_path / "script").read_text()
    assert [name for name in verbs() if name not in script] == []
    assert "--optim.lr" in script or "optim.lr" in script
