"""The verb verify: whether what lies on the disk is still what was written, and whether weights were ever trained."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alexnet.cli.command import DATA, Elsewhere, OfElsewhere, app, print_json, start_computing
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.terminal import Terminal, counting, printable

if TYPE_CHECKING:
    from alexnet.data.verification import Verdict
    from alexnet.inference.integrity import FileState, Scored
    from alexnet.inference.trust import LayerWeights, State

SHOWN = 10  # damaged images that are named, of each file


@app.command(group=DATA)
def verify(
    target: str,
    /,
    *,
    split: Literal["test", "val", "train"] | None = None,
    elsewhere: OfElsewhere = Elsewhere(),  # noqa: B008 (frozen)
    model: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Read all of a prepared folder, a run or a weights file and say what is whole, and whether weights were trained.

    Untrained weights load and answer like trained ones. Their layers are compared with what initial weights of any
    scheme look like, and, with --split or --data.source, their accuracy with chance. The exit code is 3 if anything is
    damaged, and 4 if weights look untrained or score no better than chance.

    Parameters
    ----------
    target
        A folder that alexnet prepare made, a run folder, a checkpoint, a weights file, or torchvision.
    split
        Measure the accuracy on this part of the run's own data or of --data.source.
    model
        Network of a bare weights file whose shapes do not tell it.
    device
        auto, cpu, cuda or cuda:N.
    json
        Print what is found of a run or of weights as JSON.
    """
    data = elsewhere.settings()
    is_folder = os.path.isdir(target)  # not Path.is_dir, which raises for names of more than 255 bytes
    is_run = is_folder and (Path(target) / "config.yaml").is_file()
    has_weights = is_folder and any(Path(target).glob("*.safetensors"))  # as a folder for the Hub has
    if is_folder and not (is_run or has_weights):
        if split or data or model or json:
            raise UsageError("--split, --data.root, --data.source, --model and --json are for runs and weights.")
        return _verify_prepared(Path(target))
    start_computing()
    from alexnet.inference.integrity import score_weights, verify_run, verify_weights
    from alexnet.inference.trained import open_trained, weights_file
    from alexnet.inference.trust import inspect_weights, judge
    from alexnet.runs.folder import load_run

    files = verify_run(load_run(target)) if is_run else [verify_weights(weights_file(target))]
    if not json:
        with suppress(BrokenPipeError):  # here and below: the exit code says it, too, and to whoever reads no further
            _show_files(files)
    damaged = [file.damaged for file in files if file.damaged]
    if damaged:
        if json:
            with suppress(BrokenPipeError):
                print_json({"files": [file.to_dict() for file in files]})
        raise DataError(f"{damaged[0]}{f' {len(damaged) - 1} more damaged.' if len(damaged) > 1 else ''}")
    trained = open_trained(target, model)
    layers = inspect_weights(trained.model)
    scored = score_weights(trained, split, data=data, device=device) if split or data else None
    state = judge(layers, trained.config.start if trained.config else ())
    with suppress(BrokenPipeError):
        if json:
            print_json(_to_dict(files, trained.origin, layers, state, scored))
        else:
            _show_layers(layers)
            _show_state(trained.origin, layers, state)
            if scored is not None:
                _show_score(scored)
    _refuse_untrained(trained.origin, state, scored)


def _refuse_untrained(origin: str, state: State, scored: Scored | None) -> None:
    """Raise CheckpointError for weights that nobody should use as trained ones."""
    if state == "untrained":
        raise CheckpointError(f"{origin} looks UNTRAINED: every layer is what initial weights are.")
    if state == "barely trained":
        raise CheckpointError(
            f"{origin} looks barely trained: biases have moved, but the weights of every layer are as initial ones."
        )
    if scored is not None and not scored.above_chance:
        raise CheckpointError(
            f"{origin} answers no better than chance on this data: it was not trained on it, its classes stand in "
            "another order, or its images were prepared otherwise."
        )


def _show_files(files: list[FileState]) -> None:
    for file in files:
        print(printable(f"{file.path}: {'DAMAGED' if file.damaged else file.known}"))


def _show_layers(layers: list[LayerWeights]) -> None:
    print(f"\n{'layer':<8}{'std':>10}{'kurtosis':>10}{'beyond noise':>14}  {'biases':<10}  as initial weights")
    for layer in layers:
        print(
            f"{layer.name:<8}{layer.std:>10.5f}{layer.kurtosis:>10.2f}{layer.spectrum:>14.1f}  {layer.biases:<10}  "
            f"{layer.resembles or '-'}"
        )


def _show_state(origin: str, layers: list[LayerWeights], state: State) -> None:
    from alexnet.inference.trust import EDGE

    console = Terminal()
    console.print(
        f"\nbeyond noise: the largest singular value, in standard units; independent numbers stay below {EDGE:.0f}. "
        "kurtosis: 0 normal, -1.2 uniform.",
        soft_wrap=not console.is_terminal,
    )
    if state != "trained":
        return
    fresh = ", ".join(layer.name for layer in layers if not layer.learned)
    learned = f"; nothing beyond noise in the weights of {fresh}" if fresh else ", every layer"
    console.print(printable(f"{origin}: trained{learned}"), soft_wrap=not console.is_terminal, markup=False)


def _show_score(scored: Scored) -> None:
    result = scored.result
    low, high = result.interval
    print(
        f"{result.split} accuracy {result.top1:.2%} (95 % interval {low:.2%}-{high:.2%}) of {result.count} images, "
        f"chance {scored.chance:.2%}"
    )


def _to_dict(
    files: list[FileState], origin: str, layers: list[LayerWeights], state: State, scored: Scored | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "files": [file.to_dict() for file in files],
        "weights": origin,
        "state": state,
        "layers": [layer.to_dict() for layer in layers],
    }
    if scored is not None:
        result = scored.result
        found["score"] = {
            "split": result.split,
            "top1": result.top1,
            "interval": list(result.interval),  # as it was called at first
            "top1_interval": list(result.interval),
            "count": result.count,
            "chance": scored.chance,
            "above_chance": scored.above_chance,
        }
    return found


def _verify_prepared(prepared: Path) -> None:
    from alexnet.data.verification import verify_prepared

    with counting() as on_progress:
        verdicts = verify_prepared(prepared, on_progress)
    with suppress(BrokenPipeError):
        _show_verdicts(verdicts)
    damaged = [str(verdict.path) for verdict in verdicts if verdict.damaged]
    wrong = [verdict.unfit for verdict in verdicts if verdict.unfit]
    if damaged:
        wrong.insert(0, f"{', '.join(damaged)} damaged: delete what is damaged and run alexnet prepare again.")
    if wrong:
        raise DataError(" ".join(wrong))


def _show_verdicts(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.unfit:  # which the error says that ends the command
            continue
        count = f"{verdict.images:,} images" if verdict.images else "unreadable"
        state = f"{len(verdict.damaged):,} damaged" if verdict.damaged else verdict.unknown or "whole"
        print(printable(f"{verdict.path}: {count}, {state}"))
        for sentence in verdict.damaged[:SHOWN]:
            print(printable(f"  {sentence}"))
        if len(verdict.damaged) > SHOWN:
            print(f"  ... and {len(verdict.damaged) - SHOWN:,} more")
