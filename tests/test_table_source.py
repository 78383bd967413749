"""The source table: photographs as a CSV file lists them."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import alexnet
from alexnet import build_model, evaluate, recipe
from alexnet.config import DataConfig
from alexnet.data.sources import load_dataset
from alexnet.errors import DataError, UsageError
from alexnet.training.loop import train
from alexnet.training.progress import Reporter

TINY_CONFIG = {"epochs": 1, "batch_size": 8, "model.width": 0.0625, "model.variant": "cifar", "precision": "fp32"}
NAMES = ("a, b", 'the "best"', "plain")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirty photographs in one folder with names that want quotes; only to be read."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 100, (40, 44, 3)) + 70 * (number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "in" / f"{number}, {NAMES[number % 3][:1]}.png")
    return folder


def rows_of(photos, split=None):
    """(path, label) or (path, label, split) of each photograph."""
    found = sorted((photos / "in").iterdir(), key=lambda p: int(p.name.partition(",")[0]))
    rows = [(f"in/{path.name}", NAMES[number % 3]) for number, path in enumerate(found)]
    return rows if split is None else [(*row, split(number)) for number, row in enumerate(rows)]


def write(path, header, rows, **options):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, **options).writerows([header, *rows])
    return str(path)


def config(root, **fields):
    return DataConfig(source="table", root=root, resize=36, crop=32, workers=1, **fields)


def listed(split):
    return sorted((split.place(row), int(split.labels[row])) for row in range(len(split)))


def test_prepared_as_the_note_says_and_named_as_the_command_says(photos, tmp_path, call):
    root = write(photos / "breeds.csv", ("file", "breed"), rows_of(photos))
    columns = {"path_column": "file", "label_column": "breed"}
    data = load_dataset(config(root, **columns))
    note = shlex.split(data.note.partition(": ")[2].partition(", then")[0])
    assert note[:2] == ["alexnet", "prepare"]
    arguments = [tmp_path / "out" if word == "DIR" else word for word in note[1:]]
    code, said, error = call(*arguments, "--side", 36, "--workers", 1)
    assert code == 0, error
    command = shlex.split(said.partition("next: ")[2])
    named = ["alexnet", "train", "folder", "--data.source", "table", "--model.variant", "cifar"]
    assert command == [*named, "--data.root", str(tmp_path / "out"), "--data.resize", "36", "--data.crop", "31"]
    assert build_model("cifar", input_size=31, num_classes=3).num_classes == 3
    prepared = load_dataset(config(str(tmp_path / "out")))
    assert (prepared.classes, len(prepared.train), len(prepared.val)) == (data.classes, len(data.train), len(data.val))
    code, said, error = call("sample", "table", "--data.root", root, "--data.path-column", "file",
                             *("--data.label-column", "breed", "--out", tmp_path / "s", "--images", 3))  # fmt: skip
    assert code == 0, error
    assert len(list((tmp_path / "s").rglob("*.png"))) == 3


def test_a_table_without_splits_is_cut_as_a_folder_is(photos):
    root = write(photos / "plain.csv", ("path", "label"), rows_of(photos))
    data = load_dataset(config(root))
    assert data.classes == tuple(sorted(NAMES))
    assert (len(data.train), len(data.val), len(data.test)) == (24, 3, 3)
    found = listed(data.train) + listed(data.val) + listed(data.test)
    wanted = [(f"{photos.as_posix()}/{path}", data.classes.index(label)) for path, label in rows_of(photos)]
    assert sorted(found) == sorted(wanted)


def test_columns_by_name_splits_and_absolute_paths(photos, tmp_path):
    split = ("train", "validation", "test")
    rows = [(s, "x", label, photos / path) for path, label, s in rows_of(photos, lambda number: split[number % 5 % 3])]
    root = write(tmp_path / "named.tsv", ("part", "other", "kind", "file"), rows, delimiter="\t")
    data = load_dataset(config(root, path_column="file", label_column="kind", split_column="part"))
    counts = [sum(row[0] == name for row in rows) for name in split]
    assert [len(data.train), len(data.val), len(data.test)] == counts
    assert data.train.place(0) == (photos / rows_of(photos)[0][0]).as_posix()
    assert data.train.read(0)[:4] == b"\x89PNG"


def test_a_column_called_split_counts_unless_another_is_named(photos):
    rows = [(*row, "train" if n < 9 else "test") for n, row in enumerate(rows_of(photos, lambda n: "train"))]
    root = write(photos / "both.csv", ("path", "label", "split", "fold"), rows)
    assert len(load_dataset(config(root, split_column="fold")).test) == 21
    assert len(load_dataset(config(root)).test) == 3  # all are for training: some of them are drawn


def test_numbers_as_labels_are_in_their_order(photos):
    rows = [(path, str(number % 12)) for number, (path, _) in enumerate(rows_of(photos))]
    assert load_dataset(config(write(photos / "n.csv", ("path", "label"), rows))).classes == tuple(map(str, range(12)))


def test_a_mark_of_the_order_of_bytes_and_empty_lines_do_no_harm(photos):
    root = write(photos / "plain2.csv", ("path", "label"), rows_of(photos))
    text = (photos / "plain2.csv").read_text()
    (photos / "plain2.csv").write_text("\ufeff" + text.replace("\r\n", "\n\n"), encoding="utf-8")
    again = write(photos / "plain3.csv", ("path", "label"), rows_of(photos))
    assert load_dataset(config(root)).fingerprint == load_dataset(config(again)).fingerprint


def test_trained_and_resumed(photos, tiny, tmp_path, reporter, no_figures):
    root = write(photos / "run.csv", ("path", "label"), rows_of(photos))
    data = {"source": "table", "root": root, "resize": 36, "crop": 32, "workers": 1, "fraction": 1.0}
    short, whole = (tiny(epochs=2, stop_after=end, batch_size=8, data=data) for end in (1, 2))
    run = alexnet.train(short, tmp_path / "run", reporter=reporter)
    assert alexnet.train(whole, run.path, reporter=reporter).status["epoch"] == 2
    assert alexnet.evaluate(run).top1 == run.test["top1"]
    write(photos / "run.csv", ("path", "label"), rows_of(photos)[1:])
    longer = tiny(epochs=2, then=("1",), batch_size=8, data=data)
    with pytest.raises(DataError, match="fingerprint"):
        alexnet.train(longer, run.path, reporter=reporter)


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        (("path", "label"), lambda rows: [("./in//" + rows[0][0][3:], rows[0][1])], "twice, and splits are drawn"),
        (("path", "label"), lambda rows: [(rows[0][0], "other")], "with the labels a, b and other: keep one"),
        (("path", "label", "split"), lambda rows: [(*rows[0][:2], "train")], "twice, and splits are drawn"),
        (("path", "label", "split"), lambda rows: [(*rows[0][:2], "test")], "in the splits train and test: keep one"),
    ],
)
def test_a_photograph_that_could_be_trained_and_measured_on_is_refused(photos, header, change, message):
    rows = rows_of(photos, None if len(header) == 2 else lambda _: "train")
    root = write(photos / "repeated.csv", header, rows + change(rows))
    with pytest.raises(DataError, match=message):
        load_dataset(config(root))


def test_a_photograph_may_count_twice_within_a_split(photos):
    rows = rows_of(photos, lambda number: ("train", "val", "test")[number // 3 % 3])
    data = load_dataset(config(write(photos / "twice.csv", ("path", "label", "split"), [*rows, rows[0]])))
    assert len(data.train) == len([row for row in rows if row[2] == "train"]) + 1


def test_a_photograph_may_not_be_drawn_into_validation_and_stay(photos):
    rows = rows_of(photos, lambda number: "test" if number > 20 else "train")
    root = write(photos / "drawn.csv", ("path", "label", "split"), [*rows, rows[0]])
    with pytest.raises(DataError, match="twice, and splits are drawn"):
        load_dataset(config(root))
    assert len(load_dataset(config(root, val_fraction=0.0)).train) == 22
    with pytest.raises(DataError, match="twice, and splits are drawn"):
        load_dataset(config(root, val_fraction=0.0, resplit=True))


def test_spaces_around_labels_and_splits_are_none_of_theirs(photos):
    rows = rows_of(photos, lambda number: ("train", "val", "test")[number // 3 % 3])
    plain = load_dataset(config(write(photos / "plain4.csv", ("path", "label", "split"), rows)))
    spaced = [(path, f" {label}" + " " * (number % 2), f"{split} ") for number, (path, label, split) in enumerate(rows)]
    found = load_dataset(config(write(photos / "spaced.csv", ("path ", " label", " split"), spaced)))
    assert found.classes == plain.classes
    assert listed(found.test) == listed(plain.test)


HEADER = "path,label\n"


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (b"", {}, r"unknown column 'path'"),
        (HEADER.encode(), {}, "no rows below its column names"),
        (
            b"paht,label\nx.png,a\n",
            {},
            r"unknown column 'path'\. Did you mean 'paht'.*--data\.path-column names another",
        ),
        (b"path,kind\nx.png,a\n", {"label_column": "knd"}, r"unknown column 'knd'\. Did you mean 'kind'.*label-column"),
        (HEADER.encode() + b"x.png,a\n", {"split_column": "part"}, r"unknown column 'part'.*--data\.split-column"),
        (HEADER.encode() + b"x.png,a\n../y.png,b\n", {}, r"line 2: x\.png \(No such.*line 3: \.\./y\.png .*its folder"),
        (HEADER.encode() + b"/,a\n", {}, "it is not a file but a folder"),
        (HEADER.encode() + b"x\0y.png,a\n", {}, "null byte|NUL"),
        (HEADER.encode() + b"x.png,a,b\n", {}, r"line 2: 3 values for 2 columns"),
        (HEADER.encode() + b"x.png\n", {}, r"line 2: 1 values for 2 columns"),
        (HEADER.encode() + b'"x.png,a\n', {}, "not a CSV file in UTF-8"),
        (HEADER.encode() + b"x.png,\n", {}, r"line 2: the label of x\.png is empty"),
        (HEADER.encode() + b",a\n", {}, "line 2: the path is empty"),
        (b"path,label,split\nx.png,a,tran\n", {}, r"line 2: unknown split 'tran'\. Did you mean 'train'"),
        (b"path,label\nx.png,\xff\n", {}, "not a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, content, fields, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(config(str(tmp_path / "t.csv"), **fields))
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_without_training(photos):
    root = write(photos / "only.csv", ("path", "label", "split"), rows_of(photos, lambda _: "test"))
    data = load_dataset(config(root))  # which can be measured on
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, len(rows_of(photos)))
    with pytest.raises(UsageError, match="no training split"):
        data.check_trainable()


def test_no_table(tmp_path):
    for root in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError, match=r"cannot read the table .*point --data\.root to the \.csv file"):
            load_dataset(config(str(root)))


def test_a_label_that_training_does_not_have_is_refused(photos):
    rows = [(path, label, "train") for path, label in rows_of(photos)]
    rows[-1] = (rows[-1][0], "Plain", "test")
    root = write(photos / "strange.csv", ("path", "label", "split"), rows)
    with pytest.raises(DataError, match="no row of the split train has the label Plain"):
        load_dataset(config(root))


def test_a_table_with_other_columns_is_measured_too(photos, tmp_path, call, tiny):
    """A list of new photographs need not be called as the one of training was."""
    known = write(photos / "known.csv", ("path", "label"), rows_of(photos))
    data = config(known, fraction=1.0, val_fraction=0.2, test_fraction=0.2)
    run = train(replace(tiny(epochs=1), data=data), tmp_path / "run", reporter=Reporter(quiet=True))
    new = write(photos / "new.csv", ("datei", "rasse", "teil"), rows_of(photos, lambda number: "test"))
    named = ("--data.path-column", "datei", "--data.label-column", "rasse", "--data.split-column", "teil")
    code, said, error = call("evaluate", run.path, "--data.root", new, *named, "--json", "--out", tmp_path)
    assert code == 0, error
    assert json.loads(said)["count"] == 30
    code, _, error = call("features", run.path, "--split", "test", "--data.root", new, *named, "--out", tmp_path / "f")
    assert code == 0, error
    assert len(np.load(tmp_path / "f" / "fc7.npy")) == 30
    code, _, error = call("evaluate", run.path, "--data.root", new)
    assert code == 3
    assert "--data.path-column names another" in error


def test_numbered_classes_may_stand_in_another_order(tmp_path, call):
    """Folders come as text is sorted, a table's labels by number: both are the network's own classes."""
    rng, rows = np.random.default_rng(0), []
    for label in ("0", "1", "10", "2"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for number in range(6):
            pixels = (rng.integers(0, 60, (40, 44, 3)) + 15 * int(label)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / label / f"{number}.png")
            rows.append((f"in/{label}/{number}.png", label, "test"))
    folder = {"source": "folder", "root": str(tmp_path / "in"), "resize": 36, "crop": 32, "workers": 1}
    settings = TINY_CONFIG | {f"data.{name}": value for name, value in folder.items()}
    run = train(recipe("folder", **settings), tmp_path / "run", reporter=Reporter(quiet=True))
    assert run.path.is_dir()
    table = write(tmp_path / "all.csv", ("path", "label", "split"), rows)
    whole = evaluate(run, data={"source": "table", "root": table})
    (tmp_path / "moved").mkdir()
    (tmp_path / "in").rename(tmp_path / "moved" / "test")
    (tmp_path / "moved" / "train").symlink_to(tmp_path / "moved" / "test")
    same = evaluate(run, data={"root": str(tmp_path / "moved")})
    assert whole.classes == same.classes == ("0", "1", "10", "2")
    assert np.array_equal(whole.confusion, same.confusion)
    assert np.array_equal(whole.confusion.sum(axis=1), [6, 6, 6, 6])


@pytest.mark.parametrize("settings", [{"orientation": "ignore"}, {"resize": 320, "crop": 280}])
def test_what_the_note_prepares_is_what_these_settings_need(photos, settings):
    root = write(photos / "noted.csv", ("path", "label"), rows_of(photos))
    note = load_dataset(DataConfig(source="table", root=root, **settings)).note
    asked = {"orientation": " --data.orientation ignore ", "resize": " --side 320 "}
    for name, flag in asked.items():
        assert (flag in note) == (name in settings)
