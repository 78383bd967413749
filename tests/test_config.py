"""Settings: names, types, ranges, round trips through YAML, and the recipes."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, dump, load
from alexnet.config.values import flag, flatten, override
from alexnet.data.sources import SOURCES
from alexnet.errors import UsageError
from alexnet.models.ablations import FIELDS, resolve
from alexnet.models.network import build_model
from alexnet.models.summary import smallest_input
from alexnet.models.variants import VARIANTS
from alexnet.recipes import ORIGINS, RECIPES, recipe

POSITIVE = st.floats(1e-8, 1e3)
PART = st.floats(0.001, 0.999)
SETTINGS = {
    "epochs": st.integers(1, 1000),
    "batch_size": st.integers(8, 4096),
    "seed": st.integers(0, 2**63 - 1),
    "name": st.text(min_size=1, max_size=8),
    "then": st.lists(st.sampled_from(["1", "10 lr=1e-3", "3 schedule=cosine"]), max_size=3),
    "stop_after": st.none() | st.just(1),
    "accumulate": st.integers(1, 8),
    "label_smoothing": PART,
    "cutmix": PART,
    "mix_probability": PART,
    "init": st.none() | st.just("runs/a b"),
    "precision": st.sampled_from(["auto", "fp32", "bf16"]),
    "compile": st.booleans(),
    "data.root": st.text(max_size=20),
    "data.val_fraction": PART,
    "data.resize": st.none() | st.integers(1, 999),
    "data.flip": st.booleans(),
    "data.mean": st.none() | st.lists(PART, min_size=1, max_size=3),
    "data.std": st.none() | st.lists(POSITIVE, min_size=1, max_size=3),
    "model.variant": st.sampled_from(list(VARIANTS)),
    "model.width": st.none() | st.floats(0.01, 16),
    "model.lrn": st.sampled_from([None, "off", "code", "formula"]),
    "model.overlap": st.none() | st.booleans(),
    "optim.lr": POSITIVE,
    "optim.betas": st.lists(PART, min_size=2, max_size=2),
    "optim.schedule": st.sampled_from(["constant", "step", "plateau", "cosine", "one-cycle", "triangular"]),
    "optim.weight_decay": POSITIVE | st.just(0.0),
}


def nested(flat: dict) -> dict:
    deep: dict = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        place = deep
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return deep


@settings(deadline=None, max_examples=60)
@given(values=st.fixed_dictionaries({}, optional=SETTINGS))
def test_override_and_flatten_undo_each_other_through_yaml(values):
    config = override(TrainConfig(), values)
    for name, value in values.items():
        if name == "stop_after" and value == config.horizon:
            value = None  # no stop
        held = attrgetter(name)(config)
        assert (list(held) if isinstance(held, tuple) else held) == value
    flat = flatten(config)
    untouched = flatten(TrainConfig())
    assert {n: v for n, v in flat.items() if n not in values} == {n: v for n, v in untouched.items() if n not in values}
    for form in (flat, nested(flat)):
        assert override(TrainConfig(), yaml.safe_load(yaml.safe_dump(form))) == config
    assert override(config, {}) == config
    assert override(TrainConfig(), asdict(config)) == config
    hash(config)  # tuples, not lists


def test_overrides_combine():
    config = override(TrainConfig(), {"optim": {"lr": 1}, "optim.momentum": 0.5, "data": DataConfig(pad=2)})
    assert (config.optim.lr, config.optim.momentum, config.data.pad) == (1.0, 0.5, 2)
    assert type(config.optim.lr) is float
    assert override(config, {"data": DataConfig(pad=1), "data.flip": True}).data == DataConfig(pad=1, flip=True)
    assert config.data.pad == 2  # the one before stays


def test_values_in_other_clothes():
    values = yaml.safe_load("{optim: {lr: 1e-3}, data: {mean: [0, 1], std: [1, 0.5]}}")
    assert values["optim"]["lr"] == "1e-3"  # YAML's trap
    config = override(TrainConfig(), {**values, "init": Path("a/b")})
    assert config.optim.lr == 1e-3
    assert config.data.mean == (0.0, 1.0)
    assert config.init == "a/b"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'.*'epochs'"),
        ({"optim.lrr": 3}, "'optim.lrr'.*'optim.lr'"),
        ({"optim": {"lrr": 3}}, "'optim.lrr'"),
        ({"epochs.x": 3}, "epochs.x"),
        ({"optim": 3}, "optim is a group"),
        ({"epochs": 1.5}, "--epochs takes int"),
        ({"epochs": "many"}, "--epochs takes int"),
        ({"epochs": True}, "--epochs takes int"),
        ({"epochs": None}, "--epochs takes int"),
        ({"data.flip": 1}, "--data.flip takes bool"),
        ({"data.flip": "no"}, "--data.flip takes bool"),
        ({"optim.lr": "fast"}, "--optim.lr takes float"),
        ({"optim.lr": True}, "--optim.lr takes float"),
        ({"optim.lr": None}, "--optim.lr takes float"),
        ({"optim.lr": [1]}, "--optim.lr takes float"),
        ({"optim.betas": [0.9]}, "--optim.betas"),
        ({"data.mean": 0.5}, "--data.mean"),
        ({"data.mean": ["x"]}, "--data.mean"),
        ({"data.root": 3}, "--data.root takes str"),
        ({"optim.name": "sdg"}, "'sgd'"),
        ({"optim.schedule": "onecycle"}, "one-cycle"),
        ({3: 4}, "'3'"),
    ],
    ids=str,
)
def test_unknown_names_and_wrong_types(values, said):
    with pytest.raises(UsageError, match=said):
        override(TrainConfig(), values)


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("accumulate", 0), ("accumulate", 129), ("label_smoothing", 1.0),
        ("label_smoothing", -0.1), ("label_smoothing", NAN), ("ema", 1.0), ("log_every", 0), ("save_minutes", 0.0),
        ("data.val_fraction", 1.0), ("data.val_fraction", -0.1), ("data.fraction", 0.0), ("data.fraction", 1.1),
        ("data.resize", 0), ("data.resize", 4097), ("data.crop", 0),
        ("data.crop", 4097), ("data.workers", 0), ("data.pad", -1), ("data.std", [0.0]), ("data.std", [NAN]),
        ("optim.lr", 0.0), ("optim.lr", NAN), ("optim.lr", float("inf")), ("optim.momentum", 1.0),
        ("optim.weight_decay", -1e-9), ("optim.weight_decay", float("inf")), ("optim.factor", 1.0),
        ("optim.step_epochs", 0), ("optim.patience", -1), ("optim.max_drops", -1), ("optim.warmup_epochs", -1.0),
        ("optim.warmup_epochs", float("inf")), ("optim.peak", 1.0), ("optim.betas", [0.9, 1.0]),
        ("data.mean", [NAN]), ("data.split_seed", -1), ("seed", 2**63), ("seed", -1),
    ],
)  # fmt: skip
def test_ranges(name, value):
    with pytest.raises(
        UsageError, match=f"{flag(name)} .*out of range: it must be (at least|above|below|at most|finite)"
    ):
        override(TrainConfig(), {name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "at least 1."), ("data.workers", -1, "at least 1 and at most 1024."),
        ("data.resize", 100_000, "at least 1 and at most 4096."), ("data.fraction", 0.0, "above 0 and at most 1."),
        ("accumulate", 200, "at least 1 and at most 128."), ("optim.momentum", 1.0, "at least 0 and below 1."),
        ("data.mean", [NAN], "finite."), ("optim.lr", 0.0, "above 0."),
    ],
)  # fmt: skip
def test_ranges_are_named(name, value, said):
    with pytest.raises(UsageError) as caught:
        override(TrainConfig(), {name: value})
    assert str(caught.value).endswith(f"it must be {said}")


def test_folders_of_earlier_formats_are_taken_as_they_lie():
    """They were trained on so: what they leave out does not have the meaning that it has today."""
    for old in ({"format": 1, "data.source": "folder"}, {"format": 2, "data": {"source": "folder"}}):
        assert load(old).data.orientation == "ignore"
    assert load({"format": 2, "data": {"source": "folder", "orientation": "apply"}}).data.orientation == "apply"
    assert load({"format": 2, "data": {"source": "imagenet"}}) == override(TrainConfig(), {"data.source": "imagenet"})
    assert load({"format": 3, "data": {"source": "folder"}}).data.orientation is None
    folder = recipe("folder")
    assert load(dump(folder)) == folder


def test_settings_that_contradict_each_other():
    with pytest.raises(UsageError, match=r"--data\.val-fraction"):
        override(TrainConfig(), {"optim.schedule": "plateau", "data.val_fraction": 0.0})
    for values in ({"optim.name": "adam"}, {"optim.momentum": 0.0}, {"optim.name": "paper-sgd"}):
        with pytest.raises(UsageError, match=r"--optim\.nesterov"):
            override(TrainConfig(), {"optim.nesterov": True, **values})


def test_starts():
    start = override(TrainConfig(), {"start": ["lsuv", "whiten"], "grow_from": 24, "grow_epochs": 2})
    assert override(TrainConfig(), flatten(start)) == start
    assert start.start == ("lsuv", "whiten")
    for values, said in (({"start": ["lsvu"]}, "Did you mean 'lsuv'"),):
        with pytest.raises(UsageError, match=said):
            override(TrainConfig(), values)


def test_construction_checks_too_and_nothing_is_mutable():
    with pytest.raises(UsageError):
        TrainConfig(epochs=0)
    with pytest.raises(UsageError):
        replace(TrainConfig(), optim=OptimConfig(lr=-1))
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 3


def test_flag_and_flatten():
    assert flag("data.val_fraction") == "--data.val-fraction"
    assert attrgetter("optim.weight_decay")(TrainConfig()) == 5e-4
    assert all(not is_dataclass(value) for value in flatten(TrainConfig()).values())


def test_model_settings_are_fields_of_the_tables():
    """The two agree in names and choices, though neither imports the other."""
    ours = get_type_hints(ModelConfig)
    assert set(ours) - {"variant", "freeze_to"} <= set(FIELDS)
    for name, hint in ours.items():
        choices = [a for a in get_args(hint) if get_origin(a) is Literal]
        if choices:
            assert get_args(choices[0]) == get_args(FIELDS[name]), name


def test_every_field_has_help():
    for kind in (TrainConfig, DataConfig, ModelConfig, OptimConfig):
        source = inspect.getsource(kind)
        for f in fields(kind):
            if not is_dataclass(get_type_hints(kind)[f.name]):
                after = source.partition(f"    {f.name}: ")[2].splitlines()
                assert after[1].strip().startswith('"""'), f.name


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name):
    chosen = recipe(name)
    assert chosen.name == name
    assert name in ORIGINS
    assert override(TrainConfig(), yaml.safe_load(yaml.safe_dump(flatten(chosen)))) == chosen
    given_ = {k: v for k, v in asdict(chosen.model).items() if v is not None and k != "variant"}
    sides = {"digits": 8, "cifar10": 32, "cifar100": 32}
    side = chosen.data.crop or chosen.data.resize or sides[chosen.data.source]
    assert smallest_input(resolve(chosen.model.variant, **given_)) <= side
    model = build_model(chosen.model.variant, input_size=side, **{**given_, "width": 0.125})
    model.eval()(torch.zeros(1, model.variant.in_channels, side, side))


def test_recipes_name_data_that_exists():
    assert {r.data.source for r in RECIPES.values()} - set(SOURCES) <= {"imagenet"}
    assert set(ORIGINS) == set(RECIPES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # what the two projects published, and the paper
        ("cifar10-plateau", {"batch_size": 128, "optim.lr": 1e-2, "optim.momentum": 0.9, "optim.weight_decay": 5e-4,
                             "optim.schedule": "plateau", "optim.factor": 0.1, "optim.patience": 20,
                             "optim.max_drops": 3, "model.init": "torch", "data.flip": False, "data.pad": 0}),
        ("cifar10-1e-3", {"optim.lr": 1e-3, "optim.schedule": "constant"}),
        ("cifar10-1e-4", {"optim.lr": 1e-4, "optim.schedule": "constant"}),
        ("cifar100-plateau", {"data.source": "cifar100", "optim.schedule": "plateau"}),
        ("cifar100-1e-3", {"data.source": "cifar100", "optim.lr": 1e-3}),
        ("cifar10-resized", {"batch_size": 256, "epochs": 25, "data.resize": 70, "data.crop": 64,
                             "optim.lr": 0.1, "optim.momentum": 0.9, "optim.weight_decay": 0.0, "model.init": "torch",
                             "data.mean": (0.5, 0.5, 0.5), "data.std": (0.5, 0.5, 0.5)}),
        ("imagenet-paper", {"epochs": 90, "batch_size": 128, "optim.name": "paper-sgd", "optim.lr": 1e-2,
                            "optim.momentum": 0.9, "optim.weight_decay": 5e-4, "optim.max_drops": 3,
                            "data.resize": 256, "data.crop": 224, "data.flip": True, "optim.decay_biases": False}),
    ],
)  # fmt: skip
def test_published_settings(name, expected):
    chosen = recipe(name)
    assert {field: attrgetter(field)(chosen) for field in expected} == expected


def test_recipe_overrides():
    chosen = recipe("cifar10", epochs=3, optim={"lr": 0.02}, **{"data.root": "/data"})
    assert (chosen.epochs, chosen.optim.lr, chosen.data.root) == (3, 0.02, "/data")
    assert chosen.optim.schedule == RECIPES["cifar10"].optim.schedule
    assert recipe("cifar10") == RECIPES["cifar10"]
    with pytest.raises(UsageError, match="Did you mean 'cifar10'"):
        recipe("cifar-10")
    with pytest.raises(UsageError, match="epochs"):
        recipe("digits", epoch=3)


HUGE = int("9" * 400)


@pytest.mark.parametrize(
    "values",
    [
        {"optim": {"lr": HUGE}},
        {"data": {"mean": [HUGE] * 3}},
        {"format": 2, "model": {"variant": [1]}},
        {"optim": {"rules": ["conv1 rate=1@" + "9" * 5000]}},
    ],
    ids=["rate", "mean", "variant", "rule"],
)
def test_values_that_no_number_or_name_can_be(values):
    with pytest.raises(UsageError):
        load(values)
