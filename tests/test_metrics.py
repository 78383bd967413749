"""Accuracy, intervals and confusion against scikit-learn and scipy; the evaluation that counts them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score
from torch import nn

from alexnet.compute import Compute
from alexnet.config import DataConfig
from alexnet.data.resident import ResidentSplit
from alexnet.data.splits import Split
from alexnet.inference.evaluation import score
from alexnet.metrics import Result, wilson_interval

FP32 = Compute(torch.device("cpu"), torch.float32)


class Rows(nn.Module):
    """Answers with logits by the image's first pixel."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[images[:, 0, 0, 0].round().long()]


def numbered(n: int, k: int, side: int = 4) -> ResidentSplit:
    """Images whose pixels all hold their row."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, side, side)).copy()
    labels = np.random.default_rng(1).integers(0, k, n)
    return ResidentSplit(Split(images, labels, np.arange(n)), FP32.device, RAW)


RAW = DataConfig(crop=4, mean=(0.0,), std=(1 / 255,))  # leaves the pixels' numbers as they are


def evaluated(logits: np.ndarray, split: ResidentSplit, **options) -> Result:
    classes = tuple(f"c{i}" for i in range(logits.shape[1]))
    return score(Rows(logits), split, FP32, name="test", classes=classes, **options)


@pytest.mark.parametrize("k", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_evaluation_counts_as_scikit_learn(k, batch, monkeypatch):
    monkeypatch.setattr("alexnet.inference.forward.SMALL_BATCH", batch)
    n = 120
    logits = np.random.default_rng(k).normal(size=(n, k)).astype(np.float32)
    split = numbered(n, k)
    result = evaluated(logits, split)
    labels, every = split.labels.numpy(), list(range(k))
    probabilities = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    probabilities = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    assert result.top1 == pytest.approx((logits.argmax(axis=1) == labels).mean())
    top5 = 1.0 if k <= 5 else top_k_accuracy_score(labels, logits, k=5, labels=every)
    assert result.top5 == pytest.approx(top5)
    assert result.loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-5)
    expected = confusion_matrix(labels, logits.argmax(axis=1), labels=every)
    assert np.array_equal(result.confusion, expected)
    assert result.count == n
    recall = confusion_matrix(labels, logits.argmax(axis=1), labels=every, normalize="true").diagonal()
    for value, reference, present in zip(result.per_class.values(), recall, expected.sum(axis=1) > 0, strict=True):
        assert value == pytest.approx(reference) if present else math.isnan(value)
    assert (result.top1_error, result.top5_error) == (1 - result.top1, 1 - result.top5)


def test_views_average_the_softmax_not_the_logits():
    """Each view of a picture answers for itself (section 4.1)."""
    side, k = 6, 3
    image = np.arange(side * side, dtype=np.uint8).reshape(1, 1, side, side)
    split = ResidentSplit(Split(image, np.array([2]), np.array([0])), FP32.device, RAW)
    logits = np.random.default_rng(0).normal(scale=4, size=(side * side, k)).astype(np.float32)
    result = evaluated(logits, split, views=10)
    corners = [0, 2, 12, 14, 7]  # first pixel of each view; of a mirrored one, three further
    chosen = logits[corners + [first + 3 for first in corners]].astype(np.float64)
    mean = np.exp(chosen - logsumexp(chosen, axis=1, keepdims=True)).mean(axis=0)
    assert result.loss == pytest.approx(-math.log(mean[2]), rel=1e-5)
    assert result.confusion[2].argmax() == mean.argmax()
    assert result.views == 10


@pytest.mark.parametrize("views", [1, 10])
def test_certain_and_wrong_stays_finite(views):
    logits = np.zeros((4, 3), np.float32)
    logits[:, 0] = 3e4
    assert math.isfinite(evaluated(logits, numbered(4, 3), views=views).loss)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_batches(training):
    model = Rows(np.zeros((30, 3), np.float32)).train(training)
    calls, batches, modes = [], [], []

    def watch(module, inputs):
        batches.append(len(inputs[0]))
        modes.append(module.training)

    model.register_forward_pre_hook(watch)
    split = numbered(30, 3)
    score(model, split, FP32, name="", classes=("a", "b", "c"), on_logits=lambda *_: calls.append(1))
    assert model.training is training
    assert not any(modes)
    assert sum(batches) == 30
    assert len(calls) == len(batches)


def test_mode_is_restored_after_an_error():
    model = Rows(np.zeros((3, 3), np.float32)).train()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, numbered(3, 3), FP32, name="", classes=("a", "b", "c"), on_logits=stop)
    assert model.training


@settings(deadline=None)
@given(st.data())
def test_wilson_is_scipys(data):
    count = data.draw(st.integers(1, 100_000))
    successes = data.draw(st.integers(0, count))
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_wilson_at_its_ends():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(0, 20)
    assert 0 <= low < 1e-12
    assert high == pytest.approx(1.959964**2 / (20 + 1.959964**2))
    assert wilson_interval(20, 20)[1] == pytest.approx(1.0)
    assert wilson_interval(20, 20)[1] <= 1.0


def result(**fields) -> Result:
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    values = {
        "split": "val", "top1": 5 / 6, "top5": 1.0, "loss": 0.25, "count": 6, "views": 1, "classes": ("a", "b", "c"),
        "confusion": confusion,
    }  # fmt: skip
    return Result(**{**values, **fields})


def test_per_class_and_json():
    values = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    assert values["per_class"] == {"a": 0.75, "b": 1.0, "c": None}
    assert values["top1_interval"] == pytest.approx(list(wilson_interval(5, 6)))
    assert values["top5_interval"] == pytest.approx(list(wilson_interval(6, 6)))
    assert values["top1_error"] == pytest.approx(1 / 6)
    assert values["top5_error"] == 0.0
    assert (values["split"], values["count"], values["views"], values["loss"]) == ("val", 6, 1, 0.25)
    assert "confusion" not in values


def test_equal_results_are_equal():
    assert result() == result()
    assert len({result(), result()}) == 1
    assert result() != result(top1=0.0)
