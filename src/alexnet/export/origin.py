"""What is exported: the network with its preprocessing, and where it comes from, in words that travel with it."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.data.wnids import published_names
from alexnet.errors import ExportError, UsageError
from alexnet.files import make_ready, write_atomically, writing
from alexnet.inference.trained import PUBLISHED, Trained, as_trained, open_trained, usual_preprocessing
from alexnet.models.network import build_model
from alexnet.models.variants import VARIANTS
from alexnet.runs.folder import Run

Target = Run | Trained | str | Path
UNTRAINED = "untrained"
SEED = 0  # of the weights of a network that was never trained
TOLERANCE = 1e-4  # of the largest logit: what summing in another order may cost in float32
BATCHES = 1, 7  # what is compared


def open_network(target: Target, model: str | None = None) -> Trained:
    """What `open_trained` opens, or a network of `alexnet list models`, which has the random weights that it would be
    trained from: for whoever needs its shapes and its arithmetic alone. Raises UsageError and CheckpointError."""
    if isinstance(target, Trained):
        found = as_trained(target, model)
        return replace(found, model=copy.deepcopy(found.model).eval())  # the caller's own stays as it is
    if not isinstance(target, str) or target not in VARIANTS or target in PUBLISHED or os.path.exists(target):
        return open_trained(target, model)
    if model is not None:
        raise UsageError(f"{target} is the name of a network: leave --model {model} out.")
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(SEED)  # and no GPU's
        network = build_model(target)
    classes = network.variant.num_classes
    names = published_names() if classes == 1000 else None
    return Trained(
        UNTRAINED,
        target,
        network.eval(),
        usual_preprocessing(network.variant),
        tuple(names or (f"class {i}" for i in range(classes))),
    )


def identify(trained: Trained) -> dict[str, Any]:
    """What an exported file says of itself, as JSON holds it: which network, by which version of alexnet, out of which
    run and weights file (and its SHA-256, as `sha256sum` prints it), its classes in the order of the outputs, and what
    it expects of an image."""
    file = Path(trained.origin)
    known = trained.origin != UNTRAINED
    return {
        "alexnet": version("alexnet"),
        "network": trained.network,
        "about": trained.model.variant.about,
        "run": trained.config.name if trained.config is not None else None,
        "weights": file.name if known else UNTRAINED,
        "weights_sha256": trained.sha256,
        "epoch": trained.epoch,
        "classes": list(trained.names),
        "class_ids": list(trained.classes) if trained.classes is not None else None,
        "preprocessing": trained.preprocessing.to_dict(),
    }


def pixel_constants(trained: Trained) -> tuple[Tensor, Tensor]:
    """What is subtracted from pixels of 0 to 255, [C, 1, 1] or the mean image [C, S, S], and what the difference is
    divided by, [C, 1, 1]: `Preprocessing.normalise`."""
    prep, channels = trained.preprocessing, trained.model.variant.in_channels
    mean, std = (
        torch.tensor(values, dtype=torch.float32).expand(channels)[:, None, None] * 255
        for values in (prep.mean, prep.std)
    )
    return (mean if prep.mean_image is None else prep.mean_image), std


def sample_pixels(trained: Trained, count: int) -> Tensor:
    """Random images uint8 [count, C, S, S] of the network's crop, always the same."""
    shape = (count, trained.model.variant.in_channels, *[trained.preprocessing.size] * 2)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


@torch.inference_mode()
def check_parity(trained: Trained, logits: Any, whose: str) -> float:
    """How far another program's logits are from the network's own: the largest difference over the largest logit, of
    single images and of a batch. `logits` is a function from pixels uint8 [N, C, S, S] to them, `whose` names the
    program. Raises ExportError where it is more than rounding."""
    furthest = 0.0
    for count in BATCHES:
        pixels = sample_pixels(trained, count)
        own = trained.model(trained.preprocessing.normalise(pixels))
        difference = float((logits(pixels) - own).abs().max() / own.abs().max().clamp_min(torch.finfo().tiny))
        if not difference <= TOLERANCE:  # nan too
            raise ExportError(
                f"nothing was written: on a batch of {count} the logits by {whose} differ from the network's own by "
                f"{difference:.1e} of the largest, more than {TOLERANCE:.0e}."
            )
        furthest = max(furthest, difference)
    return furthest


def check_out(out: Path, form: str, *suffixes: str) -> None:
    """Raise UsageError, before the work, unless a file's name ends as files of its kind do and it can be written."""
    if out.suffix not in suffixes:
        raise UsageError(f"--out {out}: a file for --to {form} ends in {' or '.join(suffixes)}.")
    make_ready(out, "--out")


def write_file(out: Path, content: Any) -> None:
    """Write bytes atomically, and the folder of the file where there is none. Raises UsageError where that cannot be
    done."""
    with writing(out, "--out"):
        write_atomically(out, content)
