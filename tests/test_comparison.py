"""Networks side by side: the same logits as torchvision's own model and transforms on the same photographs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models import AlexNet_Weights

from alexnet import build_model
from alexnet.config import DataConfig, TrainConfig, dump
from alexnet.config.colours import IMAGENET
from alexnet.config.values import override
from alexnet.data.augment import Preprocessing
from alexnet.data.packing import prepare
from alexnet.data.sources import load_dataset
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.inference import comparison
from alexnet.inference.comparison import Compared, compare
from alexnet.inference.evaluation import check_classes
from alexnet.inference.trained import open_trained
from alexnet.metrics import wilson_interval
from alexnet.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet.training.loop import train
from alexnet.training.progress import Reporter

SIZES = [(300, 400), (411, 283), (256, 256), (90, 500), (500, 375), (640, 231)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes with two odd-sized photographs each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        for part in ("train", "val"):
            folder = root / part / "abc"[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """torchvision's own network with random weights for three classes, and its file."""
    torch.manual_seed(0)
    model = torchvision.models.alexnet(num_classes=3).eval()
    with torch.no_grad():
        model.classifier[6].weight.mul_(30)  # random networks answer all alike
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The checkpoint of a network that is soon read and answers soon, with random weights."""
    torch.manual_seed(0)
    fields = {"name": "owt", "width": 0.125, "num_classes": 3}
    model = build_model(**fields)
    seen = Preprocessing(224, 256, IMAGENET.mean, IMAGENET.std).to_dict()
    meta = {"model": fields, "classes": list("abc"), "preprocessing": seen, "config": dump(TrainConfig())}
    path = tmp_path_factory.mktemp("small") / "random.safetensors"
    save_checkpoint(path, Checkpoint(model.state_dict(), {}, meta))
    return path


def test_logits_are_torchvisions(photos, theirs, tmp_path):
    model, path = theirs
    (line,) = compare(DataConfig(source="folder", root=str(photos)), [path], logits=tmp_path / "z.npz", device="cpu")
    transforms = AlexNet_Weights.IMAGENET1K_V1.transforms()
    dataset = torchvision.datasets.ImageFolder(photos / "val", transforms)
    images, labels = zip(*dataset, strict=True)
    with torch.inference_mode():
        expected = model(torch.stack(images))
    with np.load(tmp_path / "z.npz") as saved:
        np.testing.assert_allclose(saved["0"][:, 0], expected.numpy(), rtol=1e-4, atol=1e-4)
        assert saved["labels"].tolist() == list(labels)
    assert line.result.top1 == pytest.approx((expected.argmax(1) == torch.tensor(labels)).double().mean().item())
    assert (line.network, line.parameters, line.published) == ("torchvision", 57_016_131, None)
    assert line.result.split == "val"


def test_ten_views_are_the_mean_softmax_of_torchvisions_ten_crops(photos, theirs, tmp_path):
    model, path = theirs
    data = DataConfig(source="folder", root=str(photos))
    (line,) = compare(data, [path], views=10, logits=tmp_path / "z.npz", device="cpu")
    prepare_ = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(256),
            torchvision.transforms.CenterCrop(256),  # section 2: the views are cut from the central square
            torchvision.transforms.TenCrop(224),
            torchvision.transforms.Lambda(
                lambda crops: torch.stack([torchvision.transforms.functional.to_tensor(c) for c in crops])
            ),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = torchvision.datasets.ImageFolder(photos / "val", prepare_)
    with torch.inference_mode():
        expected = [model(crops).softmax(1).mean(0) for crops, _ in dataset]
    with np.load(tmp_path / "z.npz") as saved:
        mean = torch.from_numpy(saved["0"]).softmax(-1).mean(1)
    torch.testing.assert_close(mean, torch.stack(expected), rtol=1e-4, atol=1e-5)
    labels = torch.tensor(dataset.targets)
    loss = torch.nn.functional.nll_loss(torch.stack(expected).log(), labels)
    assert line.result.loss == pytest.approx(loss.item(), rel=1e-3)


def test_prepared_photographs_answer_alike(photos, theirs, tmp_path):
    """JPEG at quality 90 costs a little; the bound is on the probabilities."""
    _, path = theirs
    prepare(DataConfig(source="folder", root=str(photos)), tmp_path / "prepared")
    answers = []
    for root in (photos, tmp_path / "prepared"):
        compare(DataConfig(source="folder", root=str(root)), [path], logits=tmp_path / "z.npz", device="cpu")
        with np.load(tmp_path / "z.npz") as saved:
            answers.append(torch.from_numpy(saved["0"][:, 0]).softmax(1).numpy())
    assert np.abs(answers[0] - answers[1]).max() < 0.02


def test_several_weights_and_their_order(photos, small, finished):
    seen = []
    data = DataConfig(source="folder", root=str(photos))
    lines = compare(data, [small, small], device="cpu", on_result=seen.append)
    assert lines == seen
    assert len(lines) == 2
    assert lines[0].result.loss == lines[1].result.loss
    with pytest.raises(CheckpointError, match="trained on the classes 0, 1"):
        compare(data, [small, finished.path], device="cpu")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [({"split": "test"}, UsageError, "test split is empty"), ({"views": 3}, UsageError, "--views 3")],
)
def test_errors(photos, small, change, error, message):
    with pytest.raises(error, match=message):
        compare(DataConfig(source="folder", root=str(photos)), [small], device="cpu", **change)


def test_unreadable_image_stops_or_is_left_out(photos, small, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(photos, root)
    (root / "val" / "b" / "00.jpg").write_bytes(b"<html>not found</html>")
    data = DataConfig(source="folder", root=str(root))
    with pytest.raises(DataError, match=r"00\.jpg.*web page.*--skip-bad"):
        compare(data, [small], device="cpu")
    (line,) = compare(data, [small], device="cpu", skip_bad=True)
    assert line.result.count == len(SIZES)
    assert line.result.notes == ("1 image(s) could not be read and were left out.",)
    assert line.to_dict()["skipped"] == 1


def test_published_figures_and_verdict(photos, small):
    """Only for ImageNet's thousand classes, and by the number of views."""
    (line,) = compare(DataConfig(source="folder", root=str(photos)), [small], device="cpu")
    assert line.verdict == ""
    top1 = line.result.top1
    low, high = wilson_interval(round(top1 * line.result.count), line.result.count)
    for figure, word in ((low - 0.01, "outside"), (low + 0.001, "inside"), (high + 0.01, "outside")):
        told = Compared("", "", 0, 0, line.result, 1.0, (figure, 1.0))
        assert told.verdict == f"top-1 {word}, top-5 inside"
    assert comparison.PUBLISHED[("torchvision", 1)] == (0.56522, 0.79066)


@pytest.mark.slow
def test_command(run_cli, photos, theirs):
    done = run_cli("compare", "folder", theirs[1], "--data.root", photos, "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (line,) = json.loads(done.stdout)
    assert (line["network"], line["count"], line["split"], line["published"]) == ("torchvision", 6, "val", None)
    assert run_cli("compare", "folder", "--data.root", photos).returncode == 2
    missing = run_cli("compare", "folder", "nothing.pth", "--data.root", photos)
    assert missing.returncode == 4
    assert "nothing.pth" in missing.stderr


def test_photographs_that_do_not_fit_one_network_are_told_before_the_first_is_measured(photos, small, tmp_path):
    """It would be found after hours."""
    data = DataConfig(source="folder", root=str(photos))
    prepare(data, tmp_path / "prepared", side=256, workers=1)
    checkpoint = load_checkpoint(small)
    seen = checkpoint.meta["preprocessing"] | {"resize": 300}
    larger = tmp_path / "larger.safetensors"
    save_checkpoint(larger, replace(checkpoint, meta=checkpoint.meta | {"preprocessing": seen}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison.Subject, "score", lambda *_, **__: pytest.fail("one was measured"))
        with pytest.raises(UsageError, match="sees photographs of 300 pixels"):
            compare(replace(data, root=str(tmp_path / "prepared")), [small, larger], device="cpu")


def test_a_name_for_bare_weights_is_for_those_alone(photos, theirs, small):
    data = DataConfig(source="folder", root=str(photos))
    lines = compare(data, [small, theirs[1]], model="torchvision", device="cpu")
    assert [line.network for line in lines] == ["owt", "torchvision"]
    with pytest.raises(UsageError, match="--model torchvision is for bare weights"):
        compare(data, [small], model="torchvision", device="cpu")


def test_networks_of_grey_images_are_not_asked_about_colours(photos, finished):
    trained, dataset = open_trained(finished), load_dataset(DataConfig(source="folder", root=str(photos)))
    with pytest.raises(CheckpointError, match="takes images of 1 channel"):
        check_classes(trained, replace(dataset, classes=trained.classes))


def test_logits_that_cannot_be_written_are_refused_before_the_first_image(photos, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "load_dataset", lambda *_: pytest.fail("images were opened"))
    (tmp_path / "file").touch()
    data = DataConfig(source="folder", root=str(photos))
    for place in (tmp_path / "file" / "z.npz", tmp_path):
        with pytest.raises(UsageError, match=r"cannot write .*choose another --logits"):
            compare(data, [theirs[1]], logits=place, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_network_is_shown_before_the_logits_are_written(call, photos, theirs, tmp_path, monkeypatch):
    """A disk that is full after hours takes the logits alone."""
    path, out = theirs[1], tmp_path / "new" / "z.npz"
    line = ["compare", "folder", path, path, "--data.root", photos, "--device", "cpu", "--logits", out]
    code, said, _ = call(*line)
    assert (code, said.count(f"{path}: "), said.count("error")) == (0, 1, 5)  # the first as it ends, then the table
    assert out.is_file()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison, "replacing", full)
    code, said, err = call(*line, "--json")
    assert (code, len(json.loads(said))) == (2, 2)
    assert "No space left" in err


@pytest.mark.parametrize(("split", "judged"), [("val", True), ("train", False)])
def test_only_validation_images_are_judged_by_published_figures(photos, theirs, monkeypatch, split, judged):
    dataset = load_dataset(DataConfig(source="folder", root=str(photos)))
    monkeypatch.setattr(comparison, "load_dataset", lambda _: replace(dataset, classes=("x",) * 1000))
    monkeypatch.setattr(comparison, "check_classes", lambda *_: None)
    monkeypatch.setattr(comparison, "fit_classes", lambda _, dataset: dataset)
    data = DataConfig(source="imagenet", root=str(photos))
    (line,) = compare(data, [theirs[1]], split=split, device="cpu")
    assert (line.published is not None) == judged


def test_images_are_held_out_as_the_runs_had_it(tmp_path, photos, finished):
    """A validation split of other settings would hold what was trained on."""
    config = override(finished.config, {"epochs": 1, "data.split_seed": 3, "data.val_fraction": 0.2})
    other = train(config, tmp_path / "run", reporter=Reporter(quiet=True))
    data = DataConfig(source="digits")
    (found,) = compare(data, [other], split="val", precision="fp32", device="cpu")
    assert found.result.count == len(load_dataset(other.config.data).val) != len(load_dataset(data).val)
    with pytest.raises(UsageError, match="held out different images"):
        compare(data, [other, finished], split="val")
