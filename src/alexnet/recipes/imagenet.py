"""ImageNet: as the paper trained it (sections 4 and 5), and as torchvision and the project that follows it do."""

from __future__ import annotations

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.colours import CAFFE, IMAGENET

# The paper subtracts the mean image (nearly flat: where the photographs were not prepared there is none, and its mean
# colour is taken as Caffe publishes it) and does not scale: pixels run over -123..151.
PAPER = TrainConfig(
    name="imagenet-paper",
    epochs=90,
    batch_size=128,
    precision="fp32",
    data=DataConfig(
        source="imagenet",
        resize=256,
        crop=224,
        flip=True,
        colour_noise=0.1,
        mean=CAFFE.mean,
        std=CAFFE.std,
        mean_image=True,
    ),
    model=ModelConfig(variant="paper", init="text"),
    # The released code decays no bias (layer.cu:565); the text leaves it open.
    optim=OptimConfig(name="paper-sgd", lr=1e-2, decay_biases=False, schedule="plateau", max_drops=3),
)
# csm-kr/alexnet_pytorch: torchvision's network from torch's initial weights, RandomResizedCrop and flip, batches of
# 128, SGD with momentum .9 and weight decay 5e-4, 1e-2 divided by ten every 30 epochs (StepLR; ReduceLROnPlateau:
# --optim.schedule plateau), 90 epochs.
TORCHVISION = TrainConfig(
    name="imagenet-torchvision",
    epochs=90,
    batch_size=128,
    data=DataConfig(
        source="imagenet",
        resize=256,
        crop=224,
        flip=True,
        random_resized_crop=True,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
    ),
    model=ModelConfig(variant="torchvision"),
    optim=OptimConfig(lr=1e-2, schedule="step", step_epochs=30),
)
RECIPES = [PAPER, TORCHVISION]
ORIGINS = {
    "imagenet-paper": "the paper, sections 4 and 5; nordenxgt/AlexNet-Implementation",
    "imagenet-torchvision": "csm-kr/alexnet_pytorch",
}
