"""AlexNet (Krizhevsky, Sutskever, Hinton 2012): the network, its training and its reproduction.

Importing this package costs no torch; every name below loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.compute import configure_process
    from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from alexnet.data.packing import prepare
    from alexnet.data.sources import register_source
    from alexnet.data.transforms import Transforms
    from alexnet.errors import AlexNetError
    from alexnet.inference.comparison import Compared, compare
    from alexnet.inference.evaluation import evaluate
    from alexnet.inference.features import extract_features
    from alexnet.inference.prediction import Prediction, predict
    from alexnet.inference.trained import Trained, load_weights, open_trained
    from alexnet.metrics import Result
    from alexnet.models.int8 import quantize
    from alexnet.models.network import AlexNet, build_model
    from alexnet.models.variants import list_models
    from alexnet.models.weights import torchvision_weights
    from alexnet.recipes import recipe
    from alexnet.runs.folder import Run, load_run
    from alexnet.training.loop import train

__all__ = [
    "AlexNet",
    "AlexNetError",
    "Compared",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "Prediction",
    "Result",
    "Run",
    "TrainConfig",
    "Trained",
    "Transforms",
    "build_model",
    "compare",
    "configure_process",
    "evaluate",
    "extract_features",
    "list_models",
    "load_run",
    "load_weights",
    "open_trained",
    "predict",
    "prepare",
    "quantize",
    "recipe",
    "register_source",
    "torchvision_weights",
    "train",
]

_HOMES = {
    "alexnet.inference.comparison": ("Compared", "compare"),
    "alexnet.compute": ("configure_process",),
    "alexnet.config": ("DataConfig", "ModelConfig", "OptimConfig", "TrainConfig"),
    "alexnet.errors": ("AlexNetError",),
    "alexnet.inference.evaluation": ("evaluate",),
    "alexnet.data.packing": ("prepare",),
    "alexnet.data.sources": ("register_source",),
    "alexnet.data.transforms": ("Transforms",),
    "alexnet.inference.features": ("extract_features",),
    "alexnet.metrics": ("Result",),
    "alexnet.models.int8": ("quantize",),
    "alexnet.models.network": ("AlexNet", "build_model"),
    "alexnet.models.variants": ("list_models",),
    "alexnet.models.weights": ("torchvision_weights",),
    "alexnet.inference.trained": ("Trained", "load_weights", "open_trained"),
    "alexnet.inference.prediction": ("Prediction", "predict"),
    "alexnet.recipes": ("recipe",),
    "alexnet.runs.folder": ("Run", "load_run"),
    "alexnet.training.loop": ("train",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("alexnet")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'alexnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
