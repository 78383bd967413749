"""What a record keeps of runs and of reproductions: their text and pictures, without weights, without the names of the
machine and of its folders.

    uv run python records/keep.py runs/cifar10-seed1 runs/cifar10-seed2 --out records/2026-11-28-cifar10

A run becomes a folder of its name in OUT; a folder of `alexnet reproduce` fills OUT itself, and so does one of families
of runs with the table of them (benchmarks/levers.py). Of a reproduction that has not ended the trainings that have are
kept: it goes on in a copy of that record, with --run COPY, where its experiment measures run by run. What any of them
printed is kept as log.txt where it was written to a file beside it with its name and the ending .log. To be called in
the folder that the runs were started in. The README.md of a record, which says what was found, is written by hand.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import cyclopts

from alexnet.errors import AlexNetError, UsageError
from alexnet.runs.folder import Run

RESULTS = ("test.json", "val.json")  # of a run, which has one of them
VIEWS = "test-*views*.json"  # what `evaluate --views` measured of it afterwards
CONFUSIONS = ("test-confusion.png", "val-confusion.png")
TRAINING = ("metrics.jsonl", "sessions.jsonl", "status.json")  # of each training of a reproduction
RUN = (*TRAINING, *RESULTS, *CONFUSIONS, "config.yaml", "curves.png", "metrics.csv", "killed.json")
REPRODUCTION = ("figure.png", "result.json", "table.md")
PART = (*TRAINING, *RESULTS, "config.yaml")  # of each training of families, or of a reproduction that has not ended


def keep(source: Path, out: Path) -> list[Path]:
    """Copy what a record keeps of one folder, and return the files made.

    Raises UsageError for a folder that is neither a run nor families of them nor a reproduction of which something has
    ended, and for a file that is there already.
    """
    copies: dict[Path, Path] = {}
    if (source / "experiment.json").is_file():
        runs = [Run(config.parent) for config in sorted((source / "runs").glob("*/config.yaml"))]
        if (source / "result.json").is_file():
            files = {source / name for name in REPRODUCTION} | {run.path / name for run in runs for name in TRAINING}
        else:
            runs = [run for run in runs if run.status.get("state") == "finished" or diverged(run).exists()]
            files = {run.path / name for run in runs for name in PART} | {diverged(run) for run in runs}
            files |= {source / "experiment.json", *(source / "measurements").glob("*.json")}
            if not runs:
                raise UsageError(f"{source} has neither a result nor a training that has ended.")
        copies = {out / file.relative_to(source): file for file in files}
    elif (source / "table.md").is_file():
        runs = [Run(config.parent) for config in sorted(source.glob("*/*/config.yaml"))]
        files = {source / "table.md"} | {run.path / name for run in runs for name in PART}
        copies = {out / file.relative_to(source): file for file in files}
    elif (source / "status.json").is_file():
        runs, out = [Run(source)], out / source.name
        copies = {out / file.name: file for file in (*(source / name for name in RUN), *source.glob(VIEWS))}
    else:
        raise UsageError(
            f"{source} is neither a run nor a folder of alexnet reproduce or of families with their table.md."
        )
    copies[out / "log.txt"] = source.with_name(f"{source.name}.log")
    copies = {to: file for to, file in copies.items() if file.is_file()}
    if there := sorted(to for to in copies if to.exists()):
        raise UsageError(f"{there[0]} is there already: name another --out.")
    private = names_of_machine(runs)
    for to, file in copies.items():
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            shutil.copyfile(file, to)
        else:
            to.write_text(anonymous(file.read_text(encoding="utf-8"), private))
    return list(copies)


def diverged(run: Run) -> Path:
    """What is beside a reproduction's training that diverged."""
    return run.path.parents[1] / "jobs" / f"{run.path.name}.diverged"


def names_of_machine(runs: list[Run]) -> dict[str, str]:
    """What to say in the place of each folder that the runs were started with, the longest name first: "data", and
    nothing before what lies in the present folder."""
    configs = [run.config for run in runs]
    roots = {config.data.root.rstrip("/") for config in configs if Path(config.data.root).is_absolute()}
    weights = {str(Path(config.init).parent) for config in configs if config.init and Path(config.init).is_absolute()}
    names = {f"{Path.cwd()}/": ""} | {f"{folder}/": "" for folder in weights} | dict.fromkeys(roots, "data")
    return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))


def anonymous(text: str, private: dict[str, str]) -> str:
    """A text without these names and without the host's."""
    for name, instead in private.items():
        text = text.replace(name, instead)
    text = re.sub(r'"host": "[^"]*",\s*', "", text)
    return re.sub(r"^on \S+ \(", "on this machine (", text, flags=re.MULTILINE)


def main(*sources: Path, out: Path) -> None:
    try:
        for source in sources:
            files = keep(source, out)
            log = "" if any(file.name == "log.txt" for file in files) else f"; no {source}.log to keep"
            print(f"{source}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB{log}")
    except AlexNetError as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    cyclopts.run(main)
