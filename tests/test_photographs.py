"""Photographs from folder to result: training, interruption, bad files, prepared copies, fine-tuning."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.cli.tables import show_names
from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config.values import override
from alexnet.data.packing import prepare
from alexnet.errors import CheckpointError, DataError, TrainingStopped, UsageError
from alexnet.inference.ensembles import evaluate_ensemble
from alexnet.inference.evaluation import evaluate
from alexnet.inference.prediction import predict
from alexnet.models.network import build_model
from alexnet.recipes import ORIGINS, RECIPES, recipe
from alexnet.runs.checkpoint import load_checkpoint
from alexnet.runs.folder import Run
from alexnet.training import session
from alexnet.training.faults import Faults
from alexnet.training.learner import Counters, Learner, freeze
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import Blank, assert_consistent, assert_same_tensors, differ, figures, tensors, text, timeless

CLASSES = ("ant", "bee", "cow")
TRAIN, VAL = 10, 5  # images a class
BATCH = 8
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
STEPS = 4  # an epoch: 30 images in batches of 8
PHOTOS = recipe(
    "folder",
    epochs=2,
    batch_size=BATCH,
    log_every=2,
    device="cpu",
    precision="fp32",
    data={"resize": 72, "crop": 64, "workers": 2, "max_bad": 0.0},
    model={"variant": "owt", "width": 0.125, "dropout": 0.2},
    optim={"lr": 2e-3, "warmup_epochs": 0.0},
)

pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")


def write_photos(root, classes=CLASSES, parts=(("train", TRAIN), ("val", VAL)), seed=0):
    """Classes that differ in colour, with texture; sizes and formats vary."""
    rng = np.random.default_rng(seed)
    sizes = [(100, 80), (80, 120), (74, 74), (150, 90), (200, 180)]
    for part, count in parts:
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(0, 150, (8, 8, 3))
                noise[..., label % 3] += 105
                image = Image.fromarray(noise.astype(np.uint8)).resize(sizes[number % 5], Image.Resampling.BICUBIC)
                image.save(folder / f"{number} ü.jpg", **({"format": "PNG"} if number == 3 else {"quality": 92}))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train and val; only to be read."""
    return write_photos(tmp_path_factory.mktemp("photos") / "data")


@pytest.fixture
def photo_config(photos):
    """A function that makes a TrainConfig of a second from overrides."""
    return lambda **values: override(PHOTOS, {"data.root": str(photos)} | values)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A finished run on the original photographs, with random crops and colour noise; only to be read."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "draw_curves", lambda *_: Blank())
        return train(override(PHOTOS, {"data.root": str(photos)}), path, reporter=Reporter(quiet=True))


@pytest.fixture
def spoilt(photos, tmp_path):
    """A function that copies the photographs and puts a web page in the place of some; gives root and places."""

    def spoil(*names):
        root = tmp_path / "spoilt"
        shutil.copytree(photos, root)
        for name in names:
            (root / name).write_bytes(b"<html>404 Not Found</html>")
        return str(root), [str(root / name) for name in names]

    return spoil


def result(run, name):
    return json.loads((run.path / f"{name}.json").read_text())


def assert_same_ending(a, b, split="val"):
    """As conftest's assert_same_run, but for settings that change no bit (threads, how often is saved)."""
    assert_same_tensors(a.best, b.best)
    assert_same_tensors(a.last, b.last)
    assert timeless(a.metrics) == timeless(b.metrics)
    assert figures(result(a, split)) == figures(result(b, split))


def interrupted(monkeypatch, config, path, reporter, at, number=signal.SIGTERM):
    """Train until a signal strikes after the `at`-th step."""
    apply, steps = Learner.apply_step, 0

    def apply_step(self, *arguments):
        nonlocal steps
        apply(self, *arguments)
        steps += 1
        if steps == at:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "apply_step", apply_step)
        with pytest.raises(TrainingStopped):
            train(config, path, reporter=reporter)
    assert Run(path).status["state"] == "stopped"


# A run from end to end.


def test_run_learns_and_is_complete(photo_config, tmp_path, reporter):
    run = train(photo_config(epochs=5), tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert run.epochs[-1]["val_top1"] > 0.6  # three colours
    assert run.epochs[-1]["train_loss"] < run.epochs[0]["train_loss"]
    meta = load_checkpoint(run.best).meta
    assert meta["classes"] == meta["names"] == list(CLASSES)
    assert (meta["preprocessing"]["size"], meta["preprocessing"]["resize"]) == (64, 72)
    answers = predict(run, [Path(run.config.data.root) / "val"], device="cpu")
    right = sum(Path(a.path).parent.name == a.classes[0] for a in answers)
    assert right / len(answers) == pytest.approx(result(run, "val")["top1"])


def test_without_a_test_split_the_result_is_validations(trained, photo_config, tmp_path, reporter):
    run = train(photo_config(), tmp_path / "run", reporter=reporter)
    assert run.test is None
    assert (result(run, "val")["split"], result(run, "val")["count"]) == ("val", VAL * len(CLASSES))
    assert not (run.path / "test.json").exists()
    assert_same_ending(run, trained)  # the same twice
    (said,) = [line for line in text(reporter).splitlines() if "95 % interval" in line]
    assert said.startswith("val accuracy")  # nothing was tested


def test_with_a_test_split_the_result_is_its(tmp_path, photo_config, reporter):
    root = write_photos(tmp_path / "data", parts=(("train", 4), ("val", 1), ("test", 3)))
    run = train(photo_config(epochs=1, **{"data.root": str(root)}), tmp_path / "run", reporter=reporter)
    assert (run.test["split"], run.test["count"]) == ("test", 9)
    assert not (run.path / "val.json").exists()
    assert "test accuracy" in text(reporter)


def test_one_folder_of_classes_is_split(tmp_path, photo_config, reporter):
    root = write_photos(tmp_path / "data", parts=(("train", 10),)) / "train"
    values = {"data.root": str(root), "data.val_fraction": 0.2, "data.test_fraction": 0.2}
    run = train(photo_config(epochs=1, **values), tmp_path / "run", reporter=reporter)
    assert run.test["count"] == 6
    assert "training folder: 18 images" in text(reporter)


def test_original_photographs_are_remarked_upon_once(photo_config, tmp_path, reporter):
    run = train(photo_config(stop_after=1), tmp_path / "run", reporter=reporter)
    train(photo_config(), run.path, reporter=reporter)
    assert text(reporter).count("reading the original photographs") == 1
    assert "alexnet prepare folder --data.root" in text(reporter)


# Interrupted and resumed.


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("at", [2, STEPS + 1])
def test_stopped_and_resumed_is_the_same_run(trained, tmp_path, reporter, monkeypatch, workers, at):
    """With crops of random area, mirror images and colour noise, and whatever the number of threads."""
    config = override(trained.config, {"data.workers": workers})
    assert config.data.random_resized_crop
    assert config.data.colour_noise
    interrupted(monkeypatch, config, tmp_path / "run", reporter, at)
    run = train(override(config, {"data.workers": 4 - workers}), tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert_same_ending(run, trained)


class Killed(BaseException):
    """Stands for SIGKILL where the moment matters."""


def test_killed_and_resumed_is_the_same_run(trained, tmp_path, reporter, monkeypatch):
    """From a checkpoint some steps before."""
    steps, step = 0, Learner.train_step

    def train_step(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == STEPS + 4:
            raise Killed
        return step(self, *arguments)

    config = override(trained.config, {"save_minutes": 1e-9})
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", train_step)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", reporter=reporter)
    assert load_checkpoint(Run(tmp_path / "run").last).meta["counters"]["epoch_step"] == 3
    run = train(trained.config, tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    assert_same_ending(run, trained)


def test_plain_crops_resume_too(photo_config, tmp_path, reporter, monkeypatch):
    config = photo_config(**{"data.random_resized_crop": False, "ema": 0.5})
    whole = train(config, tmp_path / "whole", reporter=reporter)
    interrupted(monkeypatch, config, tmp_path / "run", reporter, 3, signal.SIGINT)
    assert_same_ending(train(config, tmp_path / "run", reporter=reporter), whole)


def test_photographs_changed_since_are_refused(photo_config, photos, tmp_path, reporter):
    root = tmp_path / "data"
    shutil.copytree(photos, root)
    config = photo_config(stop_after=1, **{"data.root": str(root)})
    run = train(config, tmp_path / "run", reporter=reporter)
    (root / "train" / "ant" / "0 ü.jpg").unlink()
    with pytest.raises(DataError, match="fingerprint"):
        train(override(config, {"stop_after": None}), run.path, reporter=reporter)


# Photographs that cannot be read.


def unreadable(run):
    return [row for row in run.metrics if row["kind"] == "unreadable"]


def test_bad_photographs_are_left_out_and_written_down(photo_config, spoilt, tmp_path, reporter):
    root, places = spoilt("train/ant/1 ü.jpg", "train/cow/7 ü.jpg", "val/bee/2 ü.jpg")
    run = train(photo_config(**{"data.root": root, "data.max_bad": 0.1}), tmp_path / "run", reporter=reporter)
    assert_consistent(run)
    rows = unreadable(run)
    assert len(rows) == len(places)  # once each, in two epochs
    for place in places:
        (row,) = [row for row in rows if place in row["reason"]]
        assert "web page" in row["reason"]
        assert {"epoch", "step"} <= row.keys()
        assert text(reporter).count(place) == 1
    assert result(run, "val")["count"] == VAL * len(CLASSES) - 1
    assert run.status["skipped"] == 0  # no step was lost


def test_bad_photographs_are_written_down_once_over_all_sessions(photo_config, spoilt, tmp_path, reporter, monkeypatch):
    root, places = spoilt("train/ant/1 ü.jpg", "val/bee/2 ü.jpg")
    config = photo_config(**{"data.root": root, "data.max_bad": 0.1})
    whole = train(config, tmp_path / "whole", reporter=reporter)
    interrupted(monkeypatch, config, tmp_path / "run", reporter, STEPS + 2)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert_same_tensors(run.last, whole.last)
    assert figures(result(run, "val")) == figures(result(whole, "val"))
    assert sorted(row["reason"] for row in unreadable(run)) == sorted(row["reason"] for row in unreadable(whole))
    assert len(unreadable(run)) == len(places)


def test_too_many_bad_ones_end_the_run_and_a_limit_lets_it_go_on(photo_config, spoilt, tmp_path, reporter):
    root, _ = spoilt("train/ant/1 ü.jpg", "train/cow/7 ü.jpg")
    config = photo_config(**{"data.root": root, "data.max_bad": 0.05})
    with pytest.raises(DataError, match=r"2 of 30 photographs of the train split.*--data\.max-bad 0\.067") as end:
        train(config, tmp_path / "run", reporter=reporter)
    assert end.value.exit_code == 3
    run = Run(tmp_path / "run")
    assert run.status["state"] == "failed"
    assert "cannot be read" in run.status["message"]
    assert run.last.exists()
    run = train(override(config, {"data.max_bad": 0.1}), run.path, reporter=reporter)
    assert_consistent(run)
    whole = train(override(config, {"data.max_bad": 0.1}), tmp_path / "whole", reporter=reporter)
    assert_same_tensors(run.last, whole.last)


def test_bad_photographs_found_meanwhile_do_no_harm():
    """Threads add to the list while it is read: here when a reason is looked up."""
    bad = {}

    class Reason(str):
        def __hash__(self):
            if len(bad) < 5:
                bad[len(bad)] = Reason(f"reason {len(bad)}")
            return str.__hash__(self)

    bad[0] = Reason("reason 0")
    record = SimpleNamespace(metrics_so_far=[], append_metrics=lambda _: None)
    faults = Faults(record, SimpleNamespace(note=lambda _: None), max_bad=0, world=World())

    class Split:
        decodes = True

        def __init__(self):
            self.bad = bad

        def __len__(self):
            return 10**6

    with pytest.raises(DataError, match=r"of 1000000 photographs of the test split.*--data\.max-bad 0\.001"):
        faults.unreadable(Split(), "test", Counters())


def test_evaluation_stops_at_a_bad_photograph_unless_told(trained, spoilt, tmp_path):
    root, (place,) = spoilt("val/bee/2 ü.jpg")
    with pytest.raises(DataError, match=r"2 ü\.jpg.*--skip-bad"):
        evaluate(trained, "val", data={"root": root}, device="cpu")
    found = evaluate(trained, "val", data={"root": root}, device="cpu", skip_bad=True)
    assert found.count == VAL * len(CLASSES) - 1
    assert found.confusion.sum(axis=1).tolist() == [VAL, VAL - 1, VAL]
    assert Path(place).exists()


# Prepared copies.


@pytest.fixture(scope="module")
def prepared(photos, tmp_path_factory):
    """The photographs prepared at the recipe's size."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(override(PHOTOS, {"data.root": str(photos)}).data, out, side=72, quality=95, workers=1)
    return str(out)


def test_a_run_on_originals_is_evaluated_on_prepared_ones(trained, prepared):
    original, copy = (evaluate(trained, "val", data=data, device="cpu") for data in ({}, {"root": prepared}))
    assert original.loss == result(trained, "val")["loss"]
    assert copy.loss != original.loss  # other pixels
    assert copy.loss == pytest.approx(original.loss, rel=0.02)
    assert (copy.count, copy.classes) == (original.count, original.classes)


def test_training_on_prepared_ones_is_nearly_the_same(photo_config, prepared, tmp_path, reporter):
    """Where crops are cut from the resized square, the same crops."""
    values = {"data.random_resized_crop": False, "data.colour_noise": 0.0, "optim.name": "sgd", "optim.lr": 0.003}
    original = train(photo_config(**values), tmp_path / "original", reporter=reporter)
    said = len(text(reporter))
    copy = train(photo_config(**values, **{"data.root": prepared}), tmp_path / "copy", reporter=reporter)
    assert "original photographs" not in text(reporter)[said:]
    for a, b in zip(original.epochs, copy.epochs, strict=True):
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=0.02)
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=0.02)
    assert differ(original.last, copy.last)


def test_a_run_does_not_move_to_prepared_ones_midway(trained, prepared, tmp_path, reporter):
    """Other pixels: it would not be the run that was begun."""
    shutil.copytree(trained.path, tmp_path / "run")
    config = override(trained.config, {"data.root": prepared, "then": ["1"]})
    with pytest.raises(DataError, match=r"fingerprint.*--run DIR"):
        train(config, tmp_path / "run", reporter=reporter)


# Fine-tuning.


def frozen_part(run, last):
    """Names of the parameters up to a layer, and of those after it."""
    ordered = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    assert set(ordered) == set(load_checkpoint(run.last).weights)
    cut = ordered.index(f"{last}.bias") + 1
    return ordered[:cut], ordered[cut:]


@pytest.fixture
def others(tmp_path):
    """Photographs of two other classes."""
    return str(write_photos(tmp_path / "others", ("cat", "dog"), (("train", 8), ("val", 2)), seed=9))


def test_fine_tuning_to_other_classes(trained, others, photo_config, tmp_path, reporter):
    values = {"init": str(trained.path), "data.root": others, "epochs": 1}
    with pytest.raises(CheckpointError, match=r"trained on the classes ant, bee, cow, .*cat, dog.*--replace-head"):
        train(photo_config(**values), tmp_path / "run", reporter=reporter)
    still = {"replace_head": True, "optim.lr": 1e-30, "optim.weight_decay": 0.0}
    run = train(photo_config(**values, **still), tmp_path / "run", reporter=reporter)
    start, found = tensors(trained.best), tensors(run.last)
    assert found["fc8.weight"].shape[0] == 2
    for layer in LAYERS[:-1]:
        torch.testing.assert_close(found[f"{layer}.weight"], start[f"{layer}.weight"], rtol=0, atol=1e-20)
    assert load_checkpoint(run.best).meta["classes"] == ["cat", "dog"]
    assert set(predict(run, [Path(others) / "val"], device="cpu")[0].classes) == {"cat", "dog"}


def test_classes_of_the_same_number_are_other_classes(trained, photo_config, tmp_path, reporter):
    root = write_photos(tmp_path / "data", ("x", "y", "z"), (("train", 2), ("val", 1)))
    with pytest.raises(CheckpointError, match="--replace-head"):
        train(photo_config(init=str(trained.path), **{"data.root": str(root)}), tmp_path / "run", reporter=reporter)


@pytest.mark.parametrize("last", ["conv5", "pool5", "fc7"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_layers_stay_as_they_were(trained, others, photo_config, tmp_path, reporter, last, optimizer):
    """Weight decay and momentum leave them alone too."""
    values = {"init": str(trained.path), "replace_head": True, "data.root": others, "epochs": 1, "ema": 0.5}
    values |= {"model.freeze_to": last, "optim.name": optimizer, "optim.weight_decay": 0.05}
    run = train(photo_config(**values), tmp_path / "run", reporter=reporter)
    kept, trained_ones = frozen_part(run, last.replace("pool", "conv"))
    start, found = tensors(trained.best), tensors(run.last)
    assert [n for n in kept if not torch.equal(start[n], found[n])] == []
    assert [n for n in kept if not torch.equal(start[n], found[f"extra/ema/{n}"])] == []
    moved = [n for n in trained_ones if "fc8" in n or not torch.equal(start[n], found[n])]
    assert moved == trained_ones
    assert [n for n in found if n.startswith("extra/optimizer/") and n.split("/")[2] in kept] == []


def test_everything_not_frozen_moves_from_its_start(trained, photo_config, tmp_path, reporter):
    """The last layer as well, without another head."""
    values = {"init": str(trained.path), "model.freeze_to": "conv5", "epochs": 1}
    run = train(photo_config(**values), tmp_path / "run", reporter=reporter)
    start, found = tensors(trained.best), tensors(run.last)
    same = [n for n in start if torch.equal(start[n], found[n])]
    assert sorted(same) == sorted(f"{layer}.{k}" for layer in LAYERS[:5] for k in ("weight", "bias"))


@pytest.mark.parametrize("optimizer", ["paper-sgd", "adamw"])
def test_frozen_run_with_its_own_head_rate_resumes(
    trained, others, photo_config, tmp_path, reporter, monkeypatch, optimizer
):
    values = {"init": str(trained.path), "replace_head": True, "data.root": others, "model.freeze_to": "conv4"}
    values |= {"optim.name": optimizer, "optim.lr": 7e-4, "optim.head_lr": 3e-3, "optim.decay_biases": False}
    config = photo_config(**values)
    whole = train(config, tmp_path / "whole", reporter=reporter)
    interrupted(monkeypatch, config, tmp_path / "run", reporter, 3)
    run = train(config, tmp_path / "run", reporter=reporter)
    assert_same_ending(run, whole)
    kept, _ = frozen_part(run, "conv4")
    start, found = tensors(trained.best), tensors(run.last)
    assert [n for n in kept if not torch.equal(start[n], found[n])] == []


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("conv55", r"unknown layer 'conv55'. Did you mean 'conv5'"),
        ("fc8", r"--model\.freeze-to fc8 leaves nothing to train; the layer before is fc7"),
    ],
)
def test_layers_that_cannot_be_frozen(photo_config, tmp_path, reporter, last, message):
    with pytest.raises(UsageError, match=message):
        train(photo_config(**{"model.freeze_to": last}), tmp_path / "run", reporter=reporter)
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("variant", ["owt", "torchvision", "paper", "cifar"])
def test_every_layer_before_the_last_can_be_frozen(variant):
    for name in [name for name, _ in build_model(variant, width=0.125).named_children()][:-1]:
        model = build_model(variant, width=0.125)
        freeze(model, name)
        flags = [p.requires_grad for p in model.parameters()]
        assert flags == sorted(flags)  # first frozen, then trained
        assert flags[-2:] == [True, True]


@pytest.fixture
def learner():
    """A function that makes a Learner of a small network, the same each time."""

    def make(steps=STEPS, **values):
        config = override(PHOTOS, {"model.dropout": 0.0, "optim.name": "sgd", "optim.weight_decay": 0.0} | values)
        torch.manual_seed(1)
        model = build_model("cifar", width=0.125, dropout=0.0, init="he")
        freeze(model, config.model.freeze_to)
        return Learner(config, model, steps, resolve_compute("cpu", "fp32"), World())

    return make


def moved(learner):
    """By how much one step changes every parameter."""
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6)
    learner.apply_step(learner.train_step(images, labels, 6), 6)
    return {n: p.detach() - before[n] for n, p in learner.model.named_parameters()}


@pytest.mark.parametrize("name", ["sgd", "paper-sgd"])
@pytest.mark.parametrize("freeze_to", [None, "conv5", "fc7"])
@pytest.mark.parametrize("decay_biases", [True, False])
def test_head_rate_is_the_heads_alone(learner, name, freeze_to, decay_biases):
    values = {"optim.name": name, "optim.lr": 0.01, "model.freeze_to": freeze_to, "optim.decay_biases": decay_biases}
    equal, own = moved(learner(**values)), moved(learner(**values, **{"optim.head_lr": 0.07}))
    for parameter in equal:
        factor = 7 if parameter.startswith("fc8.") else 1
        torch.testing.assert_close(own[parameter], factor * equal[parameter], rtol=1e-3, atol=1e-6)
    assert equal["fc8.weight"].abs().max() > 1e-4
    assert bool(equal["conv1.weight"].any()) == (freeze_to is None)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
@pytest.mark.parametrize("freeze_to", [None, "fc7"])
def test_schedule_scales_both_rates(learner, schedule, freeze_to):
    values = {"optim.lr": 0.01, "optim.schedule": schedule, "optim.step_epochs": 1, "optim.warmup_epochs": 0.5}
    plain = learner(**values)
    one = learner(**values, **{"optim.head_lr": 0.03, "model.freeze_to": freeze_to})
    for _ in range(2 * STEPS):
        moved(plain)
        moved(one)
        base = plain.optimizer.lr
        for group in one.optimizer.groups:
            factor = 3 if "fc8.weight" in group.parameters else 1
            assert group.lr == pytest.approx(factor * base)
        assert one.progress()["lr"] == pytest.approx(plain.progress()["lr"])  # the configured one is reported


# Recipes.


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith(("dogs", "folder", "imagenet"))])
def test_recipes_of_photographs(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config = recipe(name)
    assert config.name == name
    assert config.data.source in ("folder", "imagenet", "stanford-dogs")
    assert (config.data.resize, config.data.crop) == (256, 224)
    assert build_model(config.model.variant, width=0.125, num_classes=3).variant.input_size == config.data.crop
    assert ORIGINS[name]
    show_names("recipes")
    assert name in capsys.readouterr().out.split()


def test_there_are_all_of_them():
    wanted = {"dogs", "dogs-sgd", "dogs-sgd-step", "dogs-adam", "dogs-adam-step", "folder"}
    assert wanted | {"imagenet-paper", "imagenet-torchvision"} <= RECIPES.keys()


def test_an_ensemble_leaves_out_what_cannot_be_read(trained, spoilt):
    root, _ = spoilt("val/bee/2 ü.jpg")
    pair = [trained.best, trained.last]
    with pytest.raises(DataError, match="--skip-bad"):
        evaluate_ensemble(pair, "val", data={"root": root}, device="cpu")
    found = evaluate_ensemble(pair, "val", data={"root": root}, device="cpu", skip_bad=True)
    assert found.averaged.count == found.single[0].count == found.single[1].count
    assert found.averaged.count == evaluate(trained, "val", device="cpu").count - 1
    assert [one.measured["skipped"] for one in found.single] == [1, 1]


def test_a_folder_that_has_changed_is_noted(photos, tmp_path, reporter):
    """Its test split is drawn anew, and holds what was trained on."""
    root = Path(shutil.copytree(photos / "train", tmp_path / "undivided"))
    run = train(override(PHOTOS, {"epochs": 1, "data.root": str(root)}), tmp_path / "run", reporter=reporter)
    assert evaluate(run, device="cpu").notes == ()
    shutil.copy(next((root / "bee").iterdir()), root / "bee" / "one more.jpg")
    (note,) = evaluate(run, device="cpu").notes
    assert "its test split is drawn" in note


def test_classes_are_named_as_training_begins(photos, photo_config, tmp_path, reporter):
    train(photo_config(epochs=1), tmp_path / "run", reporter=reporter)
    assert "classes: " + ", ".join(sorted(CLASSES)) in " ".join(text(reporter).split())
