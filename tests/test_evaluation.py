"""Evaluation: counts that can be checked by hand, and the same figures by every road."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet import build_model, evaluate
from alexnet.compute import resolve_compute
from alexnet.config import DataConfig
from alexnet.config.values import override
from alexnet.data.resident import ResidentSplit
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Split
from alexnet.errors import AlexNetError, CheckpointError, UsageError
from alexnet.files import file_digest
from alexnet.inference import evaluation, pictures
from alexnet.inference.evaluation import score, view_notes
from alexnet.inference.forward import SMALL_BATCH as BATCH
from alexnet.inference.pictures import split_pictures
from alexnet.inference.trained import restore
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.training.loop import train
from conftest import TINY, figures

FP32 = resolve_compute("cpu", "fp32")


class Table(nn.Module):
    """Logits by the value of an image's first pixel."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.as_tensor(rows, dtype=torch.float32)
        self.drop = nn.Dropout(0.5)  # wrecks the figures if it is left on

    def forward(self, images):
        return self.drop(self.rows[images[:, 0, 0, 0].round().long()])


def measure(rows, images, labels, views=1, size=1, **options):
    """The score of a Table on images of pixel values."""
    images = np.asarray(images, dtype=np.uint8).reshape(len(labels), 1, *np.shape(images)[1:])
    split = Split(images, np.asarray(labels, dtype=np.int64), np.arange(len(labels)))
    data = DataConfig(crop=size, mean=(0.0,), std=(1 / 255,))  # pixel values come out as they are
    classes = tuple("abcdefghij"[: len(rows[0])])
    resident = ResidentSplit(split, torch.device("cpu"), data)
    return score(Table(rows), resident, FP32, name="test", classes=classes, views=views, **options)


def test_figures_by_hand():
    """Four images of seven classes: right, second, fifth, sixth."""
    row = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    result = measure([row], np.zeros((4, 1, 1)), [0, 1, 4, 5])
    assert (result.top1, result.top5, result.count) == (1 / 4, 3 / 4, 4)
    total = math.log(sum(math.exp(x) for x in row))
    assert result.loss == pytest.approx(sum(total - row[label] for label in (0, 1, 4, 5)) / 4, rel=1e-6)
    assert result.confusion[:, 0].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert result.confusion[:, 1:].sum() == 0
    assert (result.top1_error, result.top5_error) == (3 / 4, 1 / 4)


def test_confusion_has_the_truth_in_rows():
    result = measure([[1.0, 0.0], [0.0, 1.0]], [[[0]], [[1]], [[1]]], [0, 0, 1])
    assert result.confusion.tolist() == [[1, 1], [0, 1]]
    assert result.per_class == {"a": 0.5, "b": 1.0}


def test_top5_of_fewer_classes():
    assert measure([[1.0, 0.0, 0.5]], np.zeros((3, 1, 1)), [0, 1, 2]).top5 == 1.0


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, 2 * BATCH + 3])
@pytest.mark.parametrize("views", [1, 10])
def test_every_sample_once(count, views):
    values = np.arange(count) % 10
    result = measure(np.eye(10), np.broadcast_to(values[:, None, None], (count, 2, 2)), values, views=views)
    assert (result.count, result.top1, result.views) == (count, 1.0, views)
    assert result.confusion.diagonal().tolist() == np.bincount(values, minlength=10).tolist()


def test_shards_hold_every_sample_once():
    labels = np.arange(1003)
    split = Split(np.zeros((1003, 1, 2, 2), np.uint8), labels, labels)
    resident = ResidentSplit(split, torch.device("cpu"), DataConfig())
    shards = [slice(rank, None, 3) for rank in range(3)]
    seen = [y for shard in shards for _, labels in resident.evaluation_batches(100, 1, shard) for y in labels.tolist()]
    assert sorted(seen) == list(range(1003))


def test_views_average_probabilities():
    """Three corners are mildly for a, one is certain of b: the mean of logits says b, of probabilities a."""
    mild, certain = [1.0, 0.0], [0.0, 20.0]
    result = measure([mild, certain], [[[0, 0], [0, 1]]], [0], views=10)
    assert result.top1 == 1.0
    mean = 0.8 * math.exp(1) / (1 + math.exp(1)) + 0.2 / (1 + math.exp(20))  # the lower right corner and its mirror
    assert result.loss == pytest.approx(-math.log(mean), rel=1e-5)


@pytest.mark.parametrize("views", [1, 10])
def test_loss_of_a_sure_mistake_is_finite(views):
    result = measure([[1e4, 0.0]], np.zeros((1, 2, 2)), [1], views=views)
    assert math.isfinite(result.loss)
    assert result.loss > 80
    assert result.top1 == 0.0


@pytest.mark.parametrize("mode", [True, False])
def test_training_mode_is_restored(mode):
    split = Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), np.arange(2))
    resident = ResidentSplit(split, torch.device("cpu"), DataConfig())
    model = Table([[1.0, 0.0]]).train(mode)
    score(model, resident, FP32, name="val", classes=("a", "b"))
    assert (model.training, model.drop.training) == (mode, mode)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, resident, FP32, name="val", classes=("a", "b"), on_logits=stop)
    assert (model.training, model.drop.training) == (mode, mode)


# The same figures by every road.


def test_run_gives_what_training_wrote(finished):
    assert figures(evaluate(finished).to_dict()) == figures(finished.test)
    assert json.loads(json.dumps(finished.test)) == finished.test


@pytest.mark.parametrize("kind", [str, lambda p: p])
def test_folder_and_file(finished, kind):
    for target in (finished.path, finished.best):
        assert figures(evaluate(kind(target)).to_dict()) == figures(finished.test)


def test_validation_split_is_the_runs_own(finished):
    best = finished.epochs[finished.status["best_epoch"] - 1]
    result = evaluate(finished, "val")
    assert (result.top1, result.loss) == (best["val_top1"], pytest.approx(best["val_loss"]))
    assert result.count == len(load_dataset(TINY.data).val)


def test_weights_file_and_network_with_a_recipe(finished, tmp_path):
    model, _ = restore(finished.best)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    for target in (tmp_path / "weights.pth", model):
        assert figures(evaluate(target, config=TINY).to_dict()) == figures(finished.test)


def test_last_is_evaluated_with_its_average(tmp_path, reporter, no_figures):
    run = train(override(TINY, {"epochs": 1, "ema": 0.9}), tmp_path / "run", reporter=reporter)
    assert load_checkpoint(run.last).evaluated.keys() == load_checkpoint(run.best).weights.keys()
    assert figures(evaluate(run.last).to_dict()) == figures(evaluate(run.best).to_dict())


def test_ten_views(finished):
    """The digits are seen whole, and were trained with a border: the corners begin in it."""
    ten = evaluate(finished, views=10)
    assert (ten.views, ten.count) == (10, 359)
    assert 0 < ten.loss < 100
    assert not any("views 2 differ" in note for note in ten.notes)


@pytest.mark.parametrize(("views", "words"), [(2, None), (9, "none differ"), (10, "2 differ, those of --views 2")])
def test_views_of_whole_images_are_few(views, words):
    def said(side: tuple[int, int], **values) -> str:
        pixels = np.zeros((4, 1, *side), np.uint8)
        split = Split(pixels, np.zeros(4, np.int64), np.arange(4))
        return " ".join(view_notes(ResidentSplit(split, torch.device("cpu"), DataConfig(**values)), None, views))

    assert (words in said((8, 8))) if words else not said((8, 8))
    assert not said((8, 8), pad=1)
    assert not said((8, 8), crop=6)
    assert not said((8, 12))


def test_network_keeps_its_mode(finished):
    model, _ = restore(finished.best)
    for mode in (True, False):
        evaluate(model.train(mode), config=TINY)
        assert model.training is mode


@pytest.mark.parametrize("through", ["evaluate", "split_pictures"])
def test_a_run_that_goes_on_meanwhile(finished, tmp_path, monkeypatch, through):
    """A result names the weights that were measured, and not those that took their place while the data was read."""
    run = Run(Path(shutil.copytree(finished.path, tmp_path / "run")))
    measured, before = file_digest(run.best), evaluate(run)
    module, read = (evaluation, evaluation.load_dataset) if through == "evaluate" else (pictures, pictures.load_dataset)

    def replaced(*arguments):
        shutil.copy(run.last, run.best)
        return read(*arguments)

    monkeypatch.setattr(module, "load_dataset", replaced)
    if through == "evaluate":
        result = evaluate(run)
        assert (result.loss, result.measured["sha256"]) == (before.loss, measured)
    else:
        assert split_pictures(run).described["weights"]["sha256"] == measured
    assert file_digest(run.best) == file_digest(run.last) != measured


# What cannot be evaluated.


def test_other_classes_are_refused(finished, monkeypatch):
    other = replace(load_dataset(TINY.data), classes=tuple(f"digit {d}" for d in range(10)))
    monkeypatch.setattr(evaluation, "load_dataset", lambda _: other)
    with pytest.raises(CheckpointError, match=r"0, 1, 2, 3, 4.*digit 0, digit 1"):
        evaluate(finished)


@pytest.mark.parametrize("classes", [7, 1000])
def test_network_with_other_outputs_is_refused(classes, tmp_path):
    model = build_model("cifar", width=0.125, in_channels=1, num_classes=classes)
    torch.save(model.state_dict(), tmp_path / "other.pth")
    for target in (model, tmp_path / "other.pth"):
        with pytest.raises(AlexNetError, match=f"{classes}.*10"):
            evaluate(target, config=TINY)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "tests"}, UsageError, "Did you mean 'test'"),
        ({"views": 5}, UsageError, "1 .*10"),
        ({"data": {"rot": "/x"}}, UsageError, "Did you mean 'data.root'"),
        ({"data": {"source": "digitz"}}, UsageError, "Did you mean 'digits'"),
        ({"device": "cuda:99"}, UsageError, "cuda:99"),
    ],
)
def test_mistakes(finished, arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(finished, **arguments)


def test_split_that_is_empty(finished):
    model, _ = restore(finished.best)
    with pytest.raises(UsageError, match=r"val split is empty.*--data\.val-fraction"):
        evaluate(model, "val", config=override(TINY, {"data.val_fraction": 0.0}))


def test_weights_without_a_recipe(finished, tmp_path):
    model, _ = restore(finished.best)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    for target in (tmp_path / "weights.pth", model):
        with pytest.raises(UsageError, match="--recipe"):
            evaluate(target)


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors", "page"])
def test_web_page(tmp_path, name):
    (tmp_path / name).write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        evaluate(tmp_path / name)


def test_missing_and_unfinished(tmp_path):
    with pytest.raises(CheckpointError, match="there is no"):
        evaluate(tmp_path / "nothing.safetensors")
    with pytest.raises(UsageError, match="not a run folder"):
        evaluate(tmp_path)
    (tmp_path / "config.yaml").write_text("epochs: 1")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        evaluate(tmp_path)


def test_weights_of_other_data_are_not_told_to_begin_afresh(call, tmp_path):
    """--replace-head is train's."""
    torch.save(build_model("cifar", width=0.125, num_classes=7).state_dict(), tmp_path / "other.pth")
    code, _, err = call("evaluate", tmp_path / "other.pth", "--recipe", "digits")
    assert code == 4
    assert "other.pth has 7 outputs, digits has 10 classes: measure it on data of its own classes (--recipe" in err
