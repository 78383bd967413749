"""Reports: what is measured, what stands in them, and that nothing in them runs or is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet.compute import resolve_compute
from alexnet.config.values import override
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import AlexNetError, CheckpointError, DataError
from alexnet.inference.forward import collect_logits
from alexnet.inference.trained import open_trained
from alexnet.metrics import Result
from alexnet.report import contents
from alexnet.report.calibration import calibrate
from alexnet.report.charts import Axis, Series, draw_confusion, draw_lines
from alexnet.report.contents import compare_runs, gather, names_of
from alexnet.report.document import again, by_accuracy, render, write_report
from alexnet.report.measuring import MISTAKES, measure, most_confused
from alexnet.runs.folder import Run

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE {{ 7 * 7 }} {% raw %}",
    "</title></style></svg>",
    "caf\udce9 \x1b[31m \u202e\0",
    "&lt;b&gt; &amp;",
    "javascript:alert(1)",
    "a" * 300,
    "\n\n<br>",
    "zebra",
)


class Page(HTMLParser):
    """A page's elements with their attributes, its text, and how its headings follow one another."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(html)
        self.text = " ".join(self.words).replace("\xa0", " ")

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def told(finished):
    return gather(finished, "a run")


def hostile(told):
    """The same run, with classes whose names attack."""
    again = replace(told.result, classes=HOSTILE)
    pairs = [replace(pair, truth=HOSTILE[n % 10], answer=HOSTILE[0]) for n, pair in enumerate(told.pairs)]
    mistakes = [replace(one, truth=HOSTILE[1], place=HOSTILE[4]) for one in told.measured.mistakes]
    measured = replace(told.measured, result=again, mistakes=tuple(mistakes))
    return replace(told, name=HOSTILE[0], result=again, pairs=tuple(pairs), measured=measured, notes=HOSTILE)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_that_of_its_definition(answers):
    confidence, correct = (np.array(values) for values in zip(*answers, strict=True))
    found = calibrate(confidence, correct)
    expected = 0.0
    for n in range(15):
        inside = [(c, ok) for c, ok in answers if n / 15 < c <= (n + 1) / 15]
        # The edges themselves are a matter of rounding.
        if any(abs(c * 15 - round(c * 15)) < 1e-9 for c, _ in answers):
            return
        if inside:
            gap = statistics.fmean(c for c, _ in inside) - statistics.fmean(ok for _, ok in inside)
            expected += len(inside) / len(answers) * abs(gap)
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert found.counts.sum() == len(answers)
    assert found.surplus == pytest.approx(confidence.mean() - correct.mean(), abs=1e-12)


def test_mistakes_are_those_of_the_network(finished):
    found = measure(finished)
    trained, config = open_trained(finished), finished.config
    test = load_dataset(config.data).test
    compute = resolve_compute("cpu", "fp32")
    loader = open_split(test, compute.device, config.data, trained.preprocessing)
    logits, labels = collect_logits(trained.model, loader, compute)
    probabilities = logits[:, 0].softmax(1).double().numpy()
    answers, labels = probabilities.argmax(1), labels.numpy()
    wrong = sorted(np.flatnonzero(answers != labels), key=lambda n: -probabilities[n].max())[:MISTAKES]
    assert [one.place for one in found.mistakes] == [str(test.sources[n]) for n in wrong]
    for one, n in zip(found.mistakes, wrong, strict=True):
        assert (one.truth, one.answer) == (str(labels[n]), str(answers[n]))
        assert one.confidence == pytest.approx(probabilities[n, answers[n]], abs=1e-5)
        assert one.of_truth == pytest.approx(probabilities[n, labels[n]], abs=1e-5)
    assert found.result.top1 == finished.test["top1"]
    assert found.calibration.counts.sum() == len(labels)
    for pair in found.pairs:
        chosen = (labels == int(pair.truth)) & (answers == int(pair.answer))
        assert pair.count == chosen.sum()
        assert pair.share == pytest.approx(pair.count / (labels == int(pair.truth)).sum())
        assert 1 <= len(pair.examples) <= min(4, pair.count)
        assert {(one.truth, one.answer) for one in pair.examples} == {(pair.truth, pair.answer)}
    picture = Image.open(io.BytesIO(base64.b64decode(found.mistakes[0].picture.partition(",")[2])))
    assert picture.size == (trained.preprocessing.size,) * 2


def test_most_confused_pairs_come_in_order():
    confusion = np.random.default_rng(0).integers(0, 9, (7, 7))
    result = result_of(confusion)
    pairs = [(a, b) for a in range(7) for b in range(7) if a != b and confusion[a, b]]
    assert most_confused(result) == sorted(pairs, key=lambda pair: -confusion[pair])[:10]
    assert most_confused(result_of(np.diag([3, 4]))) == []


def result_of(confusion):
    classes, count = tuple(map(str, range(len(confusion)))), int(confusion.sum())
    return Result("test", float(np.trace(confusion)) / count, 1.0, 0.5, count, 1, classes, confusion)


def test_command_writes_page_and_twin(finished, call, tmp_path):
    code, out, err = call("report", finished.path, "--out", tmp_path / "new" / "page.html")
    assert (code, err) == (0, "")
    assert f"written: {tmp_path / 'new' / 'page.html'}" in out
    twin = json.loads((tmp_path / "new" / "page.json").read_text())
    (told,) = twin["runs"]
    assert told["result"]["top1"] == finished.test["top1"]
    assert told["epochs"] == finished.epochs
    assert told["ledger"] == finished.ledger
    assert told["calibration"]["ece"] >= 0
    assert "picture" not in json.dumps(twin)
    page = Page((tmp_path / "new" / "page.html").read_text())
    low, high = told["result"]["top1_interval"]
    for shown in (f"{told['result']['top1']:.2%}", f"{low:.2%}", f"{high:.2%}"):
        assert shown.replace("%", " %") in page.text
    assert f"{100 * told['calibration']['ece']:.2f} points" in page.text  # a difference of percentages
    again = f"alexnet train {finished.path / 'config.yaml'} --run {finished.path}-again"
    assert again in page.text
    for row in finished.ledger:
        assert (f"{row['number']}. {row['name']}" in page.text) == bool(row["departs_from_paper"])


@pytest.mark.parametrize("names", ["harmless", "hostile"])
def test_page_runs_nothing_and_is_read_by_everybody(told, names):
    run = told if names == "harmless" else hostile(told)
    html = render([run]).encode(errors="backslashreplace").decode()
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert re.match(r"#|data:image/(png|jpeg);base64,[\w+/=]+$", attributes.get(name, "#")), tag
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.all("meta")[1]["content"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert len(html) < 500_000


def test_hostile_names_are_shown_as_text(told):
    page = Page(render([hostile(told)]))
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text
    assert HOSTILE[2] in page.text  # no template of ours
    assert "49" not in page.text.partition("DROP TABLE")[2][:12]
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    assert r"\x1b[31m \u202e\x00" in page.text


def test_without_its_data_a_report_has_what_the_run_wrote(finished, monkeypatch):
    def lost(*_, **__):
        raise DataError("the data is on another machine")

    monkeypatch.setattr(contents, "measure", lost)
    told = gather(finished, "a run")
    stored = told.result.to_dict()
    assert {name: stored[name] for name in finished.test} == finished.test
    assert told.measured is None
    assert told.kernels is not None
    assert "the data is on another machine" in Page(render([told])).text
    assert told.pairs


@pytest.mark.parametrize(
    "damage", ["test.json", "test-confusion.csv", "best.safetensors", "status.json", "ledger.json"]
)
def test_damaged_folders_are_reported_on(finished, tmp_path, monkeypatch, damage):
    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    (run.path / damage).write_text('{"count": NaN, "top1"')
    if damage == "best.safetensors":
        run.last.unlink()
    else:
        monkeypatch.setattr(contents, "measure", lambda *_, **__: (_ for _ in ()).throw(DataError("none")))
    told = gather(run, "a run")
    assert (told.result is None) == damage.startswith("test")
    assert Page(render([told])).all("h1")
    json.dumps(told.to_dict(), default=str)


def test_a_family_has_mean_and_spread(told, tmp_path):
    accuracies = (0.5, 0.625, 0.75)
    runs = [
        replace(
            told,
            name=f"seed-{n}",
            config=replace(told.config, seed=n),
            result=replace(told.result, top1=accuracy, confusion=told.result.confusion),
        )
        for n, accuracy in enumerate(accuracies)
    ]
    family = compare_runs(runs)
    assert family.spreads["top1"].mean == pytest.approx(statistics.fmean(accuracies))
    assert family.spreads["top1"].deviation == pytest.approx(statistics.stdev(accuracies))
    assert family.differing == {"--seed": [0, 1, 2]}
    twin = write_report(runs, tmp_path / "family.html")
    page = Page((tmp_path / "family.html").read_text())
    assert "62.50 %" in page.text
    assert f"{100 * statistics.stdev(accuracies):.2f} %" in page.text
    assert json.loads(twin.read_text())["family"]["spreads"]["top1"]["count"] == 3
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    untested = replace(told, name="new", result=None, measured=None)
    assert compare_runs([runs[0], untested]).spreads["top1"].count == 1
    render([untested, untested])


def test_runs_that_differ_in_more_than_their_seed_have_no_mean(told):
    other = replace(told, name="slow", config=replace(told.config, optim=replace(told.config.optim, lr=1e-4)))
    family = compare_runs([told, other])
    assert family.spreads == {}
    assert family.differing == {"--optim.lr": [told.config.optim.lr, 1e-4]}
    text = Page(render([told, other])).text
    assert "accuracy, mean of" not in text
    assert "between runs" not in text


def test_values_are_shown_as_words(told):
    config = replace(told.config, data=replace(told.config.data, flip=True, mean=(0.5,)))
    text = Page(render([told, replace(told, config=config)])).text
    assert not re.search(
        r"None|True|False|[{}]|\[\d", text.split("How it was made")[1].split("The whole configuration")[0]
    )
    assert "data: images train " in " ".join(text.split())
    assert re.search(r"--data\.flip\s+no\s+yes", text)
    assert re.search("--data.mean\\s+\N{EN DASH}\\s+0.5", text)


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [Run(tmp_path / path) for path in ("a/seed-0", "b/seed-0", "b/seed-1")]
    assert names_of(runs) == [str(tmp_path / "a/seed-0"), str(tmp_path / "b/seed-0"), "seed-1"]


def test_thousand_classes_are_condensed():
    rng = np.random.default_rng(0)
    confusion = np.diag(rng.integers(1, 50, 1000))
    confusion[3, 998] = 40
    svg = draw_confusion(result_of(confusion))
    assert len(svg) < 200_000
    content = re.search(r"base64,([^\"]+)", svg)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))
    assert pixels.shape == (125, 125, 4)
    blocks = confusion.reshape(125, 8, 125, 8).sum((1, 3))
    expected = 255 * np.sqrt(blocks / blocks.sum(1, keepdims=True))
    np.testing.assert_allclose(pixels[..., 3], expected, atol=0.51)
    assert pixels[0, 124, 3] > 100
    assert svg.count("<text") < 40


def test_classes_come_by_their_accuracy():
    result = result_of(np.array([[8, 2, 0, 0], [0, 0, 0, 0], [1, 0, 3, 0], [0, 0, 0, 5]]))
    assert [(name, count) for name, count, _ in by_accuracy(result)] == [("2", 4), ("0", 10), ("3", 5), ("1", 0)]


def test_few_classes_have_their_numbers():
    confusion = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 0]])
    svg = draw_confusion(result_of(confusion))
    cells = dict(re.findall(r"<title>(\d taken for \d): (\d+ \([\d.]+%\))</title>", svg))
    assert cells["0 taken for 1"] == "2 (20.0%)"
    assert cells["2 taken for 0"] == "1 (100.0%)"
    assert re.findall(r'class="count[^"]*"[^>]*>([^<]+)<', svg) == ["80", "20", "50", "50", "100"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_on_their_axis(low, span):
    axis = Axis(low, low + span, 0, 300)
    if axis.high - axis.low < 1e-9 * abs(low):
        return
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 11
    assert all(-0.1 <= axis(tick) <= 300.1 for tick in ticks)


@pytest.mark.parametrize(
    "values", [[1.3795, 1.4], [6e-5, 1.2e-4], [0.0, 3e-7], [0.991, 0.9925], [2.0, 2.001], [0.3, 2.3]]
)
def test_numbers_beside_an_axis_differ_and_fit(values):
    svg = draw_lines("learning rate", [Series("it", "rate", [1, 2], values)])
    shown = re.findall(r'class="tick" text-anchor="end">([^<]+)<', svg)
    assert len({*shown}) == len(shown) >= 2
    assert all(len(number) <= 6 for number in shown)  # the room left of the axis
    assert all(min(values) - 1 <= float(number) <= max(values) + 1 for number in shown)


def test_lines_leave_out_what_is_no_number():
    nan, inf = float("nan"), float("inf")
    svg = draw_lines("loss", [Series("training", "train", [1, 2, 3, 4], [1.0, nan, inf, 0.5])])
    assert len(re.findall("<circle", svg)) == 2
    assert "nan" not in svg
    assert draw_lines("loss", [Series("training", "train", [1], [nan])]) == ""


def test_out_must_leave_room_for_the_twin(finished, call, tmp_path):
    code, _, err = call("report", finished.path, "--out", tmp_path / "page.json")
    assert code == 2
    assert "--out" in err
    code, _, err = call("report")
    assert code == 2
    code, _, err = call("report", tmp_path)
    assert (code, "not a run folder" in err) == (2, True)


def test_a_report_replaces_no_file_of_a_run_and_is_refused_before_it_is_measured(finished, call, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "measure", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "test.json").write_text('{"top1": 0.5}')
    for out in (tmp_path / "test.html", tmp_path, tmp_path / "report.txt"):
        code, _, err = call("report", finished.path, "--out", out)
        assert (code, f"--out {out}" in err) == (2, True)
    assert [file.name for file in tmp_path.iterdir()] == ["test.json"]


def test_a_report_replaces_a_report(finished, tmp_path):
    gathered = [gather(finished, "run")]
    for _ in range(2):
        write_report(gathered, tmp_path / "page.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "page.json"]


def test_a_report_is_of_what_was_asked_for(finished, call, tmp_path):
    assert gather(finished, "a", "val").result.split == "val"
    elsewhere = {"source": "cifar10", "root": str(tmp_path), "download": False}
    with pytest.raises(AlexNetError):
        gather(finished, "a", "test", data=elsewhere)
    assert call("report", finished.path, "--split", "val", "--out", tmp_path / "p.html")[0] == 0
    assert json.loads((tmp_path / "p.json").read_text())["runs"][0]["result"]["split"] == "val"


def test_other_classes_than_the_runs_own_are_not_taken_for_a_result(finished, tmp_path):
    """Which stays that of the split that was measured at the end."""
    images, labels = np.zeros((6, 32, 32, 1), np.uint8), ["x", "y"] * 3
    folder = tmp_path / "data"
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / label / f"{number}.png")
    elsewhere = {"source": "folder", "root": str(folder), "val_fraction": 0.4}
    with pytest.raises(CheckpointError, match="was trained on the classes"):
        gather(finished, "a", "val", data=elsewhere)
    found = gather(finished, "a", data=elsewhere)
    assert found.kernels is not None
    assert found.notes[0].startswith("No pictures and no calibration: ")


def test_the_commands_of_other_data_than_the_runs_own(finished, tmp_path, told):
    root = {"data": {"root": str(tmp_path / "data")}}
    measured = replace(told.measured, result=replace(told.measured.result, measured=root))
    commands = dict(again(replace(told, measured=measured)))
    for name in ("its accuracy measured again", "this report"):
        assert commands[name].endswith(f"--data.root {tmp_path / 'data'}")
    assert "--data.root" not in str(again(told))
    held = replace(told, config=override(finished.config, {"data.source": "memory"}))
    (command,) = dict(again(held)).values()
    assert command == f'alexnet.evaluate("{finished.path}", data=...)'


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_commands_measure_what_the_report_says(finished, split):
    """Of a run that was ended with --no-test the test split is not to be looked at."""
    commands = dict(again(gather(finished, "a", split)))
    for name in ("its accuracy measured again", "this report"):
        assert ("--split val" in commands[name]) == (split == "val")
