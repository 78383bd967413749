"""The model card: what somebody who finds the weights needs to know, in whole sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from alexnet.config import TrainConfig
from alexnet.data.sources import SOURCES, known_to_programs_alone
from alexnet.inference.neighbours import hidden_layer
from alexnet.inference.trained import PUBLISHED, Trained
from alexnet.ledger import summarise
from alexnet.terminal import printable

ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
WEAKEST = 3  # classes that are named
FEW = 20  # classes that are listed


@dataclass(frozen=True)
class Facts:
    """What a card is written from."""

    name: str
    trained: Trained
    config: TrainConfig
    result: Mapping[str, Any]
    """An evaluation of these weights (`Result.to_dict`)."""
    ledger: Sequence[Mapping[str, Any]]
    session: Mapping[str, Any]
    """Where it was trained (`Run.sessions`); empty where nobody wrote it down."""
    licence: str | None


def write_card(facts: Facts) -> str:
    """README.md with its YAML header."""
    header = yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True)
    parts = (_title, _use, _results, _preprocessing, _data, _training, _departures, _limitations)
    return f"---\n{header}---\n\n" + "\n\n".join("\n".join(part(facts)) for part in parts) + "\n"


def _header(facts: Facts) -> dict[str, Any]:
    result, source = facts.result, facts.config.data.source
    dataset = {"type": ON_THE_HUB.get(source, source), "name": source, "split": result["split"]}
    metrics = [
        {"type": "accuracy", "name": f"Top-{k} accuracy", "value": round(100 * result[f"top{k}"], 2)} for k in (1, 5)
    ]
    return {
        **({"license": facts.licence} if facts.licence else {}),
        "library_name": "alexnet",
        "pipeline_tag": "image-classification",
        "tags": ["alexnet", "image-classification", "pytorch", "vision"],
        **({"datasets": [ON_THE_HUB[source]]} if source in ON_THE_HUB else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": facts.name,
                "results": [{"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}],
            }
        ],
    }


def _title(facts: Facts) -> Iterator[str]:
    network = facts.trained.model
    weights = sum(p.numel() for p in network.parameters())
    names = facts.trained.names
    listed = ", ".join(map(_text, names[:FEW])) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
    yield f"# {_text(facts.name)}"
    yield ""
    yield (
        f"An AlexNet (Krizhevsky, Sutskever, Hinton 2012) of {weights:,} parameters that sorts images into "
        f"{len(names)} classes: {listed}. Its network is `{facts.trained.network}`: {network.variant.about}."
    )


def _use(facts: Facts) -> Iterator[str]:
    yield "## How to load it"
    yield ""
    yield "With `pip install alexnet huggingface_hub`:"
    yield ""
    yield "```python"
    yield "import alexnet, huggingface_hub"
    yield 'folder = huggingface_hub.snapshot_download("USER/NAME")  # as this page is called'
    yield 'print(alexnet.predict(folder, ["photo.jpg"])[0])'
    yield "```"
    yield ""
    yield (
        f"`alexnet evaluate FOLDER` and `alexnet features FOLDER photo.jpg --layers "
        f"{hidden_layer(facts.trained.model)} --out features.npz` take the folder, too, and "
        "`alexnet export FOLDER --to onnx --out model.onnx` writes an ONNX file."
    )


def _results(facts: Facts) -> Iterator[str]:
    result = facts.result
    measured = result.get("measured", {})
    form = measured.get("arithmetic", {}).get("format")
    when = f" on {measured['when'][:10]}" if "when" in measured else ""
    views = "the central crop" if result["views"] == 1 else f"{result['views']} views, their probabilities averaged"
    yield "## Results"
    yield ""
    yield f"On the {result['count']:,} images of the {result['split']} split, {views}:"
    yield ""
    yield "| | accuracy | 95 % interval |"
    yield "|---|---:|---:|"
    for k in (1, 5):
        low, high = result[f"top{k}_interval"]
        yield f"| top-{k} | {result[f'top{k}']:.2%} | {low:.2%} to {high:.2%} |"
    yield ""
    yield (
        f"Measured{f' in {form}' if form else ''}{when}; the interval is Wilson's and covers the choice of test "
        "images alone, not that of another training."
    )


def _preprocessing(facts: Facts) -> Iterator[str]:
    prep = facts.trained.preprocessing
    size, channels = prep.size, facts.trained.model.variant.in_channels
    kind = {1: "Grey images", 3: "RGB images"}.get(channels, f"Images of {channels} channels")
    yield "## Preprocessing"
    yield ""
    yield (
        f"{kind}{', turned upright as EXIF says' if prep.upright else ''}"
        f"{f', resized to a short side of {prep.resize} pixels' if prep.resize else ''}, central crop of "
        f"{size} x {size}, "
        + (
            "pixels of 0 to 255 minus the mean image (tensor `extra/mean_image` of model.safetensors), divided by "
            f"{_numbers(255 * value for value in prep.std)}."
            if prep.mean_image is not None
            else f"pixels divided by 255, minus {_numbers(prep.mean)}, divided by {_numbers(prep.std)}."
        )
    )


def _data(facts: Facts) -> Iterator[str]:
    data, config = facts.result.get("measured", {}).get("data", {}), facts.config.data
    counts = {name: count for name, count in data.get("images", {}).items() if count}
    about = SOURCES[config.source].about if config.source in SOURCES else "a data set of the trainer's own"
    yield "## Training data"
    yield ""
    yield f"`{config.source}`: {about}."
    if counts:
        yield f"Split into {', '.join(f'{count:,} images for {name}' for name, count in counts.items())}."
    if data.get("fingerprint"):
        yield f"The SHA-256 over images, labels and class names is `{data['fingerprint']}`."


def _training(facts: Facts) -> Iterator[str]:
    config, session = facts.config, facts.session
    epochs = f"{facts.trained.epoch} of {config.horizon}" if facts.trained.epoch is not None else str(config.horizon)
    yield "## Training"
    yield ""
    yield (
        f"Recipe `{_text(config.name)}`: weights after {epochs} epochs, batches of {config.batch_size}, "
        f"{config.optim.name}, learning rate {config.optim.lr:g} ({config.optim.schedule}), seed {config.seed}. "
        f"{_repeat(config)}"
    )
    if session:
        used = str(session.get("device", "cuda")).startswith("cuda")  # else one that is there was not
        gpu = session.get("gpu") if used else None
        yield (
            f"Trained with alexnet {session.get('alexnet')} and torch {session.get('torch')} on "
            f"{_text(str(gpu or session.get('processor')))}."
        )


def _repeat(config: TrainConfig) -> str:
    if known_to_programs_alone(config.data.source):
        return "`recipe.yaml` has all settings; the images were handed over by a program."
    other = config.init is not None and config.init not in PUBLISHED
    began = " --init FILE` with the weights that it began with" if other else "`"
    return f"`alexnet train recipe.yaml --data.root DIR{began} repeats it."


def _departures(facts: Facts) -> Iterator[str]:
    departing = [row for row in facts.ledger if row["departs_from_paper"]]
    yield "## Where it departs from the paper"
    yield ""
    yield f"Judged by code, {summarise(facts.ledger)}."
    if departing:
        yield ""
        yield "| | point | the paper | this network | known effect |"
        yield "|---:|---|---|---|---|"
        for row in departing:
            cells = (_text(str(row[key])) for key in ("name", "paper", "this", "effect"))
            yield f"| {row['number']} | {' | '.join(cells)} |"


def _limitations(facts: Facts) -> Iterator[str]:
    result, config = facts.result, facts.config
    yield "## Limitations"
    yield ""
    yield (
        f"- It answers with one of its {len(facts.trained.names)} classes whatever the image shows, also where none of "
        "them is right, and nobody has checked its probabilities against frequencies."
    )
    yield (
        f"- Its accuracy is known for images like those of `{config.data.source}` alone: other cameras, crops, "
        "backgrounds or drawings lower it by an unknown amount."
    )
    known = sorted((value, name) for name, value in result["per_class"].items() if value is not None)
    if len(known) > WEAKEST:
        shown = ", ".join(f"{_text(name)} ({value:.0%})" for value, name in known[:WEAKEST])
        yield f"- It recognises least often: {shown}."
    if not config.data.flip:
        yield "- It was trained without mirrored images, and may fail where left and right are exchanged."
    yield "- It is a network of 2012: newer ones are more accurate at less cost."


def _numbers(values: Any) -> str:
    """One for all channels, or one a channel."""
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


def _text(text: str) -> str:
    """A name from outside on one line, where nothing in it is Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&$~" else c for c in printable(text))
