"""The average of the weights: against the formula in float64, over bad steps, through checkpoints."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet.training.averaging import Average

GOOD, BAD = torch.tensor(False), torch.tensor(True)


def moved(model: nn.Module, seed: int) -> None:
    """Give the model other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


@settings(deadline=None, max_examples=30)
@given(decay=st.floats(0.01, 0.9999), flags=st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_average_is_the_formula_and_bad_steps_leave_it(decay, flags):
    model = nn.Linear(3, 2)
    average = Average(model, decay)
    expected = model.weight.detach().double().numpy().copy()
    for step, bad in enumerate(flags):
        moved(model, step)
        before = {name: value.clone() for name, value in average.weights.items()}
        average.update(model, step, torch.tensor(bad))
        if bad:
            assert all(torch.equal(value, before[name]) for name, value in average.weights.items())
        else:
            weight = 1 - min(decay, (1 + step) / (10 + step))
            expected += weight * (model.weight.detach().double().numpy() - expected)
    np.testing.assert_allclose(average.weights["weight"].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_average_is_not_trained_and_not_the_weights_themselves():
    model = nn.Linear(3, 2)
    start = copy.deepcopy(model)
    average = Average(model, 0.9)
    moved(model, 0)
    assert torch.equal(average.weights["weight"], start.weight)
    average.update(model, 0, GOOD)
    assert not any(value.requires_grad for value in average.weights.values())
    torch.testing.assert_close(average.weights["bias"], 0.1 * start.bias + 0.9 * model.bias)


def test_an_average_that_begins_late_is_the_weights_until_then():
    model = nn.Linear(3, 2)
    average, late = Average(model, 0.5), Average(model, 0.5, start=2)
    for step in range(2):
        moved(model, step)
        late.update(model, step, GOOD)
        assert torch.equal(late.weights["weight"], model.weight)
    average.weights["weight"].copy_(model.weight)
    for step in range(3):
        moved(model, step)
        average.update(model, step, GOOD)
        late.update(model, step + 2, GOOD)
    assert torch.equal(late.weights["weight"], average.weights["weight"])
    assert not torch.equal(late.weights["weight"], model.weight)


def test_the_averaged_copy_leaves_the_model():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    average = Average(model, 0.5)
    moved(model, 0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = average.averaged(model)
    assert all(torch.equal(value, average.weights[name]) for name, value in averaged.state_dict().items())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not averaged.training
    moved(averaged, 1)
    assert not torch.equal(averaged[0].weight, average.weights["0.weight"]), "the copy shares the average's memory"


@pytest.mark.parametrize("at", [0, 3])
def test_a_restored_average_goes_on_the_same(at):
    model = nn.Linear(3, 2)
    whole, resumed = Average(model, 0.99), Average(copy.deepcopy(model), 0.99)
    for step in range(6):
        if step == at:
            saved = {name: value.clone() for name, value in whole.tensors().items()}
            assert saved.keys() == {"ema/weight", "ema/bias"}
            resumed.restore(saved | {"totals": torch.zeros(3)})
        moved(model, step)
        whole.update(model, step, BAD if step == 4 else GOOD)
        if step >= at:
            resumed.update(model, step, BAD if step == 4 else GOOD)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
