"""The optimiser, with rules for single layers, and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from alexnet.config import Leg, OptimConfig
from alexnet.config.rules import Rule, Setting, in_force, parse_rule
from alexnet.errors import UsageError, unknown
from alexnet.models.local import LocalConv2d


@dataclass
class Group:
    """Parameters, by name, that the same rules hold for, and what holds for them at present."""

    parameters: dict[str, nn.Parameter]
    rules: tuple[Rule, ...]
    lr: float
    weight_decay: float
    momentum: float


class Optimizer:
    """SGD, the paper's SGD, Adam or AdamW over those parameters of a network that require gradients.

    Groups of parameters may learn at their own rate, decay and momentum, by the rules of an OptimConfig. The update is
    torch's own, fused, but called as a function: torch.optim's classes import torch's compiler, which takes seconds,
    and have no public way to leave out a step that only the device knows to be bad.
    """

    def __init__(self, config: OptimConfig, model: nn.Module) -> None:
        """Raises UsageError for a rule that selects no parameter of `model`."""
        self.config = config
        self.groups = _groups(config, model)
        # What a parameter's next update needs of those before, under torch.optim's names.
        self.state: dict[str, dict[str, Tensor]] = {name: {} for group in self.groups for name in group.parameters}
        self.set_lr(config.lr, epoch=1)

    def set_lr(self, lr: float, epoch: int) -> None:
        """Set the scheduled rate, and what the rules make of it, of the decay and of the momentum in an epoch (from 1).

        The paper's velocity contains the rate (v <- .9 v - .0005 eps w - eps g, section 5), torch's momentum is the
        velocity over the rate. The two differ only when the rate changes, so paper-sgd rescales the momentum then, and
        the velocity stays what it is; a frozen group holds the velocity itself.
        """
        self.lr = lr
        for group in self.groups:
            old, group.lr = group.lr, in_force([rule.rate for rule in group.rules], epoch, lr)
            group.weight_decay = in_force([rule.decay for rule in group.rules], epoch, self.config.weight_decay)
            group.momentum = in_force([rule.momentum for rule in group.rules], epoch, self.config.momentum)
            if self.config.name == "paper-sgd" and group.lr != old:
                for name in group.parameters:
                    for momentum in self.state[name].values():
                        momentum.mul_((old or 1.0) / (group.lr or 1.0))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    @torch.no_grad()
    def step(self, bad: Tensor | None = None) -> None:
        """Update the parameters that have a gradient, unless `bad` (a boolean on their device) holds.

        A bad step changes neither parameters nor state; the device decides that, and the host does not wait for it. A
        group whose rate is 0 is left as it is as well, momentum included (weights.cu of cuda-convnet).
        """
        for group in self.groups:
            if not group.lr:
                continue
            moving = {name: p for name, p in group.parameters.items() if p.grad is not None}
            parameters: list[Tensor] = list(moving.values())
            gradients = [p.grad for p in parameters if p.grad is not None]
            shared: dict[str, Any] = {"lr": group.lr, "weight_decay": group.weight_decay, "maximize": False}
            shared |= {"fused": True, "found_inf": None if bad is None else bad.float()}
            if self.config.name in ("sgd", "paper-sgd"):
                momenta: list[Tensor | None] = [None] * len(moving)
                if group.momentum:
                    momenta[:] = self._buffers("momentum_buffer", moving)
                shared |= {"momentum": group.momentum, "nesterov": self.config.nesterov}
                sgd(parameters, gradients, momenta, dampening=0.0, **shared)
            else:
                averages, squares, steps = (self._buffers(kind, moving) for kind in ("exp_avg", "exp_avg_sq", "step"))
                update: Any = adam if self.config.name == "adam" else adamw
                shared |= dict(zip(("beta1", "beta2"), self.config.betas, strict=True))
                update(parameters, gradients, averages, squares, [], steps, amsgrad=False, eps=1e-8, **shared)

    def _buffers(self, kind: str, parameters: dict[str, nn.Parameter]) -> list[Tensor]:
        """This part of the parameters' state, from zero where it is new; it has the parameter's layout in memory."""
        for name, parameter in parameters.items():
            if kind not in self.state[name]:
                scalar = kind == "step"
                new = parameter.new_zeros((), dtype=torch.float32) if scalar else torch.zeros_like(parameter)
                self.state[name][kind] = new
        return [self.state[name][kind] for name in parameters]

    def tensors(self) -> dict[str, Tensor]:
        """The state for a checkpoint, as "optimizer/<parameter>/<part>"; its parts are named as torch.optim's."""
        return {f"optimizer/{name}/{kind}": t for name, state in self.state.items() for kind, t in state.items()}

    def restore(self, tensors: Mapping[str, Tensor], lr: float, epoch: int) -> None:
        """Undo `tensors`, after whose last step the scheduled rate was `lr` and the epoch `epoch`."""
        self.set_lr(lr, epoch)
        for group in self.groups:
            for name, parameter in group.parameters.items():
                prefix = f"optimizer/{name}/"
                self.state[name] = {
                    key.removeprefix(prefix): _like(parameter, tensor)
                    for key, tensor in tensors.items()
                    if key.startswith(prefix)
                }


def _like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """A copy beside the parameter, in its layout, or the next step would be slower."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def _groups(config: OptimConfig, model: nn.Module) -> list[Group]:
    """The parameters that are trained, those with the same rules together."""
    rules = [parse_rule(text) for text in config.rules]
    roles = _roles(model)
    for rule in rules:  # frozen layers count: a rule for one of them is no mistake
        if not any(_selects(rule.which, name, roles) for name, _ in model.named_parameters()):
            known = dict.fromkeys([*filter(None, roles), *filter(None, roles.values()), "weights", "biases"])
            raise UsageError(f"--optim.rules: {unknown('parameters', rule.which, known)}")
    # The flags that are older than rules are rules too, and give way to those that are written out.
    if config.head_lr is not None:
        rules.insert(0, Rule("head", rate=(Setting(config.head_lr / config.lr, multiple=True),)))
    if not config.decay_biases:
        rules.insert(0, Rule("biases", decay=(Setting(0.0),)))
    groups: dict[tuple[Rule, ...], Group] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = tuple(rule for rule in rules if _selects(rule.which, name, roles))
            group = groups.setdefault(own, Group({}, own, config.lr, config.weight_decay, config.momentum))
            group.parameters[name] = parameter
    return list(groups.values())


_ROLES = {"convolutions": nn.Conv2d, "locals": LocalConv2d, "hidden": nn.Linear}


def _roles(model: nn.Module) -> dict[str, str]:
    """The layers that have parameters of their own, by name, and what they are for: the last one is the head."""
    roles = {}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            roles[name] = next((role for role, kind in _ROLES.items() if isinstance(module, kind)), "")
    return roles | dict.fromkeys(list(roles)[-1:], "head")


def _selects(which: str, name: str, roles: dict[str, str]) -> bool:
    """Whether a rule's selector (see `Rule.which`) means the parameter `name`."""
    layer, _, own = name.rpartition(".")
    kind, role = "biases" if own == "bias" else "weights", roles[layer]
    names = [*accumulate(name.split("."), "{}.{}".format), f"{layer}.{kind}"]  # conv1, conv1.bias, conv1.biases
    return which in (kind, role, f"{role}.{kind}") or any(fnmatchcase(n, which) for n in names)


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
    """The learning rate of every step of a leg: a function of the step alone, but for plateau's count of drops."""

    def __init__(self, config: OptimConfig, epochs: int, steps_per_epoch: int) -> None:
        self.config = config
        self.total = epochs * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.plateau = Plateau()

    def lr(self, step: int) -> float:
        """The rate of a step, counted from 0 at the leg's beginning."""
        c = self.config
        warmup = c.warmup_epochs * self.steps_per_epoch
        part = min(1.0, (step + 1) / warmup) if warmup else 1.0
        match c.schedule:
            case "constant":
                part *= 1.0
            case "step":
                part *= c.factor ** self._steps_down(step)
            case "plateau":
                part *= c.factor**self.plateau.drops
            case "cosine":
                part *= _cosine(1.0, 0.0, (step - warmup) / max(1.0, self.total - warmup))
            case "one-cycle":
                part *= _one_cycle(step, self.total, c.peak)
            case "triangular":
                part *= _triangular(step, self.total, c.peak)
        return c.lr * part

    def _steps_down(self, step: int) -> int:
        """How many drops of the step schedule come before a step."""
        if self.config.drops:
            return sum(step >= epoch * self.steps_per_epoch for epoch in self.config.drops)
        return step // self.steps_per_epoch // self.config.step_epochs

    def drop_to_come(self, step: int) -> bool:
        """Whether the rate is still to drop after a step: by one of a schedule's drops, or on its way down to zero."""
        match self.config.schedule:
            case "cosine" | "one-cycle" | "triangular":
                return step < self.total - 1
            case "step":
                return self._steps_down(self.total - 1) > self._steps_down(step)
            case "plateau":
                return self.plateau.drops < self.config.max_drops
        return False

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


class Course:
    """The learning rate of every step of a run, whose legs have a schedule each; steps count from 0 at its beginning.

    A leg begins afresh: nothing of an earlier leg's schedule, such as plateau's drops, reaches into it.
    """

    def __init__(self, legs: Sequence[Leg], steps_per_epoch: int) -> None:
        starts = accumulate((leg.epochs for leg in legs[:-1]), initial=0)
        self._schedules = [
            (start * steps_per_epoch, Schedule(leg.optim, leg.epochs, steps_per_epoch))
            for start, leg in zip(starts, legs, strict=True)
        ]

    def _at(self, step: int) -> tuple[int, Schedule]:
        """Where the leg of a step begins, and its schedule; the last leg's after the run's end."""
        return next(pair for pair in reversed(self._schedules) if pair[0] <= step)

    def lr(self, step: int) -> float:
        """The rate of a step."""
        start, schedule = self._at(step)
        return schedule.lr(step - start)

    def drop_to_come(self, step: int) -> bool:
        """Whether the rate is still to drop after a step, or a leg with a schedule of its own to begin."""
        start, schedule = self._at(step)
        return schedule is not self._schedules[-1][1] or schedule.drop_to_come(step - start)

    def observe(self, accuracy: float, step: int) -> None:
        """Tell the schedule the validation accuracy of the epoch whose last step was `step`."""
        self._at(step)[1].observe(accuracy)

    def state(self, step: int) -> dict[str, Any]:
        """What a run needs that goes on after so many steps: that of the leg of the last one, which may be lengthened
        then in the place of the leg that would have come."""
        return self._at(max(0, step - 1))[1].state()

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Undo `state`."""
        self._at(max(0, step - 1))[1].restore(state)


def _cosine(start: float, end: float, at: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(max(at, 0.0), 1.0)))


def _triangular(step: int, total: int, peak: float) -> float:
    """Linear from zero to 1 and back to zero, in the middle of a step: no step is at zero, and none is lost."""
    at, top = step + 0.5, peak * total
    return max(0.0, min(at / top, (total - at) / (total - top)))


def _one_cycle(step: int, total: int, peak: float) -> float:
    """Smith and Topin's one-cycle with cosine flanks, from 1/25 to 1 to almost 0, as torch's OneCycleLR."""
    top = peak * total - 1
    if step <= top:
        return _cosine(1 / 25, 1.0, step / (top or 1.0))
    return _cosine(1.0, 1 / 25e4, (step - top) / (total - 1 - top or 1.0))
