"""Other tools' ways to a layer give what `alexnet features` gives."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alexnet.config.values import flatten
from alexnet.data.images import as_views, read_picture
from alexnet.inference.trained import load_weights, open_trained
from alexnet.models.network import build_model
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import Checkpoint, save_checkpoint

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
FIELDS = {"name": "paper", "width": 0.125, "num_classes": 10, "input_size": 127, "init": "he"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A checkpoint of the paper's network and a folder of photographs."""
    folder = tmp_path_factory.mktemp("clients")
    meta = {
        "model": FIELDS,
        "classes": tuple("abcdefghij"),
        "preprocessing": {"size": 127, "resize": 140, "mean": (0.5,), "std": (0.25,)},
        "config": flatten(recipe("folder")),
    }
    torch.manual_seed(0)
    save_checkpoint(folder / "paper.safetensors", Checkpoint(build_model(**FIELDS).state_dict(), {}, meta))
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((150, 160)).save(folder / "images" / f"{number}.png")
    return folder


@pytest.fixture
def features(given, call):
    """conv5 and relu5 as the command writes them, and the batch and network that they are of."""
    out = given / "features"
    line = ("features", given / "paper.safetensors", given / "images", "--layers", "conv5,relu5", "--device", "cpu")
    code, _, err = call(*line, "--out", out)
    assert (code, err) == (0, "")
    trained = open_trained(given / "paper.safetensors")
    with (out / "images.csv").open(newline="") as stream:
        paths = [row["image"] for row in csv.DictReader(stream)]
    batch = torch.cat([as_views(read_picture(given / path), trained.preprocessing) for path in paths])
    return np.load(out / "conv5.npy"), np.load(out / "relu5.npy"), batch, trained.model


def assert_same(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_hook(features):
    conv5, relu5, batch, model = features
    kept = []
    model.conv5.register_forward_hook(lambda _, __, output: kept.append(output.detach()))  # no copy
    with torch.no_grad():
        model(batch)
    assert kept[0].min() < 0
    assert_same(conv5, kept[0].numpy())
    assert np.array_equal(np.maximum(conv5, 0), relu5)


def test_torchvisions_extractor(features):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    conv5, relu5, batch, model = features
    with torch.no_grad():
        found = extraction.create_feature_extractor(model, ["conv5", "relu5"])(batch)
    assert_same(conv5, found["conv5"].numpy())
    assert_same(relu5, found["relu5"].numpy())


def test_captum(features):
    attribution = pytest.importorskip("captum.attr")
    conv5, _, batch, model = features
    assert_same(conv5, attribution.LayerActivation(model, model.conv5).attribute(batch).detach().numpy())
    maps = attribution.LayerGradCam(model, model.conv5).attribute(batch, target=3)
    assert maps.shape == (3, 1, *conv5.shape[2:])
    # Grad-CAM (Selvaraju et al. 2017): maps weighted by the mean gradient of the class's logit.
    kept = []
    handle = model.conv5.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = model(batch)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), kept[0])
    wanted = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)
    assert_same(maps.detach().numpy(), wanted.detach().numpy())
    assert np.abs(wanted.detach().numpy()).max() > 0


def test_no_relu_is_in_place(given, finished):
    """Of whatever a user gets."""
    loaded = build_model(**FIELDS)
    load_weights(loaded, given / "paper.safetensors")
    for model in (build_model("torchvision", width=0.125), loaded, open_trained(finished).model):
        relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        assert relus
        assert not any(module.inplace for module in relus)
