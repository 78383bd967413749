"""What test_columns.py has several processes do, and one: learn a few steps and write what came of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import join_world
from alexnet.config import OptimConfig, TrainConfig
from alexnet.data.seeds import mixed_seed
from alexnet.models.network import build_model
from alexnet.models.table import Dropout, Norm
from alexnet.models.variants import PAPER, POOL, VARIANTS
from alexnet.training.learner import Learner, freeze

NETWORKS = {
    **{name: VARIANTS[name] for name in ("paper", "net145", "net150")},
    # LRN over all channels with a window of even size, right before a ReLU that writes in place; dropout of maps.
    "mixed": replace(
        PAPER, convs=(replace(PAPER.convs[0], then=(Norm(4, alpha=0.1), "relu", Dropout(), POOL)), *PAPER.convs[1:])
    ),
}
CLASSES = 5  # an odd number, of which the columns hold two and three


class Exact(Learner):
    """In the numbers of the network, float64 here, and not always in float32."""

    def _logits(self, images):
        return self.network(images)


def learn(world, network, dtype="float64", steps=50, *, dropout=0.5, accumulate=1, frozen=None, bad=None, ema=0.0):
    """The losses of a few steps on random images, how many steps were left out, and all that a checkpoint holds then.

    Step `bad` has an image of NaN; the layers up to `frozen` are not trained.
    """
    torch.manual_seed(1)
    small = {"input_size": 67, "width": 0.125, "num_classes": CLASSES, "dropout": dropout, "init": "he"}
    model = build_model(NETWORKS[network], **small).to(getattr(torch, dtype))
    if not world.is_main:  # it begins with the main process's weights, whatever its own
        torch.nn.init.ones_(model.conv1.weight)
    freeze(model, frozen)
    optim = OptimConfig(name="paper-sgd", lr=0.002, rules=("biases rate=2x decay=0", "conv1.weights rate=0.1x"))
    config = TrainConfig(optim=optim, columns=min(world.size, 2), accumulate=accumulate, ema=ema)
    learner = Exact(config, model, steps, resolve_compute("cpu", "fp32"), world)
    drawn = torch.Generator().manual_seed(2)
    losses = []
    for step in range(steps):
        images = torch.randn(4, 3, 67, 67, generator=drawn, dtype=torch.float64).to(model.conv1.weight.dtype)
        labels = torch.randint(CLASSES, (4,), generator=drawn)
        if step == bad:
            images[0] = torch.nan
        mine = learner.data_group.shard
        torch.manual_seed(mixed_seed(0, step, learner.data_group.rank))
        sums = learner.train_step(images[mine], labels[mine], 4)
        learner.apply_step(sums, len(labels[mine]))
        losses.append(learner.data_group.sum(sums)[0].nan_to_num())
    skipped = torch.tensor(len(list(learner.settle())))
    saved = learner.checkpoint({})
    return {"losses": torch.stack(losses), "skipped": skipped, **saved.weights, **saved.extra}


def main(folder):
    """Learn every case of the folder's cases.json, in the group of processes that the environment names."""
    with join_world("cpu") as (world, _):
        for name, settings in json.loads((folder / "cases.json").read_text()).items():
            learnt = learn(world, **settings)
            save_file({key: value.contiguous() for key, value in learnt.items()}, folder / f"{name}-{world.rank}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
