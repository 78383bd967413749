"""How a network's weights begin where the scheme of its table is not enough: from a file, or fitted to images."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import TrainConfig
from alexnet.data.augment import Preprocessing
from alexnet.data.loading import typical_images
from alexnet.data.splits import Dataset
from alexnet.inference.trained import load_weights, weights_file
from alexnet.models.network import AlexNet
from alexnet.models.summary import trace

IMAGES = 256  # that weights are fitted to
PIECE = 16  # of them at a time where their patches would not fit
RIDGE = (
    5e-4  # added to the patches' variances, as a part of their mean: airbench's, which keeps noise from being blown up
)
CLOSE = 0.01  # to a variance of 1
ROUNDS = 10  # of measuring and scaling a layer; one is enough but for rounding


def begin(model: AlexNet, config: TrainConfig, dataset: Dataset, prep: Preprocessing) -> None:
    """Give a freshly built network, which is on the CPU, the weights that a run begins with: those of a file (--init),
    or else what --start does to its own by some images of the training split, the same for every seed.

    Raises CheckpointError for a file that does not fit; one of ours says what classes its last layer stands for.
    """
    if config.init is not None:
        load_weights(model, weights_file(config.init), config.replace_head, dataset.classes)
    elif config.start:
        images = typical_images(dataset.train, config.data, prep, IMAGES)
        if "whiten" in config.start:
            whiten(model, images)
        if "identity" in config.start:
            pass_on(model)
        if "lsuv" in config.start:
            scale_to_unit_variance(model, images)


@torch.no_grad()
def whiten(model: AlexNet, images: Tensor) -> None:
    """Let the first layer decorrelate what it sees: its kernels become the principal axes of the images' patches, those
    of the largest variance first, each divided by its standard deviation, and the same once more with the opposite
    sign, because a ReLU would lose half of each (Jordan 2024, airbench; Page 2019).

    `images` are normalised, float32 [N, C, H, W]. Kernels for which no axis is left stay as they are.
    """
    layer = next(module for module in model.children() if isinstance(module, nn.Conv2d))
    kernels, inputs = layer.weight.shape[0], layer.weight[0].numel()
    sums, products, count = torch.zeros(inputs).double(), torch.zeros(inputs, inputs).double(), 0
    for piece in images.split(PIECE):
        patches = F.unfold(piece, layer.kernel_size, stride=layer.stride).movedim(1, 0).flatten(1).double()
        sums += patches.sum(dim=1)
        products += patches @ patches.T
        count += patches.shape[1]
    mean = sums / count
    variances, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # ascending
    variances = variances.clamp(min=0) + RIDGE * variances.mean()
    pairs = min(kernels // 2, inputs)
    white = (axes / variances.sqrt()).flip(1)[:, :pairs].T.unflatten(1, layer.weight.shape[1:])
    layer.weight[: 2 * pairs] = torch.cat([white, -white]).float()


@torch.no_grad()
def pass_on(model: AlexNet) -> None:
    """Let the 3x3 convolutions begin as identities: kernel i passes on its group's map i, as far as there is one, and
    the other kernels stay as they are (Jordan 2024, airbench; Zagoruyko and Komodakis 2017)."""
    for layer in trace(model.variant):
        module = model.get_submodule(layer.name)
        if layer.role == "conv3x3" and isinstance(module, nn.Conv2d):
            for kernels in module.weight.chunk(module.groups):  # [out / groups, in / groups, 3, 3]
                nn.init.dirac_(kernels[: kernels.shape[1]])


@torch.no_grad()
def scale_to_unit_variance(model: AlexNet, images: Tensor) -> None:
    """Scale the weights of every layer but the last, one after the other, so that what it answers to the images, before
    its activation, has a variance of 1: LSUV (Mishkin and Matas 2016), from the weights that there are in the place of
    orthonormal ones. The last layer's start decides how sure the network is at first, and stays.

    `images` are normalised, float32 [N, C, H, W]. A layer that answers alike to all of them stays as it is.
    """
    weighted = [module for module in model.children() if any(True for _ in module.parameters())]
    training = model.training
    model.eval()
    for module in model.children():
        for _ in range(ROUNDS if module in weighted[:-1] else 0):
            variance = float(module(images).var(correction=0))
            if variance == 0 or abs(variance - 1) < CLOSE:
                break
            module.get_parameter("weight").div_(sqrt(variance))
        images = module(images)
    model.train(training)
