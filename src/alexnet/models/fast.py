"""Networks on the kernels in C (native/): modules that are torch's and compute faster on a CPU."""

from __future__ import annotations

from torch import nn

from alexnet.models.pooling import AvgPool2d, MaxPool2d
from alexnet.models.winograd import Conv2d

_OURS: dict[type, type] = {nn.MaxPool2d: MaxPool2d, nn.AvgPool2d: AvgPool2d, nn.Conv2d: Conv2d}


def use_kernels(model: nn.Module) -> None:
    """Let the pooling and the convolutions of a network run on the kernels. For networks that nobody else holds: some
    tools, as captum's LRP, go by a module's exact class, and torch.fx by its package: to these the modules would be
    unknown."""
    for module in model.modules():
        module.__class__ = _OURS.get(type(module), type(module))
