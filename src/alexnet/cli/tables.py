"""What the command prints: results, comparisons, predictions and lists as tables for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.table import Table

from alexnet.terminal import Terminal, markup, printable

if TYPE_CHECKING:  # `alexnet list` does not wait for numpy or torch
    from alexnet.inference.comparison import Compared
    from alexnet.inference.ensembles import Ensemble
    from alexnet.inference.prediction import Prediction
    from alexnet.metrics import Result
    from alexnet.runs.folder import Run
    from alexnet.speed.networks import Speed


def show_names(kind: str) -> None:
    """The models, recipes and data sets that there are, or one of these lists."""
    from alexnet.data.sources import SOURCES
    from alexnet.models.variants import VARIANTS
    from alexnet.recipes import ORIGINS, RECIPES

    console = Terminal()

    def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
        shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in columns:  # broken between words, and where a column is too narrow for one, within
            most = 14 if name == "trains" and console.width < 100 else None
            shown.add_column(name, no_wrap=name == "name", max_width=most, overflow="fold")
        for row in rows:
            shown.add_row(*map(markup, row))
        console.print(shown, "")

    if kind in ("models", "all"):
        table(
            "models (alexnet info MODEL)",
            ["name", "input", "what it is"],
            [[n, str(v.input_size), v.about] for n, v in VARIANTS.items()],
        )
    if kind in ("recipes", "all"):
        table(
            "recipes (alexnet train RECIPE)",
            ["name", "trains", "epochs", "settings from"],
            [[n, f"{r.model.variant} on {r.data.source}", str(r.epochs), ORIGINS[n]] for n, r in RECIPES.items()],
        )
    if kind in ("data", "all"):
        table("data (--data.source NAME)", ["name", "what it is"], [[n, s.about] for n, s in SOURCES.items()])


def show_result(result: Result) -> None:
    """An evaluation: accuracies with their intervals, and every class."""
    console = Terminal()
    (low, high), (low5, high5) = result.interval, result.top5_interval
    table = Table("", "accuracy", "error", "95 % interval of the accuracy", box=None, pad_edge=False)
    table.add_row("top-1", f"{result.top1:.2%}", f"{result.top1_error:.2%}", f"{low:.2%} to {high:.2%}")
    table.add_row("top-5", f"{result.top5:.2%}", f"{result.top5_error:.2%}", f"{low5:.2%} to {high5:.2%}")
    arithmetic = result.measured.get("arithmetic", {})
    how = f" ({arithmetic['device']}, {arithmetic['reason']})" if arithmetic else ""
    console.print(
        f"{result.split}: {result.count} images, {result.views} view(s), loss {result.loss:.4f}{how}", soft_wrap=True
    )
    console.print(table)
    console.print("\ntop-1 accuracy per class")
    console.print(Columns([f"{markup(name, 40)} {value:.1%}" for name, value in result.per_class.items()], (0, 2)))
    show_notes(result.notes)


def show_ensemble(ensemble: Ensemble, names: Sequence[str]) -> None:
    """Networks one by one and with their probabilities averaged."""
    together = ensemble.averaged
    table = Table(
        title=f"{together.split}: {together.count} images, {together.views} view(s), accuracy with its 95 % interval",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", overflow="fold")
    for name in ("top-1", "", "error", "top-5", "", "error"):
        table.add_column(name, no_wrap=True)
    mean = [[getattr(r, name) for r in ensemble.single] for name in ("top1", "top5")]
    for name, result in zip(names, ensemble.single, strict=True):
        table.add_row(markup(name), *_line(result.top1, result.interval), *_line(result.top5, result.top5_interval))
    table.add_section()
    of_one = [
        value
        for group in mean
        for value in (f"{sum(group) / len(group):.2%}", "", f"{1 - sum(group) / len(group):.2%}")
    ]
    table.add_row("mean of one", *of_one)
    table.add_row(
        "[bold]averaged[/bold]", *_line(together.top1, together.interval), *_line(together.top5, together.top5_interval)
    )
    Terminal().print(table)
    show_notes(together.notes)


def _line(value: float, interval: tuple[float, float]) -> tuple[str, str, str]:
    low, high = interval
    return f"{value:.2%}", f"{100 * low:.1f}-{100 * high:.1f}", f"{1 - value:.2%}"


def show_notes(notes: Sequence[str]) -> None:
    """What somebody should know who reads the figures above."""
    console = Terminal()
    for note in notes:  # whole lines for a log, wrapped between words on a terminal
        console.print(f"[yellow]note:[/yellow] {markup(note)}", soft_wrap=not console.is_terminal)


def show_comparison(lines: Sequence[Compared]) -> None:
    """Networks side by side."""
    first = lines[0].result
    table = Table(
        title=f"{first.split}: {first.count} images, {first.views} view(s); accuracy with its 95 % interval, error",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 1, 0),
    )
    table.add_column("weights", overflow="fold")
    for name in ("network", "top-1", "top-5", "published"):
        table.add_column(name, no_wrap=True)
    noted: dict[str, list[str]] = {}
    for line in lines:
        r = line.result
        published = " / ".join(f"{100 * p:.2f}" for p in line.published) + " %" if line.published else ""
        table.add_row(
            f"{markup(line.origin)}\n{line.images_per_second:,.0f} images/s",
            f"{line.network}\n{line.parameters / 1e6:,.1f} M weights\n{line.macs / 1e6:,.0f} M MACs",
            _accuracy(r.top1, r.interval),
            _accuracy(r.top5, r.top5_interval),
            "\n".join([published, *line.verdict.split(", ")]),
        )
        for note in r.notes:
            noted.setdefault(note, []).append(line.origin)
    Terminal().print(table)
    show_notes([note if len(of) == len(lines) else f"{' and '.join(of)}: {note}" for note, of in noted.items()])


def _accuracy(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{value:.2%}\n{100 * low:.1f}-{100 * high:.1f}\nerror {1 - value:.2%}"


def show_predictions(answers: Sequence[Prediction]) -> None:
    """The classes of every image with their probabilities as numbers and bars."""
    console = Terminal()
    bar = "#" if console.options.ascii_only else "█"
    for answer in answers:
        truth = [f"its folder says {printable(answer.truth)}"] if answer.truth is not None else []
        notes = ", ".join([*answer.notes, *truth])
        console.print(f"[bold]{markup(answer.path)}[/bold]{f' ({markup(notes)})' if notes else ''}", soft_wrap=True)
        if answer.error:
            console.print(f"  [red]not read:[/red] {markup(answer.error)}", soft_wrap=True)
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
        for name, probability in zip(answer.classes, answer.probabilities, strict=True):
            table.add_row(f"{probability:6.1%}", markup(name, 40), f"[blue]{bar * round(30 * probability)}[/blue]")
        console.print(table)


def show_speed(speed: Speed) -> None:
    """Images a second, ratios, the machine's limit and what it comes to."""
    console = Terminal()
    table = Table(
        title=f"{speed.model}: batches of {speed.batch_size} on {speed.device}, medians of rounds in turn",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("")
    for name in ("images/s", "x baseline", "of the limit"):
        table.add_column(name, justify="right")
    for name, rates in speed.rates.items():
        ratio = speed.ratio(name)
        part = f"{rates.median / speed.bound:.0%}" if name.startswith("training") else ""
        table.add_row(name, f"{rates.median:,.0f}", f"{ratio:.2f}" if ratio else "", part)
    console.print(table)
    console.print(
        "baseline: as public code runs it: torch's own normalisation, float32, default layout, a process of its own",
        f"limit of training: {speed.bound:,.0f} images/s, at {speed.arithmetic / 1e9:,.0f} GFLOP/s (the better of a "
        f"matrix product and a convolution) and {speed.bandwidth / 1e9:,.0f} GB/s (a copy), both measured here"
        + (f"; Winograd's products leave {speed.left:.0%} of the multiplications to be done" if speed.left < 1 else ""),
        sep="\n",
        soft_wrap=True,
    )
    if speed.photographs:
        console.print(f"90 epochs of ImageNet at our best rate: {speed.hours:,.0f} hours")


def show_ledger(target: str, rows: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> None:
    """A block for each of the points in `shown`; how many of all `rows` depart stands above."""
    from alexnet.ledger import summarise

    console = Terminal()
    console.print(f"{markup(target)}: {summarise(rows)}", soft_wrap=not console.is_terminal)
    for row in shown:
        from_paper, from_release = row["departs_from_paper"], row["departs_from_release"]
        sources = [name for name, departs in (("paper", from_paper), ("release", from_release)) if departs]
        verdict = f"  [yellow]departs from {' and '.join(sources)}[/yellow]" if sources else ""
        console.print(f"\n[bold]{row['number']}. {markup(row['name'])}[/bold]{verdict}", soft_wrap=True)
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(no_wrap=True, style="dim")
        block.add_column()
        for name, label in (("paper", "paper"), ("release", "release"), ("this", "here"), ("effect", "effect")):
            block.add_row(f"  {label}", markup(str(row[name])))
        console.print(block)


def show_preparation(report: dict[str, Any], source: str, out: Path, side: int) -> None:
    """What came of preparing photographs, and what to type next."""
    from alexnet.models.ablations import resolve
    from alexnet.models.summary import smallest_input
    from alexnet.recipes import recipe

    console = Terminal()
    for part, told in report.items():
        left_out = f", {len(told['bad'])} left out" if told["bad"] else ""
        converted = f", {len(told['converted'])} converted to RGB JPEG" if told["converted"] else ""
        console.print(
            f"{part}: {told['images']} images, {told['bytes'] / 2**20:,.1f} MiB{left_out}{converted}", soft_wrap=True
        )
    if any(told["bad"] or told["converted"] for told in report.values()):
        console.print(f"which and why: {out / 'report.json'}", soft_wrap=True, markup=False)
    recipes = {"imagenet": "imagenet-paper", "stanford-dogs": "dogs"}
    named = [recipes[source]] if source in recipes else ["folder", *(("--data.source", source) * (source != "folder"))]
    if side < (least := smallest_input(resolve(recipe(named[0]).model.variant))):
        named, least = [*named, "--model.variant", "cifar"], smallest_input(resolve("cifar"))  # for small images
    crop = min(side, max(side * 224 // 256, least))
    sizes = ("--data.resize", str(side), "--data.crop", str(crop)) if side < 256 else ()  # which recipes ask for
    command = shlex.join(["alexnet", "train", *named, "--data.root", str(out), *sizes])
    console.print(f"next: {command}", soft_wrap=True, markup=False)


def show_family(runs: Sequence[Run]) -> None:
    """The results of several runs, which one that goes on after its end has none of, and their mean and spread."""
    from alexnet.config.values import flag
    from alexnet.runs.opening import OF_SEEDS, differing_settings
    from alexnet.training.families import spread

    ended = [(run, run.result if run.has_ended else None, run.status) for run in runs]
    rows = [
        (run.path.name, result["top1"], result["top5"], status.get("best_epoch", 0), status.get("elapsed", 0.0) / 60)
        for run, result, status in ended
        if result is not None
    ]
    splits = {str(result["split"]) for _, result, _ in ended if result is not None}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    of = f"{splits.pop()} " if len(splits) == 1 else ""
    for name in ("run", f"{of}top-1", f"{of}top-5", "best epoch", "minutes"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for name, top1, top5, epoch, minutes in rows:
        table.add_row(markup(name), f"{top1:.2%}", f"{top5:.2%}", str(epoch), f"{minutes:.1f}")
    differing = differing_settings([run.config for run, result, _ in ended if result is not None])
    others = [f"{flag(n)} {', '.join(map(str, values))}" for n, values in differing.items() if n not in OF_SEEDS]
    if len(rows) > 1 and of and not others:
        top1, top5, _, minutes = (spread(column) for column in zip(*[row[1:] for row in rows], strict=True))
        shown = [f"{100 * s.mean:.2f} ± {100 * s.deviation:.2f} %" for s in (top1, top5)]
        table.add_row(f"mean of {len(rows)}", *shown, "", f"{minutes.mean:.1f}", style="bold")
    console = Terminal()
    console.print(table)
    if splits:
        console.print(f"no mean: some were measured on {' and some on '.join(sorted(splits))}", soft_wrap=True)
    elif others:
        console.print(markup(f"no mean: their settings differ ({'; '.join(others)})"), soft_wrap=True)
    for run, result, status in ended:
        if result is None:
            console.print(f"{markup(str(run.path))}: no result", soft_wrap=True)
        elif "stopped" in status:
            console.print(f"{markup(str(run.path))}: {markup(status['stopped'])}", soft_wrap=True)


def show_description(description: dict[str, Any]) -> None:
    """A network's layers, counts and memory (`alexnet.describe`), with the paper's figures beneath where it is the
    paper's."""
    from alexnet.models.ablations import resolve
    from alexnet.models.describe import CLAIMS
    from alexnet.models.variants import VARIANTS

    console = Terminal()
    batch = description["batch_size"]
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{description['model']}: input {_times(description['input'])}",
        title_justify="left",
    )
    table.add_column("layer")
    table.add_column("kernel")
    for name in ("output", "parameters", "MACs", "neurons", f"MiB at {batch}"):
        table.add_column(name, justify="right")
    for row in description["layers"]:
        if row["kind"] in ("flatten",):
            continue
        table.add_row(
            row["name"],
            _kernel(row),
            _times(row["output"]),
            _count(row["parameters"]),
            _count(row["macs"]),
            _count(row["neurons"]),
            f"{row['memory'] / 2**20:.1f}" if row["memory"] else "",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        _count(description["parameters"]),
        _count(description["macs"]),
        _count(description["neurons"]),
        f"{description['activation_bytes'] / 2**20:.1f}",
    )
    console.print(table)
    console.print(
        f"\ntraining a batch of {batch} in float32 needs about {description['training_bytes'] / 2**30:.2f} GiB "
        "(what the backward pass needs, weights, gradients, momentum; on a CPU pooling keeps less)"
    )
    name = description["model"]
    if name in ("paper", "net145") and resolve(name, **description["fields"]) == VARIANTS[name]:
        console.print("the paper's figures:")
        for name, (claim, why) in CLAIMS.items():
            console.print(f"  {name} {description[name]:,} beside {claim:,}: {why}", soft_wrap=True)


def _kernel(row: dict[str, Any]) -> str:
    if row["kind"] == "pad":
        return f"right, bottom {row['padding']}"
    if not row["kernel"]:
        return ""
    parts = [f"{row['kernel']}x{row['kernel']}"]
    parts += [f"s{row['stride']}"] if row["stride"] > 1 else []
    parts += [f"p{row['padding']}"] if row["padding"] else []
    parts += [f"g{row['groups']}"] if row["groups"] > 1 else []
    return " ".join(parts)


def _times(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _count(value: int) -> str:
    return f"{value:,}" if value else ""
