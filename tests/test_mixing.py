"""CutMix and mixup against the papers' algorithms written out image by image, and their labels by counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.models.network import build_model
from alexnet.training.learner import Learner
from alexnet.training.mixing import mix, pixel_shares, rectangles

CLASSES = 7
UNIT = st.floats(0, 1 - 2**-24, width=32)


def pictures(count: int, height: int = 9, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Every image is one colour, by which it is known, and its label follows from it."""
    colours = torch.arange(1.0, count + 1)
    return colours[:, None, None, None].expand(count, 3, height, width).clone(), torch.arange(count) % CLASSES


@example(drawn=[(1 - 2**-24, 0.0, 0.0)], sides=(2, 2))
@settings(deadline=None)
@given(drawn=st.lists(st.tuples(UNIT, UNIT, UNIT), min_size=1, max_size=8), sides=st.tuples(*[st.integers(1, 40)] * 2))
def test_rectangles_are_the_published_ones(drawn, sides):
    """Yun et al.'s rand_bbox, in numpy, with the same draws."""
    height, width = sides
    areas, y, x = np.float32(drawn).T
    roots = torch.tensor(areas).sqrt().numpy()  # torch's: libraries round a root's last bit either way
    found = rectangles(torch.tensor(areas), torch.tensor(np.stack([y, x], axis=1)), height, width)
    assert found.shape == (len(drawn), 1, height, width)
    for mask, root, cy, cx in zip(found[:, 0].numpy(), roots, y, x, strict=True):
        expected = np.zeros((height, width), bool)
        cut_h, cut_w = (int(np.float32(side) * root) for side in sides)
        cy, cx = int(np.float32(height) * cy), int(np.float32(width) * cx)
        top, bottom = np.clip([cy - cut_h // 2, cy + cut_h // 2], 0, height)
        left, right = np.clip([cx - cut_w // 2, cx + cut_w // 2], 0, width)
        expected[top:bottom, left:right] = True
        assert np.array_equal(mask, expected)


@settings(deadline=None)
@given(
    count=st.integers(1, 9),
    cutmix=st.sampled_from([0.0, 0.2, 1.0]),
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    probability=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_labels_are_the_parts_of_the_pixels(count, cutmix, mixup, probability, seed):
    images, labels = pictures(count)
    config = TrainConfig(cutmix=cutmix, mixup=mixup, mix_probability=probability)
    torch.manual_seed(seed)
    mixed, soft = mix(images, labels, CLASSES, config)
    if not (cutmix or mixup):
        assert (mixed is images, soft is labels) == (True, True)
        return
    assert soft.shape == (count, CLASSES)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(count))
    assert soft.min() >= 0
    torch.manual_seed(seed)
    partners = torch.randperm(count)
    for image, target, own, other in zip(mixed, soft, images, partners, strict=True):
        theirs, mine = float(other) + 1, float(own[0, 0, 0])
        part = 0.0 if mine == theirs else float((image[0].double() - mine).mean() / (theirs - mine))
        expected = (1 - part) * F.one_hot(labels[int(mine) - 1], CLASSES) + part * F.one_hot(labels[other], CLASSES)
        torch.testing.assert_close(target, expected.float(), atol=1e-5, rtol=0)
        assert 0 <= part <= 1
        if not mixup:  # a rectangle of the other image, and every other pixel as it was
            assert set(image.unique().tolist()) <= {mine, theirs}
        if not cutmix:
            assert image.unique().numel() == 1


def test_how_often_and_how_much():
    """Of 20,000 draws: how many images are mixed, either way alike often, and the Beta distribution's moments."""
    blank = torch.empty(20_000, 1, 4, 4)
    torch.manual_seed(0)
    both = pixel_shares(blank, TrainConfig(cutmix=1.0, mixup=1.0, mix_probability=0.6))
    faded = (both.amin(dim=(1, 2, 3)) > 0) & (both.amax(dim=(1, 2, 3)) < 1)
    assert faded.float().mean().item() == pytest.approx(0.3, abs=0.02)
    for alpha in (0.2, 1.0, 3.0):
        parts = pixel_shares(blank, TrainConfig(mixup=alpha)).mean(dim=(1, 2, 3))
        assert parts.mean().item() == pytest.approx(0.5, abs=0.02)
        assert parts.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    areas = pixel_shares(torch.empty(20_000, 1, 64, 64), TrainConfig(cutmix=1.0)).mean(dim=(1, 2, 3))
    # Before the cut at the edges areas are uniform; the mean of what is left is the integral of (s - s^2/4)^2 over s^2.
    sides = np.sqrt((np.arange(10_000) + 0.5) / 10_000)
    assert areas.mean().item() == pytest.approx(((sides - sides**2 / 4) ** 2).mean(), abs=0.02)


def test_every_image_draws_for_itself():
    shares = pixel_shares(torch.empty(64, 3, 32, 32), TrainConfig(cutmix=1.0))
    assert len({share.numpy().tobytes() for share in shares}) > 50


def learner(**values) -> Learner:
    """Three steps an epoch, always the same initial weights."""
    torch.manual_seed(1)
    model = build_model("cifar", width=0.125, dropout=0.0, init="he")
    return Learner(TrainConfig(**values), model, 3, resolve_compute("cpu", "fp32"), World())


def test_the_step_learns_from_mixed_images_and_parts_are_the_whole_batchs():
    """Loss, counts and gradients of one step: by hand, and with the batch in three parts."""

    images, labels = torch.randn(12, 3, 32, 32), torch.randint(10, (12,))
    mixing = {"cutmix": 1.0, "mixup": 0.5, "label_smoothing": 0.1}
    whole, parts = learner(**mixing), learner(**mixing, accumulate=3)
    torch.manual_seed(5)
    loss, correct = whole.train_step(images, labels, 12).tolist()
    torch.manual_seed(5)
    mixed, soft = mix(images, labels, 10, whole.config)
    with torch.no_grad():
        log = whole.model(mixed).double().log_softmax(dim=1)
    assert loss == pytest.approx(-((0.9 * soft.double() + 0.01) * log).sum().item(), rel=1e-5)
    assert correct == (log.argmax(dim=1) == soft.argmax(dim=1)).sum()
    torch.manual_seed(5)
    assert parts.train_step(images, labels, 12).tolist() == pytest.approx([loss, correct], rel=1e-5)
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_an_average_begins_after_its_epochs():
    averaging = learner(ema=0.9, ema_after=2.0)
    images, labels = torch.randn(12, 3, 32, 32), torch.randint(10, (12,))
    same = []
    for _ in range(8):  # of three an epoch
        averaging.apply_step(averaging.train_step(images, labels, 12), 12)
        same.append(torch.equal(averaging.average.weights["conv1.weight"], averaging.model.conv1.weight))
    assert same == [True] * 6 + [False] * 2


def test_mixing_ends_with_its_last_epoch():
    mixing = learner(cutmix=1.0, mix_until=2)
    images, labels = torch.randn(12, 3, 32, 32), torch.randint(10, (12,))
    with torch.no_grad():
        whole = torch.nn.functional.cross_entropy(mixing.model(images), labels, reduction="sum").item()
    losses = []
    for epoch in range(4):
        mixing.counters.epoch = epoch
        losses.append(mixing.train_step(images, labels, 12)[0].item())
    assert losses[2:] == pytest.approx([whole] * 2, rel=1e-5)
    assert abs(losses[0] - whole) > 1e-3
    assert abs(losses[1] - whole) > 1e-3
