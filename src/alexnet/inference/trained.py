"""A trained network with what is needed to use it: its preprocessing, its classes, what it was trained on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alexnet.config import TrainConfig, load
from alexnet.config.colours import CAFFE, IMAGENET
from alexnet.config.values import flatten
from alexnet.data.augment import Preprocessing
from alexnet.data.splits import Dataset
from alexnet.data.wnids import published_names
from alexnet.errors import CheckpointError, DataError, UsageError, differing, listed
from alexnet.files import download, file_digest, read_settled, verify
from alexnet.models.ablations import resolve
from alexnet.models.network import AlexNet, InFloat32, blank_model, build_model
from alexnet.models.summary import parameter_shapes
from alexnet.models.table import Variant
from alexnet.models.weights import apply_weights, build_from, read_foreign, rename
from alexnet.runs.checkpoint import completed_epochs, is_checkpoint, load_checkpoint
from alexnet.runs.folder import Run, load_run
from alexnet.runs.restoring import preprocessing_of, restore
from alexnet.terminal import printable

# torchvision's AlexNet_Weights.IMAGENET1K_V1, and the file's SHA-256, of which its name has the first digits.
PUBLISHED = {
    "torchvision": (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
}
HUB_WEIGHTS = "model.safetensors"
"""The checkpoint in a folder of `alexnet export --to hub`."""


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
    fingerprint: str | None = None
    """That of the data it was trained on, where the file says so (`Dataset.fingerprint`)."""
    sha256: str | None = None
    """That of the file that it was read from, as `sha256sum` prints it; None where there was none."""

    def known_class(self, name: str) -> str | None:
        """The class to be read that a folder's name stands for, be it the identity (a WNID) or the readable name; None
        if it is neither."""
        identities = dict(zip(self.classes or (), self.names, strict=False))
        return identities.get(name, name if name in self.names else None)


def open_trained(target: Run | str | Path, model: str | None = None) -> Trained:
    """A run, a run folder, a folder for the Hugging Face Hub, a checkpoint, a weights file, or "torchvision" for its
    published weights.

    A bare weights file is taken for ImageNet's: its network is `model`, or recognised by its shapes (torchvision's,
    the paper's two columns, Caffe's for .npz, of which a note says that CaffeNet's would be the same). Raises
    CheckpointError, and UsageError for a `model` of a checkpoint.
    """
    path = weights_file(target)
    trained, digest = read_settled(path, lambda path: (_open(path, model), file_digest(path)))
    return replace(trained, sha256=digest)


def _open(path: Path, model: str | None) -> Trained:
    if is_checkpoint(path):
        if model is not None:
            raise UsageError(f"{path} says which network it is: leave --model {model} out.")
        network, checkpoint = restore(path)
        meta = checkpoint.meta
        return Trained(
            str(path),
            meta["model"]["name"],
            network.eval(),
            preprocessing_of(checkpoint),
            tuple(meta.get("names", meta["classes"])),
            tuple(meta["classes"]),
            load(meta["config"]),
            meta.get("precision"),
            completed_epochs(meta),
            meta.get("fingerprint"),
        )
    weights = read_weights(path)
    name = model or _recognise(weights, path)
    if model is None and (alike := _ALIKE.get(name)):
        said = f"{printable(str(path))} is taken for {alike[0]}, whose shapes are the same, is --model {alike[1]}."
        print(f"note: {said}", file=sys.stderr)
    head = list(parameter_shapes(resolve(name)))[-1]  # which another network's file calls otherwise, but has last
    outputs = weights.get(head, list(weights.values())[-1]).shape[:1].numel()
    network = build_from(resolve(name, num_classes=max(1, outputs)), weights, str(path))
    known = published_names() if outputs == 1000 else None
    names = tuple(known) if known else tuple(f"class {i}" for i in range(outputs))
    return Trained(str(path), name, network.eval(), usual_preprocessing(network.variant), names)


def as_trained(target: Trained | Run | str | Path, model: str | None = None) -> Trained:
    """`open_trained` of what is not open yet. Raises UsageError for a `model` beside what says which network it is."""
    if not isinstance(target, Trained):
        return open_trained(target, model)
    if model is not None:
        raise UsageError(f"{target.origin} says which network it is: leave model={model!r} out.")
    return target


def usual_preprocessing(variant: Variant) -> Preprocessing:
    """What a network is shown where nothing but its table says what its weights have seen: its kind of pixels, of
    photographs the centre of a short side of 256, of small images all."""
    size, seen = variant.input_size, CAFFE if variant.pixels == "raw" else IMAGENET
    return Preprocessing(size, max(256, size) if size > 200 else size, seen.mean, seen.std)


def load_weights(
    model: AlexNet,
    source: str | Path | Mapping[str, torch.Tensor],
    replace_head: bool = False,
    classes: Sequence[str] | None = None,
) -> None:
    """Copy the weights of a file, or of a dictionary of tensors by name, into a model; layer names and shapes must
    agree. The names are ours (conv1.weight ... fc8.bias) or torchvision's, also with the prefixes of wrapped modules.

    With `replace_head` the last layer keeps the model's own weights, whatever the file has there; without it, `classes`
    are what the outputs of the model stand for, and a checkpoint of other classes is refused. Raises CheckpointError
    naming what differs.
    """
    if isinstance(source, Mapping):
        origin = "the dictionary of weights"
        weights, meta = {name: t.detach().cpu() for name, t in rename(source, origin).items()}, None
    else:
        origin = str(source)
        weights, meta = _read(Path(source))
    if meta is not None and classes is not None and not replace_head:
        theirs = meta.get("classes")
        if theirs != list(classes):
            known = [str(name) for name in theirs] if isinstance(theirs, list) else [repr(theirs)]
            raise CheckpointError(
                f"{origin} was trained on the classes {listed(known)}, the data has {listed(classes)} "
                f"({differing(known, classes)}): --replace-head starts the last layer afresh."
            )
    apply_weights(model, weights, origin, replace_head)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one of our checkpoints or of another program's weights file, under our layer names.

    Raises CheckpointError for anything that is not such a file.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Tensors, and the description where it is one of our checkpoints."""
    _require_file(path)
    if not is_checkpoint(path):
        return read_foreign(path), None
    checkpoint = load_checkpoint(path)
    return checkpoint.evaluated, checkpoint.meta


def weights_file(target: Run | str | Path) -> Path:
    """The file that a run, a run folder, a folder for the Hub, a path or a name of `PUBLISHED` stands for; the last is
    downloaded once, into torch's cache, and its hash checked at every use. Raises CheckpointError."""
    if isinstance(target, Run):
        return target.checkpoint()
    path = Path(target)
    if os.path.isdir(path):
        if is_hub_folder(path):
            return path / HUB_WEIGHTS
        try:
            return Run(path).checkpoint()
        except CheckpointError:
            load_run(path)  # says where it is none, and what else it may be
            raise
    if str(target) not in PUBLISHED or os.path.exists(path):
        _require_file(path)
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


def names_its_network(target: Run | str | Path) -> bool:
    """Whether `open_trained` knows the network without being told: bare weights leave it to their shapes. Raises
    CheckpointError."""
    published = str(target) in PUBLISHED and not os.path.exists(str(target))
    return published or is_checkpoint(weights_file(target))


def is_hub_folder(path: str | Path) -> bool:
    """Whether `alexnet export --to hub` wrote a folder."""
    return os.path.isfile(os.path.join(path, HUB_WEIGHTS))


def _require_file(path: Path) -> None:
    """Raise CheckpointError for what is not there, has an impossible name, or is no regular file and would block."""
    if not os.path.isfile(path):  # unlike Path.is_file it raises nothing, whatever the name
        raise CheckpointError(f"there is no run, checkpoint or weights file {path}.")


_ALIKE = {
    "bvlc": ("bvlc_alexnet; CaffeNet", "caffenet"),
    "paper": ("the paper's network; Krizhevsky's released one", "net145"),
}
"""What bare weights of a network may be as well."""


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
    with InFloat32():
        return (blank_model if blank else build_model)(**model_fields(config, dataset, prep))


def model_fields(config: TrainConfig, dataset: Dataset, prep: Preprocessing) -> dict[str, Any]:
    """Arguments of `build_model`: the configured fields, completed by the data's.

    Raises UsageError if the two contradict each other.
    """
    # With lists for tuples, as checkpoints hold them, so that a run knows its own description again.
    given = {k: v for k, v in flatten(config.model).items() if v not in (None, []) and k != "freeze_to"}
    given["name"] = given.pop("variant")
    channels = dataset.train.channels
    fields = {"num_classes": len(dataset.classes), "in_channels": channels, "input_size": prep.size} | given
    if fields["in_channels"] != channels:
        raise UsageError(f"--model.in-channels {fields['in_channels']}: the images have {channels}.")
    if fields["num_classes"] != len(dataset.classes):
        raise UsageError(f"--model.num-classes {fields['num_classes']}: the data has {len(dataset.classes)} classes.")
    return fields
