"""The average of a network's weights over its training, which is evaluated instead of the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a network's parameters (Polyak averaging with forgetting).

    Until step `start` it is the weights themselves. From then on its decay is `decay`, but a young average forgets
    faster, (1 + age) / (10 + age), or it would hold on to the weights that it began with: the rule of TensorFlow's
    ExponentialMovingAverage. So it never remembers more than a ninth of the steps of its life.
    """

    def __init__(self, model: nn.Module, decay: float, start: float = 0) -> None:
        """The average begins with the weights that `model` has now."""
        self.decay, self.start = decay, start
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, bad: Tensor) -> None:
        """Take in the weights after a step, counted from 0; after a `bad` one (a boolean on their device) nothing."""
        age = step - self.start
        kept = min(self.decay, (1 + age) / (10 + age)) if age >= 0 else 0.0
        weight = (1 - kept) * (~bad).float()
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, weight)

    def averaged(self, model: nn.Module) -> nn.Module:
        """A copy of `model` with the averaged weights."""
        average = copy.deepcopy(model)
        average.load_state_dict(self.weights)
        return average

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights for a checkpoint, as "ema/<parameter>"."""
        return {f"ema/{name}": value for name, value in self.weights.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `tensors`."""
        for name, value in self.weights.items():
            value.copy_(tensors[f"ema/{name}"])
