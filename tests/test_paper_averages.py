"""S8: what it evaluates is what evaluation says, and its verdicts follow from counts on the same images."""

import json

import numpy as np
import pytest
import torch

from alexnet.config.values import override
from alexnet.data.loading import open_split
from alexnet.inference.dropout import thinned_logits
from alexnet.inference.ensembles import evaluate_ensemble
from alexnet.inference.evaluation import open_subject
from alexnet.inference.neighbours import split_features
from alexnet.paper.evaluations import nearest_training_images, thinned_answers
from alexnet.paper.experiments import averages
from alexnet.paper.statistics import mcnemar, paired_bootstrap
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import TINY, without_figures


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small networks of the digits."""
    folder = tmp_path_factory.mktemp("runs")
    config = override(TINY, {"epochs": 1, "model.width": 0.05, "model.dropout": 0.5, "data.crop": 28})
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        for seed in (1, 2):
            name = f"network-seed{seed}"
            made[name] = train(override(config, {"seed": seed}), folder / name, reporter=Reporter(quiet=True))
    return made


def recall(name, compute):
    return json.loads(json.dumps(compute()))


def test_plan():
    jobs = averages.plan({}, quick=False)
    assert [job.config.seed for job in jobs] == [1, 2, 3, 4, 5]
    assert len({repr(override(job.config, {"seed": 0})) for job in jobs}) == 1
    assert len(averages.plan({}, quick=True)) == 2


def test_rows_are_what_evaluation_says(runs, monkeypatch):
    monkeypatch.setattr(averages, "MASKS", 4)
    monkeypatch.setattr(averages, "QUERIES", 20)
    rows = json.loads(json.dumps(averages.measure(runs, recall)))
    errors = {row["way"]: row["errors"] for row in rows if row["kind"] == "error"}
    ten = evaluate_ensemble(list(runs.values()), views=10)
    assert errors["1 view"] == pytest.approx([100 * (1 - run.test["top1"]) for run in runs.values()], abs=1e-4)
    assert errors["10 views"] == pytest.approx([100 * single.top1_error for single in ten.single], abs=1e-4)
    assert errors["all, 10 views"] == pytest.approx([100 * ten.averaged.top1_error], abs=1e-4)
    assert errors["halved outputs"] == errors["1 view"]
    gain = averages.difference(rows, "10 views against 1 view")
    assert gain.value == pytest.approx(np.mean(errors["1 view"]) - np.mean(errors["10 views"]), abs=1e-3)
    gain = averages.difference(rows, "all, 10 views against one")
    assert gain.value == pytest.approx(np.mean(errors["10 views"]) - errors["all, 10 views"][0], abs=1e-3)
    assert set(averages.judge(rows)) == set(averages.EXPERIMENT.claims)
    assert averages.draw(rows).axes
    assert len(averages.table(rows).lines) == len(errors)


def test_masks_are_averaged_in_both_ways(runs):
    run = runs["network-seed1"]
    found = thinned_answers(run, 6)
    subject = open_subject(run)
    parts = list(thinned_logits(subject.model, subject.loader, subject.compute, range(6)))
    logits = torch.cat([z for z, _ in parts]).double().numpy()
    labels = torch.cat([y for _, y in parts]).numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    geometric = np.exp(np.log(p).mean(axis=1))
    geometric /= geometric.sum(axis=1, keepdims=True)
    for way, mean in (("masks, geometric mean", geometric), ("masks, arithmetic mean", p.mean(axis=1))):
        assert np.mean(found["hits"][way]) == pytest.approx((mean.argmax(axis=1) == labels).mean(), abs=2 / 359)
    assert found["one"] == pytest.approx(100 * (logits.argmax(axis=2) != labels[:, None]).mean(), abs=1e-3)
    assert found["one to geometric"] == pytest.approx(
        np.abs(p - geometric[:, None]).sum(axis=2).mean() / 2, rel=1e-3, abs=1e-5
    )
    assert found["halved to geometric"] > 0


def test_neighbours_are_compared_on_pixels_and_classes(runs):
    run = runs["network-seed1"]
    found = nearest_training_images(run, 15, 0.1)
    few = nearest_training_images(run, 15, 0.1, 6)
    assert few["agree"][0] == few["agree"][1], "among six images all are neighbours"
    subject = open_subject(run, "train")
    test = subject.dataset.test
    rows = np.sort(np.random.default_rng(0).permutation(len(test))[:15])
    hidden, pixels = [], []
    for split in (test.take(rows), subject.dataset.train):
        loader = open_split(split, torch.device("cpu"), run.config.data, subject.loader.prep)
        hidden.append(torch.cat(list(split_features(subject.model, loader, subject.compute))).double().numpy())
        pixels.append(loader.images[:, :, 2:30, 2:30].flatten(1).double().numpy())

    def distances(a, b):
        return np.square(a[:, None] - b[None]).sum(axis=2)

    by_hidden, by_pixels = (np.argsort(distances(*x), axis=1, kind="stable")[:, :6] for x in (hidden, pixels))
    ranks = np.argsort(np.argsort(distances(*pixels), axis=1), axis=1) / (len(pixels[1]) - 1)
    expected = np.take_along_axis(ranks, by_hidden, axis=1)
    assert found["mean rank"] == pytest.approx(expected.mean(), abs=0.005)
    labels = subject.dataset.train.labels
    agree = [(labels[near] == test.labels[rows][:, None]).mean() for near in (by_hidden, by_pixels)]
    assert found["agree"] == pytest.approx(agree, abs=0.02)
    far = sum(int(value) * count for value, count in found["far"].items()) / (15 * 6)
    assert far == pytest.approx((expected >= 0.1).mean(), abs=0.03)
    more = sum(int(value) * count for value, count in found["more agree"].items()) / (15 * 6)
    assert more == pytest.approx(found["agree"][0] - found["agree"][1], abs=1e-3)


def test_counts_give_the_tests_of_the_images():
    rng = np.random.default_rng(0)
    b = rng.random((3, 2000)) < 0.7
    a = np.where(rng.random((3, 2000)) < 0.1, rng.random((3, 2000)) < 0.9, b)
    row = averages._paired("a against b", a, b)
    mean = paired_bootstrap(a.mean(axis=0), b.mean(axis=0))
    found = averages.difference([row], "a against b")
    assert found.value == pytest.approx(100 * mean.value)
    assert (found.low, found.high) == pytest.approx((100 * mean.low, 100 * mean.high), abs=0.1)
    assert averages._largest_p([row], "a against b") == pytest.approx(max(map(mcnemar, a, b)))


def paired(what, gain, images=10_000):
    """Two networks: a part `gain` of the images (signed) is right in the first way alone, and 1 % in each alone."""
    changed = round(abs(gain) * images)
    sums = {2: changed if gain > 0 else 0, 1: 100, 0: images - changed - 200, -1: 100, -2: changed if gain < 0 else 0}
    only = [[100 + sums[2], 100 + sums[-2]]] * 2
    return {"kind": "paired", "what": what, "networks": 2, "sums": [*sums], "counts": [*sums.values()], "only": only}


def made_up(views=0.016, together=0.027, halved=0.0, distance=0.02, far=5, more=1):
    mask = {
        "halved to geometric": distance,
        "halved to arithmetic": 0.05,
        "one to geometric": 0.2,
        "half to half": 0.01,
    }
    near = {"images": 100, "ranks": [60, *[0] * 9], "mean rank": 0.2, "agree": [0.8, 0.4]}
    near |= {"far": {str(far): 100}, "more agree": {str(more): 60, "0": 40}}
    return [
        paired("10 views against 1 view", views),
        paired("all, 10 views against one", together),
        paired("halved outputs against masks, geometric mean", halved),
        *[{"kind": "masks", **mask}, {"kind": "neighbours", **near}] * 2,
    ]


@pytest.mark.parametrize(
    ("change", "claim", "state"),
    [
        ({}, 19, "reproduced"),
        ({"views": 0.008}, 19, "direction only"),
        ({"views": -0.005}, 19, "not reproduced"),
        ({}, 27, "reproduced"),
        ({"together": 0.01}, 27, "direction only"),
        ({}, 22, "reproduced"),
        ({"distance": 0.06}, 22, "direction only"),
        ({"halved": 0.02}, 22, "not reproduced"),
        ({"halved": -0.02}, 22, "not reproduced"),
        ({"halved": 0.005}, 22, "inconclusive"),
        ({}, 31, "reproduced"),
        ({"far": 2}, 31, "direction only"),
        ({"more": -1}, 31, "not reproduced"),
        ({"more": 0}, 31, "inconclusive"),
    ],
    ids=str,
)
def test_verdicts(change, claim, state):
    verdict = averages.judge(made_up(**change))[claim]
    assert verdict.state == state
    json.dumps(verdict.numbers, allow_nan=False)


def test_too_few_networks_say_nothing():
    verdicts = averages.judge([row for row in made_up() if row["kind"] == "paired"])
    assert {verdict.state for verdict in verdicts.values()} == {"inconclusive"}
    assert averages.measure({}, recall) == []
