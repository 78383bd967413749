"""Several networks as one: against a plain numpy average of their own answers."""

import json

import numpy as np
import pytest
import torch

from alexnet import build_model
from alexnet.compute import resolve_compute
from alexnet.config.values import override
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import AlexNetError, UsageError
from alexnet.inference.dropout import _draw_masks, thinned_logits
from alexnet.inference.ensembles import average, evaluate_ensemble
from alexnet.inference.evaluation import evaluate, score
from alexnet.inference.trained import open_trained
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from conftest import TINY, figures, without_figures

FP32 = resolve_compute("cpu", "fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, finished):
    """Three runs of the digits: one of another seed, one on smaller crops in other units."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"other": {"seed": 1}, "crop": {"seed": 2, "data.crop": 28, "data.std": (1.0,)}}
    small = override(TINY, {"epochs": 1, "model.width": 0.05})
    reporter = Reporter(quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        others = [train(override(small, c), folder / n, reporter=reporter) for n, c in changes.items()]
    return [finished, *others]


def probabilities(run, views=1):
    """Softmax in numpy, averaged over views, and the labels."""
    trained = open_trained(run)
    loader = open_split(load_dataset(run.config.data).test, FP32.device, run.config.data, trained.preprocessing)
    kept = []
    score(
        trained.model,
        loader,
        FP32,
        name="test",
        classes=trained.names,
        views=views,
        on_logits=lambda z, y: kept.append((z.double().numpy(), y.numpy())),
    )
    logits, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    exponential = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (exponential / exponential.sum(axis=2, keepdims=True)).mean(axis=1), labels


@pytest.mark.parametrize("views", [1, 10])
def test_the_average_is_that_of_the_networks_own_answers(runs, views):
    runs = runs if views == 1 else runs[1:]
    ensemble = evaluate_ensemble(runs, views=views)
    answers = [probabilities(run, views) for run in runs]
    mean, labels = np.mean([p for p, _ in answers], axis=0), answers[0][1]
    assert ensemble.averaged.top1 == (mean.argmax(axis=1) == labels).mean()
    fifth = np.sort(mean, axis=1)[:, -5]
    own = mean[np.arange(len(labels)), labels]
    assert ensemble.averaged.top5 == (own >= fifth).mean()
    assert ensemble.averaged.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert ensemble.averaged.confusion.sum(axis=1).tolist() == np.bincount(labels).tolist()
    for run, single in zip(runs, ensemble.single, strict=True):
        if views == 1:
            assert figures(single.to_dict()) == figures(evaluate(run).to_dict())
    assert len({single.top1 for single in ensemble.single} | {ensemble.averaged.top1}) == len(runs) + 1


def test_one_network_is_its_own_average(finished):
    ensemble = evaluate_ensemble([finished, finished.best])
    assert ensemble.averaged.loss == pytest.approx(ensemble.single[0].loss, rel=1e-6)
    assert (ensemble.averaged.confusion == ensemble.single[1].confusion).all()


def test_what_was_measured_names_every_network(runs):
    measured = evaluate_ensemble(runs).averaged.measured
    assert [m["target"] for m in measured["ensemble"]] == [str(run.best) for run in runs]
    assert len({m["sha256"] for m in measured["ensemble"]}) == 3
    assert "target" not in measured
    assert measured["data"]["images"]["test"] == 359


@pytest.mark.parametrize("change", [{"data.split_seed": 5}, {"data.val_fraction": 0.3}], ids=str)
def test_other_images_are_refused(runs, tmp_path, change, no_figures):
    other = train(
        override(TINY, {"epochs": 1, "model.width": 0.05, **change}), tmp_path / "other", reporter=Reporter(quiet=True)
    )
    assert evaluate_ensemble([runs[0], other], "test").averaged.count == 359  # the published test set is one for all
    with pytest.raises(UsageError, match="val splits differ"):
        evaluate_ensemble([runs[0], other], "val")


def test_no_network_is_refused():
    with pytest.raises(UsageError, match="no network"):
        evaluate_ensemble([])


def test_mistakes_are_those_of_evaluate(finished, tmp_path):
    with pytest.raises(AlexNetError, match="there is no"):
        evaluate_ensemble([finished, tmp_path / "nothing"])


def test_the_command_averages_and_writes_nothing(runs, call, tmp_path):
    before = {run.path: sorted(run.path.iterdir()) for run in runs}
    code, out, _ = call("evaluate", *[run.path for run in runs], "--json")
    values = json.loads(out)
    assert code == 0
    assert figures(values["averaged"]) == figures(evaluate_ensemble(runs).averaged.to_dict())
    assert len(values["single"]) == 3
    assert {run.path: sorted(run.path.iterdir()) for run in runs} == before
    code, out, err = call("evaluate", *[run.path for run in runs], "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert f"{values['averaged']['top1']:.2%}" in out
    assert "averaged" in out
    (result,) = (tmp_path / "out").glob("*.json")
    assert json.loads(result.read_text())["top1"] == values["averaged"]["top1"]
    assert "confusion.png" in out


def test_the_command_says_in_one_line_what_cannot_be_averaged(runs, call, tmp_path, no_figures):
    other = train(override(runs[1].config, {"data.split_seed": 5}), tmp_path / "o", reporter=Reporter(quiet=True))
    code, _, err = call("evaluate", runs[1].path, other.path, "--split", "val")
    assert (code, err.count("\n")) == (2, 1)
    assert "val splits differ" in err


# Means of answers


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_means_of_probabilities(how):
    logits = torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=2, keepdims=True)
    if how == "arithmetic":
        expected = p.mean(axis=1)
    else:
        root = p.prod(axis=1) ** (1 / 4)
        expected = root / root.sum(axis=1, keepdims=True)
    assert np.abs(average(logits, how).numpy() - expected).max() < 1e-12


def test_thinned_networks_are_those_that_training_draws(finished):
    """One mask for all images: the network with its units multiplied by that mask."""
    trained = open_trained(finished)
    data = finished.config.data
    loader = open_split(load_dataset(data).test, FP32.device, data, trained.preprocessing)
    (batch, labels), *_ = loader.evaluation_batches(500)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    random = torch.get_rng_state()
    (logits, seen), *_ = thinned_logits(trained.model, loader, FP32, [0, 1, 2])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())
    assert torch.equal(seen, labels[: len(seen)])
    assert not torch.equal(logits[:, 0], logits[:, 1])
    # The same masks, by hooks on the network itself in double precision.
    model = trained.model.double()
    rate = trained.model.drop6.p
    for number, seed in enumerate([0, 1, 2]):
        masks = _draw_masks(trained.model, seed, FP32)
        assert set(masks) == {"drop6", "drop7"}
        for mask in masks.values():
            assert sorted(set(mask.flatten().tolist())) == pytest.approx([0, 1 / (1 - rate)])
            assert 0 < (mask == 0).double().mean() < 2 * rate
        hooks = [
            model.get_submodule(name).register_forward_hook(lambda _, __, out, mask=mask: out * mask)
            for name, mask in masks.items()
        ]
        with torch.inference_mode():
            expected = model(batch[: len(seen), 0].double())
        for hook in hooks:
            hook.remove()
        assert (logits[:, number] - expected).abs().max() < 1e-3 * expected.abs().max()


def test_without_dropout_nothing_is_thinned(finished):
    trained = open_trained(finished)
    model = build_model(trained.model.variant, dropout=0.0)
    loader = open_split(
        load_dataset(finished.config.data).test, FP32.device, finished.config.data, trained.preprocessing
    )
    with pytest.raises(UsageError, match="no dropout"):
        next(thinned_logits(model, loader, FP32, [0]))


def test_number_format_of_an_ensemble(runs):
    single = evaluate_ensemble(runs, precision="bf16").single
    assert {found.measured["arithmetic"]["format"] for found in single} == {"bf16"}
