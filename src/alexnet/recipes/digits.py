"""Handwritten digits: 1,797 real 8x8 images that come with the package."""

from __future__ import annotations

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

RECIPES = [
    TrainConfig(
        name="digits",
        epochs=30,
        batch_size=64,
        log_every=10,
        data=DataConfig(source="digits", resize=32, pad=3),
        model=ModelConfig(variant="cifar", width=0.25),
        optim=OptimConfig(lr=0.02, schedule="one-cycle"),
    )
]
ORIGINS = {"digits": "ours: the cifar network at a quarter of its width, no download"}
