"""The paper's figures 1, 3 and 4: what they show, of which numbers, and the verb that draws them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from alexnet.errors import UsageError
from alexnet.figures import save_figure
from alexnet.figures.errors import ErrorCurve, draw_errors
from alexnet.figures.kernels import draw_kernels
from alexnet.figures.neighbours import Retrieval, draw_neighbours
from alexnet.figures.predictions import Answer
from alexnet.inference.kernels import colour_shares, count_columns, first_kernels
from alexnet.inference.trained import open_trained
from alexnet.runs.folder import Run
from alexnet.runs.scores import SCORE, training_errors


def curve(name, errors, step=1.0, measured="as evaluated"):
    return ErrorCurve(name, [step * (i + 1) for i in range(len(errors))], errors, measured)


# Figure 1


@pytest.mark.parametrize(
    ("errors", "reached"),
    [
        ((0.5, 0.3, 0.2), 2.5),
        ((0.5, 0.25), 2.0),
        ((0.2, 0.4, 0.1), 1.0),
        ((0.4, 0.2, 0.4, 0.2), 1.75),
        ((0.5, 0.3), None),
        ((), None),
    ],
)
def test_where_a_curve_comes_down_to_a_level(errors, reached):
    assert curve("a", errors).crossing(0.25) == (pytest.approx(reached) if reached else None)


def test_error_curves_are_drawn_as_they_are():
    curves = [curve("ReLU", (0.5, 0.3, 0.2)), curve("$tanh$", (0.6, 0.5, 0.45), measured="online")]
    (axes,) = draw_errors(curves).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    for line, shown in zip(lines, curves, strict=True):
        assert list(line.get_ydata()) == list(shown.errors)
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["ReLU: 25% after 2.5 epochs", r"\$tanh\$: 25% not reached"]
    assert "as evaluated; online" in axes.get_title(loc="left")
    assert axes.get_ylim()[1] > 0.6


def write_run(path, rows):
    path.mkdir()
    (path / "config.yaml").write_text("epochs: 2\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(path)


EPOCHS = [{"kind": "epoch", "epoch": e, "step": 10 * e, "train_top1": t} for e, t in ((1, 0.5), (2, 0.8))]
SCORES = [{"kind": SCORE, "epoch": e, "step": int(10 * e), "train_top1": t} for e, t in ((0.5, 0.6), (1.0, 0.75))]


def test_training_error_is_the_whole_splits_where_it_was_measured(tmp_path):
    found = training_errors(write_run(tmp_path / "scored", EPOCHS + SCORES))
    assert (found.name, list(found.epochs), list(found.errors)) == ("scored", [0.5, 1.0], [0.4, 0.25])
    assert "whole training split" in found.measured
    found = training_errors(write_run(tmp_path / "plain", EPOCHS), "ours")
    assert (found.name, list(found.epochs)) == ("ours", [1, 2])
    assert list(found.errors) == pytest.approx([0.5, 0.2])
    assert "while training" in found.measured
    with pytest.raises(UsageError, match="no training error yet"):
        training_errors(write_run(tmp_path / "empty", []))


def test_the_verb_compares_runs(call, tmp_path):
    runs = [write_run(tmp_path / "scored", EPOCHS + SCORES).path, write_run(tmp_path / "plain", EPOCHS).path]
    code, out, err = call("figure", "errors", *runs, "--out", tmp_path / "e.png", "--names", "a, b")
    assert (code, err) == (0, "")
    assert "a: training error of 25% after 1.00 epochs (of the whole" in out
    assert "b: training error of 25% after 1.83 epochs, 1.83 times a's" in out
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.format == "PNG"
    code, out, _ = call("figure", "errors", *runs, "--out", tmp_path / "e.png", "--json")
    assert [round(c["reached"], 2) for c in json.loads(out)] == [1.0, 1.83]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["errors"], "name the runs"),
        (["errors", "nothing"], "not a run folder"),
        (["errors", "a", "b", "--names", "x"], "1 names for 2 runs"),
        (["errors", "a", "--level", "2"], "--level 2"),
        (["kernels", "nothing"], "there is no"),
        (["answers", "nothing"], "there is no"),
        (["answers", "nothing", "a.png", "--seed", "3"], "a.png is to be drawn, so --seed can choose no images"),
        (["error"], "error"),
    ],
    ids=str,
)
def test_mistakes_take_one_line(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("figure", *arguments)
    assert code in (2, 4)
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# Figure 3


def test_shares_of_colour_by_hand():
    kernels = np.zeros((6, 3, 2, 2))
    kernels[0] = 1  # grey everywhere
    kernels[1, 0] = 1  # red: a third of it is grey
    kernels[2, 0, 0, 0], kernels[2, 1, 0, 0] = 1, -1  # red against green: nothing is
    kernels[3] = np.arange(4).reshape(2, 2) - 1.5  # a grey edge
    kernels[4, 2], kernels[4, 0] = 5, -5
    assert colour_shares(kernels) == pytest.approx([0, 2 / 3, 1, 0, 1, 0])


def test_shares_are_what_a_projection_leaves():
    kernels = np.random.default_rng(0).standard_normal((500, 3, 5, 5))
    grey = np.full((3, 3), 1 / 3)
    rest = kernels - np.einsum("ij,njyx->niyx", grey, kernels)
    expected = (rest**2).sum(axis=(1, 2, 3)) / (kernels**2).sum(axis=(1, 2, 3))
    assert colour_shares(kernels) == pytest.approx(expected)
    assert colour_shares(kernels).mean() == pytest.approx(2 / 3, abs=0.01)


def test_one_channel_has_no_colour():
    with pytest.raises(UsageError, match=r"1 channel\(s\)"):
        colour_shares(np.ones((4, 1, 3, 3)))


@pytest.mark.parametrize(("count", "channels", "columns"), [(96, 3, 2), (20, 1, 1), (5, 3, 2), (64, 4, 1)])
def test_kernels_are_drawn_by_column(count, channels, columns):
    kernels = np.random.default_rng(0).standard_normal((count, channels, 5, 5))
    shares = colour_shares(kernels) if channels == 3 else None
    figure = draw_kernels(kernels, columns, shares)
    drawn = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes if axes.get_images()]
    assert len(drawn) == count
    assert len(figure.subfigs) == columns
    colours = kernels if channels == 3 else kernels.mean(axis=1, keepdims=True).repeat(3, axis=1)
    for pixels, kernel in zip(drawn, colours, strict=True):
        expected = 127.5 + 127.5 * np.moveaxis(kernel, 0, -1) / np.abs(kernel).max()
        assert np.abs(pixels - expected).max() <= 0.5 + 1e-9


def test_a_kernel_that_learned_nothing_stays_faint():
    kernels = np.ones((9, 3, 2, 2))
    kernels[4] = 0.001
    kernels[5] = 0
    pictures = [np.asarray(axes.get_images()[0].get_array()) for axes in draw_kernels(kernels).axes]
    assert (pictures[0] == 255).all()
    assert (pictures[4] == 128).all()
    assert (pictures[5] == 128).all()


def test_kernels_of_a_run_are_in_units_of_pixels(finished, call, tmp_path):
    trained = open_trained(finished)
    expected = trained.model.conv1.weight.detach().double().numpy() / trained.preprocessing.std[0]
    assert np.allclose(first_kernels(trained), expected)
    assert count_columns(trained) == 2
    code, out, err = call("figure", "kernels", finished.path, "--out", tmp_path / "k.png", "--json")
    assert code == 0
    assert json.loads(out) == {"kernels": [16, 1, 5, 5], "columns": 2, "colour": []}
    assert err == f"written: {tmp_path / 'k.png'}\n"


# Figure 4


def test_neighbours_of_another_class_are_red():
    image = np.zeros((4, 4, 3), np.uint8)
    near = [(image, "cat"), (image, "$dog")]
    known = Retrieval(Answer(image, [("dog", 0.9), ("cat", 0.1)], "1.png", "cat"), near)
    unknown = Retrieval(Answer(image, [("dog", 1.0)], "2.png"), near[:1])
    figure = draw_neighbours([known, unknown])
    first, second = figure.axes[:4], figure.axes[4:]
    assert [axes.get_title() for axes in first] == ["cat", "", "cat", r"\$dog"]
    assert [axes.title.get_color() for axes in first[2:]] == ["0.35", "#b03a2e"]
    assert [axes.get_title() for axes in second] == ["2.png", "", "cat", ""]
    assert second[2].title.get_color() == "0.35"
    assert len(first[1].patches) == 2
    assert not second[3].get_images()


def test_the_verb_draws_answers(finished, call, tmp_path):
    options = ["--queries", 2, "--neighbours", 3, "--out", tmp_path / "a.png", "--device", "cpu"]
    code, out, err = call("figure", "answers", finished.path, *options)
    assert (code, out, err) == (0, f"written: {tmp_path / 'a.png'}\n", "")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 2 * picture.height


def test_no_neighbours_are_no_error(tmp_path):
    image = np.zeros((4, 4, 1), np.uint8)
    figure = draw_neighbours([Retrieval(Answer(image, [("a", 1.0)], "1.png"), [])])
    save_figure(figure, tmp_path / "a.png")
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    "verb",
    [["figure", "errors", "a"], ["figure", "kernels", "a"], ["figure", "answers", "a"], ["preview", "digits"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("out", "message"),
    [("x.pdf", "--out x.pdf: figures are PNG files"), ("file/x.png", "cannot write file/x.png")],
)
def test_files_that_no_figure_can_be_saved_as_are_refused_first(call, tmp_path, monkeypatch, verb, out, message):
    """Before the first run is opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, _, err = call(*verb, "--out", out)
    assert (code, message in err) == (2, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_of_figures_are_made(finished, call, tmp_path):
    assert call("figure", "errors", finished.path, "--out", tmp_path / "new" / "a.PNG")[0] == 0
    assert (tmp_path / "new" / "a.PNG").is_file()
