"""CIFAR-10 and CIFAR-100: our own best, and the settings of two public projects as they published them."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

# CIFAR-10 in six minutes on two CPU cores (records/2026-11-28-cifar10-fast): it begins so that every layer answers with
# variance 1 and the first one decorrelates its patches; images begin at 20 pixels, where a step takes half the time;
# there is no dropout, for which so few epochs leave no use; the rate falls linearly to zero.
FAST = TrainConfig(
    name="cifar10-fast",
    epochs=5,
    batch_size=128,
    label_smoothing=0.1,
    start=("whiten", "identity", "lsuv"),
    grow_from=20,
    grow_epochs=3.4,
    data=DataConfig(source="cifar10", val_fraction=0.04, pad=4, flip=True, alternate_flips=True),
    model=ModelConfig(variant="cifar", dropout=0.0),
    optim=OptimConfig(lr=0.03, schedule="triangular", peak=0.2, nesterov=True, decay_biases=False),
)
# The same for an hour and a half (records/2026-11-30-cifar10), against whose overfitting CutMix changes half of the
# images until the last few epochs.
CIFAR10 = replace(
    FAST,
    name="cifar10",
    epochs=44,
    cutmix=1.0,
    mix_probability=0.5,
    mix_until=40,
    grow_epochs=33,
    data=replace(FAST.data, alternate_flips=False),
    model=replace(FAST.model, dropout=0.3),
    optim=replace(FAST.optim, lr=0.04),
)
# The same for CIFAR-100 (records/2026-11-30-cifar100), with CutMix to the end: chosen by validation, by a hair.
CIFAR100 = replace(CIFAR10, name="cifar100", mix_until=None, data=replace(CIFAR10.data, source="cifar100"))
# jackwang0108/AlexNet (branch v1): SGD with momentum .9, weight decay 5e-4, batches of 128, pixels of 0 to 1 as they
# are, no augmentation, torch's initial weights, a fifth of the images for validation; 1e-2 divided by ten up to three
# times when 20 epochs brought no better validation accuracy (its setting 1; its code counts on after a drop, so that
# all three come in a row), or a constant rate (settings 2 and 3). It trains until 100 epochs bring nothing; we fix the
# epochs. It tests after every epoch and reports the best: ours tests once. Its network, without groups, is
# `--model.variant cifar-ungrouped`: ours is the paper's.
PLATEAU = TrainConfig(
    name="cifar10-plateau",
    epochs=100,
    batch_size=128,
    data=DataConfig(source="cifar10", val_fraction=0.2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    model=ModelConfig(variant="cifar", init="torch"),
    optim=OptimConfig(lr=1e-2, schedule="plateau", patience=20),
)
# Bearnardd/AlexNetCifar10: images enlarged to 70, random 64 crops, mean and std .5, batches of 256 in one order for all
# epochs, 25 epochs; SGD with momentum .9, no weight decay, torch's initial weights. Its code divides a rate of .1 by
# ten on a plateau of 10 epochs.
RESIZED = TrainConfig(
    name="cifar10-resized",
    epochs=25,
    batch_size=256,
    data=DataConfig(
        source="cifar10",
        val_fraction=0.1,
        resize=70,
        crop=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        reshuffle=False,
    ),
    model=ModelConfig(variant="cifar-resized", init="torch"),
    optim=OptimConfig(lr=0.1, weight_decay=0.0, schedule="plateau", patience=10),
)


def _constant(name: str, lr: float) -> TrainConfig:
    return replace(PLATEAU, name=name, optim=OptimConfig(lr=lr))


def _cifar100(base: TrainConfig) -> TrainConfig:
    return replace(base, name=base.name.replace("cifar10", "cifar100"), data=replace(base.data, source="cifar100"))


SLOW, SLOWEST = _constant("cifar10-1e-3", 1e-3), _constant("cifar10-1e-4", 1e-4)
RECIPES = [
    CIFAR10,
    FAST,
    CIFAR100,
    PLATEAU,
    SLOW,
    SLOWEST,
    _cifar100(PLATEAU),
    _cifar100(SLOW),
    RESIZED,
]
ORIGINS = {
    "cifar10": "ours: fitted starts, growing images, CutMix of every second image",
    "cifar10-fast": "ours, for few minutes: the same without CutMix and dropout, flips in turn",
    "cifar100": "ours: as `cifar10`, with CutMix to the end",
    "cifar10-plateau": "jackwang0108/AlexNet, setting 1",
    "cifar10-1e-3": "jackwang0108/AlexNet, setting 2",
    "cifar10-1e-4": "jackwang0108/AlexNet, setting 3",
    "cifar100-plateau": "jackwang0108/AlexNet, setting 1",
    "cifar100-1e-3": "jackwang0108/AlexNet, setting 2",
    "cifar10-resized": "Bearnardd/AlexNetCifar10",
}
