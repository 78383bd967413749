"""What each lever of the training is worth: CIFAR-10 with one of them at a time, beside plain training of several
lengths, all with several seeds.

    uv run python benchmarks/levers.py --root data --seeds 0-2

Trains in runs/levers (--out), one run after the other or --jobs at a time, and goes on there after an interruption. A
fifth of the training images validates, and the accuracies are those of the last epoch on it: what is chosen by this
table is not chosen on the test images, which no run looks at. A lever's accuracy is put beside that of plain training:
the epochs which that needs for the same, between the lengths that were trained, and so the minutes that the lever
saves. The table is written to OUT/table.md. On a machine that does nothing else; with --jobs 2 the minutes are those of
half a machine. `--width 0.25` asks a network a quarter as wide, which is much sooner, and wants an --out of its own;
`--toy` shows in a few minutes that it runs.

So few epochs favour what speeds up over what regularises: of CutMix, mixup and dropout they say nothing about long
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.values import override
from alexnet.errors import AlexNetError
from alexnet.files import write_atomically
from alexnet.inference.evaluation import evaluate
from alexnet.recipes import recipe
from alexnet.runs.folder import Run
from alexnet.training.families import Spread, family_configs, parse_seeds, spread, train_family
from alexnet.training.signals import SignalGuard

PLAIN = TrainConfig(
    name="plain",
    batch_size=128,
    data=DataConfig(source="cifar10", val_fraction=0.2, pad=4, flip=True),
    model=ModelConfig(variant="cifar"),
    optim=OptimConfig(lr=0.05, schedule="one-cycle", nesterov=True, decay_biases=False),
)
"""Crops, flips, dropout of a half and one cycle of the rate. A fifth of the images validates."""
EPOCHS = recipe("cifar10-fast").epochs
"""Of every lever: what the recipe has that they were chosen for."""
LENGTHS = (4, EPOCHS, 7, 10)
"""Epochs of plain training."""
VIEWS = {"mirrored views in the test": 2, "mirrored and shifted views in the test": 10}
"""Levers that need no training of their own."""
LEVERS: dict[str, dict[str, Any]] = {
    "batches of 256, rate x 1.4": {"batch_size": 256, "optim.lr": 0.07},
    "triangular rate": {"optim.schedule": "triangular", "optim.peak": 0.2},
    "label smoothing": {"label_smoothing": 0.1},
    "average of the weights": {"ema": 0.99},
    "dropout 0.25": {"model.dropout": 0.25},
    "no dropout": {"model.dropout": 0.0},
    "weight decay x 4": {"optim.weight_decay": 2e-3},
    "flips that take turns": {"data.alternate_flips": True},
    "CutMix": {"cutmix": 1.0},
    "CutMix of every second image": {"cutmix": 1.0, "mix_probability": 0.5},
    "mixup": {"mixup": 0.2},
    "images that grow from 24 pixels": {"grow_from": 24, "grow_epochs": 3.4},
    "images that grow from 20 pixels": {"grow_from": 20, "grow_epochs": 3.4},
    "whitened first layer": {"start": ["whiten"]},
    "identities": {"start": ["identity"]},
    "LSUV": {"start": ["lsuv"]},
    "all three starts": {"start": ["whiten", "identity", "lsuv"]},
}
TOY = {"data.fraction": 0.02, "data.val_fraction": 0.2, "model.width": 0.125}


@dataclass(frozen=True)
class Row:
    """A configuration's validation accuracy after its last epoch and minutes of training, over its seeds."""

    what: str
    epochs: int
    top1: Spread
    minutes: float


def train(configs: Mapping[str, TrainConfig], seeds: Sequence[int], out: Path, jobs: int) -> dict[str, list[Run]]:
    """The runs of every configuration, one a seed: those that are not there yet are trained."""
    families = {}
    for what, config in configs.items():
        families[what], notes = family_configs(config, None, seeds, out / what.replace(" ", "-"))
        assert not notes
    with SignalGuard() as guard:
        runs = train_family({path: c for family in families.values() for path, c in family.items()}, jobs, guard)
    for path, run in runs.items():
        if run.result is None:
            raise SystemExit(f"{path} diverged.")
    return {what: [runs[path] for path in family] for what, family in families.items()}


def trained(what: str, runs: Sequence[Run]) -> Row:
    """What runs had learned at their end, by their own validation."""
    return _row(what, runs, [run.epochs[-1]["val_top1"] for run in runs])


def viewed(what: str, runs: Sequence[Run], views: int) -> Row:
    """What the same runs answer to several views."""
    return _row(what, runs, [evaluate(run.last, "val", views=views).top1 for run in runs])


def _row(what: str, runs: Sequence[Run], accuracies: Sequence[float]) -> Row:
    return Row(what, runs[0].config.end, spread(accuracies), spread([run.status["elapsed"] / 60 for run in runs]).mean)


def table(plain: Sequence[Row], others: Sequence[Row]) -> str:
    """Rows as Markdown; a lever's epochs of plain training are read off the line through its lengths."""
    lines = [
        "| what | epochs | validation top-1, mean ± sd (n) | minutes | as plain training of | saves |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lengths, minutes = [row.epochs for row in plain], [row.minutes for row in plain]
    reached = [row.top1.mean for row in plain]
    # Lengths that gave more than every shorter one: of the others no accuracy says how long it takes.
    rising = [i for i, mean in enumerate(reached) if mean > max(reached[:i], default=-1)]
    for row in (*plain, *others):
        same = saved = ""
        if row not in plain:
            epochs = float(np.interp(row.top1.mean, [reached[i] for i in rising], [lengths[i] for i in rising]))
            bound = "< " if row.top1.mean < reached[0] else "> " if row.top1.mean > max(reached) else ""
            same = f"{bound}{epochs:.1f} epochs"
            saved = f"{bound}{float(np.interp(epochs, lengths, minutes)) - row.minutes:+.1f} minutes"
        accuracy = f"{100 * row.top1.mean:.2f} ± {100 * row.top1.deviation:.2f} % ({row.top1.count})"
        lines.append(f"| {row.what} | {row.epochs} | {accuracy} | {row.minutes:.1f} | {same} | {saved} |")
    return "\n".join(lines) + "\n"


def _plain(epochs: int) -> str:
    return f"plain, {epochs} epochs"


def main(
    *,
    root: str = "data",
    seeds: str = "0-2",
    out: Path = Path("runs/levers"),
    jobs: int = 1,
    width: float = 1.0,
    toy: bool = False,
) -> None:
    given = {"data.root": root, "model.width": width, "data.val_fraction": PLAIN.data.val_fraction, "test": False}
    given |= TOY if toy else {}
    base = override(PLAIN, given)
    lengths, epochs = ((2, 4), 2) if toy else (LENGTHS, EPOCHS)
    plain = {_plain(length): override(base, {"epochs": length}) for length in lengths}
    shorter = override(base, {"epochs": epochs})
    levers = {what: override(shorter, values) for what, values in LEVERS.items()}
    if toy:
        growing = {what: config for what, config in levers.items() if config.grow_from}
        levers |= {what: override(config, {"grow_epochs": 1}) for what, config in growing.items()}
    levers["cifar10-fast"] = override(recipe("cifar10-fast"), given)
    runs = train(plain | levers, parse_seeds(seeds), out, jobs)
    others = [trained(what, runs[what]) for what in levers]
    others += [viewed(what, runs[_plain(epochs)], views) for what, views in VIEWS.items()]
    found = table([trained(what, runs[what]) for what in plain], others)
    write_atomically(out / "table.md", found.encode())
    print(found)


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except AlexNetError as error:  # missing data, Ctrl-C: its sentence says what to do
        raise SystemExit(str(error)) from None
