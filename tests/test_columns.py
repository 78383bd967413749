"""A column of the network on each of two processes: the same result as of one process, which opens anywhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alexnet import build_model
from alexnet.compute import resolve_compute
from alexnet.config import OptimConfig, TrainConfig
from alexnet.config.values import override
from alexnet.distributed import World, join_world
from alexnet.errors import UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.models.columns import plan
from alexnet.models.variants import PAPER, POOL, Conv, Norm
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.seeds import mixed_seed
from alexnet.training.learner import Learner
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import TINY, assert_consistent, assert_same_tensors, tensors

_COLUMNS, _MAP = Norm(columns=2), Norm(alpha=1e-3, k=1.0, over="map")
NET145 = replace(
    PAPER,
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=(_COLUMNS, POOL, "relu")),
        Conv(256, 5, padding=2, groups=2, then=("relu", _COLUMNS, _MAP, POOL), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, groups=2, positive_bias=True),
        Conv(256, 3, padding=1, groups=2, then=(POOL, "relu"), positive_bias=True),
    ),
)
# LRN over all channels with a window of even size directly before a ReLU, and dropout of maps.
MIXED = replace(
    PAPER,
    convs=(replace(PAPER.convs[0], then=(Norm(4, alpha=0.1), "relu", PAPER.hidden[0].then[1], POOL)), *PAPER.convs[1:]),
)
NETWORKS = {"paper": PAPER, "net145": NET145, "mixed": MIXED}
CLASSES = 5  # an odd number, of which the columns hold two and three
MANY = 50


class Wide(Learner):
    """As the network's own numbers are: in float64 here."""

    def _logits(self, images):
        return self.forward(images)


def learn(table, world, dtype, steps, dropout=0.5):
    """The losses of a few steps on random images, and what is saved of the learner afterwards."""
    torch.manual_seed(1)
    small = {"input_size": 67, "width": 0.125, "num_classes": CLASSES, "dropout": dropout, "init": "he"}
    model = build_model(table, **small).to(dtype)
    optim = OptimConfig(name="paper-sgd", lr=0.01, rules=("biases rate=2x decay=0", "conv1.weights rate=0.1x"))
    columns = 2 if world.size > 1 else 1
    learner = Wide(TrainConfig(optim=optim, columns=columns), model, steps, resolve_compute("cpu", "fp32"), world)
    drawn = torch.Generator().manual_seed(2)
    losses = []
    for step in range(steps):
        images = torch.randn(8, 3, 67, 67, generator=drawn, dtype=torch.float64).to(dtype)
        labels = torch.randint(CLASSES, (8,), generator=drawn)
        mine = learner.data.shard
        torch.manual_seed(mixed_seed(0, step, learner.data.rank))
        sums = learner.train_step(images[mine], labels[mine], 8)
        losses.append(sums[0])
        learner.apply_step(sums, len(labels[mine]))
    saved = learner.checkpoint({})
    return {"losses": torch.stack(losses), **saved.weights, **saved.extra}


def work(folder):
    """What one process of several does."""
    kinds = json.loads((folder / "kinds").read_text())
    with join_world("cpu") as (world, _):
        for kind, (name, dtype, steps, dropout) in kinds.items():
            learnt = learn(NETWORKS[name], world, getattr(torch, dtype), steps, dropout)
            save_file({n: t.contiguous() for n, t in learnt.items()}, folder / f"{kind}-{world.rank}")


def together(folder, processes, kinds):
    """Start processes that do `work`."""
    (folder / "kinds").write_text(json.dumps(kinds))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, folder],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in started:
        assert process.wait(200) == 0, process.stderr.read()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
