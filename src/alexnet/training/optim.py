"""The optimiser and the learning rate from an OptimConfig."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from alexnet.config import OptimConfig


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or Adam(W) over the parameters that are trained: biases without decay and the last layer at its own rate, if
    so configured. A group's "scale" is its rate over the configured one."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    head = named[-1][0].rpartition(".")[0]
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in named:
        decay = config.weight_decay if config.decay_biases or not name.endswith("bias") else 0.0
        own_rate = config.head_lr is not None and name.rpartition(".")[0] == head
        scale = config.head_lr / config.lr if own_rate and config.head_lr is not None else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "scale": scale, "lr": config.lr * scale}
        for (decay, scale), parameters in groups.items()
    ]
    if config.name in ("sgd", "paper-sgd"):
        sgd = torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        if config.momentum:  # torch makes them at the first step, of undefined content if that step is skipped
            for _, parameter in named:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(settings, lr=config.lr, betas=config.betas, fused=True)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the groups that learn at the configured one."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["scale"])


def set_lr(optimizer: torch.optim.Optimizer, lr: float, config: OptimConfig) -> None:
    """Set the rate of every group.

    The paper's velocity contains the rate (v <- .9 v - .0005 eps w - eps g, section 5), torch's does not; the two
    differ only when the rate changes, so paper-sgd rescales the momentum then.
    """
    old = current_lr(optimizer)
    if config.name == "paper-sgd" and lr != old and lr > 0:
        for state in optimizer.state.values():
            if state["momentum_buffer"] is not None:  # None without momentum
                state["momentum_buffer"].mul_(old / lr)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


@dataclass
class Plateau:
    """How often the rate has dropped because the validation accuracy stopped improving."""

    best: float = -math.inf
    bad_epochs: int = 0
    drops: int = 0

    def observe(self, accuracy: float, config: OptimConfig) -> None:
        """Count an epoch; a drop follows more than `patience` epochs without improvement."""
        if accuracy > self.best:
            self.best, self.bad_epochs = accuracy, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > config.patience and self.drops < config.max_drops:
            self.drops += 1
            self.bad_epochs = 0


class Schedule:
    """The learning rate of every step: a function of the step alone, but for plateau's count of drops."""

    def __init__(self, config: OptimConfig, epochs: int, steps_per_epoch: int) -> None:
        self.config = config
        self.total = epochs * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.plateau = Plateau()

    def lr(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        c = self.config
        warmup = c.warmup_epochs * self.steps_per_epoch
        part = min(1.0, (step + 1) / warmup) if warmup else 1.0
        match c.schedule:
            case "constant":
                part *= 1.0
            case "step":
                part *= c.factor ** (step // self.steps_per_epoch // c.step_epochs)
            case "plateau":
                part *= c.factor**self.plateau.drops
            case "cosine":
                part *= _cosine(1.0, 0.0, (step - warmup) / max(1.0, self.total - warmup))
            case "one-cycle":
                part *= _one_cycle(step, self.total, c.peak)
        return c.lr * part

    def observe(self, accuracy: float) -> None:
        """Tell the schedule an epoch's validation accuracy."""
        if self.config.schedule == "plateau":
            self.plateau.observe(accuracy, self.config)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return asdict(self.plateau)

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.plateau = Plateau(**state)


def _cosine(start: float, end: float, at: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(max(at, 0.0), 1.0)))


def _one_cycle(step: int, total: int, peak: float) -> float:
    """Smith and Topin's one-cycle with cosine flanks, from 1/25 to 1 to almost 0, as torch's OneCycleLR."""
    top = peak * total - 1
    if step <= top:
        return _cosine(1 / 25, 1.0, step / (top or 1.0))
    return _cosine(1.0, 1 / 25e4, (step - top) / (total - 1 - top or 1.0))
