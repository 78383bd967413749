"""What each lever of the training is worth: CIFAR-10 with one of them at a time, beside plain training of several
lengths, all with several seeds.

    uv run python benchmarks/levers.py --root data --seeds 0-2

Trains in runs/levers (--out), one run after the other or --jobs at a time, and goes on there after an interruption. A
lever's accuracy is put beside that of plain training: the epochs which that needs for the same, between the lengths
that were trained, and so the minutes that the lever saves. The table is written to OUT/table.md. On a machine
that does nothing else. `--width 0.25` asks a network a quarter as wide, which is much sooner, and wants an --out of its
own; `--toy` shows in a few minutes that it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.files import write_atomically
from alexnet.recipes import recipe
from alexnet.runs.folder import Run
from alexnet.training.families import Spread, family_configs, parse_seeds, spread, train_family
from alexnet.training.signals import SignalGuard

PLAIN = "cifar10"
EPOCHS = 12
LENGTHS = (8, 12, 16, 24)
"""Epochs of plain training."""
LEVERS: dict[str, dict[str, Any]] = {
    "batches of 256": {"batch_size": 256},
    "triangular rate": {"optim.schedule": "triangular", "optim.peak": 0.2},
    "label smoothing": {"label_smoothing": 0.1},
    "average of the weights": {"ema": 0.99},
    "dropout 0.25": {"model.dropout": 0.25},
    "flips that take turns": {"data.alternate_flips": True},
    "CutMix": {"cutmix": 1.0},
    "CutMix of every second image": {"cutmix": 1.0, "mix_probability": 0.5},
    "mixup": {"mixup": 0.2},
    "images that grow": {"grow_from": 24, "grow_epochs": 4},
    "whitened first layer": {"start": ["whiten"]},
    "identities": {"start": ["identity"]},
    "LSUV": {"start": ["lsuv"]},
    "all three starts": {"start": ["whiten", "identity", "lsuv"]},
}
TOY = {"data.fraction": 0.02, "data.val_fraction": 0.2, "model.width": 0.125}


@dataclass(frozen=True)
class Row:
    """A configuration's test accuracy and minutes of training over its seeds."""

    what: str
    epochs: int
    top1: Spread
    minutes: float


def measure(configs: Mapping[str, TrainConfig], seeds: Sequence[int], out: Path, jobs: int) -> list[Row]:
    """Train what is not trained yet, and read off all of it."""
    families = {}
    for what, config in configs.items():
        families[what], notes = family_configs(config, None, seeds, out / what.replace(" ", "-"))
        assert not notes
    with SignalGuard() as guard:
        runs = train_family({path: c for family in families.values() for path, c in family.items()}, jobs, guard)
    return [_row(what, [runs[path] for path in family]) for what, family in families.items()]


def _row(what: str, runs: Sequence[Run]) -> Row:
    tested = [(run.test["top1"], run.status["elapsed"] / 60) for run in runs if run.test is not None]
    if len(tested) < len(runs):
        raise SystemExit(f"{what}: {len(runs) - len(tested)} run(s) diverged.")
    accuracies, minutes = zip(*tested, strict=True)
    return Row(what, runs[0].config.end, spread(accuracies), spread(minutes).mean)


def table(plain: Sequence[Row], others: Sequence[Row]) -> str:
    """Rows as Markdown; a lever's epochs of plain training are read off the line through its lengths."""
    lines = [
        "| what | epochs | test top-1, mean ± sd (n) | minutes | as plain training of | saves |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lengths, minutes = [row.epochs for row in plain], [row.minutes for row in plain]
    reached = np.maximum.accumulate([row.top1.mean for row in plain])
    for row in (*plain, *others):
        same = saved = ""
        if row not in plain:
            epochs = float(np.interp(row.top1.mean, reached, lengths))
            bound = "< " if row.top1.mean < reached[0] else "> " if row.top1.mean > reached[-1] else ""
            same = f"{bound}{epochs:.1f} epochs"
            saved = f"{float(np.interp(epochs, lengths, minutes)) - row.minutes:+.1f} minutes"
        accuracy = f"{100 * row.top1.mean:.2f} ± {100 * row.top1.deviation:.2f} % ({row.top1.count})"
        lines.append(f"| {row.what} | {row.epochs} | {accuracy} | {row.minutes:.1f} | {same} | {saved} |")
    return "\n".join(lines) + "\n"


def main(
    *,
    root: str = "data",
    seeds: str = "0-2",
    out: Path = Path("runs/levers"),
    jobs: int = 1,
    width: float = 1.0,
    toy: bool = False,
) -> None:
    given = {"data.root": root, "model.width": width, **(TOY if toy else {})}
    base = override(recipe(PLAIN), given)
    plain = {f"plain, {epochs} epochs": override(base, {"epochs": epochs}) for epochs in ((2, 4) if toy else LENGTHS)}
    shorter = override(base, {"epochs": 2 if toy else EPOCHS})
    levers = {what: override(shorter, values) for what, values in LEVERS.items()}
    if toy:
        levers["images that grow"] = override(levers["images that grow"], {"grow_epochs": 1})
    levers["cifar10-fast"] = override(recipe("cifar10-fast"), given)
    rows = measure(plain | levers, parse_seeds(seeds), out, jobs)
    found = table(rows[: len(plain)], rows[len(plain) :])
    write_atomically(out / "table.md", found.encode())
    print(found)


if __name__ == "__main__":
    cyclopts.run(main)
