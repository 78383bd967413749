"""What experiments evaluate of a trained network: answers of several views, thinned networks, neighbours.

Each function gives plain JSON.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.splits import Split, draw_rows
from alexnet.inference.dropout import thinned_logits
from alexnet.inference.ensembles import average
from alexnet.inference.evaluation import open_subject
from alexnet.inference.forward import collect_logits
from alexnet.inference.neighbours import find_nearest, rank_distances, split_features, split_pixels
from alexnet.models.network import AlexNet
from alexnet.paper.experiment import Row
from alexnet.runs.folder import Run

NEIGHBOURS = 6  # as figure 4 has


def answers_of_views(run: Run) -> Row:
    """Answers to the test images, [N, K] each, and their labels [N]: logits of one view, mean probabilities of 9 and of
    10, and the mean logits of the ten."""
    subject = open_subject(run)
    (logits, labels), (nine, _), (ten, _) = (
        collect_logits(subject.model, subject.loader, subject.compute, views, skip_bad=True) for views in (1, 9, 10)
    )
    answers = {"1 view": logits[:, 0], "9 views": average(nine), "10 views": average(ten)}
    answers["10 views, logits"] = ten.mean(dim=1)
    return {"labels": labels.tolist(), **{way: z.double().numpy().round(6).tolist() for way, z in answers.items()}}


def thinned_answers(run: Run, masks: int) -> Row:
    """A network with halved outputs, which is how dropout is evaluated, beside the means of its thinned networks: which
    images each has right ("hits"), the mean error of a thinned network ("one", percent), and total variation distances
    between distributions, on average over images.

    The distances are those of the halved network to the geometric and the arithmetic mean of all masks, of single masks
    to the geometric mean, and between the geometric means of two halves of the masks, which is what chance makes.
    """
    subject = open_subject(run)
    assert isinstance(subject.model, AlexNet)
    logits, labels = collect_logits(subject.model, subject.loader, subject.compute, skip_bad=True)
    with subject.compute.settings():
        batches = thinned_logits(subject.model, subject.loader, subject.compute, range(masks), skip_bad=True)
        thinned = torch.cat([answers.cpu() for answers, _ in batches])  # [N, M, K]
    halved, geometric, arithmetic = average(logits), average(thinned, "geometric"), average(thinned)
    ways = {"halved outputs": halved, "masks, geometric mean": geometric, "masks, arithmetic mean": arithmetic}
    first, second = (average(part, "geometric") for part in thinned.chunk(2, dim=1))
    return {
        "hits": {way: (p.argmax(dim=1) == labels).int().tolist() for way, p in ways.items()},
        "one": round(100 * float((thinned.argmax(dim=2) != labels[:, None]).double().mean()), 4),
        "halved to geometric": _distance(halved, geometric),
        "halved to arithmetic": _distance(halved, arithmetic),
        "one to geometric": _distance(thinned.softmax(dim=2), geometric[:, None]),
        "half to half": _distance(first, second),
    }


def _distance(a: Tensor, b: Tensor) -> float:
    """The mean total variation distance of distributions [..., K]."""
    return round(float((a - b).abs().sum(dim=-1).mean() / 2), 6)


def nearest_training_images(run: Run, queries: int, close: float, index: int | None = None) -> Row:
    """Neighbours of test images among the training images, or so many of them drawn at random, by the last hidden layer
    and by pixels.

    Of the former, where they lie in the ranking by pixel distance: how many in each tenth of it ("ranks"), and on
    average. Of both, which part shows the image's class ("agree"). And two counts over the test images, so many of an
    image's six to so many images: those that are not among the nearest in pixels, the part `close` ("far"), and how
    many more by the hidden layer than by pixels show its class ("more agree").
    """
    subject = open_subject(run)
    assert isinstance(subject.model, AlexNet)
    data, prep = subject.loader.data, subject.loader.prep
    test, train = _some(subject.dataset.split()[1], queries), _some(subject.dataset.train, index)
    asked, known = (open_split(split, subject.compute.device, data, prep) for split in (test, train))
    with subject.compute.settings():
        features = torch.cat(list(split_features(subject.model, asked, subject.compute, skip_bad=True)))
        answers = split_features(subject.model, known, subject.compute, skip_bad=True)
        hidden = find_nearest(features, answers, NEIGHBOURS)
    test, train = (split.take(loader.readable()) for split, loader in ((test, asked), (train, known)))
    seen, known_pixels = (split_pixels(split, prep, data).flatten(1) for split in (test, train))
    pixels = find_nearest(seen, known_pixels.split(4096), NEIGHBOURS)
    ranks = rank_distances(seen, known_pixels, torch.from_numpy(hidden.rows)).numpy()
    agree = [(train.labels[near.rows] == test.labels[:, None]).sum(axis=1) for near in (hidden, pixels)]
    return {
        "images": len(test),
        "ranks": np.histogram(ranks, bins=10, range=(0, 1))[0].tolist(),
        "mean rank": round(float(ranks.mean()), 4),
        "agree": [round(float(a.mean() / NEIGHBOURS), 4) for a in agree],
        "far": _count((ranks >= close).sum(axis=1)),
        "more agree": _count(agree[0] - agree[1]),
    }


def _some(split: Split | Photos, count: int | None) -> Split | Photos:
    """So many images drawn at random, always the same, in their order; all with None."""
    return split if count is None else split.take(draw_rows(len(split), count))


def _count(values: np.ndarray[Any, Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values.tolist()).items())}
