"""The loss of a batch: against the formula in float64, with labels that are probabilities, and in the training step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.models.network import build_model
from alexnet.training.learner import Learner
from alexnet.training.losses import build_loss, count_correct


def learner(**values) -> Learner:
    torch.manual_seed(1)
    model = build_model("cifar", width=0.125, dropout=0.0, init="he")
    return Learner(TrainConfig(**values), model, 3, resolve_compute("cpu", "fp32"), World())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 32, 32, generator=generator), torch.randint(10, (12,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_labels_are_the_formula(smoothing):
    logits, targets = torch.randn(7, 5), torch.rand(7, 5).softmax(dim=1)
    value, correct = build_loss(TrainConfig(label_smoothing=smoothing))(lambda x: x, logits, targets)
    smooth = (1 - smoothing) * targets.double() + smoothing / 5
    assert value.item() == pytest.approx(-(smooth * logits.double().log_softmax(dim=1)).sum().item(), rel=1e-6)
    assert correct == sum(int(row.argmax() == wanted.argmax()) for row, wanted in zip(logits, targets, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("parts", [1, 3])
def test_one_hot_labels_are_classes(batch, smoothing, parts):
    """Through the whole step: loss, correct answers and gradients."""
    images, labels = batch
    classes, soft = (learner(label_smoothing=smoothing, accumulate=parts) for _ in range(2))
    sums = classes.train_step(images, labels, 12)
    torch.testing.assert_close(soft.train_step(images, F.one_hot(labels, 10).float(), 12), sums, rtol=1e-6, atol=0)
    for (name, a), b in zip(classes.model.named_parameters(), soft.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_loss_that_mixes_images_needs_no_change_of_the_step(batch):
    """Mixup with one weight: the loss is that of the mixed images under both labels."""
    images, labels = batch
    one = learner()
    plain = one.loss

    def mixup(network, images, labels):
        soft = 0.7 * F.one_hot(labels, 10).float() + 0.3 * F.one_hot(labels.flip(0), 10).float()
        return plain(network, 0.7 * images + 0.3 * images.flip(0), soft)

    one.loss = mixup
    loss, correct = one.train_step(images, labels, 12).tolist()
    with torch.no_grad():
        logits = one.model(0.7 * images + 0.3 * images.flip(0)).double()
    both = [F.cross_entropy(logits, wanted, reduction="sum").item() for wanted in (labels, labels.flip(0))]
    assert loss == pytest.approx(0.7 * both[0] + 0.3 * both[1], rel=1e-5)
    assert correct == (logits.argmax(dim=1) == labels).sum()
    assert all(p.grad is not None for p in one.model.parameters())


def test_the_most_probable_label_is_the_correct_one():
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert count_correct(logits, torch.tensor([1, 1, 2])) == 2
    assert count_correct(logits, torch.tensor([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]])) == 2
