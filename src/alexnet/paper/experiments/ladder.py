"""The ladder from 2012 to today: the paper's recipe, and one later change after another on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.values import flag, override
from alexnet.figures import new_figure
from alexnet.paper.arms import MOST_RATES, WHERE10, lowest_validation_error, search_rate, values
from alexnet.paper.experiment import Experiment, Job, Recall, Row, Table, Verdict, has_diverged, seeded
from alexnet.paper.plots import tidy
from alexnet.paper.statistics import Estimate, successive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.runs.folder import Run

SEEDS = 3
EPOCHS = 12
HELPS, HURTS, OPEN = "helps", "hurts", "no difference shown"
_COLOURS = {HELPS: "tab:green", HURTS: "tab:red", OPEN: "tab:gray"}


@dataclass(frozen=True)
class Rung:
    """One change to all that the rungs before it have."""

    name: str
    change: str
    """In words."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; without any the rate stays that of the rung before."""


BASE = TrainConfig(
    name="ladder",
    epochs=EPOCHS,
    precision="fp32",
    data=DataConfig(source="cifar10", val_fraction=0.1, resize=36, crop=32, flip=True, std=(1 / 255,), mean_image=True),
    model=ModelConfig(variant="cifar", width=0.25, init="code"),
    optim=OptimConfig(name="paper-sgd", decay_biases=False, schedule="step", drops=(9, 11)),
)
RUNGS = (
    Rung("paper", "the paper's recipe", rates=(0.005, 0.01, 0.02)),
    Rung("bf16", "arithmetic in bfloat16 in the place of float32", {"precision": "bf16"}),
    # Together, for in pilots neither went alone: at the paper's rate He's weights diverge on pixels of 0 to 255 within
    # six steps, and on standardised ones the released weights had learned nothing after 1,000, at 0.01 or at 0.04.
    Rung(
        "inputs",
        "standardised pixels and He's initial weights, biases of zero",
        {"data.std": None, "data.mean_image": False, "model.init": "modern"},
        (0.01, 0.02, 0.04),
    ),
    Rung(
        "one-cycle",
        "one cycle of the rate, and Nesterov's momentum",
        {"optim.name": "sgd", "optim.nesterov": True, "optim.schedule": "one-cycle", "optim.drops": ()},
        (0.025, 0.05, 0.1),
    ),
    Rung("no-lrn", "no response normalisation", {"model.lrn": "off"}),
    Rung("dropout", "less dropout: 0.2 in the place of 0.5", {"model.dropout": 0.2}),
    Rung("padding", "crops of images with a border, not of enlarged ones", {"data.resize": None, "data.pad": 4}),
    Rung("smoothing", "smoothed labels", {"label_smoothing": 0.1}),
    Rung("average", "the moving average of the weights", {"ema": 0.995}),
    Rung("cutmix", "CutMix on half of the images", {"cutmix": 1.0, "mix_probability": 0.5}),
    Rung("batch", "batches of 512 in the place of 128", {"batch_size": 512}, (0.05, 0.1, 0.2)),
)


def plan(finished: Mapping[str, Run], quick: bool) -> list[Job]:
    """Every rung with all seeds, at the rate of the rung before it or at the best of its own, which are tried once
    each, with a seed of their own."""
    jobs: list[Job] = []
    config = override(BASE, {"epochs": 2, "optim.drops": (1,), "data.fraction": 0.02} if quick else {})
    rate: float | None = None
    for rung in RUNGS:
        config = override(config, rung.settings)
        if rung.rates:
            rates, most = (rung.rates[:2], 2) if quick else (rung.rates, MOST_RATES)
            tried, rate = search_rate(partial(_job, rung, config), rates, finished, most)
            jobs += tried
        if rate is not None:
            jobs += seeded(rung.name, override(config, {"optim.lr": rate}), range(1, (2 if quick else SEEDS) + 1))
    return jobs


def _job(rung: Rung, config: TrainConfig, rate: float) -> Job:
    return Job(f"{rung.name}-rate{rate:g}", override(config, {"optim.lr": rate}))


def measure(runs: Mapping[str, Run], _: Recall) -> list[Row]:
    """One row a run: "arm" (the rung), "stage" (rates or seeds), "seed", "rate", and the "validation" and "test" error
    in percent, which are null where it diverged."""
    rows: list[Row] = []
    for rung in RUNGS:
        for name, run in runs.items():
            if name.rpartition("-")[0] == rung.name:
                lost = has_diverged(run)
                rows.append(
                    {
                        "arm": rung.name,
                        "stage": "rates" if "-rate" in name else "seeds",
                        "seed": run.config.seed,
                        "rate": run.config.optim.lr,
                        "validation": None if lost else round(lowest_validation_error(run), 4),
                        "test": None if lost or run.test is None else round(100 * (1 - run.test["top1"]), 4),
                    }
                )
    return rows


def effects(rows: Sequence[Row]) -> dict[str, Estimate]:
    """What each rung adds to the test error of the rung before, in points; nothing of rungs that have not two runs."""
    rows = [row for row in rows if row["stage"] == "seeds"]
    return successive({rung.name: values(rows, rung.name, "test") for rung in RUNGS})


def finding(effect: Estimate) -> str:
    """An effect in a word, by the rule of `EXPERIMENT`."""
    return HELPS if effect.high < 0 else HURTS if effect.low > 0 else OPEN


def judge(_: Sequence[Row]) -> dict[int, Verdict]:
    """Nothing: the ladder is about no claim of the paper."""
    return {}


def draw(rows: Sequence[Row]) -> Figure:
    """The ladder from above: left every run's test error and the means, right what each rung changes."""
    found = effects(rows)
    rows = [row for row in rows if row["stage"] == "seeds"]
    shown = [rung for rung in RUNGS if values(rows, rung.name, "test")]
    figure = new_figure(9.5, 1.2 + 0.36 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    means = [mean(values(rows, rung.name, "test")) for rung in shown]
    left.plot(means, range(len(shown)), "-", color="tab:gray", lw=1, zorder=1)
    right.axvline(0, color="tab:gray", lw=0.8)
    for place, rung in enumerate(shown):
        effect = found.get(rung.name)
        colour = _COLOURS[finding(effect)] if effect else "black"
        tests = values(rows, rung.name, "test")
        left.plot(tests, [place] * len(tests), "o", ms=4, color=colour, alpha=0.5, mew=0)
        left.plot([means[place]], [place], "|", ms=13, mew=2.5, color=colour)
        if effect:
            right.plot([effect.low, effect.high], [place, place], lw=2, color=colour, solid_capstyle="butt")
            right.plot([effect.value], [place], "o", ms=5, color=colour)
    left.set_yticks(range(len(shown)), [rung.change for rung in shown])
    left.set(ylim=(max(len(shown), 1) - 0.5, -0.5), xlabel="test error, % (bar: mean)")
    right.set(xlabel="effect, points (95 %)")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.25)
        tidy(axes)
    return figure


def table(rows: Sequence[Row]) -> Table:
    """One line a rung: the change, its settings, errors, and what it did."""
    found = effects(rows)
    rows = [row for row in rows if row["stage"] == "seeds"]
    lines = []
    for rung in (rung for rung in RUNGS if any(row["arm"] == rung.name for row in rows)):
        rates = {row["rate"] for row in rows if row["arm"] == rung.name}
        count = sum(row["arm"] == rung.name for row in rows)
        errors = [_spread(values(rows, rung.name, split), count) for split in ("validation", "test")]
        effect = found.get(rung.name)
        said = (
            (f"{effect.value:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})", finding(effect)) if effect else ("", "")
        )
        rate = ", ".join(f"{rate:g}" for rate in sorted(rates)) + (" (chosen)" if rung.rates else "")
        lines.append((rung.change, _flags(rung.settings), rate, *errors, *said))
    head = ("change", "setting", "rate", "validation error, %", "test error, %", "effect on it, points", "so it")
    return Table(head, tuple(lines))


def _spread(errors: Sequence[float], count: int) -> str:
    if not errors:
        return "diverged"
    part = f", {len(errors)} of {count}: the others diverged" if len(errors) < count else ""
    return f"{mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f}{part})"


def _flags(settings: Mapping[str, Any]) -> str:
    """Settings as one would type them; what is as the data or the optimiser has it without a flag is only named."""

    def typed(name: str, value: Any) -> str:
        if isinstance(value, bool):
            return flag(name) if value else flag(name.replace(".", ".no-"))
        return f"without {flag(name)}" if value in (None, ()) else f"{flag(name)} {value}"

    return ", ".join(typed(name, value) for name, value in settings.items())


EXPERIMENT = Experiment(
    id="ladder",
    title="from 2012 to today, one change at a time",
    claims=(),
    method=f"The paper's network for 32x32 images at a quarter of its width, trained for {EPOCHS} epochs as the paper "
    "says: pixels of 0 to 255 less the mean image, crops of images enlarged to 36x36 (9/8 of the crop, where the "
    "paper's 256 are 8/7 of 224) and reflections, momentum and weight decay of section 5, the rate divided by ten "
    "after 9 and after 11 epochs, dropout, response normalisation, biases of one; the initial weights are the released "
    "code's (0.03 in conv3 to conv5, where the text has 0.01). Then one later change after another is added and stays, "
    f"whether it helps or not, at the same size and number of epochs, with {SEEDS} seeds each. Two rungs hold two "
    "changes: inputs and weights, of which neither learned without the other at the paper's rate, and the one cycle "
    "with Nesterov's momentum, which usually come together. Four rungs choose their rate: the best of three on the "
    f"validation images, or of up to {MOST_RATES} while it lies at an end of those tried, of one run each with a seed "
    "of its own; all others keep the rate of the rung before. The weights with the lowest validation error are tested.",
    rule="The effect of a rung is its mean test error less that of the rung before, with a 95 % interval from the "
    "spread between seeds, one spread for the whole ladder (two samples, Student's t, pooled variance). A rung "
    f'"{HELPS}" if the interval lies below 0, "{HURTS}" if it lies above, and otherwise there is "{OPEN}". Each '
    "interval is on its own: of twenty changes without any effect one would be said to have one.",
    data="CIFAR-10: nine tenths of the training images, the others for validation, and the 10,000 of the test. "
    + WHERE10,
    hours=2.7,
    plan=plan,
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
    open_questions=(
        "Seen after the run: the seeds of the last rung lie seven points apart, and their spread widens every interval "
        "to 2.2 points either way. By that of the other ten rungs alone it would be 1.1, and the inputs, less dropout "
        "and smoothed labels would be said to help, no response normalisation and crops with a border to hurt.",
        "On standardised pixels, which come before it, the response normalisation is all but a constant factor of "
        "0.59: the rung without it takes away that factor, twice, at an unchanged rate, and says nothing of "
        "normalising.",
        "What a change does depends on those before it, and on the length: regularisation that hurts after "
        f"{EPOCHS} epochs may help after a hundred.",
    ),
)
