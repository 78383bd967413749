"""The README and the docs tell the truth: the file tree, the commands, the flags."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from cyclopts import CycloptsError
from PIL import Image

import alexnet
from alexnet.cli import app, main
from alexnet.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FLAGS = (ROOT / "docs" / "flags.md").read_text()
DOCS = "\n".join(p.read_text() for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
VERBS = {  # where each verb's work is done
    "train": "alexnet.training.loop.train alexnet.training.families.train_family",
    "evaluate": "alexnet.inference.evaluation.evaluate",
    "figure": "alexnet.runs.folder.load_run alexnet.inference.trained.open_trained alexnet.inference.retrieval."
    "retrieve",
    "benchmark": "alexnet.speed.networks.benchmark",
    "predict": "alexnet.inference.trained.open_trained",
    "export": "alexnet.cli.exporting.start_computing",
    "features": "alexnet.cli.features.start_computing",
    "report": "alexnet.runs.folder.load_run alexnet.cli.report.start_computing",
    "page": "alexnet.cli.page.start_computing",
    "compare": "alexnet.inference.comparison.compare",
    "prepare": "alexnet.data.packing.prepare",
    "verify": "alexnet.cli.verification.start_computing",
    "preview": "alexnet.data.preview.pipeline_stages",
    "sample": "alexnet.data.samples.write_samples",
    "info": "alexnet.cli.tables.show_description",
    "list": "alexnet.cli.tables.show_names",
    "claims": "alexnet.cli.claims.show_claim alexnet.cli.claims.show_claims",
    "reproduce": "alexnet.paper.reproduce.reproduce",
    "ledger": "alexnet.cli.ledger.ledger_of",
    "doctor": "alexnet.cli.doctor.examine",
}


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
    text = DOCS + "".join(p.read_text() for p in (ROOT / "records").rglob("*.md"))
    lines = text.replace("\\\n", "")  # a command goes on where its line ends with a backslash
    found = re.findall(r"(?:uv run |`|^\$ (?:time )?)(alexnet [a-z][^`#\n&]*)", lines, re.M)
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
        known = arguments[1] in RECIPES or (ROOT / arguments[1]).is_file()  # a recipe's, or a record's configuration
        assert arguments[1].startswith("-") or known


def printed_commands() -> list[str]:
    """Every command of README and docs, and every flag of a table of counterparts behind `alexnet train`; a
    placeholder stands for a recipe."""
    typed = re.findall(r"^(?:.*&& )?uv run (alexnet .*)$|`(?:[^`\n]* )?(alexnet [a-z][^`\n]*)`", DOCS, re.M)
    cells = [cell for row in FLAGS.splitlines() if row.startswith("| `") for cell in row.split("|")[2:3]]
    flags = [f"alexnet train {flag}" for cell in cells for flag in re.findall(r"`(--[^`]*)`", cell)]
    commands = [(a or b).partition("#")[0].strip() for a, b in typed] + flags
    spelt = {
        c.replace("train ...", "train").replace("RECIPE", "digits").replace("MODEL", "paper").replace("NAME", "paper")
        for c in commands
    }
    return sorted(
        c
        for c in spelt
        if c.count(" ") > 1 or c.split()[1] in ("train", "list", "info", "benchmark", "claims", "doctor")
    )


class Reached(Exception):
    """The verb's work would begin."""


@pytest.mark.parametrize("command", printed_commands())
def test_every_printed_command_reaches_its_work(command, monkeypatch, tmp_path) -> None:
    """As it is printed, through the command itself; only the work is left out."""
    for name in alexnet.__all__:  # loaded before anything is replaced, so that no module keeps the replacement
        getattr(alexnet, name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records").symlink_to(ROOT / "records")
    verb, *arguments = shlex.split(command)[1:]

    def reach(*_, **__):
        raise Reached

    for work in VERBS[verb].split():
        monkeypatch.setattr(work, reach)
    with pytest.raises(Reached) if "--help" not in arguments else nullcontext():
        main([verb, *arguments])


def test_printed_commands_are_found() -> None:
    commands = printed_commands()
    assert {c.split()[1] for c in commands} == set(VERBS)
    assert "alexnet train --data.mean .5 .5 .5" in commands
    assert "alexnet train" in commands
    assert len(commands) > 50


@pytest.fixture
def home(monkeypatch, tmp_path, finished, tiny, no_figures):
    """A user's folder with what the README speaks of: photographs and runs, small ones."""
    from alexnet.training.loop import train
    from alexnet.training.progress import Reporter

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number, folder in enumerate(["pictures/cat", "pictures/dog"] * 10 + ["holiday"] * 3):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((90, 70 + number)).save(tmp_path / folder / f"{number}.jpg")
    shutil.copytree(finished.path, tmp_path / "runs" / "digits")
    data = {"source": "folder", "root": str(tmp_path / "pictures"), "resize": 36, "crop": 32, "fraction": 1.0}
    train(tiny(name="folder", data=data, epochs=1, **{"model.in_channels": 3}), reporter=Reporter(quiet=True))
    return tmp_path


def test_commands_that_take_seconds_do_what_they_say(home, capsys) -> None:
    quick = [
        *("alexnet list", "alexnet info paper", "alexnet sample digits --out digits"),
        "alexnet predict runs/digits digits --sheet sheet.png",
        "alexnet preview folder --data.root ~/pictures",
        "alexnet predict runs/folder holiday/*.jpg --sheet sheet.png",
        "alexnet features runs/folder holiday --layers conv5,relu7 --out features.npz",
    ]
    for command in quick:
        assert f"uv run {command}" in DOCS
        main([a.replace("~", str(home)) for a in shlex.split(command)[1:]])
        out = capsys.readouterr().out
        for file in re.findall(r"^written: (.*)$", out, re.M):
            assert Path(file).stat().st_size > 0
            Path(file).unlink()
            assert file in command or file == "preview.png"
    folders = {path.parent.name for path in (home / "digits").rglob("*.png")}
    assert folders <= set("0123456789")
    assert len(list((home / "digits").rglob("*.png"))) == 8


def test_two_commands_come_first() -> None:
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.S)[:2]
    assert first == "pip install uv && uv run alexnet train"
    assert second == "pip install uv && uv run pytest"
    assert second in (ROOT / ".ci" / "run").read_text()


def test_the_line_about_the_claims_is_what_the_code_counts() -> None:
    from alexnet.paper.claims import CLAIMS
    from alexnet.paper.publishing import put_claims
    from alexnet.paper.results import findings

    line = re.search(r"<!-- claims -->\n(.*)\n<!-- end of claims -->", README)[1]
    scale, small = line.split("At its own scale: ")[1].removesuffix(".").split(". By small experiments: ")
    count = {state: int(number) for state, number in re.findall(r"([^,]+?) (\d+)(?:, )?", scale)}
    states = [one.imagenet.state for one in CLAIMS]
    assert count == {state: states.count(state) for state in states}
    count = {state: int(number) for state, number in re.findall(r"([^,]+?) (\d+)(?:, )?", small)}
    assert sum(count.values()) == len(CLAIMS), "each claim is counted once, however many experiments it has"
    found = [findings(one.number, own=False) for one in CLAIMS]
    assert count["not testable here"] == sum(not each for each in found)
    assert count["not yet run"] == sum(bool(each) and all(f.outcome is None for f in each) for each in found)
    shape = [n for n, each in enumerate(found, 1) if each and each[0].experiment.id == "S0"]
    assert count["reproduced by construction"] == len(shape) == 4
    assert put_claims(README) == README
    assert put_claims(README.replace(line, "old")) == README


def test_api_page_is_made_from_the_docstrings(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("api").render()
    assert page == (ROOT / "docs" / "api.md").read_text(), "uv run python docs/api.py makes it anew"
    assert set(re.findall(r"^### (\w+)$", page, re.M)) == set(alexnet.__all__)
    assert "| `epochs` | `int` | `10` | Passes over the training set" in page
    assert "**`Run.best: Path`**: Weights of the best validation epoch." in page


def test_links_inside_the_repository_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert dead == []


def test_every_network_is_in_the_table_of_networks() -> None:
    table = README.partition("\n## Networks\n")[2].partition("\n## ")[0]
    named = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    assert named == set(alexnet.list_models())


def test_every_counterpart_flag_exists() -> None:
    ours = [cell for row in FLAGS.splitlines() if row.startswith("| `") for cell in row.split("|")[2:3]]
    flags = {f for cell in ours for f in re.findall(r"(--[a-z][a-z.-]+)", cell)} - {"--nproc-per-node"}
    assert len(flags) > 15
    known = {n for argument in app["train"].assemble_argument_collection() for n in argument.names}
    assert flags <= known
