"""Figures: PNG files with something on them, tables beside them, and a clear word where matplotlib is missing."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet.errors import UsageError
from alexnet.figures import label, new_figure, save_figure, show_image
from alexnet.figures.confusion import draw_confusion
from alexnet.figures.curves import draw_curves
from alexnet.figures.predictions import Answer, draw_predictions
from alexnet.figures.stages import draw_stages
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


# Names and images of any kind


@pytest.mark.parametrize("name", ["$x", "$a$", "$$", r"$\frac{$", "a\\$b", "new\nline", "\udcff", "\x1b[31m", "שלום"])
def test_labels_are_shown_as_they_are(tmp_path, name, recwarn):
    """What matplotlib makes of a label is what stands there, with no formula read into it."""
    figure = new_figure(2, 2)
    axes = figure.subplots()
    text = axes.text(0, 0, label(name, 30))
    axes.set_xticks([0], [label(name, 30)])
    save_figure(figure, tmp_path / "f.png")
    shown, is_formula = text._preprocess_math(text.get_text())
    assert not is_formula
    assert shown == (name if name.isprintable() else ascii(name)[1:-1])
    assert not [str(w.message) for w in recwarn]


def test_long_labels_are_cut():
    assert label("x" * 300, 30) == "x" * 29 + "…"
    assert label("猫" * 3, 30) == "猫" * 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (1, 3), (3, 1)], ids=str)
def test_images_of_any_shape_are_drawn_as_they_are(size, channels):
    """A row of three grey pixels is no colour."""
    image = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    axes = new_figure(2, 2).subplots()
    show_image(axes, image)
    (drawn,) = axes.get_images()
    rgba = drawn.to_rgba(drawn.get_array(), bytes=True, norm=True)
    assert rgba.shape == (*size, 4)
    assert np.abs(rgba[..., :3].astype(int) - image).max() <= 1


def answer(truth=None, names=("cat", "dog"), title="1.png"):
    bars = [(name, 1 / (i + 2)) for i, name in enumerate(names)]
    return Answer(np.zeros((4, 4, 3), np.uint8), bars, title, truth)


@pytest.mark.parametrize(("truth", "title", "red_bars"), [("cat", "cat", 1), ("elk", "elk", 0), (None, "1.png", 0)])
def test_the_true_class_stands_above_also_where_it_is_no_answer(truth, title, red_bars):
    above, below = draw_predictions([answer(truth)]).axes
    assert above.get_title() == title
    colours = [tuple(round(255 * v) for v in bar.get_facecolor()[:3]) for bar in below.patches]
    assert colours.count((0xE0, 0x8A, 0x82)) == red_bars
    assert colours.count((0x8F, 0xB3, 0xD9)) == 2 - red_bars
    assert (above.title.get_color() == "#b03a2e") == (truth == "elk")


def test_stages_say_what_does_not_hold_for_an_image():
    image = np.zeros((4, 4, 3), np.uint8)
    figure = draw_stages([[("noise", image, "")], [("noise", image, "no noise drawn")]], ["a", "b"])
    first, second = figure.axes
    assert first.get_title() == "noise"
    assert "no noise drawn" in second.get_xlabel()
    assert "no noise drawn" not in first.get_xlabel()
