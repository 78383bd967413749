"""An ONNX model in integers of 8 bits, and what they cost.

onnxruntime's static quantisation: weights with a scale for each output channel, activations with one for each value, by
its extremes over images of the training split. Convolutions, products, ReLU and pooling are in integers, normalisation
and the logits in float32. Written on an x86 processor without VNNI, weights have 7 bits (onnxruntime's reduce_range).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from alexnet.compute import Compute
from alexnet.config import DataConfig, TrainConfig
from alexnet.config.values import override
from alexnet.data.loading import open_split, typical_images
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Dataset
from alexnet.errors import CheckpointError, UsageError
from alexnet.export.graph import Form
from alexnet.export.sessions import feed, open_session
from alexnet.inference.evaluation import TYPICAL, fit_classes, score
from alexnet.inference.trained import Trained
from alexnet.metrics import Result
from alexnet.models.onednn import has_vnni
from alexnet.runs.provenance import environment

AT_A_TIME = 16  # images of calibration
IN_INTEGERS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Flatten"]


@dataclass(frozen=True)
class Measurement:
    """On which images 8 bits are measured: a split of a run's data, without a name test, or val where there is no test
    split; `data` replaces single settings of the data ({"root": "/elsewhere"}), and `config` says what bare weights
    were trained on."""

    split: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    config: TrainConfig | None = None


@dataclass(frozen=True)
class Loss:
    """The same images evaluated by the network in float32 and by its ONNX model in 8 bits."""

    fp32: Result
    int8: Result
    calibration_images: int
    fingerprint: str
    """Of the data."""
    reduced_range: bool
    """Whether weights have 7 bits (`sums_saturate`). With 8 the file may be less accurate than this on x86 processors
    without VNNI."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in fractions."""
        both = {"fp32": self.fp32, "int8": self.int8}
        return {
            "split": self.int8.split,
            "count": self.int8.count,
            "top1": {name: result.top1 for name, result in both.items()},
            "top1_interval": {name: list(result.interval) for name, result in both.items()},
            "calibration_images": self.calibration_images,
            "fingerprint": self.fingerprint,
            "weight_bits": 7 if self.reduced_range else 8,
            "processor": environment()["processor"],
            "onnxruntime": onnxruntime.__version__,
        }


def open_measured(trained: Trained, measurement: Measurement) -> tuple[Trained, DataConfig, Dataset]:
    """The data that 8 bits are measured on, and the network with the preprocessing that it was trained with, which bare
    weights do not say: it is that of their recipe. Raises UsageError, DataError or CheckpointError."""
    if trained.config is not None and measurement.config is not None:
        raise UsageError(f"{trained.origin} says what it was trained on: leave the recipe out (--recipe, config=).")
    config = trained.config or measurement.config
    if config is None:
        raise UsageError(
            "--int8 needs images of the training split, and these weights do not say what they were trained on: name a "
            "recipe (--recipe, config=)."
        )
    data = override(config, {"data": measurement.data}).data
    dataset = fit_classes(trained, load_dataset(data))
    if trained.config is None:
        prep = open_split(dataset.train, torch.device("cpu"), data).prep
        if prep.size != (size := trained.model.variant.input_size):
            raise CheckpointError(
                f"{trained.origin} is of a network for images of {size} pixels, and the recipe {config.name} shows it "
                f"{prep.size}: name the recipe that it was trained with (--recipe, config=)."
            )
        trained = replace(trained, preprocessing=prep)
    return trained, data, dataset


def quantise(
    model: onnx.ModelProto, trained: Trained, form: Form, data: DataConfig, dataset: Dataset, split: str | None
) -> tuple[onnx.ModelProto, Loss]:
    """The model in 8 bits, and what that costs on a split of the data (`open_measured`)."""
    name, chosen = dataset.split(split)
    own = trained.preprocessing
    seen = own if form.raw else own.raw()
    images = typical_images(dataset.train, data, seen, TYPICAL)
    reduced = sums_saturate()
    with TemporaryDirectory() as folder:
        add_pre_process_metadata(model)  # its shapes are inferred; without this the root logger warns that they are not
        quantize_static(
            model,
            Path(folder) / "int8.onnx",
            Batches(feed(part, form) for part in images.split(AT_A_TIME)),
            op_types_to_quantize=IN_INTEGERS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=reduced,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantised = onnx.load(Path(folder) / "int8.onnx")
    compute = Compute(torch.device("cpu"), torch.float32)
    fp32, eight = (
        score(network, open_split(chosen, compute.device, data, prep), compute, name=name, classes=dataset.names)
        for network, prep in ((trained.model, own), (open_session(quantised, form), seen))
    )
    return quantised, Loss(fp32, eight, len(images), dataset.fingerprint, reduced)


def sums_saturate() -> bool:
    """Whether onnxruntime's sums of products of bytes saturate on this processor, as on x86 without VNNI, where weights
    of 7 bits keep them exact: two times 255 * 64 fits into 16 bits."""
    return platform.machine() in ("x86_64", "AMD64") and has_vnni() is False


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Inputs one after the other, as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
