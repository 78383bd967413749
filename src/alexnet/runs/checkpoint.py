"""Checkpoints: one safetensors file that holds tensors, a JSON description and the SHA-256 of both.

Nothing here executes code from a file. A flipped bit anywhere is found on loading; a file appears under its name only
when it is complete and on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from alexnet.config.model import FORMER
from alexnet.errors import CheckpointError
from alexnet.files import keep_as, read_settled, write_atomically

FORMAT = 3  # 1: the configuration by dotted names, without a format of its own; before 3: some networks by FORMER names


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: `weights` by layer name; `extra` holds what only a resumed run needs."""

    weights: dict[str, Tensor]
    extra: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def epoch(self) -> int | None:
        """How many epochs were completed when it was saved; None where the description does not say."""
        return completed_epochs(self.meta)

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights that validation saw: the averaged ones of a run that keeps an average."""
        averaged = {name.removeprefix("ema/"): t for name, t in self.extra.items() if name.startswith("ema/")}
        return averaged or self.weights


def save_checkpoint(path: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write atomically; with `keep`, the file that stood at `path` remains readable under that name.

    Raises OSError when the disk is full or the folder cannot be written; the old file is intact then.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.weights.items()}
    tensors |= {f"extra/{name}": value.detach().cpu().contiguous() for name, value in checkpoint.extra.items()}
    meta = json.dumps({**checkpoint.meta, "format": FORMAT}, sort_keys=True)
    content = save(tensors, {"alexnet": meta, "sha256": _digest(tensors, meta), "format": "pt"})
    if keep is not None and path.exists():
        keep_as(path, keep)
    write_atomically(path, content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a file that `save_checkpoint` wrote.

    Raises CheckpointError for a file that is missing, truncated, altered, not ours, or from a newer version, and for
    weights that are not finite: no network answers with these.
    """
    return read_settled(path, _load)  # safe_open opens it twice, for the header and for the tensors


def _load(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as stream:
            described = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
        if os.name == "nt":  # where no file can be replaced while tensors are views of it
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except PermissionError:
        raise CheckpointError(f"{path} may not be read: its permissions forbid it.") from None
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        raise CheckpointError(f"{path} is not a checkpoint or is damaged ({problem}).") from None
    if "alexnet" not in described:
        raise CheckpointError(f"{path} is a safetensors file but not a checkpoint of this program.")
    try:
        meta: dict[str, Any] = json.loads(described["alexnet"])
        format = int(meta["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise CheckpointError(f"{path} is damaged: its description cannot be read ({problem!r}).") from None
    if format > FORMAT:  # first: a newer format may hash otherwise
        raise CheckpointError(f"{path} has format {format}, this version reads up to {FORMAT}: upgrade alexnet.")
    if described.get("sha256") != _digest(tensors, described["alexnet"]):
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256.")
    if format < 3:
        _rename_network(meta)
    extra = {name.removeprefix("extra/"): t for name, t in tensors.items() if name.startswith("extra/")}
    content = Checkpoint({n: t for n, t in tensors.items() if not n.startswith("extra/")}, extra, meta)
    for weights in (content.weights, content.evaluated):
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{path} is whole but of no use: {name} holds values that are not finite.")
    return content


def _rename_network(meta: dict[str, Any]) -> None:
    model = meta.get("model")
    if isinstance(model, dict) and isinstance(name := model.get("name"), str):
        model["name"] = FORMER.get(name, name)


def completed_epochs(meta: dict[str, Any]) -> int | None:
    """How many epochs were completed, by a checkpoint's description; None where it does not say."""
    counters = meta.get("counters")
    epoch = counters.get("epoch") if isinstance(counters, dict) else None
    return epoch if isinstance(epoch, int) else None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one that `save_checkpoint` wrote, going by its header alone."""
    return _header(path) is not None


def in_streak(path: Path) -> bool:
    """Whether a checkpoint was saved right after a loss that was not finite, going by its header alone: the weights are
    sound, but going on from there may lead into the same losses again."""
    return _has_counted(path, "bad_in_a_row", otherwise=False)


def holds_steps(path: Path) -> bool:
    """Whether a checkpoint was saved after the first step, going by its header alone; one that does not say counts."""
    return _has_counted(path, "step", otherwise=True)


def epochs_begun(path: Path) -> int | None:
    """How many epochs had begun when a checkpoint was saved, going by its header alone; None where it does not say."""
    try:
        counters = _counters(path)
        return int(counters["epoch"]) + bool(counters["epoch_step"])
    except (ValueError, KeyError, TypeError):
        return None


def _has_counted(path: Path, name: str, otherwise: bool) -> bool:
    try:
        return bool(_counters(path)[name])
    except (ValueError, KeyError, TypeError):
        return otherwise


def _counters(path: Path) -> Any:
    return json.loads(_header(path) or "{}")["counters"]


def _header(path: Path) -> str | None:
    """The JSON description in a file's header, unverified; None where the file is not there or not ours."""
    try:
        with safe_open(path, framework="pt") as stream:
            described: dict[str, str] = stream.metadata() or {}
            return described.get("alexnet")
    except (SafetensorError, OSError):
        return None


def _digest(tensors: dict[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
