"""Inference beside other engines: onnxruntime and OpenVINO run the same network from its ONNX file.

Every engine has a process of its own, in which it uses all cores as its makers set it up; they take turns, and whoever
has no turn is stopped, since threads that spin between two calls would slow the others down. OpenVINO's 8 bits are
quantised by NNCF, onnxruntime's by its own tool, all by the scale of the same images. For development alone:

uv run --with openvino --with nncf --with onnxruntime python benchmarks/engines.py
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cyclopts
import numpy as np
import torch
from common import machine

from alexnet.compute import Compute, configure_process, has_feature, resolve_compute
from alexnet.config.colours import IMAGENET
from alexnet.data.augment import Preprocessing
from alexnet.export.graph import Form
from alexnet.export.onnx_file import export_onnx
from alexnet.export.origin import UNTRAINED
from alexnet.inference.trained import Trained
from alexnet.models.int8 import computes_int8, quantize
from alexnet.models.network import build_model
from alexnet.speed.steps import inference_step

ENGINES = ("ours", "onnxruntime", "openvino")
FORMATS = ("fp32", "bf16", "int8")
MISSING = {("onnxruntime", "bf16")}  # its CPU kernels are float32 and 8 bits
TYPICAL = 32  # images whose activations give the scales of 8 bits
PAUSE = 0.2  # seconds, for a process that goes on to be scheduled again
Step = Callable[[], object]


def network(name: str, width: float) -> Trained:
    """With random weights; `width` below 1 is for toys."""
    torch.manual_seed(0)
    model = build_model(name, width=width, init="he").eval()
    size, classes = model.variant.input_size, model.variant.num_classes
    preprocessing = Preprocessing(size, 256, IMAGENET.mean, IMAGENET.std)
    return Trained(UNTRAINED, name, model, preprocessing, tuple(map(str, range(classes))))


def images_of(told: Trained, count: int) -> torch.Tensor:
    """Normalised images [N, C, S, S]."""
    side = told.model.variant.input_size
    return torch.randn(
        count, told.model.variant.in_channels, side, side, generator=torch.Generator().manual_seed(count)
    )


def ours(told: Trained, form: str, count: int, folder: Path) -> Step:
    configure_process()
    images = images_of(told, count).contiguous(memory_format=torch.channels_last)
    if form == "int8":
        return inference_step(
            quantize(told.model, images_of(told, TYPICAL)), Compute(torch.device("cpu"), torch.float32), images
        )
    compute = resolve_compute("cpu", form)
    return inference_step(compute.place(told.model), compute, images)


def exported(told: Trained, folder: Path) -> Path:
    path = folder / "network.onnx"
    export_onnx(told, path, Form(raw=True))
    return path


def onnxruntime(told: Trained, form: str, count: int, folder: Path) -> Step:
    import onnxruntime as ort

    path = exported(told, folder)
    if form == "int8":
        from onnxruntime.quantization import QuantType, quantize_static

        from alexnet.export.integers import IN_INTEGERS, Batches

        batches = ({"images": image[None].numpy()} for image in images_of(told, TYPICAL))
        quantize_static(
            path,
            folder / "int8.onnx",
            Batches(batches),
            op_types_to_quantize=IN_INTEGERS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        path = folder / "int8.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = images_of(told, count).numpy()
    return lambda: session.run(None, {"images": images})


def openvino(told: Trained, form: str, count: int, folder: Path) -> Step:
    import openvino as ov

    model = ov.Core().read_model(exported(told, folder))
    if form == "int8":
        import nncf

        data = nncf.Dataset(list(images_of(told, TYPICAL).split(1)), lambda image: image.numpy())
        model = nncf.quantize(model, data, subset_size=TYPICAL)
    images = np.ascontiguousarray(images_of(told, count).numpy())
    model.reshape(list(images.shape))
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if form == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: images})


def answer() -> None:
    """In a process of its own: for a case on standard input seconds a step, again for every further line."""
    case = json.loads(sys.stdin.readline())
    prepare = {"ours": ours, "onnxruntime": onnxruntime, "openvino": openvino}[case["engine"]]
    with TemporaryDirectory() as folder:
        step = prepare(network(case["network"], case["width"]), case["form"], case["count"], Path(folder))
        step()
        for _ in sys.stdin:
            start = time.perf_counter()
            for _ in range(case["steps"]):
                step()
            os.write(case["answers"], f"{(time.perf_counter() - start) / case['steps']}\n".encode())


class Engine:
    """A process with an engine in it, stopped but for its turns."""

    def __init__(self, **case: Any) -> None:
        mine, theirs = os.pipe()  # apart from standard output, where engines print
        self._answers = os.fdopen(mine)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--answer"],
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            text=True,
            pass_fds=[theirs],
        )
        os.close(theirs)
        self._tell(json.dumps({**case, "answers": theirs}))
        self.seconds()  # ready, and warm

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def seconds(self) -> float:
        """Seconds a step in one turn."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(PAUSE)
        self._tell("")
        line = self._answers.readline()
        if not line:
            raise SystemExit("an engine's process has ended; its last lines say why.")
        self._process.send_signal(signal.SIGSTOP)
        return float(line)

    def end(self) -> None:
        """Let the process end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()
        self._answers.close()


def cases(form: str) -> list[str]:
    """The engines that are there and compute in a format on this machine."""
    here = {"bf16": has_feature("avx512_bf16") or has_feature("amx_tile"), "int8": computes_int8(torch.device("cpu"))}
    if not here.get(form, True):
        return []
    extras = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
    found = [name for name in ENGINES if (name, form) not in MISSING and find_spec(extras.get(name, "alexnet"))]
    return [name for name in found if (name, form) != ("openvino", "int8") or find_spec("nncf")]


def main(*, toy: bool = False, rounds: int = 7) -> None:
    """Print a table: images a second of every engine, and ours over each, medians over turns.

    Parameters
    ----------
    toy
        Narrow networks and small batches, to see that everything runs.
    rounds
        Turns of each engine.
    """
    print(machine(torch.device("cpu")))
    print("| network | images | format | engine | images/s | ours is |\n|---|---:|---|---|---:|---:|")
    for name in ("torchvision", "paper"):
        for count in (2, 1) if toy else (64, 1):
            for form in FORMATS:
                case = {"network": name, "form": form, "count": count, "width": 0.125 if toy else 1.0}
                case["steps"] = 2 if toy else 4 if count > 1 else 40
                engines: dict[str, Engine] = {}
                try:
                    for engine in cases(form):
                        engines[engine] = Engine(engine=engine, **case)
                    turns = [{engine: process.seconds() for engine, process in engines.items()} for _ in range(rounds)]
                finally:  # stopped processes would outlive this one
                    for process in engines.values():
                        process.end()
                for engine in engines:
                    speed = count / statistics.median(turn[engine] for turn in turns)
                    ratio = statistics.median(turn[engine] / turn["ours"] for turn in turns)
                    shown = f"{ratio:.2f}x" if engine != "ours" else ""
                    print(f"| {name} | {count} | {form} | {engine} | {speed:,.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer()
    else:
        cyclopts.run(main)
