"""ImageNet as the paper trained it (sections 4 and 5)."""

from __future__ import annotations

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

RECIPES = [
    TrainConfig(
        name="imagenet-paper",
        epochs=90,
        batch_size=128,
        precision="fp32",
        data=DataConfig(source="imagenet", resize=256, crop=224, flip=True),
        model=ModelConfig(variant="paper", num_classes=1000, in_channels=3, init="text"),
        optim=OptimConfig(name="paper-sgd", lr=1e-2, schedule="plateau", max_drops=3),
    )
]
ORIGINS = {
    "imagenet-paper": "the paper, sections 4 and 5; nordenxgt/AlexNet-Implementation (ImageNet cannot be read yet)"
}
