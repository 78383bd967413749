"""What a training step minimises: the loss of a batch, built from the configuration.

A loss is handed the network together with the batch, so that one which asks more of the network than one answer
(distillation, consistency of two views) is a function here and changes nothing in the training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from alexnet.config import TrainConfig


class Loss(Protocol):
    """The loss of a batch and its number of correct answers, both summed over the images."""

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`network` maps images [B, C, H, W] to float32 logits [B, K]; labels are classes [B] or probabilities [B, K].

        Returns two scalars on the images' device, the first with its gradient.
        """


def build_loss(config: TrainConfig) -> Loss:
    """Cross-entropy, the paper's multinomial logistic regression (section 3.5), with the configured label smoothing."""

    def loss(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images)
        value = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=config.label_smoothing)
        return value, count_correct(logits.detach(), labels)

    return loss


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How often the largest of the logits [B, K] is the label [B], or the most probable of the labels [B, K]."""
    wanted = labels if labels.ndim == 1 else labels.argmax(dim=1)
    return (logits.argmax(dim=1) == wanted).sum()
