"""Images that grow in the course of a run: small ones first, because a step on them takes less time."""

from __future__ import annotations

from functools import partial
from itertools import takewhile

from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.config import TrainConfig
from alexnet.errors import UsageError
from alexnet.models.network import AlexNet
from alexnet.models.summary import smallest_input, trace

STRIDE = 4  # pixels between one side and the next


class Growth:
    """The side of the images at every step of a run: from `grow_from` to the network's own, STRIDE pixels at a time, in
    stages of equal length that together take the first `grow_epochs` epochs."""

    def __init__(self, config: TrainConfig, model: AlexNet, steps_per_epoch: int) -> None:
        """Raises UsageError for a first side that is not below the network's own or too small for its kernels, and
        where no epochs are given to it."""
        self.full = model.variant.input_size
        self.smaller: list[int] = []
        self.steps = config.grow_epochs * steps_per_epoch
        if config.grow_from is not None:
            smallest = smallest_input(model.variant)
            if not smallest <= config.grow_from < self.full:
                raise UsageError(
                    f"--grow-from {config.grow_from}: this network takes {self.full} pixels and can begin with "
                    f"{smallest} to {self.full - 1}."
                )
            if not config.grow_epochs:
                raise UsageError(f"--grow-from {config.grow_from}: say for how many epochs with --grow-epochs.")
            self.smaller += range(config.grow_from, self.full, STRIDE)

    def side(self, step: int) -> int:
        """Pixels at a step, counted from 0."""
        stage = int(step / self.steps * len(self.smaller)) if self.smaller else 0
        return self.smaller[stage] if stage < len(self.smaller) else self.full


class AnySize(nn.Module):
    """A network that takes smaller images than its own, too: the last pooling before the fully connected layers then
    spreads its windows over the maps that there are, so that their number stays what it was.

    At the network's own size nothing is different, and nothing is learned here that is not the network's.
    """

    def __init__(self, model: AlexNet) -> None:
        """Raises UsageError for a network without a pooling at that place."""
        super().__init__()
        self.model = model
        maps = takewhile(lambda layer: layer.kind != "flatten", trace(model.variant))
        last = [layer for layer in maps if layer.kind != "activation"][-1]  # which changes no size
        self.last = last.name
        side = last.out_shape[-1]  # maps are square
        match model.get_submodule(last.name):
            case nn.MaxPool2d():
                self.pool = partial(F.adaptive_max_pool2d, output_size=side)
            case nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
                self.pool = partial(F.adaptive_avg_pool2d, output_size=side)
            case _:
                raise UsageError(
                    f"--grow-from: {last.name} stands before this network's fully connected layers; images can grow "
                    "only where a pooling does, which makes their maps one size."
                )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, side, side]."""
        if images.shape[-1] == self.model.variant.input_size:
            logits: Tensor = self.model(images)
            return logits
        for name, layer in self.model.named_children():
            images = self.pool(images) if name == self.last else layer(images)
        return images
