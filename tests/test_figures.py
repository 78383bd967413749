"""Figures: PNG files with something on them, tables beside them, and a clear word where matplotlib is missing."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet.errors import UsageError
from alexnet.figures import save_figure
from alexnet.figures.confusion import draw_confusion
from alexnet.figures.curves import draw_curves
from alexnet.metrics import Result
from alexnet.runs.results import write_result


def result(k: int, empty_class: bool = False) -> Result:
    confusion = np.random.default_rng(0).integers(0, 5, (k, k)) + 30 * np.eye(k, dtype=np.int64)
    if empty_class:
        confusion[1] = 0
    count = int(confusion.sum())
    top1 = confusion.trace() / count
    return Result("test", top1, 1.0, 0.5, count, 1, tuple(f"class {i}" for i in range(k)), confusion)


def row(epoch: int, val: bool = True, lr: float = 0.01) -> dict:
    values = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "lr": lr, "train_loss": 2 / epoch}
    values |= {"train_top1": 1 - 0.5 / epoch}
    return values | ({"val_loss": 2.5 / epoch, "val_top1": 1 - 0.6 / epoch, "val_top5": 1.0} if val else {})


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def has_colour(image: np.ndarray, kind: str) -> bool:
    """Pixels of matplotlib's tab:blue, tab:gray or tab:orange."""
    wanted = {"blue": (31, 119, 180), "gray": (127, 127, 127), "orange": (255, 127, 14)}[kind]
    return int((np.abs(image - wanted).sum(axis=2) < 12).sum()) > 20


@pytest.mark.parametrize(("k", "empty_class"), [(2, False), (10, True), (100, True)])
def test_confusion(tmp_path, k, empty_class):
    shown = result(k, empty_class)
    save_figure(draw_confusion(shown), tmp_path / "c.png")
    image = pixels(tmp_path / "c.png")
    assert min(image.shape[:2]) >= 600
    assert len(np.unique(image @ [1 << 16, 1 << 8, 1])) > 50
    dark = (image[..., 2] - image[..., 0] > 60).sum()  # the blues of the diagonal
    assert dark > 1000


def test_confusion_shows_the_counts_it_is_given(tmp_path):
    one = result(10)
    save_figure(draw_confusion(one), tmp_path / "a.png")
    other = Result(**{**vars(one), "confusion": np.roll(one.confusion, 3, axis=1)})
    save_figure(draw_confusion(other), tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=2).mean() > 0.05


def test_result_files(tmp_path):
    shown = result(10)
    write_result(shown, tmp_path, "val")
    assert {p.name for p in tmp_path.iterdir()} == {"val.json", "val-confusion.csv"}
    assert json.loads((tmp_path / "val.json").read_text()) == json.loads(json.dumps(shown.to_dict()))
    with (tmp_path / "val-confusion.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header[1:] == [r[0] for r in rows] == list(shown.classes)
    assert np.array_equal(np.array([r[1:] for r in rows], dtype=int), shown.confusion)


@pytest.mark.parametrize("val", [True, False])
@pytest.mark.parametrize("epochs", [1, 30])
def test_curves(tmp_path, epochs, val, recwarn):
    save_figure(draw_curves([row(e, val) for e in range(1, epochs + 1)]), tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert has_colour(image, "gray")
    assert has_colour(image, "orange")
    assert has_colour(image, "blue") is val
    assert not [str(w.message) for w in recwarn]


@pytest.mark.parametrize("rates", [(0.1, 0.01, 0.001), (0.1, 0.05, 1e-9)], ids=["drops", "to-zero"])
def test_curves_of_any_rates(tmp_path, rates):
    save_figure(draw_curves([row(i, lr=lr) for i, lr in enumerate(rates, 1)]), tmp_path / "curves.png")
    assert has_colour(pixels(tmp_path / "curves.png"), "orange")


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_the_extra_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"alexnet\[figures\]"):
        save_figure(draw_curves([row(1)]), tmp_path / "curves.png")
    with pytest.raises(UsageError, match=r"alexnet\[figures\]"):
        draw_confusion(result(3))
    assert not list(tmp_path.iterdir())
