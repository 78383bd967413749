"""Training: what a step does, what an epoch leaves, and what happens when the numbers go wrong."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet.compute import Compute, resolve_compute
from alexnet.compute.distributed import World
from alexnet.data.augment import Preprocessing, epoch_plan
from alexnet.data.batches import Steps
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Dataset, Split
from alexnet.errors import CheckpointError, DataError, NumericsError, UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.metrics import Result
from alexnet.models.network import build_model
from alexnet.recipes import RECIPES, recipe
from alexnet.runs.checkpoint import load_checkpoint, save_checkpoint
from alexnet.runs.folder import Run, load_config
from alexnet.training import scoring, session
from alexnet.training.cautions import cautions
from alexnet.training.faults import ENOUGH_STEPS, is_constant
from alexnet.training.learner import Learner
from alexnet.training.loop import train
from conftest import STEPS, assert_consistent, assert_same_run, assert_same_tensors, differ, tensors, text

pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")


@pytest.fixture
def learner(tiny):
    """A function that makes a Learner of a small network, the same each time."""

    def make(**overrides):
        config = tiny(**({"model.dropout": 0.0, "optim.name": "sgd", "optim.lr": 0.02} | overrides))
        torch.manual_seed(1)
        model = build_model("cifar", width=0.125, in_channels=1, dropout=config.model.dropout)
        return Learner(config, model, STEPS, resolve_compute("cpu", "fp32"), World())

    return make


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 32, 32, generator=generator), torch.randint(10, (count,), generator=generator)


def steps(learner, count, size=10):
    for step in range(count):
        if learner.counters.epoch_step == STEPS:
            learner.end_epoch()
        images, labels = batch(size, step)
        learner.apply_step(learner.train_step(images, labels, size), size)
        yield learner


# One step.


@pytest.mark.parametrize("parts", [2, 4, 10])
def test_accumulated_parts_make_the_whole_batchs_step(learner, parts):
    whole, split = (learner(accumulate=n, **{"optim.lr": 0.005}) for n in (1, parts))
    list(steps(whole, 3))
    list(steps(split, 3))
    for a, b in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.totals, split.totals, atol=0, rtol=1e-6)


def test_last_batch_counts_by_its_own_size(learner):
    """The gradient is the mean over the images at hand, however many the recipe's batch has."""
    small, doubled = learner(), learner()
    images, labels = batch(5)
    small.apply_step(small.train_step(images, labels, 5), 5)
    doubled.apply_step(doubled.train_step(torch.cat([images] * 2), torch.cat([labels] * 2), 10), 10)
    for a, b in zip(small.model.parameters(), doubled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_cross_entropy_with_label_smoothing(learner, smoothing):
    one = learner(label_smoothing=smoothing)
    images, labels = batch(8)
    with torch.no_grad():
        log = F.log_softmax(one.model(images), dim=1)
    mixed = (1 - smoothing) * F.one_hot(labels, 10) + smoothing / 10
    loss, correct = one.train_step(images, labels, 8).tolist()
    assert loss == pytest.approx(-(mixed * log).sum().item(), rel=1e-5)
    assert correct == (log.argmax(dim=1) == labels).sum()


def test_ema_is_the_textbook_average(learner):
    one = learner(ema=0.5)
    expected = {n: p.detach().clone() for n, p in one.model.named_parameters()}
    for step, _ in enumerate(steps(one, 8)):
        decay = min(0.5, (1 + step) / (10 + step))  # young averages forget faster
        for name, parameter in one.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    for name, value in expected.items():
        torch.testing.assert_close(one.average.weights[name], value, atol=1e-6, rtol=1e-5)


def test_ema_is_slower_than_the_weights(learner):
    one = learner(ema=0.99)
    start = one.model.fc8.weight.detach().clone()
    for _ in steps(one, 1):
        first = one.model.fc8.weight.detach() - start
    moved = one.average.weights["fc8.weight"] - start
    assert 0.8 * first.norm() < moved.norm() < first.norm()  # decay 1/10 at first


def test_validation_sees_the_average_and_leaves_the_weights(learner):
    one = learner(ema=0.9)
    list(steps(one, 3))
    before = {n: p.detach().clone() for n, p in one.model.named_parameters()}
    images, _ = batch(4)
    one.evaluated().eval()
    with torch.no_grad():
        seen = one.evaluated()(images)
        one.model.load_state_dict(one.average.weights)
        torch.testing.assert_close(seen, one.model(images))
    assert all(torch.equal(one.average.weights[n], p) for n, p in one.model.named_parameters())
    assert not all(torch.equal(one.average.weights[n], before[n]) for n in before)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim.name": "sgd"},
        {"optim.name": "sgd", "optim.nesterov": True, "optim.decay_biases": False},
        {"optim.name": "paper-sgd", "optim.schedule": "step", "optim.step_epochs": 1},
        {"optim.name": "paper-sgd", "optim.rules": ["conv1 rate=1e-3@2,0@3", "fc6 rate=0@2,0.002@3", "biases rate=2x"]},
        {"optim.name": "adam", "optim.lr": 1e-3},
        {"optim.name": "adamw", "optim.lr": 1e-3, "ema": 0.9},
    ],
    ids=lambda o: o["optim.name"],
)
def test_learner_saved_and_restored_goes_on_the_same(learner, overrides, tmp_path):
    overrides = {"optim.lr": 0.01} | overrides
    one, two = learner(**overrides), learner(**overrides)
    list(steps(one, STEPS + 1))  # a rate that steps has dropped by now, and drops again below
    save_checkpoint(tmp_path / "saved", one.checkpoint({}))
    two.restore(load_checkpoint(tmp_path / "saved"))
    for name, going in {"one": one, "two": two}.items():
        list(steps(going, STEPS))
        save_checkpoint(tmp_path / name, going.checkpoint({}))
    assert_same_tensors(tmp_path / "one", tmp_path / "two")
    assert one.checkpoint({}).meta == two.checkpoint({}).meta


# Whole runs.


def test_loss_falls_and_the_run_is_complete(tiny, tmp_path, reporter):
    run = train(tiny(epochs=6), tmp_path / "run", reporter=reporter)
    losses = [row["train_loss"] for row in run.epochs]
    assert losses[-1] < 0.7 * losses[0]
    assert run.test["top1"] > 0.5
    assert run.test["count"] == 359
    assert_consistent(run)
    assert "test accuracy" in text(reporter)


def test_an_attempt_does_not_look_at_the_test_split(tiny, tmp_path, reporter, monkeypatch):
    """It ends with its validation, of the best weights, and is measured later if it is the one that is chosen."""
    seen, opened = [], scoring.Scores._open
    monkeypatch.setattr(scoring.Scores, "_open", lambda self, split: seen.append(len(split)) or opened(self, split))
    run = train(tiny(epochs=2, test=False), tmp_path / "run", reporter=reporter)
    assert seen == [run.result["count"]]
    assert (run.test, run.result["split"]) == (None, "val")
    assert run.result["top1"] == pytest.approx(max(row["val_top1"] for row in run.epochs))
    assert "val accuracy" in text(reporter)
    assert "test accuracy" not in text(reporter)
    found = evaluate(run.path)
    train(tiny(epochs=2, test=False), run.path, reporter=reporter)
    assert run.test is None, "asked for nothing new"
    assert "To measure it on the test split: --test." in " ".join(text(reporter).split())
    train(tiny(epochs=2), run.path, reporter=reporter)  # it is the one that was chosen
    assert (run.test["split"], run.test["top1"]) == ("test", found.top1)
    assert not list(run.path.glob("val*")), "one result, that of the weights it has now"
    train(tiny(epochs=2, test=False), run.path, reporter=reporter)
    assert run.test is not None, "what was measured stays"
    assert text(reporter).count("is finished") == 2
    assert text(reporter).count("To measure it") == 1, "and is not advised again"
    train(tiny(epochs=2, then=["1"], test=False), run.path, reporter=reporter)
    assert (run.test, run.result["split"]) == (None, "val"), "of longer training another result"
    with pytest.raises(UsageError, match=r"--no-test ends with .*--data\.val-fraction"):
        train(tiny(epochs=2, test=False, **{"data.val_fraction": 0}), tmp_path / "none", reporter=reporter)


@pytest.mark.slow  # it is where the processor has no bf16
def test_bf16_learns_as_float32_does(tiny, tmp_path, reporter):
    exact, short = (
        train(tiny(epochs=4, precision=form), tmp_path / form, reporter=reporter) for form in ("fp32", "bf16")
    )
    assert short.epochs[-1]["train_loss"] < 0.8 * short.epochs[0]["train_loss"]
    assert short.epochs[-1]["train_loss"] == pytest.approx(exact.epochs[-1]["train_loss"], rel=0.15)
    assert short.epochs[-1]["val_loss"] == pytest.approx(exact.epochs[-1]["val_loss"], rel=0.25)


def test_seed_decides_the_weights(tiny, tmp_path, reporter):
    one, two, other = (
        train(tiny(seed=seed, **{"model.dropout": 0.5}), tmp_path / str(i), reporter=reporter)
        for i, seed in enumerate((3, 3, 4))
    )
    assert_same_run(one, two)
    assert differ(one.last, other.last)


@pytest.mark.parametrize("seed", [20261121, 2**63 - 1])
def test_any_seed_will_do(tiny, tmp_path, reporter, seed):
    run = train(tiny(epochs=1, seed=seed), tmp_path / "run", reporter=reporter)
    assert run.status["state"] == "finished"


def test_network_is_in_training_mode_at_every_step(tiny, tmp_path, reporter, monkeypatch):
    seen = []
    step = Learner.train_step

    def train_step(self, *arguments):
        seen.append(all(module.training for module in self.model.modules()))
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "train_step", train_step)
    train(tiny(ema=0.9), tmp_path / "run", reporter=reporter)
    assert seen == [True] * 2 * STEPS


def test_validation_and_test_are_in_evaluation_mode(tiny, tmp_path, reporter, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: seen.append(self.training) or x)
    train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    assert seen == [True] * 2 * STEPS + [False] * 2 * 2  # two dropout layers, one batch each of validation and test


def test_every_step_draws_its_own_dropout(learner, tiny, tmp_path, reporter, monkeypatch):
    seeds = []
    step = Learner.train_step

    def train_step(self, *arguments):
        seeds.append(torch.initial_seed())
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "train_step", train_step)
    train(tiny(), tmp_path / "run", reporter=reporter)
    assert len(set(seeds)) == 2 * STEPS


def test_every_epoch_sees_every_image_once_in_its_own_order(tiny, tmp_path, reporter, monkeypatch):
    labels = []
    step = Learner.train_step

    def train_step(self, images, wanted, count):
        labels.extend(wanted.tolist())
        return step(self, images, wanted, count)

    monkeypatch.setattr(Learner, "train_step", train_step)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    data = load_dataset(run.config.data).train.labels.tolist()
    first, second = labels[: len(data)], labels[len(data) :]
    assert sorted(first) == sorted(second) == sorted(data)
    assert first != second


def scripted(monkeypatch, accuracies):
    """Validation accuracies as a test wants them; returns the weights that the test split was evaluated with."""
    score, epochs, tested = scoring.score, iter(accuracies), {}

    def scored(model, *arguments, name, **options):
        result = score(model, *arguments, name=name, **options)
        if name == "test":
            tested.update(model.state_dict())
            return result
        return replace(result, top1=next(epochs))

    monkeypatch.setattr(scoring, "score", scored)
    return tested


def test_widths_of_single_layers_are_known_again(tiny, tmp_path, reporter, monkeypatch):
    """The best weights of a network with --model.widths are tested, and kept when the run goes on."""
    values = {"model.widths": ["conv3=16"]}
    scripted(monkeypatch, [0.5, 0.9, 0.2, 0.1])
    run = train(tiny(epochs=3, **values), tmp_path / "run", reporter=reporter)
    assert run.test["measured"]["weights"] == "best.safetensors"
    train(tiny(epochs=4, **values), run.path, reporter=reporter)
    measured = run.test["measured"]
    assert (measured["weights"], measured["epoch"], run.status["best_epoch"]) == ("best.safetensors", 2, 2)
    assert not list(run.path.glob("*.damaged*"))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_weights_are_tested(tiny, tmp_path, reporter, monkeypatch, ema):
    one = train(tiny(epochs=2, ema=ema), tmp_path / "one", reporter=reporter)
    tested = scripted(monkeypatch, [0.5, 0.9, 0.2, 0.1])
    run = train(tiny(epochs=4, ema=ema), tmp_path / "run", reporter=reporter)
    assert run.status["best_epoch"] == 2
    assert run.status["best_val_top1"] == 0.9
    after_two = load_checkpoint(one.last).evaluated
    for source in (tensors(run.best), tested):
        assert [n for n in after_two if not torch.equal(after_two[n], source[n])] == []
    assert differ(run.best, run.last)


def test_without_a_best_the_average_is_tested(tiny, tmp_path, reporter, monkeypatch):
    """A disk too full for best.safetensors does not change which weights the result is of."""
    tested = scripted(monkeypatch, [0.5])
    monkeypatch.setattr(session.Session, "_save_best", lambda *_: False)
    run = train(tiny(epochs=1, ema=0.9), tmp_path / "run", reporter=reporter)
    average = load_checkpoint(run.last).evaluated
    names = [name.removeprefix("model.") for name in tested]
    assert names
    assert [n for n, t in zip(names, tested.values(), strict=True) if not torch.equal(average[n], t)] == []


def test_no_best_accuracy_before_the_first_validation(tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.setattr(session.Session, "_train_epoch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), tmp_path / "run", reporter=reporter)
    status = Run(tmp_path / "run").status
    assert (status["best_val_top1"], status["best_epoch"]) == (None, 0)


def test_no_validation(tiny, tmp_path, reporter):
    run = train(tiny(**{"data.val_fraction": 0.0}), tmp_path / "run", reporter=reporter)
    assert not [k for row in run.epochs for k in row if k.startswith("val")]
    last = tensors(run.last)
    assert all(torch.equal(value, last[name]) for name, value in tensors(run.best).items())
    assert run.status["best_val_top1"] is None


def test_plateau_drops_the_rate_and_remembers(tiny, tmp_path, reporter):
    """A rate too small to change an answer: every epoch from the second on is one without improvement."""
    values = {"optim.schedule": "plateau", "optim.patience": 0, "optim.lr": 1e-9, "optim.max_drops": 2}
    whole = train(tiny(epochs=6, **values), tmp_path / "whole", reporter=reporter)
    assert [row["lr"] for row in whole.epochs] == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11, 1e-11, 1e-11])
    run = train(tiny(epochs=3, **values), tmp_path / "run", reporter=reporter)
    train(tiny(epochs=6, **values), run.path, reporter=reporter)
    assert_same_run(run, whole)


# What a user should know.


@pytest.mark.parametrize(
    ("lr", "init", "batch_size", "stalls"),
    [(1e-9, "text", 8, True), (0.002, "text", 8, True), (0.002, "modern", 8, False), (1e-9, "text", 64, False)],
    ids=["standing still", "stuck", "learning", "too early to say"],
)
def test_stall_is_noted_once_with_its_remedy(tiny, tmp_path, reporter, lr, init, batch_size, stalls):
    values = {"optim.lr": lr, "model.init": init, "model.dropout": 0.0, "batch_size": batch_size}
    run = train(tiny(epochs=4, **values), tmp_path / "run", reporter=reporter)
    assert (run.status["step"] > ENOUGH_STEPS) == (batch_size == 8)
    assert text(reporter).count("--model.init modern") == stalls


def result(confusion, loss):
    confusion = np.array(confusion)
    return Result("val", 0.0, 0.0, loss, int(confusion.sum()), 1, tuple("abc"), confusion)


@pytest.mark.parametrize(
    ("confusion", "loss", "constant"),
    [
        ([[0, 50, 0], [0, 50, 0], [0, 50, 0]], math.log(3), True),
        ([[1, 99, 0], [0, 100, 0], [0, 100, 0]], math.log(3), True),  # one stray answer
        ([[0, 50, 0], [0, 50, 0], [0, 50, 0]], 7.0, True),  # diverged, and answers alike
        ([[0, 50, 0], [0, 50, 0], [0, 50, 0]], 0.9, False),  # the probabilities tell images apart
        ([[20, 20, 10], [15, 20, 15], [10, 20, 20]], math.log(3), False),  # as good as nothing, but not constant
        ([[0, 5, 0], [0, 190, 0], [0, 5, 0]], 0.233, True),  # unequal classes: a constant answer costs less than ln 3
        ([[0, 5, 0], [0, 190, 0], [0, 5, 0]], 0.2, False),
        ([[0, 0, 0], [0, 50, 0], [0, 0, 0]], 0.0, False),  # one class alone: nothing to tell apart
    ],
)
def test_constant_answers(confusion, loss, constant):
    assert is_constant(result(confusion, loss)) == constant


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optim.warmup_epochs": 1.0}, None),
        ({"optim.warmup_epochs": 1.5}, "the warm-up takes 1.5 of 2 epochs, more than half"),
        ({"optim.warmup_epochs": 1.0, "then": ["1"]}, "the warm-up takes 1 of 1 epochs"),
        ({"optim.drops": [1.0]}, "--optim.drops is without effect in the schedule"),
        ({"data.fraction": 0.03}, "no validation image: of 40 training images, 10 classes have too few each. The lat"),
        ({"data.fraction": 0.03, "optim.schedule": "plateau"}, "The plateau schedule will never drop the rate"),
        ({"data.fraction": 0.03, "data.val_fraction": 0.0}, None),  # asked for
        ({"data.fraction": 0.03, "early_stop": 1}, "--early-stop will never end it"),
        ({"data.fraction": 0.0035, "data.val_fraction": 0.0}, "no training image is of the class"),
        ({"grow_epochs": 1.0}, "--grow-epochs is without effect without --grow-from: add that"),
        (
            {"grow_from": 16, "grow_epochs": 2.0},
            "the images grow for 2 epochs (--grow-epochs), and training ends after 2: the network is evaluated at a "
            "size that it has not seen. Let them grow for fewer, such as 1.5.",
        ),
        ({"replace_head": True}, "--replace-head is without effect without --init"),
        ({"data.alternate_flips": True, "data.flip": False}, "--data.alternate-flips is without effect without"),
        ({"mix_probability": 0.5}, "--mix-probability is without effect without --cutmix"),
        ({"data.noise_until": 1}, "--data.noise-until is without effect without --data.colour-noise"),
        ({"keep": "0,1,5,900"}, "--keep 5, 900 is beyond the 2 epochs of this run"),
        ({"keep": "0,1,2", "stop_after": 1}, "--keep 2 is beyond the 1 epochs of this run"),
        ({"mix_until": 1}, "--mix-until is without effect without --cutmix"),
        (
            {"data.test_fraction": 0.3},
            "--data.test-fraction is without effect: this data comes with a test split of its",
        ),
        ({"data.path_column": "file"}, "--data.path-column is without effect on digits: it is for table."),
        ({"ema_after": 1.0}, "--ema-after is without effect without --ema"),
        ({"ema": 0.999}, "--ema 0.999 asks to remember 1,000 steps"),
        ({"ema": 0.1}, None),
        ({"start": ["lsuv"], "init": "given"}, "--start is without effect with --init"),
        ({"data.min_area": 0.5}, "--data.min-area is without effect without --data.random-resized-crop"),
        ({"data.noise_divisor": 1.1}, "--data.noise-divisor is without effect without --data.colour-noise"),
        ({"optim.patience": 9}, "--optim.patience is without effect in the schedule constant: it is for plateau"),
        ({"optim.factor": 0.5}, "--optim.factor is without effect in the schedule constant: it is for step, plateau"),
        ({"optim.factor": 0.5, "then": ["1 schedule=plateau"]}, None),
        ({"optim.name": "sgd", "optim.betas": [0.9, 0.99]}, "--optim.betas is without effect with --optim.name sgd"),
        ({"optim.name": "adamw", "optim.momentum": 0.5}, "--optim.momentum is without effect with --optim.name adamw"),
        ({"early_stop": 1, "optim.schedule": "cosine"}, "--early-stop is without effect in the schedule cosine"),
    ],
)
def test_cautions(tiny, values, expected):
    config = tiny(**{"data.val_fraction": 0.1} | values)
    said = cautions(config, load_dataset(config.data))
    assert (said == []) if expected is None else ("\n".join(said).count(expected) == 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optim.warmup_epochs": 1.0}, None),
        ({"optim.warmup_epochs": 1.5}, "the warm-up takes 1.5 of 2 epochs, more than half"),
        ({"start": ["lsuv"], "init": "given"}, "--start is without effect with --init"),
    ],
)
def test_cautions_come_before_training_and_once(tiny, tmp_path, reporter, finished, values, expected):
    values = {"data.val_fraction": 0.1} | values | ({"init": str(finished.best)} if "init" in values else {})
    train(tiny(**values), tmp_path / "run", reporter=reporter)
    said = text(reporter)
    if expected is None:
        assert "note:" not in said
    else:
        assert said.count(expected) == 1
        assert said.index(expected) < said.index("epoch 1/")


def test_what_a_recipe_has_for_a_lever_is_not_blamed_on_who_takes_the_lever_away(tiny):
    dataset = load_dataset(tiny(**{"data.val_fraction": 0.1}).data)
    away = {"cutmix": 0.0, "grow_from": None, "optim.schedule": "constant", "data.flip": False}
    assert cautions(recipe("cifar10-fast", **away), dataset) == []
    assert cautions(recipe("cifar10", **away), dataset) == []
    assert "--mix-until is without" in "\n".join(cautions(recipe("cifar10", **away, mix_until=3), dataset))


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_draws_a_caution_on_its_own_data(name):
    config = RECIPES[name]
    count = {"digits": 1295, "imagenet": 100_000, "stanford-dogs": 652, "folder": 9469}.get(config.data.source, 40_000)
    labels = np.arange(count) % 5
    split = Split(np.zeros((count, 1, 1, 1), np.uint8), labels, np.arange(count))
    assert cautions(config, Dataset(config.data.source, tuple("abcde"), split, split, split, "", tuple("abcde"))) == []


def test_evaluation_that_sees_the_middle_of_photographs_alone():
    split = Split(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64), np.arange(4))
    dataset = Dataset("folder", ("a",), split, split, split, "", ("a",))

    def said(**values):
        return [line for line in cautions(recipe("folder", **values), dataset) if "central" in line]

    [line] = said(**{"data.crop": 128})
    assert "the central 25% of a square photograph, 128 of 256 pixels: --data.resize 146 with --data.crop 128" in line
    assert not said(**{"data.crop": 128, "data.resize": 146})
    assert not said()


# Numbers that are not numbers.


def poison(monkeypatch, calls):
    """From these calls of the normalisation (one a batch, training and evaluation alike) come images of nan."""
    normalise, called = Preprocessing.normalise, 0

    def poisoned(self, images, *more):
        nonlocal called
        called += 1
        return normalise(self, images, *more) * (math.nan if called in calls else 1.0)

    monkeypatch.setattr(Preprocessing, "normalise", poisoned)


def test_a_step_that_is_not_finite_is_skipped(tiny, tmp_path, reporter, monkeypatch):
    poison(monkeypatch, {3})
    weights = []
    step = Learner.train_step

    def train_step(self, *arguments):
        weights.append((self.model.fc8.weight.detach().clone(), self.average.weights["fc8.weight"].clone()))
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "train_step", train_step)
    run = train(tiny(epochs=1, ema=0.9), tmp_path / "run", reporter=reporter)
    same = [torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in itertools.pairwise(weights)]
    assert same == [False, False, True, False, False]
    (skipped,) = [row for row in run.metrics if row["kind"] == "skipped"]
    data = load_dataset(run.config.data).train
    order = epoch_plan(len(data), run.config.seed, 0, torch.device("cpu")).order
    assert skipped["step"] == 3
    assert skipped["sources"] == data.sources[order[128:192].numpy()].tolist()
    assert run.status["skipped"] == 1
    assert "step 3" in text(reporter)
    assert math.isfinite(run.epochs[0]["train_loss"])


def test_a_queue_is_not_waited_for(tiny, tmp_path, reporter, monkeypatch):
    """As on a GPU, where flags are read only with a log line: the same steps are skipped, with the same weights."""
    settings = {"epochs": 1, "ema": 0.9, "log_every": 4}
    poison(monkeypatch, {1, 3, 6})
    at_once = train(tiny(**settings), tmp_path / "one", reporter=reporter)
    monkeypatch.undo()
    poison(monkeypatch, {1, 3, 6})
    monkeypatch.setattr(Compute, "queued", True)
    later = train(tiny(**settings), tmp_path / "two", reporter=reporter)
    assert_same_run(at_once, later)
    for run in (at_once, later):
        assert [row["step"] for row in run.metrics if row["kind"] == "skipped"] == [1, 3, 6]
        assert run.status["skipped"] == 3


def test_three_in_a_row_are_noticed_with_the_next_line(tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.setattr(Compute, "queued", True)
    poison(monkeypatch, {2, 3, 4})
    with pytest.raises(NumericsError, match="the last at step 4"):
        train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_no_value_is_read_back_within_an_epoch(learner):
    """On a GPU every such reading would stop the queue."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            name = function.overloadpacket.__name__
            assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"), name
            return function(*arguments, **options or {})

    one = learner(ema=0.9, **{"data.pad": 1, "data.flip": True})
    config = one.config
    split = open_split(load_dataset(config.data).train, torch.device("cpu"), config.data)
    steps = 0
    with Watch():
        for images, labels, rows in split.training_batches(Steps(seed=0, epoch=0, batch_size=64)):
            one.apply_step(one.train_step(images, labels, len(rows)), len(rows), rows)
            steps += 1
    assert steps == one.counters.step > 2
    assert list(one.settle()) == []


def test_three_in_a_row_end_the_run(tiny, tmp_path, reporter, monkeypatch):
    first = STEPS + 1  # and one of validation
    with monkeypatch.context() as patch:
        poison(patch, {first + 2, first + 3, first + 4})
        with pytest.raises(NumericsError, match=r"last\.safetensors is\s+the last good checkpoint") as end:
            train(tiny(), tmp_path / "run", reporter=reporter)
    assert end.value.exit_code == 5
    one = train(tiny(epochs=1), tmp_path / "one", reporter=reporter)
    assert_same_tensors(tmp_path / "run" / "last.safetensors", one.last)
    run = type(one)(tmp_path / "run")
    assert run.status["state"] == "failed"
    assert [row["step"] for row in run.metrics if row["kind"] == "skipped"] == [STEPS + 2, STEPS + 3, STEPS + 4]
    train(tiny(), run.path, reporter=reporter)  # the cause is gone: it goes on
    assert_consistent(run)


def test_two_in_a_row_do_not(tiny, tmp_path, reporter, monkeypatch):
    poison(monkeypatch, {2, 3, 5, 6})
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    assert run.status["skipped"] == 4


def test_three_in_a_row_before_any_checkpoint(tiny, tmp_path, reporter, monkeypatch):
    poison(monkeypatch, {2, 3, 4})
    with pytest.raises(NumericsError) as end:
        train(tiny(), tmp_path / "run", reporter=reporter)
    last = tmp_path / "run" / "last.safetensors"
    assert last.exists() or str(last) not in str(end.value), "it names a checkpoint that does not exist"


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, reporter, monkeypatch):
    """An infinite gradient of a finite loss, in the last step of the second epoch."""
    apply = Learner.apply_step

    def broken(self, *arguments):
        apply(self, *arguments)
        if self.counters.step == 2 * STEPS:
            self.model.fc8.weight.data[0, 0] = math.nan

    monkeypatch.setattr(Learner, "apply_step", broken)
    with pytest.raises(NumericsError):
        train(tiny(epochs=3), tmp_path / "run", reporter=reporter)
    saved = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert saved.meta["counters"]["epoch"] == 1
    assert all(bool(value.isfinite().all()) for value in saved.weights.values())


# Starting from weights; other data.


def frozen(tiny, **values):
    """A configuration that changes nothing: what is saved is what it started from."""
    return tiny(epochs=1, **{"optim.lr": 1e-30, "optim.weight_decay": 0.0} | values)


@pytest.mark.parametrize("name", ["run", "best", "last", "pth"])
def test_init_from_weights(tiny, tmp_path, reporter, finished, name):
    origin = {"run": finished.path, "best": finished.best, "last": finished.last, "pth": tmp_path / "w.pth"}[name]
    wanted = load_checkpoint(finished.last if name == "last" else finished.best).weights
    if name == "pth":
        torch.save({f"module.{n}": t for n, t in wanted.items()}, origin)
    run = train(frozen(tiny, init=str(origin), seed=5), tmp_path / "run", reporter=reporter)
    found = tensors(run.last)
    assert [n for n in wanted if not torch.allclose(wanted[n], found[n], rtol=0, atol=1e-20)] == []


def test_init_is_not_applied_again_on_resume(tiny, tmp_path, reporter, finished):
    values = {"init": str(finished.path)}
    whole = train(tiny(**values), tmp_path / "whole", reporter=reporter)
    run = train(tiny(epochs=1, **values), tmp_path / "run", reporter=reporter)
    train(tiny(**values), run.path, reporter=reporter)
    assert_same_run(run, whole)


def test_init_of_a_damaged_checkpoint(tiny, tmp_path, reporter, finished):
    content = bytearray(finished.best.read_bytes())
    content[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors is damaged"):
        train(tiny(init=str(tmp_path / "damaged.safetensors")), tmp_path / "run", reporter=reporter)


def test_init_with_another_head(tiny, tmp_path, reporter):
    model = build_model("cifar", width=0.125, in_channels=1, num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    config = frozen(tiny, init=str(tmp_path / "seven.pth"))
    with pytest.raises(CheckpointError, match=r"7 classes.*10.*--replace-head"):
        train(config, tmp_path / "run", reporter=reporter)
    found = tensors(train(replace(config, replace_head=True), tmp_path / "run", reporter=reporter).last)
    assert found["fc8.weight"].shape[0] == 10
    for name, value in model.state_dict().items():
        if "fc8" not in name:
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-20)


def test_init_that_is_not_there(tiny, tmp_path, reporter):
    with pytest.raises(CheckpointError, match="nothing"):
        train(tiny(init=str(tmp_path / "nothing.pth")), tmp_path / "run", reporter=reporter)


def test_other_data_is_refused_on_resume(tiny, tmp_path, reporter, monkeypatch):
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    monkeypatch.setattr(session, "load_dataset", lambda c, *_: replace(load_dataset(c), fingerprint="0" * 64))
    with pytest.raises(DataError, match=r"fingerprint.*--run DIR"):
        train(tiny(epochs=3), run.path, reporter=reporter)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"data.crop": 64}, "--data.crop 64"),
        ({"model.num_classes": 5}, "--model.num-classes 5"),
        ({"model.in_channels": 3}, "--model.in-channels 3"),
        ({"data.resize": 8}, "--data.resize"),
        ({"data.mean": (0.1, 0.2)}, r"--data\.mean"),
    ],
)
def test_settings_that_do_not_fit_the_data(tiny, tmp_path, reporter, values, message):
    with pytest.raises(UsageError, match=message):
        train(tiny(**values), tmp_path / "run", reporter=reporter)


def test_its_own_config_repeats_a_run(tmp_path, reporter, finished):
    run = train(load_config(finished.path / "config.yaml"), tmp_path / "run", reporter=reporter)
    assert_same_run(run, finished)


def test_what_no_schedule_of_its_own_leg_reads_is_said(tiny):
    dataset = load_dataset(tiny().data)

    def said(**values):
        return [line.partition(":")[0] for line in cautions(tiny(epochs=5, **values), dataset)]

    schedule = {"optim.schedule": "one-cycle"}
    assert said(**schedule, then=["10 drops=5 factor=0.5"]) == [
        'drops in --then "10 drops=5 factor=0.5" is without effect in the schedule one-cycle',
        'factor in --then "10 drops=5 factor=0.5" is without effect in the schedule one-cycle',
    ]
    assert said(**schedule, then=["10 schedule=step drops=5 factor=0.5"]) == []
    assert said(**{"optim.factor": 0.5}, then=["10 schedule=step"]) == []
    assert said(**{"optim.schedule": "step", "optim.drops": [3.0], "optim.step_epochs": 7}) == [
        "--optim.step-epochs is without effect with --optim.drops, which say when it drops."
    ]
    assert said(**{"data.orientation": "apply"}) == ["--data.orientation is without effect on digits"]
    assert said(**{"data.orientation": "apply", "data.source": "memory"}) == []
