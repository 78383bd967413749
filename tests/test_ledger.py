"""The ledger: each point follows what was built and configured, and nothing else."""

import json
import shutil
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.config.colours import IMAGENET
from alexnet.config.values import override
from alexnet.data.augment import ColourNoise
from alexnet.data.resident import ResidentSplit
from alexnet.data.splits import Split
from alexnet.ledger import POINTS, Facts, as_rows, examine, summarise
from alexnet.ledger.built import facts_of_model
from alexnet.models.ablations import resolve
from alexnet.models.columns import ColumnNetwork
from alexnet.models.network import blank_model, build_model
from alexnet.models.table import Pool
from alexnet.models.variants import VARIANTS
from alexnet.recipes import recipe
from alexnet.runs.folder import load_run
from alexnet.training import optim
from alexnet.training.facts import course_of, ledger_of_config, ledger_of_run
from alexnet.training.loop import train

PAPER = recipe("imagenet-paper")
KEYS = {"number", "name", "paper", "release", "effect", "this", "departs_from_paper", "departs_from_release"}


def by_number(rows):
    return {row["number"]: row for row in rows}


def ledger(config=PAPER, change=lambda model: None, images=None):
    """The rows of a configuration by number, of a network that `change` has had its hands on."""
    fields = {k: v for k, v in vars(config.model).items() if v is not None and k not in ("variant", "freeze_to")}
    model = blank_model(config.model.variant, **{"width": 0.1} | fields)
    change(model)
    return by_number(ledger_of_run(config, model, images))


def changed(rows, others):
    return {number for number in rows if rows[number] != others[number]}


def departs(row):
    return row["departs_from_paper"], row["departs_from_release"]


@pytest.fixture(scope="module")
def paper():
    return ledger()


def test_all_points_are_there_in_order():
    assert [point.number for point in POINTS] == list(range(1, 33))
    assert len({point.name for point in POINTS}) == 32


@pytest.mark.parametrize(
    ("setting", "points", "words"),
    [
        ({"model.lrn": "formula"}, {1, 3}, "0.0005 / 5 = 0.0001 a square"),
        ({"data.std": (0.229, 0.224, 0.225)}, {3, 21}, "rms of about 1.11"),
        ({"model.groups": 1}, {26, 3}, "conv2 24 of 5x5; "),
        ({"model.activation": "tanh"}, {28, 4, 3, 30}, "tanh behind conv1 to fc7"),
        ({"model.overlap": False}, {9, 29}, "2x2, stride 2"),
        ({"model.dropout": 0.0}, {10, 11}, "no dropout"),
        ({"model.init": "code"}, {12}, "0.03 in conv3, conv4, conv5"),
        ({"model.positive_bias": 0.0}, {13}, "0 in every layer"),
        ({"init": "weights.pth"}, {3, 12, 13}, "weights.pth"),
        ({"optim.rules": ("biases rate=2x",)}, {14}, "2 x that of the weights"),
        ({"optim.rules": ("biases rate=0.02",)}, {14}, "2 x that of the weights"),
        ({"optim.decay_biases": True}, {15}, "0.0005 (all)"),
        ({"optim.rules": ("conv3.bias decay=0.001",)}, {15}, "0.001 (conv3)"),
        ({"optim.name": "sgd"}, {16}, "the rate outside"),
        ({"optim.name": "adam"}, {16}, "Adam"),
        ({"optim.momentum": 0.8}, {16}, "0.8"),
        ({"optim.weight_decay": 1e-4}, {17}, "0.0001 on all weights"),
        ({"optim.rules": ("fc7.weights decay=0.1",)}, {17}, "0.1 in fc7"),
        ({"data.colour_noise": 0.0}, {18, 19}, "none"),
        ({"data.noise_probability": 0.5}, {18}, "50%"),
        (
            {"optim.rules": ("conv1.weights rate=1e-5@67,0@72",)},
            {20},
            "1e-05 from epoch 67 on, frozen from epoch 72 on",
        ),
        ({"data.noise_divisor": 1.1}, {18}, "pixels are then divided by 1.1"),
        ({"data.noise_until": 66}, {19}, "off from epoch 67 on"),
        ({"data.crop_chunk": 32}, {23}, "drawn for 32 images in a row"),
        ({"data.reshuffle": False}, {24}, "shuffled once, then the same"),
        ({"data.mean_image": False}, {21}, "123, 117, 104 of 255"),
        ({"data.resize": 300}, {22, 23}, "short side 300"),
        ({"data.random_resized_crop": True}, {22, 23}, "8% to 100 % of the area"),
        ({"data.flip": False}, {23}, "never mirrored"),
        ({"cutmix": 1.0}, {23}, "CutMix"),
        ({"batch_size": 256}, {32}, "256 images"),
        ({"optim.lr": 0.02}, {32}, "0.02 at most"),
    ],
    ids=str,
)
def test_a_setting_changes_its_own_points(paper, setting, points, words):
    rows = ledger(override(PAPER, setting))
    if 3 in points and "model.groups" in setting:  # more inputs a kernel may or may not move its digits
        points = points - ({3} - changed(paper, rows))
    assert changed(paper, rows) == points
    assert any(words in rows[number]["this"] for number in points)


def rows_of(target, **values):
    """What the command says of a recipe, with settings changed."""
    config = override(recipe(target), values)
    return by_number(ledger_of_config(config))


def from_release(rows):
    return {number for number, row in rows.items() if row["departs_from_release"]}


def test_net145_is_the_release_in_every_point(call):
    _, out, _ = call("ledger", "net145", "--json")
    rows = by_number(json.loads(out))
    assert {number: row["this"] for number, row in rows.items() if row["departs_from_release"]} == {}
    assert {number for number, row in rows.items() if row["departs_from_release"] is None} == {31}
    # of the paper, which does not mention most of this
    assert {n for n, row in rows.items() if row["departs_from_paper"]} == {1, 4, 5, 6, 12, 14, 18, 19, 20, 25}


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("net145-half", {5, 14, 19, 20, 26}),
        ("net147", {14, 19, 20}),
        ("net148", {6, 7, 19, 20}),
        ("net150", {19, 20, 26}),
    ],
)
def test_relatives_of_net145_depart_where_they_are_meant_to(name, points):
    assert from_release(rows_of(name)) == points


BIASES, CONV1, *DROPOUT = recipe("net145").optim.rules[:2] + recipe("net145").optim.rules[3:]


@pytest.mark.parametrize(
    ("points", "values"),
    [
        ({11, 12}, {"optim.rules": (BIASES, CONV1)}),  # without the dropout's rates its weights are as they stand
        ({13}, {"model.positive_bias": 0.0}),
        ({14}, {"optim.rules": (CONV1, *DROPOUT)}),
        ({20}, {"optim.rules": (BIASES, *DROPOUT)}),
        ({15}, {"optim.decay_biases": True}),
        ({16}, {"optim.name": "sgd"}),
        ({17}, {"optim.weight_decay": 1e-3}),
        ({18}, {"data.noise_divisor": 1.0}),
        ({19}, {"data.noise_until": 60}),
        ({21}, {"data.mean_image": False}),
        ({3, 21}, {"data.std": (0.2, 0.2, 0.2)}),
        ({23}, {"data.crop_chunk": 16}),
        ({24}, {"data.reshuffle": True}),
        ({26}, {"model.groups": 1}),
        ({1}, {"model.lrn": "formula"}),
    ],
    ids=str,
)
def test_net145_without_one_thing_departs_there_alone(points, values):
    if "model.groups" in values:
        points = points | {5}  # one column has no parts to normalise apart
    assert from_release(rows_of("net145", **values)) == points


def test_the_papers_recipe_is_the_papers_but_for_what_it_says(paper):
    from_paper = {number for number, row in paper.items() if row["departs_from_paper"]}
    assert from_paper == {1, 11, 18, 25, 26, 27}  # 26, 27: of a tenth of the widths
    whole = by_number(as_rows(examine(facts_of_model(blank_model("paper")))))
    assert departs(whole[26]) == departs(whole[27]) == (False, False)
    assert "6x6x256 = 9216" in whole[27]["this"]


# Errors planted in the thing itself, not in its description.


def test_alpha_of_the_built_module():
    def plant(model):
        model.norm2.alpha = 5e-4

    rows, clean = ledger(change=plant), ledger()
    assert changed(clean, rows) == {1}
    assert "0.0001 / 5 = 2e-05, 0.0005 / 5 = 0.0001 a square" in rows[1]["this"]
    assert departs(rows[1]) == (True, True)


def test_k_and_columns_of_the_built_module():
    def plant(model):
        for norm in (model.norm1, model.norm2):
            norm.k, norm.columns = 1.0, 2

    rows = ledger(change=plant)
    assert changed(ledger(), rows) == {2, 3, 5}
    assert departs(rows[2]) == (True, True)
    assert departs(rows[5]) == (True, False)


def test_dropout_on_the_wrong_side():
    right = by_number(as_rows(examine(facts_of_model(build_model("paper", width=0.1)))))
    wrong = by_number(as_rows(examine(facts_of_model(build_model("paper", width=0.1, dropout_before=True)))))
    assert departs(right[10]) == (False, False)
    assert departs(wrong[10]) == (True, True)
    assert wrong[10]["this"] == "0.5 of the last maps, 0.5 of the outputs of fc6"


def test_dropout_that_drops_nothing_in_the_built_module():
    def plant(model):
        model.drop6.p = 0.0

    rows = ledger(change=plant)
    assert departs(rows[10]) == (True, True)
    assert "fc6" not in rows[10]["this"]


def test_pooling_that_rounds_down_in_the_built_module():
    """32-16-8-4 of cuda-convnet's networks needs windows that end outside."""
    model = blank_model("convnet-19pct")
    assert departs(by_number(as_rows(examine(facts_of_model(model))))[9]) == (None, False)
    model.pool2.ceil_mode = False
    row = by_number(as_rows(examine(facts_of_model(model))))[9]
    assert departs(row) == (None, True)
    assert row["this"] == "up and down; it matters in pool1, pool2, pool3"


def test_a_step_of_net145_out_of_its_place():
    """Its second convolution with the norm within maps before LRN, behind pooling or before the ReLU, or with averages
    for maxima: each is another network than the released one."""
    net = resolve("net145")
    relu, lrn, within, pool = net.convs[1].then

    def of(*then):
        convs = (net.convs[0], replace(net.convs[1], then=then), *net.convs[2:])
        return by_number(as_rows(examine(Facts.of_table(replace(net, convs=convs)))))

    right = of(relu, lrn, within, pool)
    assert right[4]["this"] == "conv1: LRN, pooling, ReLU; conv2: ReLU, LRN, within maps, pooling"
    assert [departs(right[number]) for number in (4, 6, 29)] == [(True, False)] * 2 + [(False, False)]
    for then in ((relu, within, lrn, pool), (relu, lrn, pool, within), (within, relu, lrn, pool)):
        assert departs(of(*then)[4]) == (True, True)
    assert departs(of(relu, lrn, within, replace(pool, average=True))[29]) == (True, True)
    apart = resolve("net147")
    convs = [replace(conv, then=tuple(_averaged(step) for step in conv.then)) for conv in apart.convs]
    for variant, release in ((apart, False), (replace(apart, convs=tuple(convs)), True)):
        rows = by_number(as_rows(examine(Facts.of_table(variant))))
        assert departs(rows[29]) == (True, release)


def _averaged(step):
    return replace(step, average=True) if isinstance(step, Pool) else step


def test_biases_that_decay_in_the_optimiser(monkeypatch, paper):
    groups = optim._groups

    def plant(config, model):
        return groups(replace(config, decay_biases=True), model)

    monkeypatch.setattr(optim, "_groups", plant)
    assert changed(paper, ledger()) == {15}


def test_rates_are_read_from_the_optimiser(monkeypatch, paper):
    set_lr = optim.Optimizer.set_lr

    def plant(self, lr, epoch):
        set_lr(self, lr, epoch)
        for group in self.groups:
            if list(group.parameters) == ["conv1.weight"] and epoch >= 40:
                group.lr /= 2

    same = override(PAPER, {"optim.rules": ("conv1.weights rate=1x",)})
    assert changed(paper, ledger(same)) == set()
    monkeypatch.setattr(optim.Optimizer, "set_lr", plant)
    rows = ledger(same)
    assert changed(paper, rows) == {20}
    assert rows[20]["this"] == "as the others, 0.005 from epoch 40 on"


def colour_images(count=60):
    rng = np.random.default_rng(0)
    base = rng.normal(120, 40, (count, 1, 8, 8))
    images = base + rng.normal(0, 12, (count, 3, 8, 8)) * np.array([1, 0.5, 0.2])[:, None, None]
    return Split(images.clip(0, 255).astype(np.uint8), rng.integers(0, 2, count), np.arange(count))


def noisy(**data):
    config = override(TrainConfig(), {"data": {"source": "cifar10", "colour_noise": 0.1, "crop": 8, **data}})
    return config, ResidentSplit(colour_images(), torch.device("cpu"), config.data)


def colour_row(config, images):
    model = blank_model("cifar", width=0.1, input_size=8 * 4)
    return by_number(ledger_of_run(config, model, images))[18]


def test_axes_of_the_colour_noise_are_deviations():
    config, images = noisy()
    row = colour_row(config, images)
    pixels = images.images.double().movedim(1, 0).flatten(1).numpy()
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(pixels, bias=True)))
    shown = [float(text.strip(",")) for text in row["this"].partition(" times ")[2].split()[:3]]
    np.testing.assert_allclose(shown, deviations, rtol=5e-3)
    assert "along the axes of colour, standard deviations" in row["this"]
    assert departs(row) == (True, True)  # the release divides by 1.1 as well


@pytest.mark.parametrize("scale", [255.0, 1.0], ids=["raw", "0-1"])
def test_variances_in_the_place_of_deviations(monkeypatch, scale):
    """On pixels of 0-255 that is what the paper says; on 0-1 it is what is in common use, and too weak."""
    config, images = noisy()
    good = ResidentSplit.noise

    def plant(self):
        axes = np.array(good(self).axes)
        lengths = np.linalg.norm(axes, axis=0)
        return ColourNoise(0.1, 1.0, tuple(map(tuple, axes * lengths * scale / 255)))

    monkeypatch.setattr(ResidentSplit, "noise", plant)
    row = colour_row(config, images)
    assert "not the standard deviations" in row["this"]
    assert row["departs_from_release"]


def test_the_papers_own_formula_agrees_with_the_paper_alone(monkeypatch):
    axes = np.array(IMAGENET.colour_axes)
    literal = ColourNoise(0.1, 1.0, tuple(map(tuple, axes * np.linalg.norm(axes, axis=0))))
    config, images = noisy(std=(0.25, 0.25, 0.25))
    monkeypatch.setattr(ResidentSplit, "noise", lambda self: literal)
    assert departs(colour_row(config, images)) == (False, True)


def test_the_mean_that_is_subtracted():
    config, images = noisy(std=(1 / 255,) * 3)
    model = blank_model("cifar", width=0.1)
    rows = by_number(ledger_of_run(config, model, images))
    means = images.images.double().mean(dim=(0, 2, 3))
    assert ", ".join(f"{m:.3g}" for m in means.tolist()) in rows[21]["this"]
    assert departs(rows[21]) == (True, True)
    images.prep = replace(images.prep, mean_image=torch.zeros(3, 8, 8))
    rows = by_number(ledger_of_run(config, model, images))
    assert departs(rows[21]) == (False, False)
    assert "mean image" in rows[21]["this"]


# Single points.


def test_scale_of_the_input_against_a_network_fed_with_noise():
    """Point 3's arithmetic, measured: what arrives at norm1 and norm2 at initial weights."""
    torch.manual_seed(0)
    for fields in ({"init": "text"}, {"init": "he"}, {"init": "torch"}, {"init": "code", "overlap": False}):
        model = build_model("cifar", width=0.25, **fields)
        facts = facts_of_model(model)
        from alexnet.ledger.normalisation import _second_moment

        x = 50 * torch.randn(3, 3, 32, 32)
        for layer in facts.layers:
            if layer.name in ("relu1", "norm1"):
                expected = sqrt(_second_moment(facts, layer, 50.0))
                inner = x[..., 4:-4, 4:-4]  # away from the padding
                assert float(inner.square().mean().sqrt()) == pytest.approx(expected, rel=0.1)
            x = model.get_submodule(layer.name)(x).detach()
            if layer.name == "norm1":
                break


def test_dropout_as_the_papers_by_weights_rate_and_decay():
    """Scaled up in training, with weights / 2, rate / 4 and decay x 4, and read as what it stands for."""
    rules = ("fc7.weights rate=0.25x decay=4x", "fc8.weights rate=0.25x decay=4x")
    rows = ledger(override(PAPER, {"optim.rules": rules}))
    assert changed(ledger(), rows) == {11, 12}
    assert departs(rows[11]) == (False, False)
    assert "0.02 in fc7, fc8" in rows[12]["this"]  # the weights were not halved
    assert departs(ledger(override(PAPER, {"optim.rules": rules[:1]}))[11]) == (True, True)


def test_frozen_layers_have_no_rate():
    model = build_model("cifar", width=0.1)
    model.conv1.requires_grad_(False)
    course = course_of(TrainConfig(), model)
    assert [stage.rate for stage in course["conv1.weight"]] == [0.0]
    assert "frozen throughout" in by_number(ledger_of_run(TrainConfig(), model))[20]["this"]


def test_frozen_layers_of_a_configuration():
    assert "frozen throughout" in rows_of("imagenet-paper", **{"model.freeze_to": "conv2"})[20]["this"]


def test_a_network_alone_may_have_its_weights_for_the_papers_dropout():
    rows = by_number(as_rows(examine(Facts.of_table(VARIANTS["net145"]))))
    assert departs(rows[12]) == (True, False)
    assert "fc7 and fc8 for the paper's dropout, if they are trained so" in rows[12]["this"]


def test_courses_are_the_schedules():
    config = override(PAPER, {"optim.schedule": "step", "optim.drops": (25, 51, 79)})
    course = course_of(config, blank_model("paper", width=0.1))
    assert [(stage.epoch, pytest.approx(stage.rate)) for stage in course["conv2.weight"]] == [
        (1, 0.01),
        (26, 1e-3),
        (52, 1e-4),
        (80, 1e-5),
    ]


@pytest.mark.parametrize("init", [None, "he", "torch"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_network_and_its_table_say_the_same(name, init):
    fields = {"init": init} if init else {}
    table, model = Facts.of_table(resolve(name, **fields)), facts_of_model(blank_model(name, **fields))
    assert as_rows(examine(table)) == as_rows(examine(model))


def test_points_of_training_wait_for_it():
    rows = as_rows(examine(Facts.of_table(VARIANTS["paper"])))
    waiting = {row["number"] for row in rows if row["this"] == "decided by how it is trained"}
    assert waiting == {3, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 31, 32}
    assert all(departs(row) == (None, None) for row in rows if row["number"] in waiting)


def test_unknown_networks_of_one_convolution_and_no_hidden_layer():
    table = replace(VARIANTS["cifar"], convs=VARIANTS["cifar"].convs[:1], hidden=(), init="he")
    rows = by_number(ledger_of_run(TrainConfig(), build_model(table, width=0.1)))
    assert departs(rows[10]) == (True, True)
    assert "none behind fc2" in rows[28]["this"]


# Any configuration.

CONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 100),
        "batch_size": st.integers(1, 512),
        "init": st.none() | st.just("weights.pth"),
        "data.source": st.sampled_from(["digits", "cifar10", "imagenet", "folder"]),
        "data.resize": st.none() | st.integers(8, 300),
        "data.crop": st.none() | st.integers(8, 300),
        "data.random_resized_crop": st.booleans(),
        "data.flip": st.booleans(),
        "data.pad": st.integers(0, 8),
        "data.colour_noise": st.floats(0, 1),
        "data.mean": st.none() | st.just((0.5,)) | st.just((0.0, 0.0, 0.0)),
        "data.std": st.none() | st.just((1 / 255,)) | st.just((0.2, 0.3, 0.4)),
        "data.mean_image": st.booleans(),
        "model.freeze_to": st.none() | st.just("conv2"),
        "optim.name": st.sampled_from(["sgd", "paper-sgd", "adam", "adamw"]),
        "optim.lr": st.floats(1e-6, 10),
        "optim.weight_decay": st.floats(0, 1),
        "optim.decay_biases": st.booleans(),
        "optim.schedule": st.sampled_from(["constant", "step", "plateau", "cosine", "one-cycle", "triangular"]),
        "optim.warmup_epochs": st.floats(0, 5),
        "optim.rules": st.lists(
            st.sampled_from(["biases rate=2x decay=0", "weights rate=0", "conv1 rate=1e-5@67,0@72", "head decay=3"])
        ).map(tuple),
    },
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "lrn": st.sampled_from(["off", "code", "formula"]),
        "overlap": st.booleans(),
        "activation": st.sampled_from(["relu", "tanh"]),
        "dropout": st.floats(0, 0.9),
        "dropout_before": st.booleans(),
        "init": st.sampled_from(["text", "code", "caffe", "torch", "he", "modern"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(VARIANTS)), FIELDS, CONFIGURATIONS)
def test_any_configuration_has_a_whole_ledger(name, fields, configuration):
    config = override(TrainConfig(), {"optim.nesterov": False} | configuration)
    model = build_narrow(name, fields)
    if config.model.freeze_to:
        model.get_submodule("conv2").requires_grad_(False)
    rows = ledger_of_run(config, model)
    assert [row["number"] for row in rows] == list(range(1, 33))
    for row in rows:
        assert row.keys() == KEYS
        assert all(isinstance(row[key], str) and row[key] for key in ("name", "paper", "release", "effect", "this"))
        assert {type(value) for value in departs(row)} <= {bool, type(None)}
    assert json.loads(json.dumps(rows)) == rows
    summarise(rows)


def build_narrow(name, fields):
    table = resolve(name, **fields)
    return blank_model(table, width=16 / max(row.width for row in table.convs))


# What a run writes, and the command.


def test_a_run_writes_its_ledger(finished):
    rows = finished.ledger
    assert [row["number"] for row in rows] == list(range(1, 33))
    assert "64 images" in by_number(rows)[32]["this"]
    assert "Adam" in by_number(rows)[16]["this"]
    again = load_run(finished.path)
    assert again.ledger == rows


def test_a_resumed_run_writes_it_anew(tiny, tmp_path, reporter, no_figures):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    (run.path / "ledger.json").unlink()
    run = train(tiny(epochs=1, then=("1 lr=0.001 schedule=cosine",)), run.path, reporter=reporter)
    assert "for 2 epochs" in by_number(run.ledger)[32]["this"]


def test_command_of_runs_old_and_new(finished, tmp_path, call):
    code, out, _ = call("ledger", finished.path, "--json")
    assert (code, json.loads(out)) == (0, finished.ledger)
    old = tmp_path / "old"
    shutil.copytree(finished.path, old)
    for damaged in ("{damaged", '{"points": 3}', json.dumps({"points": [finished.ledger[0] | {"this": 5}]})):
        (old / "ledger.json").write_text(damaged)
        _, out, _ = call("ledger", old, "--json")
        assert json.loads(out) == finished.ledger  # from its checkpoint
    for file in old.glob("*.safetensors"):
        file.unlink()
    code, out, _ = call("ledger", old, "--json")
    assert code == 0
    assert by_number(json.loads(out))[32] == by_number(finished.ledger)[32]


def test_command_of_recipes_networks_and_files(tmp_path, call, finished):
    code, out, _ = call("ledger", "imagenet-paper")
    assert code == 0
    assert out.splitlines()[0].startswith("imagenet-paper: of 32 points, 4 depart from the paper (1, 11, 18, 25)")
    assert all(len(line) <= 80 for line in out.splitlines()[1:])
    assert out.count("\n  here ") == 32
    _, out, _ = call("ledger", "paper", "--departures")
    assert out.count("\n  here ") == 5
    _, everything, _ = call("ledger", "paper", "--all", "--json")
    assert len(json.loads(everything)) == 32
    code, out, _ = call("ledger", finished.path / "config.yaml", "--json")
    assert (code, len(json.loads(out))) == (0, 32)


@pytest.mark.parametrize("target", ["papper", "nowhere.yaml"])
def test_command_of_nothing(call, target):
    code, out, err = call("ledger", target)
    assert (code, out) == (2, "")
    assert target in err
    assert "Traceback" not in err


def test_info_tells_of_the_ledger(call):
    _, out, _ = call("info", "bvlc")
    assert "alexnet ledger bvlc" in out
    _, out, _ = call("info", "bvlc", "--model.groups", "1")
    assert "alexnet ledger" not in out  # of another network
    _, out, _ = call("info", "paper", "--model.lrn", "formula", "--json")
    assert json.loads(out)["departs_from_paper"] == []
    assert [row["number"] for row in json.loads(out)["ledger"]] == list(range(1, 33))


def test_modules_that_are_not_the_tables_speak_for_themselves():
    model = blank_model("paper", width=0.1)
    model.norm1 = nn.LocalResponseNorm(5)  # k = 1
    model.relu3 = nn.LeakyReLU()
    model.fc6 = nn.Linear(model.fc6.in_features, 77)
    rows = by_number(as_rows(examine(facts_of_model(model))))
    assert rows[2]["this"] == "k = norm1 1, norm2 2"
    assert "LeakyReLU" in rows[28]["this"]
    assert rows[28]["departs_from_paper"]
    assert "fc6 77" in rows[26]["this"]
    model.norm1, model.norm2 = nn.BatchNorm2d(10), nn.Identity()
    assert "no " in by_number(as_rows(examine(facts_of_model(model))))[1]["this"]


def test_weights_that_were_fitted_or_read_are_not_judged_by_the_scheme():
    starts = ({"start": ()}, {"start": ("lsuv",)}, {"start": (), "init": "w.pth"})
    told = [rows_of("cifar10", **change)[3]["this"] for change in starts]
    assert "at its initial weights norm1 meets" in told[0]
    assert all("its weights decide" in line for line in told[1:])


@pytest.mark.parametrize("name", ["paper", "net145"])
def test_a_column_on_its_own_process_has_the_whole_networks_ledger(name):
    model = build_model(name, width=0.125)
    column = ColumnNetwork(model, World(rank=1, size=2))
    assert ledger_of_run(PAPER, column) == ledger_of_run(PAPER, model)


def test_dropout_is_not_the_papers_under_adam():
    """The rules of net 145 make it so where a smaller rate is a smaller gradient."""
    for name, departs in (("paper-sgd", False), ("adam", True)):
        row = rows_of("net145", **{"optim.name": name})[11]
        assert row["departs_from_paper"] is departs


def test_a_run_that_something_ended_says_for_how_long_it_was_trained(tiny, tmp_path, reporter):
    config = tiny(epochs=9, score_train=1, stop_train_error=0.99)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert run.status["epoch"] < 9
    assert f"for {max(1, run.status['epoch'])} epochs" in by_number(run.ledger)[32]["this"]


@pytest.mark.parametrize(
    ("setting", "number", "expected"),
    [
        ({"data.resize": 300}, 22, (True, True)),
        ({"data.random_resized_crop": True}, 22, (True, True)),
        ({"data.random_resized_crop": True}, 23, (True, True)),
        ({"data.flip": False}, 23, (True, True)),
        ({"model.overlap": False}, 29, (True, True)),
        ({"batch_size": 256}, 32, (True, True)),
        ({"optim.lr": 0.02}, 32, (True, True)),
        ({"optim.name": "sgd", "optim.schedule": "constant"}, 16, (False, False)),
        ({"optim.rules": ("biases rate=2x",)}, 14, (True, True)),
        ({"optim.rules": ("biases rate=0.02",)}, 14, (True, False)),
    ],
    ids=str,
)
def test_what_departs(setting, number, expected):
    row = ledger(override(PAPER, setting))[number]
    assert (row["departs_from_paper"], row["departs_from_release"]) == expected


def test_what_departs_in_tables():
    def rows(name, **fields):
        return by_number(as_rows(examine(Facts.of_table(resolve(name, **fields)))))

    side = rows("paper", input_size=227)[8]
    assert (side["departs_from_paper"], side["departs_from_release"]) == (True, True)
    assert rows("convnet-18pct")[30]["departs_from_release"] is True
    assert rows_of("digits")[22]["departs_from_paper"] is True
