"""A trained network as a folder for the Hugging Face Hub: weights, configuration and a model card.

model.safetensors is a checkpoint of this package without what only training needs, so that `predict`, `evaluate` and
`features` take the folder as they take a run; its tensors bear the layers' names, for any reader of safetensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import yaml

from alexnet.config import TrainConfig, dump
from alexnet.errors import CheckpointError, UsageError
from alexnet.export.card import Facts, write_card
from alexnet.export.origin import identify
from alexnet.files import file_digest, make_ready, read_settled, writing
from alexnet.inference.evaluation import evaluate
from alexnet.inference.trained import HUB_WEIGHTS, PUBLISHED, Trained, open_trained, weights_file
from alexnet.runs.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run
from alexnet.training.facts import ledger_of_run

ROOT = "data"  # in the place of the folder that the data had on the machine of training


def export_hub(
    target: Run | str | Path,
    out: str | Path,
    *,
    licence: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run or a checkpoint as a folder for the Hugging Face Hub, which must not be there yet: model.safetensors,
    config.json, recipe.yaml (which `alexnet train` takes, to repeat the training) and README.md, the model card.

    The card's results are the run's own, or, where those are of other weights or missing, measured now on its data,
    of which `data` replaces single settings ({"root": "/elsewhere"}). `licence` is the identifier that the Hub knows
    ("mit"); without it the card names none. Raises UsageError, DataError or CheckpointError, and leaves nothing then.
    """
    out, file = Path(out), weights_file(target)
    if out.exists():
        raise UsageError(f"--out {out} exists: name a folder that does not.")
    if not is_checkpoint(file):
        raise CheckpointError(
            f"--to hub: {file} does not say what it was trained on, which a model card must: export a run of alexnet "
            "train or one of its checkpoints."
        )
    make_ready(out, "--out")
    checkpoint, trained = read_settled(file, lambda file: (load_checkpoint(file), open_trained(file)))
    assert trained.config is not None
    run = Run(file.parent) if (file.parent / "config.yaml").is_file() else None
    config = _without_paths(trained.config)
    facts = Facts(
        name=config.name,
        trained=trained,
        config=config,
        result=_result(file, trained, run, dict(data or {})),
        ledger=_without_paths_of(
            (run.ledger if run else None) or ledger_of_run(trained.config, trained.model, prep=trained.preprocessing),
            trained.config,
        ),
        session=run.sessions[-1] if run and run.sessions else {},
        licence=licence,
    )
    with writing(out, "--out"):
        part = out.with_name(f".{out.name}.{token_hex(4)}")
        part.mkdir()
        try:
            save_checkpoint(part / HUB_WEIGHTS, _published(checkpoint, trained, config))
            _write_json(part / "config.json", _describe(checkpoint, trained, part / HUB_WEIGHTS))
            (part / "recipe.yaml").write_text(yaml.safe_dump(dump(config), sort_keys=False), encoding="utf-8")
            (part / "README.md").write_text(write_card(facts), encoding="utf-8")
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out


def _without_paths(config: TrainConfig) -> TrainConfig:
    """What the folders of one machine are called is nobody's business, and of no use elsewhere."""
    init = config.init if config.init is None or config.init in PUBLISHED else Path(config.init).name
    return replace(config, data=replace(config.data, root=ROOT), init=init)


def _without_paths_of(ledger: list[dict[str, Any]], config: TrainConfig) -> list[dict[str, Any]]:
    """The ledger, which tells of the file that weights were taken from."""
    if config.init is None or config.init in PUBLISHED:
        return ledger
    return [row | {"this": str(row["this"]).replace(config.init, Path(config.init).name)} for row in ledger]


def _result(file: Path, trained: Trained, run: Run | None, data: dict[str, Any]) -> dict[str, Any]:
    """The result of exactly these weights, measured now where nobody has, or on validation alone because it was an
    attempt."""
    result = run.result if run is not None and run.config.test else None
    if result is None or result.get("measured", {}).get("sha256") != trained.sha256:
        result = evaluate(file, data=data).to_dict()
    if result["measured"]["sha256"] != trained.sha256:
        raise CheckpointError(f"{file} was replaced meanwhile, by a run that trains: export it when that has ended.")
    return result


def _published(checkpoint: Checkpoint, trained: Trained, config: TrainConfig) -> Checkpoint:
    """The weights that were evaluated, and what an image undergoes."""
    kept = ("model", "classes", "names", "preprocessing", "fingerprint", "precision")
    meta = {name: checkpoint.meta[name] for name in kept if name in checkpoint.meta}
    meta |= {"config": dump(config), "counters": {"epoch": trained.epoch}}
    return Checkpoint(checkpoint.evaluated, trained.preprocessing.tensors(), meta)


def _describe(checkpoint: Checkpoint, trained: Trained, weights: Path) -> dict[str, Any]:
    """config.json: by the names that the Hub and its libraries have for it, and everything else by ours."""
    variant, told = trained.model.variant, identify(trained)
    return {
        "architectures": ["AlexNet"],
        "model_type": "alexnet",
        "library_name": "alexnet",
        "num_labels": variant.num_classes,
        "num_channels": variant.in_channels,
        "image_size": variant.input_size,
        "id2label": {str(i): name for i, name in enumerate(trained.names)},
        "label2id": {name: i for i, name in enumerate(trained.names)},
        "model": checkpoint.meta["model"],
        **told,
        "weights": weights.name,
        "weights_sha256": file_digest(weights),
        "exported_from_sha256": told["weights_sha256"],
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
