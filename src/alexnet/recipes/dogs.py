"""Few photographs: Stanford Dogs as one public project trained it, our own settings for it, and for any folder."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.colours import IMAGENET

# shiney5213/c_c_alexnet: the five breeds with most images, pooled and split anew into 652, 128 and 290 (its own
# split of 870 lost 90 images to an incomplete batch); RandomResizedCrop, flip, PCA noise for half of the images;
# torchvision's network, batches of 128, 30 epochs; SGD with momentum .9 or Adam at 1e-2, constant or divided by ten
# every 10 epochs.
# It starts from torchvision's published weights where they can be had: --init torchvision --replace-head.
SGD = TrainConfig(
    name="dogs-sgd",
    epochs=30,
    batch_size=128,
    log_every=5,
    data=DataConfig(
        source="stanford-dogs",
        top_classes=5,
        resplit=True,
        test_fraction=0.25,
        fraction=0.8967,
        val_fraction=0.1636,
        resize=256,
        crop=224,
        flip=True,
        random_resized_crop=True,
        colour_noise=0.1,
        noise_probability=0.5,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
    ),
    model=ModelConfig(variant="torchvision"),
    optim=OptimConfig(lr=1e-2, weight_decay=0.0),
)


def _variation(name: str, optim: OptimConfig) -> TrainConfig:
    return replace(SGD, name=name, optim=optim)


RECIPES = [
    SGD,
    _variation("dogs-sgd-step", replace(SGD.optim, schedule="step", step_epochs=10)),
    _variation("dogs-adam", replace(SGD.optim, name="adam")),
    _variation("dogs-adam-step", replace(SGD.optim, name="adam", schedule="step", step_epochs=10)),
    TrainConfig(
        name="dogs",
        epochs=100,
        batch_size=64,
        log_every=10,
        label_smoothing=0.1,
        data=replace(SGD.data, min_area=0.35, noise_probability=1.0),
        model=ModelConfig(variant="torchvision", init="modern"),
        optim=OptimConfig(name="adamw", lr=3e-4, weight_decay=0.05, schedule="cosine", warmup_epochs=5),
    ),
    TrainConfig(
        name="folder",
        epochs=100,
        batch_size=64,
        log_every=10,
        label_smoothing=0.1,
        data=DataConfig(
            source="folder",
            resize=256,
            crop=224,
            flip=True,
            random_resized_crop=True,
            min_area=0.35,
            colour_noise=0.1,
            mean=IMAGENET.mean,
            std=IMAGENET.std,
        ),
        model=ModelConfig(variant="torchvision", init="modern"),
        optim=OptimConfig(name="adamw", lr=3e-4, weight_decay=0.05, schedule="cosine", warmup_epochs=5),
    ),
]
ORIGINS = {
    "dogs-sgd": "shiney5213/c_c_alexnet, 1st model",
    "dogs-sgd-step": "shiney5213/c_c_alexnet, 2nd model",
    "dogs-adam": "shiney5213/c_c_alexnet, 3rd model",
    "dogs-adam-step": "shiney5213/c_c_alexnet, 4th model",
    "dogs": "ours: five breeds from scratch, or --init torchvision --replace-head",
    "folder": "ours: your photographs, from scratch or --init torchvision --replace-head",
}
