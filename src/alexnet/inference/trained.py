"""A trained network with what is needed to use it: its preprocessing, its classes, what it was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet.config import TrainConfig, load
from alexnet.config.colours import CAFFE, IMAGENET
from alexnet.data.augment import Preprocessing
from alexnet.data.imagenet import published_names
from alexnet.data.splits import Dataset
from alexnet.download import download, verify
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.models.network import AlexNet, blank_model, build_model
from alexnet.models.weights import apply_weights, read_foreign
from alexnet.runs.checkpoint import completed_epochs, is_checkpoint, load_checkpoint
from alexnet.runs.folder import Run

# torchvision's AlexNet_Weights.IMAGENET1K_V1; the name ends in the first digits of the file's SHA-256.
PUBLISHED = {
    "torchvision": ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
}


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode on the CPU; `classes` identify the outputs where the file says so, `names` are to be
    read; `config` is what it was trained with."""

    origin: str
    network: str
    """Its name in the table of networks."""
    model: AlexNet
    preprocessing: Preprocessing
    names: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    config: TrainConfig | None = None
    precision: str | None = None
    """The number format that it was trained in, fp32 or bf16, where the file says so."""
    epoch: int | None = None
    """After how many epochs of training, where the file says so."""


def open_trained(target: Run | str | Path, model: str | None = None) -> Trained:
    """A run, a run folder, a checkpoint, a weights file, or "torchvision" for its published weights.

    A bare weights file is taken for ImageNet's: its network is `model`, or recognised by its shapes (torchvision's,
    the paper's two columns, Caffe's for .npz). Raises CheckpointError.
    """
    path = weights_file(target)
    if is_checkpoint(path):
        network, meta = restore(path)
        return Trained(
            str(path),
            meta["model"]["name"],
            network.eval(),
            Preprocessing.from_dict(meta["preprocessing"]),
            tuple(meta.get("names", meta["classes"])),
            tuple(meta["classes"]),
            load(meta["config"]),
            meta.get("precision"),
            completed_epochs(meta),
        )
    weights = read_weights(path)
    name = model or _recognise(weights, path)
    # The head goes by its place: another network's last layer may bear another name.
    outputs = len(torch.atleast_1d(weights.get("fc8.bias", list(weights.values())[-1])))
    network = blank_model(name, num_classes=outputs)
    apply_weights(network, weights, str(path))
    size = network.variant.input_size
    seen = CAFFE if name in ("bvlc", "caffenet", "paper") else IMAGENET
    known = published_names() if outputs == 1000 else None
    names = tuple(known) if known else tuple(f"class {i}" for i in range(outputs))
    return Trained(str(path), name, network.eval(), Preprocessing(size, max(256, size), seen.mean, seen.std), names)


def restore(path: Path) -> tuple[AlexNet, dict[str, Any]]:
    """The network of a checkpoint with its weights, and its description."""
    checkpoint = load_checkpoint(path)
    model = blank_model(**checkpoint.meta["model"])
    apply_weights(model, checkpoint.evaluated, str(path))
    return model, checkpoint.meta


def load_weights(model: AlexNet, path: str | Path, replace_head: bool = False) -> None:
    """Copy the weights of a file into a model; layer names and shapes must agree.

    With `replace_head` the last layer keeps the model's own weights, whatever the file has there.
    Raises CheckpointError naming what differs.
    """
    apply_weights(model, read_weights(Path(path)), str(path), replace_head)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one of our checkpoints or of another program's weights file, under our layer names.

    Raises CheckpointError for anything that is not such a file.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no run, checkpoint or weights file {path}.")
    return load_checkpoint(path).evaluated if is_checkpoint(path) else read_foreign(path)


def weights_file(target: Run | str | Path) -> Path:
    """The file that a run, a run folder, a path or a name of `PUBLISHED` stands for; the last is downloaded once, into
    torch's cache, and its hash checked at every use. Raises CheckpointError."""
    if isinstance(target, Run):
        return target.checkpoint()
    path = Path(target)
    if path.is_dir():
        return Run(path).checkpoint()
    if str(target) not in PUBLISHED or path.exists():
        return path
    url, digest = PUBLISHED[str(target)]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not path.exists():
            download(url, path, "name a file of your own", sha256=digest)
        else:
            verify(path, f"{path} (delete it to download it anew)", sha256=digest)
    except (DataError, OSError) as problem:
        raise CheckpointError(str(problem)) from None
    return path


def _recognise(weights: dict[str, torch.Tensor], path: Path) -> str:
    """The table that bare weights fit."""
    first, second = (tuple(weights[n].shape) if n in weights else () for n in ("conv1.weight", "conv2.weight"))
    if first == (64, 3, 11, 11) and second == (192, 64, 5, 5):
        return "torchvision"
    if first == (96, 3, 11, 11) and second == (256, 48, 5, 5):
        return "bvlc" if path.suffix == ".npz" else "paper"
    raise CheckpointError(
        f"{path} does not say what network it is of, and its shapes fit none: name it with --model, "
        "or use a checkpoint of alexnet train."
    )


def build_for(config: TrainConfig, dataset: Dataset, prep: Preprocessing, blank: bool = False) -> AlexNet:
    """The configured network with the sizes that the data gives it; `blank`: without initial weights, to be loaded."""
    return (blank_model if blank else build_model)(**model_fields(config, dataset, prep))


def model_fields(config: TrainConfig, dataset: Dataset, prep: Preprocessing) -> dict[str, Any]:
    """Arguments of `build_model`: the configured fields, completed by the data's.

    Raises UsageError if the two contradict each other.
    """
    given = {k: v for k, v in asdict(config.model).items() if v is not None and k != "freeze_to"}
    given["name"] = given.pop("variant")
    channels = dataset.train.channels
    fields = {"num_classes": len(dataset.classes), "in_channels": channels, "input_size": prep.size} | given
    if fields["in_channels"] != channels:
        raise UsageError(f"--model.in-channels {fields['in_channels']}: the images have {channels}.")
    if fields["num_classes"] != len(dataset.classes):
        raise UsageError(f"--model.num-classes {fields['num_classes']}: the data has {len(dataset.classes)} classes.")
    return fields
