"""The README and the docs tell the truth: the file tree, the commands, the flags."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from alexnet.cli import app
from alexnet.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FLAGS = (ROOT / "docs" / "flags.md").read_text()


def tree_files() -> set[str]:
    """The .py files of the README's tree, with their folders."""
    block = next(b for b in re.findall(r"^```\w*\n(.*?)^```", README, re.S | re.M) if b.startswith("src/alexnet/"))
    files, folders = set(), {}
    for line in block.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        folders = {depth: folder for depth, folder in folders.items() if depth < indent}
        path = "".join(folders.values()) + name
        if name.endswith("/"):
            folders[indent] = name
            assert (ROOT / path).is_dir(), path
        else:
            files.add(path)
            assert (ROOT / path).is_file(), path
    return {f for f in files if f.endswith(".py")}


def test_file_tree_is_complete() -> None:
    real = {str(p.relative_to(ROOT)) for p in (ROOT / "src").rglob("*.py")}
    packages = {p for p in real if p.endswith("/__init__.py") and p != "src/alexnet/__init__.py"}
    assert tree_files() == real - packages


def documented_commands() -> list[str]:
    text = README + FLAGS + "".join(p.read_text() for p in (ROOT / "records").rglob("*.md"))
    found = re.findall(r"(?:uv run |`|^\$ )(alexnet [a-z][^`#\n&]*)", text, re.M)
    bare = {f"alexnet {verb}" for verb in ("compare", "evaluate", "prepare", "predict", "preview", "features")}
    return sorted({c.strip() for c in found if "..." not in c and "MODEL" not in c} - bare)


@pytest.mark.parametrize("command", documented_commands())
def test_commands_parse(command: str) -> None:
    arguments = shlex.split(command)[1:]
    try:
        app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as problem:
        pytest.fail(f"{command}: {problem}")
    if arguments[0] == "train" and len(arguments) > 1 and arguments[1] not in ("RECIPE",):
        assert arguments[1].startswith("-") or arguments[1] in RECIPES


def test_two_commands_come_first() -> None:
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.S)[:2]
    assert first == "pip install uv && uv run alexnet train"
    assert second == "pip install uv && uv run pytest"
    assert second in (ROOT / ".ci" / "run").read_text()


def test_every_counterpart_flag_exists() -> None:
    ours = [cell for row in FLAGS.splitlines() if row.startswith("| `") for cell in row.split("|")[2:3]]
    flags = {f for cell in ours for f in re.findall(r"(--[a-z][a-z.-]+)", cell)} - {"--nproc-per-node"}
    assert len(flags) > 15
    known = {n for argument in app["train"].assemble_argument_collection() for n in argument.names}
    assert flags <= known
