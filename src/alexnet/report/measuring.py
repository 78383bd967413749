"""What a trained network answers to a split, image by image: its worst mistakes, its confusions, its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.figures.bitmaps import thumbnail
from alexnet.inference.evaluation import Subject, log_probabilities, open_subject
from alexnet.inference.neighbours import split_pixels
from alexnet.metrics import Result
from alexnet.report.calibration import Calibration, calibrate
from alexnet.runs.folder import Run

MISTAKES, PAIRS, EXAMPLES = 12, 10, 4  # shown: mistakes; pairs of classes, and images of each
Rows = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class Mistake:
    """An image that a network takes for another class."""

    place: str
    """Where it comes from: a file, or its number in the published data."""
    truth: str
    answer: str
    confidence: float
    """The probability of the answer."""
    of_truth: float
    """The probability of the true class."""
    picture: str
    """The image as the network sees it, a data URI."""


@dataclass(frozen=True)
class Pair:
    """Two classes of which the first is taken for the second."""

    truth: str
    answer: str
    count: int
    share: float
    """Of all images of the true class."""
    examples: tuple[Mistake, ...] = ()
    """Those that the network is surest of; none where no image was looked at."""


@dataclass(frozen=True)
class Measured:
    """A network's answers to a split."""

    result: Result
    calibration: Calibration
    mistakes: tuple[Mistake, ...]
    """The surest ones first."""
    pairs: tuple[Pair, ...]
    """The most frequent ones first."""


@dataclass(frozen=True)
class _Answers:
    """For each of N images that could be read: its row in the split, its true class, the class answered, and the
    probabilities of the two."""

    rows: Rows
    truth: Rows
    answer: Rows
    of_truth: np.ndarray[Any, np.dtype[np.float64]]
    confidence: np.ndarray[Any, np.dtype[np.float64]]

    def surest(self, chosen: np.ndarray[Any, np.dtype[np.bool_]], most: int) -> list[int]:
        """The answers among those chosen that the network is surest of, by number."""
        numbers = np.flatnonzero(chosen)
        order = np.argsort(-self.confidence[numbers], kind="stable")
        return [int(number) for number in numbers[order][:most]]


def measure(
    run: Run,
    split: str | None = None,
    *,
    data: dict[str, Any] | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> Measured:
    """Evaluate a run's best weights on a split, central crops, and look at what goes wrong; the arguments are those of
    `evaluate`. Raises UsageError, DataError or CheckpointError."""
    subject = open_subject(run, split, data=data, device=device)
    kept: list[tuple[Tensor, ...]] = []

    def keep(logits: Tensor, labels: Tensor) -> None:
        probabilities = log_probabilities(logits).exp()
        confidence, answer = probabilities.max(dim=1)
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        kept.append((labels.cpu(), answer.cpu(), of_truth.double().cpu(), confidence.double().cpu()))

    result = subject.score(skip_bad=skip_bad, on_logits=keep)
    rows = subject.loader.readable()
    answers = _Answers(rows, *(torch.cat(parts).numpy() for parts in zip(*kept, strict=True)))
    worst = answers.surest(answers.truth != answers.answer, MISTAKES)
    pairs = most_confused(result)
    of_pairs = [answers.surest((answers.truth == a) & (answers.answer == b), EXAMPLES) for a, b in pairs]
    shown = _show(subject, answers, sorted({*worst, *(number for some in of_pairs for number in some)}))
    return Measured(
        result,
        calibrate(answers.confidence, answers.truth == answers.answer),
        tuple(shown[number] for number in worst),
        tuple(
            describe_pair(result, *pair, tuple(shown[number] for number in some))
            for pair, some in zip(pairs, of_pairs, strict=True)
        ),
    )


def most_confused(result: Result) -> list[tuple[int, int]]:
    """The pairs (true class, answered class) that are confused most often, most frequent first; of equal ones that of
    the lower labels."""
    wrong = result.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    return [(int(a), int(b)) for a, b in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[a, b] > 0]


def describe_pair(result: Result, truth: int, answer: int, examples: tuple[Mistake, ...] = ()) -> Pair:
    """A pair of classes with how often the first is taken for the second."""
    count = int(result.confusion[truth, answer])
    share = count / int(result.confusion[truth].sum())
    return Pair(result.classes[truth], result.classes[answer], count, share, examples)


def _show(subject: Subject, answers: _Answers, numbers: list[int]) -> dict[int, Mistake]:
    """Answers by number with the images that they are to."""
    if not numbers:
        return {}
    part = subject.dataset.split(subject.split)[1].take(answers.rows[numbers])
    pixels = split_pixels(part, subject.loader.prep, subject.loader.data)
    names = subject.dataset.names
    return {
        number: Mistake(
            place=str(place),
            truth=names[answers.truth[number]],
            answer=names[answers.answer[number]],
            confidence=float(answers.confidence[number]),
            of_truth=float(answers.of_truth[number]),
            picture=thumbnail(image.permute(1, 2, 0).numpy()),
        )
        for number, place, image in zip(numbers, part.places(np.arange(len(part))), pixels, strict=True)
    }
