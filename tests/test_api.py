"""The names that `import alexnet` gives, and that it costs nothing."""

import inspect
import json
import subprocess
import sys

import pytest

import alexnet

LIGHT = """
import json, sys
import alexnet
dir(alexnet), alexnet.__version__
alexnet.recipe("digits", epochs=3), alexnet.list_models(), alexnet.TrainConfig(), alexnet.Result, alexnet.AlexNetError
print(json.dumps(sorted(m for m in ("torch", "numpy", "PIL", "matplotlib", "rich") if m in sys.modules)))
"""


def test_import_is_light():
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, check=True, text=True).stdout
    )
    assert set(loaded) <= {"numpy"}  # Result holds an array


@pytest.mark.parametrize("name", alexnet.__all__)
def test_every_name(name):
    assert name in dir(alexnet)
    assert inspect.getdoc(getattr(alexnet, name))
    exec(f"from alexnet import {name}")


def test_names_are_sorted_and_complete():
    assert alexnet.__all__ == sorted(alexnet.__all__)
    assert sorted(n for names in alexnet._HOMES.values() for n in names) == alexnet.__all__


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        alexnet.evaluat  # noqa: B018


def test_recipe_takes_dotted_and_nested_overrides():
    config = alexnet.recipe("cifar10", epochs=3, optim={"lr": 0.02}, **{"data.root": "/data", "model.lrn": "off"})
    assert (config.epochs, config.optim.lr, config.data.root, config.model.lrn) == (3, 0.02, "/data", "off")
    assert config.optim.schedule == alexnet.recipe("cifar10").optim.schedule
    assert alexnet.recipe() == alexnet.recipe("digits")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alexnet.recipe("cifar1"), "Did you mean 'cifar10'"),
        (lambda: alexnet.recipe(epoch=3), "Did you mean 'epochs'"),
        (lambda: alexnet.recipe(**{"optim.lrr": 3}), "Did you mean 'optim.lr'"),
        (lambda: alexnet.recipe(epochs="3"), "--epochs takes int"),
        (lambda: alexnet.build_model("papr"), "Did you mean 'paper'"),
        (lambda: alexnet.build_model("paper", num_class=3), "Did you mean 'num_classes'"),
        (lambda: alexnet.evaluate("nothing.safetensors"), "there is no"),
        (lambda: alexnet.load_run("."), "not a run folder"),
    ],
)
def test_mistakes_are_value_errors_that_help(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert isinstance(caught.value, alexnet.AlexNetError)


def test_train_evaluate_load(finished, tmp_path):
    """The README's way, on a run that is already there."""
    run = alexnet.train(finished.config, finished.path)
    assert isinstance(run, alexnet.Run)
    assert run == alexnet.load_run(finished.path)
    result = alexnet.evaluate(run)
    assert isinstance(result, alexnet.Result)
    assert 0 <= result.top1 <= result.top5 <= 1
    assert "val_top1" in run.epochs[-1]
    model = alexnet.build_model("cifar", width=0.125, in_channels=1)
    alexnet.load_weights(model, run.best)
    assert isinstance(model, alexnet.AlexNet)
    assert alexnet.evaluate(model, config=run.config).top1 == result.top1


def test_run_folder_is_named_after_the_recipe(tiny, tmp_path, monkeypatch, reporter, no_figures):
    monkeypatch.chdir(tmp_path)
    assert alexnet.train(tiny(epochs=1, name="mine"), reporter=reporter).path.resolve() == tmp_path / "runs" / "mine"
