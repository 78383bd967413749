"""Optimisers and schedules against torch's own and against the paper's update written out in numpy."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet.config import DataConfig, Leg, OptimConfig, TrainConfig
from alexnet.errors import UsageError
from alexnet.models.network import build_model
from alexnet.training.optim import Course, Optimizer, Plateau, Schedule


def reference(config: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)


def rates(scheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


class Model(nn.Module):
    """Weights and a bias whose gradients are given."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.float64))


def step(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, gradients: dict[str, np.ndarray]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = torch.from_numpy(gradients[name].copy())
    optimizer.step()


def network() -> nn.Module:
    """A convolution, a hidden layer and a head, in float64."""
    torch.manual_seed(0)
    layers = {"conv1": nn.Conv2d(2, 3, 2), "flat": nn.Flatten(), "fc6": nn.Linear(3, 4), "fc8": nn.Linear(4, 2)}
    return nn.Sequential(OrderedDict(layers)).double()


RATES = [0.1, 0.1, 0.1, 0.03, 0.03, 0.01, 0.05, 0.05, 0.001, 0.001]


@pytest.mark.parametrize("decay_biases", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_paper_sgd_is_the_papers_update_with_a_changing_rate(momentum, decay_biases):
    """v <- m v - d e w - e g; w <- w + v (section 5), the rate inside the velocity."""
    config = OptimConfig(name="paper-sgd", lr=0.1, momentum=momentum, weight_decay=5e-4, decay_biases=decay_biases)
    model = Model()
    optimizer = Optimizer(config, model)
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    rng = np.random.default_rng(0)
    for rate in RATES:
        g = {name: rng.normal(size=value.shape) for name, value in w.items()}
        optimizer.set_lr(rate, epoch=1)
        step(model, optimizer, g)
        for name in w:
            decay = 0.0 if name == "bias" and not decay_biases else 5e-4
            v[name] = momentum * v[name] - decay * rate * w[name] - rate * g[name]
            w[name] = w[name] + v[name]
            np.testing.assert_allclose(getattr(model, name).detach().numpy(), w[name], rtol=1e-12)


def test_sgd_keeps_the_rate_outside_and_so_differs():
    results = {}
    for name in ("sgd", "paper-sgd"):
        config = OptimConfig(name=name, lr=0.1)
        model = Model()
        optimizer = Optimizer(config, model)
        rng = np.random.default_rng(0)
        for rate in RATES:
            optimizer.set_lr(rate, epoch=1)
            step(model, optimizer, {n: rng.normal(size=p.shape) for n, p in model.named_parameters()})
            if rate == 0.1:
                results.setdefault(f"{name} constant", []).append(model.weight.detach().clone())
        results[name] = model.weight.detach().clone()
    for ours, papers in zip(results["sgd constant"], results["paper-sgd constant"], strict=True):
        torch.testing.assert_close(ours, papers)
    assert not torch.allclose(results["sgd"], results["paper-sgd"], rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "kind", "options"),
    [
        ({}, torch.optim.SGD, {"momentum": 0.9}),
        ({"nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"name": "adam", "betas": (0.8, 0.9)}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
        ({"name": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999)}),
    ],
    ids=["sgd", "nesterov", "adam", "adamw"],
)
def test_other_optimisers_are_torchs(fields, kind, options):
    config = OptimConfig(lr=0.05, weight_decay=0.01, **fields)
    ours, theirs = Model(), Model()
    optimizers = [
        Optimizer(config, ours),
        kind(theirs.parameters(), lr=0.05, weight_decay=0.01, fused=False, **options),
    ]
    rng = np.random.default_rng(0)
    for rate in RATES:
        g = {n: rng.normal(size=p.shape) for n, p in ours.named_parameters()}
        optimizers[0].set_lr(rate, epoch=1)
        optimizers[1].param_groups[0]["lr"] = rate
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            step(model, optimizer, g)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-10, atol=1e-12)


CLASSES = [
    ({}, torch.optim.SGD, {"momentum": 0.9}),
    ({"momentum": 0.0}, torch.optim.SGD, {}),
    ({"nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ({"name": "adam", "betas": (0.8, 0.9)}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
    ({"name": "adamw"}, torch.optim.AdamW, {}),
]


@pytest.mark.parametrize(("fields", "kind", "options"), CLASSES, ids=["sgd", "plain", "nesterov", "adam", "adamw"])
def test_updates_are_those_of_torchs_classes_to_the_bit(fields, kind, options):
    """float32, with rates that change and a bad step, which torch's GradScaler announces by `found_inf`."""
    ours, theirs = network().float(), network().float()
    optimizer = Optimizer(OptimConfig(weight_decay=0.01, **fields), ours)
    other = kind(theirs.parameters(), weight_decay=0.01, fused=True, **options)
    torch.manual_seed(1)
    for number, rate in enumerate(RATES):
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        bad = torch.tensor(number == 3)
        optimizer.set_lr(rate, epoch=1)
        optimizer.step(bad)
        other.found_inf = bad.float()
        other.param_groups[0]["lr"] = rate
        other.step()
        for (name, mine), its in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, its), (name, number)
            assert optimizer.state[name].keys() == {k for k, v in other.state[its].items() if v is not None}
            for part, value in optimizer.state[name].items():
                assert torch.equal(value, other.state[its][part]), (name, part, number)
                assert value.dtype == other.state[its][part].dtype


@pytest.mark.parametrize("name", ["sgd", "paper-sgd", "adam", "adamw"])
def test_a_bad_step_changes_nothing(name):
    model = network()
    optimizer = Optimizer(OptimConfig(name=name), model)
    rng = np.random.default_rng(0)
    step(model, optimizer, {n: rng.normal(size=p.shape) for n, p in model.named_parameters()})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = {n: t.clone() for n, t in optimizer.tensors().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.step(torch.tensor(True))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(torch.equal(t, state[n]) for n, t in optimizer.tensors().items())
    optimizer.zero_grad()
    optimizer.step(torch.tensor(False))  # nothing to go by
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


# --- rules


def test_rules_are_the_released_codes_update_written_out():
    """Both forms of SGD in numpy: rates that change differently, freezing (weights.cu: no decay, the velocity waits),
    an absolute rate, another momentum."""
    rules = (
        "biases rate=2x decay=0",
        "conv1 rate=0.004@2,0@3",
        "fc6 decay=3x rate=0@2,0.03@4",
        "head momentum=0.5 decay=0.01@3",
        "fc8.bias momentum=0 rate=1x@4",
    )

    def own(name: str, epoch: int, lr: float) -> tuple[float, float, float]:
        rate, decay, momentum = lr, 5e-4, 0.9
        if name.endswith(".bias"):
            rate, decay = 2 * lr, 0.0
        if name.startswith("conv1") and epoch >= 2:
            rate = 0.004 if epoch == 2 else 0.0
        if name.startswith("fc6"):
            decay = 1.5e-3
            rate = rate if epoch == 1 else 0.0 if epoch < 4 else 0.03
        if name.startswith("fc8"):
            momentum = 0.5
            decay = decay if epoch < 3 else 0.01
        if name == "fc8.bias":
            momentum = 0.0
            rate = rate if epoch < 4 else lr
        return rate, decay, momentum

    for kind in ("sgd", "paper-sgd"):
        model = network()
        optimizer = Optimizer(OptimConfig(name=kind, lr=0.1, rules=rules), model)
        w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        v = {name: np.zeros_like(value) for name, value in w.items()}
        rng = np.random.default_rng(0)
        for number, lr in enumerate(RATES):
            epoch = 1 + number // 2
            g = {name: rng.normal(size=value.shape) for name, value in w.items()}
            optimizer.set_lr(lr, epoch)
            step(model, optimizer, g)
            for name in w:
                rate, decay, momentum = own(name, epoch, lr)
                if rate:
                    inside = rate if kind == "paper-sgd" else 1.0
                    v[name] = momentum * v[name] - inside * (g[name] + decay * w[name])
                    w[name] = w[name] + (rate / inside) * v[name]
                found = model.get_parameter(name).detach().numpy()
                np.testing.assert_allclose(found, w[name], rtol=1e-11, err_msg=f"{kind} {name} {number}")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_frozen_layer_keeps_its_weights_and_its_state(name):
    model = network()
    optimizer = Optimizer(OptimConfig(name=name, weight_decay=0.5, rules=("conv1 rate=0@2",)), model)
    rng = np.random.default_rng(0)
    for epoch in (1, 2):
        optimizer.set_lr(0.01, epoch)
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        state = {n: t.clone() for n, t in optimizer.tensors().items()}
        step(model, optimizer, {n: rng.normal(size=p.shape) for n, p in model.named_parameters()})
    assert {n for n, p in model.named_parameters() if torch.equal(p, weights[n])} == {"conv1.weight", "conv1.bias"}
    assert {n.split("/")[1] for n, t in optimizer.tensors().items() if torch.equal(t, state[n])} == {
        "conv1.weight",
        "conv1.bias",
    }


MODEL = build_model("cifar", width=0.125)
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
NAMES = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
SELECTED = {  # by hand, for the names of the variant "cifar"
    "weights": [n for n in NAMES if n.endswith("weight")],
    "biases": [n for n in NAMES if n.endswith("bias")],
    "convolutions": [n for n in NAMES if n.startswith("conv")],
    "hidden": ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"],
    "head": ["fc8.weight", "fc8.bias"],
    "head.biases": ["fc8.bias"],
    "convolutions.weights": [f"conv{i}.weight" for i in range(1, 6)],
    "conv1": ["conv1.weight", "conv1.bias"],
    "conv[23].weights": ["conv2.weight", "conv3.weight"],
    "fc*.bias": ["fc6.bias", "fc7.bias", "fc8.bias"],
    "fc7.biases": ["fc7.bias"],
    "*": NAMES,
}
VALUE = st.sampled_from(["0", "0.001", "2x", "0.5x", "0x"])
EPOCHS = 6


@st.composite
def rule_lines(draw) -> str:
    fields = draw(st.lists(st.sampled_from(["rate", "decay"]), min_size=1, max_size=2, unique=True))
    text = draw(st.sampled_from(list(SELECTED)))
    for field in fields:
        epochs = sorted(draw(st.sets(st.integers(1, EPOCHS), min_size=1, max_size=3)))
        text += f" {field}=" + ",".join(f"{draw(VALUE)}@{epoch}" for epoch in epochs)
    return text


@settings(deadline=None, max_examples=40)
@given(rules=st.lists(rule_lines(), max_size=5), decay_biases=st.booleans())
def test_every_parameter_is_in_one_group_and_later_rules_win(rules, decay_biases):
    """Rules one after the other write their values over those of the epochs from theirs on."""
    config = OptimConfig(lr=0.25, weight_decay=0.125, decay_biases=decay_biases, rules=tuple(rules))
    expected = {(n, field): [base] * EPOCHS for n in NAMES for field, base in (("rate", 0.25), ("decay", 0.125))}
    for rule in ([] if decay_biases else ["biases decay=0@1"]) + rules:
        which, *fields = rule.split()
        for field, values in (part.split("=") for part in fields):
            for value, epoch in (choice.split("@") for choice in values.split(",")):
                base = 0.25 if field == "rate" else 0.125
                number = base * float(value[:-1]) if value.endswith("x") else float(value)
                for name in SELECTED[which]:
                    expected[name, field][int(epoch) - 1 :] = [number] * (EPOCHS - int(epoch) + 1)
    optimizer = Optimizer(config, MODEL)
    held = [name for group in optimizer.groups for name in group.parameters]
    assert sorted(held) == sorted(NAMES)
    for epoch in range(EPOCHS):
        optimizer.set_lr(0.25, epoch + 1)
        for group in optimizer.groups:
            for name in group.parameters:
                assert group.lr == expected[name, "rate"][epoch], (name, epoch)
                assert group.weight_decay == expected[name, "decay"][epoch], (name, epoch)


def test_multiples_follow_the_schedule_and_absolute_rates_do_not():
    optimizer = Optimizer(OptimConfig(lr=0.1, rules=("biases rate=2x", "conv1 rate=1e-5@67,0@72")), network())
    rates = {}
    for lr, epoch in ((0.1, 1), (0.01, 66), (0.001, 67), (0.001, 71), (0.001, 72)):
        optimizer.set_lr(lr, epoch)
        assert optimizer.lr == lr
        rates[epoch] = {name: group.lr for group in optimizer.groups for name in group.parameters}
    assert [rates[e]["conv1.bias"] for e in rates] == [0.2, 0.02, 1e-5, 1e-5, 0.0]
    assert [rates[e]["conv1.weight"] for e in rates] == [0.1, 0.01, 1e-5, 1e-5, 0.0]
    assert [rates[e]["fc6.bias"] for e in rates] == [0.2, 0.02, 0.002, 0.002, 0.002]


def test_net_145_as_released():
    """Rates by epoch as its log and its layer files have them; the layers have other names there."""
    rules = ("weights rate=1e-3@25,1e-4@51,1e-5@79", "biases rate=0.02 decay=0", "conv1 rate=1e-5@67,0@72")
    optimizer = Optimizer(OptimConfig(name="paper-sgd", lr=0.01, rules=rules), MODEL)
    epochs, rates = (1, 24, 25, 50, 51, 66, 67, 71, 72, 78, 79, 90), []
    for epoch in epochs:
        optimizer.set_lr(0.01, epoch)
        held = {name: group for group in optimizer.groups for name in group.parameters}
        assert all(held[f"{layer}.bias"].weight_decay == 0 for layer in LAYERS)
        assert all(held[f"{layer}.weight"].weight_decay == 5e-4 for layer in LAYERS)
        rates.append([held[name].lr for name in ("conv1.weight", "conv1.bias", "fc7.weight", "fc7.bias")])
    conv1, conv1_bias, fc7, fc7_bias = zip(*rates, strict=True)
    assert fc7 == (1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5)
    assert fc7_bias == (0.02,) * 12
    assert conv1 == (1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 0, 0, 0, 0)
    assert conv1_bias == (0.02,) * 6 + (1e-5, 1e-5, 0, 0, 0, 0)


def test_flags_are_rules_that_give_way_to_written_ones():
    config = OptimConfig(lr=0.1, head_lr=0.3, decay_biases=False, rules=("head.biases rate=1x decay=1x",))
    held = {name: group for group in Optimizer(config, network()).groups for name in group.parameters}
    assert {n: (round(g.lr, 9), g.weight_decay) for n, g in held.items()} == {
        "conv1.weight": (0.1, 5e-4),
        "conv1.bias": (0.1, 0.0),
        "fc6.weight": (0.1, 5e-4),
        "fc6.bias": (0.1, 0.0),
        "fc8.weight": (0.3, 5e-4),
        "fc8.bias": (0.1, 5e-4),
    }


def test_roles_come_from_modules_and_not_from_names():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1)), nn.Linear(2, 3), nn.Linear(3, 2))
    rules = ("convolutions rate=2x", "hidden rate=3x", "head rate=4x")
    held = {n: g.lr for g in Optimizer(OptimConfig(lr=1.0, rules=rules), model).groups for n in g.parameters}
    assert held == {f"{n}.{k}": r for n, r in (("0.0", 2.0), ("1", 3.0), ("2", 4.0)) for k in ("weight", "bias")}
    with pytest.raises(UsageError, match=r"unknown parameters 'conv\*'"):
        Optimizer(OptimConfig(rules=("conv* rate=2x",)), model)


def test_a_rule_for_no_parameter_is_an_error():
    with pytest.raises(UsageError, match=r"--optim\.rules: unknown parameters 'fc9'\. Did you mean 'fc8'\?"):
        Optimizer(OptimConfig(rules=("weights rate=2x", "fc9 rate=0")), network())
    frozen = network()
    frozen.conv1.requires_grad_(False)
    optimizer = Optimizer(OptimConfig(rules=("conv1 rate=0",)), frozen)  # no mistake: it says what holds anyway
    assert {n for group in optimizer.groups for n in group.parameters} == {
        f"{layer}.{kind}" for layer in ("fc6", "fc8") for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", ["paper-sgd", "adam"])
def test_state_restores_while_a_layer_is_frozen(name):
    """A new optimiser that is given the checkpoint goes on as the first one, through the thaw."""
    config = OptimConfig(name=name, lr=0.1, rules=("fc6 rate=0@2,0.03@3", "biases rate=2x"))
    models = network(), network()
    first, second = (Optimizer(config, model) for model in models)
    rng = np.random.default_rng(0)
    for number, lr in enumerate(RATES):
        epoch = 1 + number // 3
        if number == 5:
            models[1].load_state_dict(models[0].state_dict())
            second.restore({n: t.clone() for n, t in first.tensors().items()}, RATES[4], 2)
        g = {n: rng.normal(size=p.shape) for n, p in models[0].named_parameters()}
        for model, optimizer in zip(models, (first, second), strict=True):
            optimizer.set_lr(lr, epoch)
            if number >= 5 or optimizer is first:
                step(model, optimizer, g)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)
    assert first.tensors().keys() == second.tensors().keys()


# --- schedules


@settings(deadline=None)
@given(epochs=st.integers(2, 12), steps=st.integers(1, 12), peak=st.floats(0.05, 0.95), lr=st.floats(1e-4, 10))
@example(epochs=2, steps=5, peak=0.95, lr=1.0)  # less than a step from the peak to the end
@example(epochs=10, steps=391, peak=0.3, lr=0.03)
def test_one_cycle_is_torchs(epochs, steps, peak, lr):
    total = epochs * steps
    config = OptimConfig(lr=lr, schedule="one-cycle", peak=peak)
    schedule = Schedule(config, epochs, steps)
    expected = []
    optimizer = reference(config)
    try:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, total_steps=total, pct_start=peak, cycle_momentum=False
        )
        for at in range(total):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            if at < total - 1:
                scheduler.step()
    except ZeroDivisionError:  # torch's own, where the peak falls on the first step
        return
    assert [schedule.lr(s) for s in range(total)] == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(total=st.integers(1, 300), peak=st.floats(0.01, 0.99), lr=st.floats(1e-4, 10))
def test_triangular_rises_and_falls_linearly_and_no_step_is_at_zero(total, peak, lr):
    schedule = Schedule(OptimConfig(lr=lr, schedule="triangular", peak=peak), total, 1)
    found = [schedule.lr(s) for s in range(total)]
    assert found == pytest.approx(lr * np.interp(np.arange(total) + 0.5, [0, peak * total, total], [0, 1, 0]))
    assert min(found) > 0
    assert max(found) <= lr * (1 + 1e-12)
    assert schedule.lr(total) == 0  # beyond the end


@settings(deadline=None)
@given(epochs=st.integers(1, 20), steps=st.integers(1, 10), factor=st.floats(0.05, 0.95), every=st.integers(1, 7))
def test_step_is_torchs(epochs, steps, factor, every):
    config = OptimConfig(schedule="step", factor=factor, step_epochs=every)
    expected = rates(torch.optim.lr_scheduler.StepLR(reference(config), every, factor), epochs)
    schedule = Schedule(config, epochs, steps)
    found = [schedule.lr(s) for s in range(epochs * steps)]
    assert found == pytest.approx([rate for rate in expected for _ in range(steps)])


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (3, 7), (10, 2)])
def test_cosine_is_torchs(epochs, steps):
    config = OptimConfig(schedule="cosine")
    expected = rates(torch.optim.lr_scheduler.CosineAnnealingLR(reference(config), epochs * steps), epochs * steps)
    schedule = Schedule(config, epochs, steps)
    assert [schedule.lr(s) for s in range(epochs * steps)] == pytest.approx(expected)


@settings(deadline=None)
@given(
    accuracies=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    patience=st.integers(0, 4),
    max_drops=st.integers(0, 4),
)
def test_plateau_is_torchs_up_to_its_last_drop(accuracies, patience, max_drops):
    config = OptimConfig(schedule="plateau", patience=patience, max_drops=max_drops)
    optimizer = reference(config)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.1, patience=patience, threshold=0.0, min_lr=0.01 * 0.1**max_drops, eps=0
    )
    schedule = Schedule(config, len(accuracies), 3)
    for epoch, accuracy in enumerate(accuracies):
        assert schedule.lr(3 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        theirs.step(accuracy / 4)
        schedule.observe(accuracy / 4)
    assert schedule.plateau.drops <= max_drops


def test_plateau_drops_three_times_by_ten():
    schedule = Schedule(OptimConfig(lr=0.01, schedule="plateau", patience=1), 50, 1)
    seen = []
    for epoch in range(20):
        schedule.observe(0.5)
        seen.append(schedule.lr(epoch))
    assert sorted(set(seen), reverse=True) == pytest.approx([0.01, 1e-3, 1e-4, 1e-5])
    assert seen == sorted(seen, reverse=True)


def test_observing_moves_no_other_schedule():
    schedule = Schedule(OptimConfig(schedule="constant", patience=0), 9, 1)
    for _ in range(9):
        schedule.observe(0.0)
    assert schedule.plateau == Plateau()
    assert schedule.lr(8) == 0.01


@pytest.mark.parametrize("kind", ["constant", "step", "plateau", "cosine", "one-cycle", "triangular"])
def test_state_restores_through_json(kind):
    config = OptimConfig(schedule=kind, patience=0, step_epochs=2)
    whole, resumed = Schedule(config, 6, 5), Schedule(config, 6, 5)
    for accuracy in (0.3, 0.2, 0.2):
        whole.observe(accuracy)
    resumed.restore(json.loads(json.dumps(whole.state())))
    whole.observe(0.25)
    resumed.observe(0.25)
    assert [whole.lr(s) for s in range(15, 30)] == [resumed.lr(s) for s in range(15, 30)]


def test_state_before_the_first_epoch_is_json():
    schedule = Schedule(OptimConfig(schedule="plateau"), 2, 2)
    schedule.restore(json.loads(json.dumps(Schedule(OptimConfig(schedule="plateau"), 2, 2).state())))
    schedule.observe(0.0)
    assert schedule.plateau.best == 0.0


def test_warmup_is_linear_from_zero():
    schedule = Schedule(OptimConfig(lr=0.8, warmup_epochs=1.5), 4, 4)  # 6 steps
    assert [schedule.lr(s) for s in range(8)] == pytest.approx([0.8 * min(1, (s + 1) / 6) for s in range(8)])


def test_cosine_after_warmup_spans_the_rest():
    schedule = Schedule(OptimConfig(lr=1.0, schedule="cosine", warmup_epochs=1), 5, 4)
    found = [schedule.lr(s) for s in range(20)]
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:] == pytest.approx([(1 + np.cos(np.pi * i / 16)) / 2 for i in range(16)])


# --- legs


SCHEDULES = st.sampled_from(["constant", "step", "plateau", "cosine", "one-cycle", "triangular"])


@settings(deadline=None)
@given(legs=st.lists(st.tuples(st.integers(1, 6), SCHEDULES), min_size=1, max_size=4), steps=st.integers(1, 5))
def test_every_leg_has_its_schedule_from_its_beginning(legs, steps):
    legs = [Leg(epochs, OptimConfig(lr=i + 1.0, schedule=s, patience=0)) for i, (epochs, s) in enumerate(legs)]
    course, found = Course(legs, steps), []
    for epoch in range(sum(leg.epochs for leg in legs)):
        found += [course.lr(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        course.observe(0.5, (epoch + 1) * steps - 1)
    expected = []
    for leg in legs:
        alone = Schedule(leg.optim, leg.epochs, steps)
        for epoch in range(leg.epochs):
            expected += [alone.lr(step) for step in range(epoch * steps, (epoch + 1) * steps)]
            alone.observe(0.5)
    assert found == expected


@given(accuracies=st.lists(st.integers(0, 3), min_size=9, max_size=9), at=st.integers(0, 8))
def test_course_restores_at_any_epoch_and_by_a_leg_that_came_later(accuracies, at):
    """Epochs 0 to 5 are of the first leg, 6 to 8 of the second, which the saved course may not have had yet."""
    optim = OptimConfig(schedule="plateau", patience=0)
    legs = [Leg(6, optim), Leg(3, optim)]
    whole, resumed = Course(legs, 2), Course(legs, 2)
    first = Course(legs[: 1 if at <= 6 else 2], 2)
    rates = []
    for epoch, accuracy in enumerate(accuracies):
        if epoch == at:
            resumed.restore(json.loads(json.dumps(first.state(2 * epoch))), 2 * epoch)
        rates.append((whole.lr(2 * epoch), resumed.lr(2 * epoch)))
        for course in (whole, resumed) if epoch >= at else (whole, first):
            course.observe(accuracy, 2 * epoch + 1)
    assert all(a == b for a, b in rates[at:])


def test_the_drops_of_a_leg_outlive_the_leg_that_would_have_come():
    """Of a run that was saved where a second leg would have begun, and goes on with a longer first one."""
    optim = OptimConfig(schedule="plateau", patience=0)
    planned, anew = Course([Leg(3, optim), Leg(2, optim)], 2), Course([Leg(9, optim)], 2)
    for epoch in range(3):
        planned.observe(0.5, 2 * epoch + 1)
    anew.restore(planned.state(6), 6)
    assert anew.lr(6) == planned.lr(5) < optim.lr
    resumed, anew = Course([Leg(3, optim), Leg(2, optim)], 2), Course([Leg(9, optim)], 2)
    resumed.restore(planned.state(6), 6)  # by a session that was stopped before the second leg's first step
    assert resumed.lr(6) == optim.lr
    anew.restore(resumed.state(6), 6)
    assert anew.lr(6) == planned.lr(5)


def test_legs_of_a_configuration():
    config = TrainConfig(epochs=30, then=("10", "5 lr=1e-3 schedule=cosine warmup-epochs=1"), optim=OptimConfig(lr=0.5))
    first, second, third = config.legs
    assert (first, second) == (Leg(30, config.optim), Leg(10, config.optim))
    assert (third.epochs, third.optim) == (5, OptimConfig(lr=1e-3, schedule="cosine", warmup_epochs=1))
    assert (config.horizon, config.end, TrainConfig(epochs=30, stop_after=4).end) == (45, 45, 4)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("", "--then '': a leg is a number of epochs"),
        ("lr=1", "a leg is a number of epochs"),
        ("0", "a leg is a number of epochs"),
        ("-3", "a leg is a number of epochs"),
        ("2.5", "a leg is a number of epochs"),
        ("10 lrr=1", "unknown setting 'lrr'. Did you mean 'lr'"),
        ("10 momentum=.5", "unknown setting 'momentum'"),
        ("10 lr=", "--lr takes float"),
        ("10 lr=0", "--optim.lr 0.0"),
        ("10 schedule=cosin", "Did you mean 'cosine'"),
        ("10 step_epochs=1.5", "--step-epochs takes int"),
    ],
)
def test_legs_with_a_mistake(then, message):
    with pytest.raises(UsageError) as refused:
        TrainConfig(then=(then,))
    assert message in str(refused.value)
    assert f"--then {then!r}" in str(refused.value)


def test_plateau_in_a_later_leg_needs_validation_too():
    with pytest.raises(UsageError, match=r"--data\.val-fraction"):
        TrainConfig(then=("3 schedule=plateau",), data=DataConfig(val_fraction=0.0))


def test_stop_beyond_the_end():
    with pytest.raises(UsageError, match="--stop-after 11 lies beyond the run's 10 epochs"):
        TrainConfig(epochs=10, stop_after=11)
