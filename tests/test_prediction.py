"""Answers about single images: the same as torchvision's, whatever the file is, and a word on what was done to it."""

import hashlib
import http.server
import json
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models import AlexNet_Weights

from alexnet.config.colours import CAFFE
from alexnet.config.values import flatten
from alexnet.data.images import LARGEST, find_images, read_picture
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.inference import trained
from alexnet.inference.features import extract_features
from alexnet.inference.prediction import predict
from alexnet.inference.trained import open_trained, weights_file
from alexnet.models.ablations import resolve
from alexnet.models.network import build_model
from alexnet.models.variants import VARIANTS
from alexnet.models.weights import TORCHVISION_NAMES
from alexnet.recipes import recipe
from alexnet.runs.checkpoint import Checkpoint, save_checkpoint
from conftest import Blank

CLASSES = ("n01", "n02", "n03", "n04", "n05", "n06")
NAMES = ("ant", "bee", "cat", "dog", "[elk]", "fox")
ORIENTATION = 0x0112


def picture(width, height, seed=0):
    """Smooth, and different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three colour photographs of odd sizes; only to be read."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(300, 411), (375, 260), (90, 300)]):
        picture(*size, seed=number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """torchvision's own network with random weights for ImageNet's thousand classes, and its file."""
    torch.manual_seed(0)
    model = torchvision.models.alexnet().eval()
    with torch.no_grad():
        model.classifier[6].weight.mul_(30)  # random networks answer all alike
    halves = {name: tensor.half() for name, tensor in model.state_dict().items()}  # half the bytes on the disk
    model.load_state_dict(halves)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(halves, path)
    return model, path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of a small network of six classes, on crops of 64 from 72."""
    torch.manual_seed(0)
    fields = {"name": "cifar-resized", "width": 0.125, "num_classes": len(CLASSES), "init": "he"}
    model = build_model(**fields)
    with torch.no_grad():  # so that different pictures get different answers
        model.eval().fc8.bias.sub_(model(torch.randn(32, 3, 64, 64)).mean(0))
        for parameter in model.fc8.parameters():
            parameter.mul_(3)
    meta = {
        "model": fields,
        "classes": CLASSES,
        "names": NAMES,
        "preprocessing": {"size": 64, "resize": 72, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        "config": flatten(recipe("folder")),
    }
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_checkpoint(path, Checkpoint(model.state_dict(), {}, meta))
    return path


def probabilities(target, image, **options):
    """Of all classes, by name."""
    (answer,) = predict(target, [image], top=1000, device="cpu", **options)
    assert answer.error is None
    return dict(zip(answer.classes, answer.probabilities, strict=True))


def alike(a, b, atol=1e-6):
    return a.keys() == b.keys() and all(abs(a[name] - b[name]) <= atol for name in a)


# What is said.


def test_agrees_with_torchvision(photos, theirs):
    model, path = theirs
    categories = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    answers = predict(path, [photos], device="cpu")
    transforms = AlexNet_Weights.IMAGENET1K_V1.transforms()
    batch = torch.stack([transforms(Image.open(answer.path)) for answer in answers])
    with torch.inference_mode():
        best = model(batch).softmax(1).topk(5)
    for answer, values, indices in zip(answers, best.values.tolist(), best.indices.tolist(), strict=True):
        assert list(answer.classes) == [categories[i] for i in indices]
        assert answer.probabilities == pytest.approx(values, abs=1e-5)
        assert (answer.error, answer.notes) == (None, ())
    assert len({answer.classes for answer in answers}) > 1  # or it would not show which image was meant


def test_ten_views_are_the_mean_of_torchvisions_ten_crops(small, tmp_path):
    """Of their probabilities: the mean of the logits would be another answer."""
    noise = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((200, 150), Image.Resampling.NEAREST)  # whose corners differ
    image.save(tmp_path / "patches.png")
    functional = torchvision.transforms.functional
    square = functional.center_crop(functional.resize(image, 72), 72)
    crops = torch.stack([functional.to_tensor(crop) for crop in functional.ten_crop(square, 64)])
    with torch.inference_mode():
        logits = open_trained(small).model(functional.normalize(crops, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    wanted, other = (
        dict(zip(NAMES, mean.tolist(), strict=True)) for mean in (logits.softmax(1).mean(0), logits.mean(0).softmax(0))
    )
    found = probabilities(small, tmp_path / "patches.png", views=10)
    assert alike(found, wanted, 1e-4)
    assert not alike(other, wanted, 1e-3)


def test_best_first_and_one_in_all(photos, small):
    for answer in predict(small, [photos], top=6, device="cpu"):
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert set(answer.classes) == set(NAMES)  # what is read, not what identifies


def test_top_is_a_limit(photos, small):
    whole, few, many = (predict(small, [photos / "0.png"], top=k, device="cpu")[0] for k in (6, 2, 99))
    assert few.classes == whole.classes[:2]
    assert few.probabilities == whole.probabilities[:2]
    assert many == whole


@pytest.mark.parametrize(("options", "message"), [({"top": 0}, "--top 0"), ({"views": 3}, "--views 3")])
def test_settings_out_of_range(photos, small, options, message):
    with pytest.raises(UsageError, match=message):
        predict(small, [photos], device="cpu", **options)


# Which images.


def test_files_folders_and_patterns(tmp_path):
    for name in ("b/2.JPG", "b/deep/1.jpeg", "b/notes.txt", "b/3.jpg.part", "x y ü/[1].png", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(*names):
        return [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / name for name in names])]

    assert found("c.png", "b") == ["c.png", "b/2.JPG", "b/deep/1.jpeg"]
    assert found("b/*.JPG", "*.png") == ["b/2.JPG", "c.png"]
    assert found("**/*.png") == ["c.png", "x y ü/[1].png"]
    assert found("x y ü/[1].png") == ["x y ü/[1].png"]  # a file of this name, not a pattern
    assert found("b/notes.txt") == ["b/notes.txt"]  # named, so it is tried
    (tmp_path / "void").mkdir()
    for names, message in ([("nothing.png",), "nothing.png"], [("void",), "void holds no images"], [(), "no image"]):
        with pytest.raises(DataError, match=message):
            found(*names)


def test_missing_file(small):
    with pytest.raises(DataError, match=r"there is no image, folder or match for nothing\.jpg"):
        predict(small, ["nothing.jpg"], device="cpu")


# Odd images.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_orientation_is_applied_and_said(small, tmp_path, orientation, suffix):
    """A camera held sideways: the file's rows are not the picture's."""
    upright = picture(96, 80, seed=7)
    undone = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
              7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = upright.transpose(Image.Transpose[undone[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upright.save(tmp_path / "upright.png")
    stored.save(tmp_path / f"stored{suffix}", exif=exif, quality=100, subsampling=0)
    (answer,) = predict(small, [tmp_path / f"stored{suffix}"], device="cpu")
    assert answer.notes == (() if orientation == 1 else ("turned upright (EXIF orientation)",))
    found, wanted = (probabilities(small, tmp_path / name) for name in (f"stored{suffix}", "upright.png"))
    assert alike(found, wanted, 0 if suffix == ".png" else 0.02)
    stored.save(tmp_path / "bare.png")
    assert orientation == 1 or not alike(probabilities(small, tmp_path / "bare.png"), wanted, 0.02)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_exif_orientation_that_means_nothing(small, tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture(80, 72).save(tmp_path / "odd.png", exif=exif)
    (answer,) = predict(small, [tmp_path / "odd.png"], device="cpu")
    assert answer.notes == ()  # nothing was turned


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_damaged_exif_costs_nothing(small, tmp_path, action):
    """A JPEG whose pixels are whole is answered, whatever its EXIF holds and the program makes of warnings."""
    warnings.filterwarnings(action, module=r"PIL\.")  # pytest undoes it
    picture(80, 72).save(tmp_path / "plain.jpg")
    content = (tmp_path / "plain.jpg").read_bytes()
    path = tmp_path / "damaged.jpg"
    for rest in (b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x02\x01\x12", b""):
        exif = b"Exif\0\0" + rest
        path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
        assert alike(probabilities(small, path), probabilities(small, tmp_path / "plain.jpg"), 0)


def sixteen_bits(most=65535):
    return Image.fromarray(np.linspace(0, most, 80 * 72).reshape(72, 80).astype(np.uint16))


@pytest.mark.parametrize(
    ("name", "make", "note"),
    [
        ("cmyk.jpg", lambda: picture(80, 72).convert("CMYK"), "converted from CMYK"),
        ("palette.png", lambda: picture(80, 72).quantize(16), "converted from P"),
        ("clear.png", lambda: picture(80, 72).convert("RGBA"), "converted from RGBA"),
        ("deep.png", sixteen_bits, "converted from I;16, where all above 255 became white"),
        ("shallow.png", lambda: sixteen_bits(255), "converted from I;16"),
        ("bits.png", lambda: picture(80, 72).convert("1"), "converted from 1"),
        ("grey.png", lambda: picture(80, 72).convert("L"), None),
        ("plain.bmp", lambda: picture(80, 72), None),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_other_kinds_become_rgb_as_pillow_does(small, tmp_path, name, make, note):
    make().save(tmp_path / name)
    Image.open(tmp_path / name).convert("RGB").save(tmp_path / "reference.png")
    (answer,) = predict(small, [tmp_path / name], device="cpu")
    assert answer.notes == ((note,) if note else ())
    assert alike(probabilities(small, tmp_path / name), probabilities(small, tmp_path / "reference.png"), 0)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_first_frame_of_several(small, tmp_path, suffix):
    path = tmp_path / f"moving{suffix}"
    frames = [picture(80, 72, seed=i) for i in range(3)]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    Image.open(path).convert("RGB").save(tmp_path / "first.png")
    (answer,) = predict(small, [path], device="cpu")
    assert answer.notes[0] == "the first of 3 frames"
    assert alike(probabilities(small, path), probabilities(small, tmp_path / "first.png"), 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 700)], ids=str)
@pytest.mark.parametrize("views", [1, 10])
def test_extreme_shapes(small, tmp_path, size, views):
    Image.new("RGB", size, (200, 10, 10)).save(tmp_path / "thin.png")
    Image.new("RGB", (72, 72), (200, 10, 10)).save(tmp_path / "square.png")
    found, wanted = (probabilities(small, tmp_path / name, views=views) for name in ("thin.png", "square.png"))
    assert alike(found, wanted)  # a flat colour is a flat colour


def png_header(path, width, height):
    """A PNG that says its size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize(
    ("size", "said"),
    [((10_000, 5_001), "50 megapixels"), ((12_000, 12_000), "144 megapixels"), ((30_000, 30_000), "pixels")],
    ids=str,
)
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_huge_images_are_refused_undecoded(small, tmp_path, monkeypatch, size, said, action):
    """From the header alone: decoding would take gigabytes."""
    warnings.filterwarnings(action, module=r"PIL\.")  # pytest undoes it
    path = png_header(tmp_path / "huge.png", *size)
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was asked for"))
    (answer,) = predict(small, [path], device="cpu")
    assert "huge.png" in answer.error
    assert said in answer.error
    assert answer.classes == ()


def test_fifty_megapixels_are_not_too_many(tmp_path):
    """Refused for what the file lacks, not for its size."""
    width = 10_000
    with pytest.raises(DataError, match=r"cannot decode .*large\.png"):
        read_picture(png_header(tmp_path / "large.png", width, LARGEST // width))


UNREADABLE = {
    "empty.jpg": (b"", "empty"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "random.png": (bytes(range(256)), "not an image"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would start a program
}


def test_unreadable_images_have_a_reason_and_the_others_an_answer(photos, small, tmp_path):
    for name, (content, _) in UNREADABLE.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cut.png").write_bytes((photos / "0.png").read_bytes()[:2000])
    picture(80, 72).save(tmp_path / "good.png")
    answers = {Path(answer.path).name: answer for answer in predict(small, [tmp_path], device="cpu")}
    assert set(answers) == {*UNREADABLE, "cut.png", "good.png"}
    good = answers.pop("good.png")
    assert good.error is None
    assert len(good.classes) == 5
    for name, answer in answers.items():
        assert name in answer.error
        assert UNREADABLE.get(name, ("", ""))[1] in answer.error
        assert (answer.classes, answer.probabilities) == ((), ())


def test_file_that_may_not_be_read(small, tmp_path, monkeypatch):
    picture(80, 72).save(tmp_path / "locked.png")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    monkeypatch.setattr(Path, "read_bytes", denied)
    (answer,) = predict(small, [tmp_path / "locked.png"], device="cpu")
    assert "locked.png: Permission denied" in answer.error


def test_a_grey_network_takes_colour_photographs(photos, finished, tmp_path):
    """As its data: grey as Pillow makes it, resized to the network's size."""
    for path in sorted(photos.iterdir()):
        Image.open(path).convert("L").save(tmp_path / "grey.png")
        assert alike(probabilities(finished, path), probabilities(finished, tmp_path / "grey.png"), 0)
    whole = predict(finished, [photos], top=10, views=10, device="cpu")
    assert all(set(answer.classes) == set("0123456789") for answer in whole)


def test_a_run_its_folder_and_its_checkpoint_answer_alike(photos, finished):
    one, *others = (predict(t, [photos], device="cpu") for t in (finished, finished.path, str(finished.best)))
    assert all(other == one for other in others)


# Bare weights.


def test_thousand_outputs_have_imagenets_names(theirs):
    found = open_trained(theirs[1])
    assert (found.network, found.classes) == ("torchvision", None)
    assert list(found.names) == AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    assert not found.model.training


def test_caffes_blobs_are_bvlc(tmp_path, photos):
    torch.manual_seed(0)
    fields = {"num_classes": 3, "hidden": (16, 16)}
    state = build_model("bvlc", **fields).state_dict()
    blobs = {f"{n.rpartition('.')[0]}/{int(n.endswith('bias'))}": t.numpy() for n, t in state.items()}
    blobs["fc8/0"] *= 100
    np.savez(tmp_path / "caffe.npz", **blobs)
    with pytest.MonkeyPatch.context() as patch:  # the real fully connected layers would take 200 MB
        patch.setattr(trained, "resolve", lambda name, **f: resolve(name, **(fields | f)))
        found = open_trained(tmp_path / "caffe.npz")
    assert (found.network, found.names) == ("bvlc", ("class 0", "class 1", "class 2"))
    assert (found.preprocessing.size, found.preprocessing.resize) == (227, 256)
    image = Image.open(photos / "1.png")
    functional = torchvision.transforms.functional
    crop = np.array(functional.center_crop(functional.resize(image, 256), 227)).astype(np.float32)
    raw = torch.from_numpy(crop - [122.67891434, 116.66876762, 104.00698793]).float().permute(2, 0, 1)[None]
    reference = build_model("bvlc", **fields).eval()
    reference.load_state_dict(state | {"conv1.weight": state["conv1.weight"].flip(1)})  # Caffe's images are BGR
    with torch.inference_mode():
        wanted = reference(raw)[0].softmax(0).tolist()
    assert alike(probabilities(found, photos / "1.png"), dict(zip(found.names, wanted, strict=True)), 1e-4)


def test_caffes_blobs_may_be_caffenets(tmp_path, capsys, monkeypatch):
    """The shapes are the same, so a note says which was taken and how to name the other."""
    fields = {"num_classes": 3, "hidden": (16, 16)}
    state = build_model("bvlc", **fields).state_dict()
    np.savez(tmp_path / "w.npz", **{n.replace(".", "_"): t.numpy() for n, t in state.items()})
    monkeypatch.setattr(trained, "resolve", lambda name, **f: resolve(name, **(fields | f)))
    for model, said in ((None, True), ("bvlc", False), ("caffenet", False)):
        found = open_trained(tmp_path / "w.npz", model)
        assert found.network == (model or "bvlc")
        assert (found.preprocessing.mean, found.preprocessing.std) == (CAFFE.mean, CAFFE.std)
        assert ("--model caffenet" in capsys.readouterr().err) == said


def test_shapes_of_no_known_network(tmp_path, photos):
    model = build_model("cifar", width=0.25, in_channels=1)
    torch.save(model.state_dict(), tmp_path / "digits.pth")
    with pytest.raises(CheckpointError, match=r"digits\.pth .*--model"):
        predict(tmp_path / "digits.pth", [photos], device="cpu")
    torch.save(build_model("cifar", num_classes=7).state_dict(), tmp_path / "cifar.pth")
    (answer, *_) = predict(tmp_path / "cifar.pth", [photos], model="cifar", device="cpu", top=9)
    assert set(answer.classes) == {f"class {i}" for i in range(7)}
    with pytest.raises(CheckpointError, match="does not fit"):
        predict(tmp_path / "cifar.pth", [photos], model="owt", device="cpu")


def test_a_tensor_without_axes_is_not_a_head(tmp_path):
    """A training script's counter beside the weights."""
    state = build_model("cifar", width=0.25).state_dict()
    torch.save({**state, "steps.count": torch.tensor(3)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"steps\.count"):
        open_trained(tmp_path / "more.pth", "cifar")
    headless = {name: t for name, t in state.items() if "fc8" not in name} | {"steps.count": torch.tensor(3)}
    torch.save(headless, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError):
        open_trained(tmp_path / "headless.pth", "cifar")


# Published weights.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A function that publishes a file's bytes as "torchvision" under some hash; torch's cache is empty. Its requests
    are kept."""
    (tmp_path / "remote").mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "remote"))

        def log_message(self, *_):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def publish(content, digest=None):
        (tmp_path / "remote" / "alexnet-owt.pth").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()[:8] if digest is None else digest
        url = f"http://127.0.0.1:{server.server_port}/alexnet-owt.pth"
        monkeypatch.setitem(trained.PUBLISHED, "torchvision", (url, digest))
        return requests

    publish.cached = tmp_path / "hub" / "checkpoints" / "alexnet-owt.pth"
    yield publish
    server.shutdown()
    server.server_close()


def test_published_weights_are_fetched_once(published, theirs, photos):
    requests = published(theirs[1].read_bytes())
    one, two = (predict("torchvision", [photos / "0.png"], device="cpu") for _ in range(2))
    assert one == two == predict(theirs[1], [photos / "0.png"], device="cpu")
    assert len(requests) == 1
    assert [f.name for f in published.cached.parent.iterdir()] == ["alexnet-owt.pth"]


def test_published_name_and_hash_are_torchvisions():
    url, digest = trained.PUBLISHED["torchvision"]
    assert url == AlexNet_Weights.IMAGENET1K_V1.url
    assert len(digest) == 64
    assert url.endswith(f"-{digest[:8]}.pth")


def test_download_with_another_hash_leaves_nothing(published):
    published(b"not what was published", "0" * 8)
    with pytest.raises(CheckpointError, match=r"SHA256 is .*published is 00000000"):
        weights_file("torchvision")
    assert list(published.cached.parent.iterdir()) == []


def test_download_that_fails_says_where_to_put_the_file(published, tmp_path):
    published(b"here and gone")
    (tmp_path / "remote" / "alexnet-owt.pth").unlink()
    with pytest.raises(CheckpointError, match=r"cannot download .*put it at .*alexnet-owt\.pth"):
        weights_file("torchvision")
    assert list(published.cached.parent.iterdir()) == []


def test_cached_file_with_another_hash_is_refused(published):
    """Left by another program, or damaged since."""
    requests = published(b"the published bytes")
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes(b"the published byteS")
    with pytest.raises(CheckpointError, match=r"alexnet-owt\.pth .delete it.* is damaged"):
        weights_file("torchvision")
    assert requests == []
    assert published.cached.exists()  # it is the user's
    published.cached.unlink()
    assert weights_file("torchvision").read_bytes() == b"the published bytes"


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("trusted", [False, True], ids=["another hash", "right hash"])
def test_a_pickle_in_the_cache_is_never_executed(published, photos, tmp_path, trusted):
    mark = tmp_path / "executed"
    content = pickle.dumps({"features.0.weight": Payload(mark)})
    published(content, None if trusted else "0" * 8)
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes(content)
    with pytest.raises(CheckpointError, match="execute code" if trusted else "damaged"):
        predict("torchvision", [photos], device="cpu")
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # it would have


def test_names_of_torchvisions_layers_are_known(theirs):
    """Guards the fixture: its file is in torchvision's own layout."""
    assert {name.rpartition(".")[0] for name in torch.load(theirs[1])} == set(TORCHVISION_NAMES.values())


# The command.


def test_command_shows_a_table(call, small, photos, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "[b]old x.jpg"  # brackets are rich's markup
    picture(80, 72).save(path, exif=exif)
    code, out, err = call("predict", small, photos / "0.png", path, "--top", "6", "--device", "cpu")
    assert (code, err) == (0, "")
    assert f"{path} (turned upright (EXIF orientation))" in out
    assert str(photos / "0.png") in out
    (first, *_) = predict(small, [photos / "0.png"], device="cpu")
    assert all(out.count(name) == 2 for name in NAMES)
    assert f"{first.probabilities[0]:.1%}" in out


def test_a_process_says_nothing_but_the_answer(run_cli, small, photos, tmp_path):
    """No library's warnings about large images, odd EXIF or arrays that may not be written to."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12"
    picture(80, 72).save(tmp_path / "odd.jpg", exif=exif)
    Image.new("RGB", (72, 72)).save(tmp_path / "fits.png")
    picture(80, 72).quantize(16).save(tmp_path / "palette.png", transparency=bytes([0, 90, 255]))
    png_header(tmp_path / "huge.png", 12_000, 12_000)
    done = run_cli("predict", small, photos, *sorted(tmp_path.glob("*.*")), "--views", "10", "--device", "cpu")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "huge.png has 144 megapixels" in done.stderr


def test_command_prints_json(call, small, photos):
    code, out, err = call("predict", small, photos, "--json", "--top", "2", "--device", "cpu")
    assert (code, err) == (0, "")
    answers = predict(small, [photos], top=2, device="cpu")
    assert json.loads(out) == [answer.to_dict() for answer in answers]


def test_command_draws_a_sheet(call, small, photos, tmp_path):
    code, out, _ = call("predict", small, photos, "--sheet", tmp_path / "sheet.png", "--device", "cpu")
    assert code == 0
    assert f"written: {tmp_path / 'sheet.png'}" in out.replace("\n", "")
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
        assert 600 < width < 3000
        assert 300 < height < 2000
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(maxcolors=2**24)}
    assert len(colours) > 1000  # the photographs are on it
    assert (0x8F, 0xB3, 0xD9) in colours  # and bars


def test_sheet_marks_the_class_that_the_folder_names(call, small, tmp_path):
    picture(80, 72).save(tmp_path / "1.png")
    (answer,) = predict(small, [tmp_path / "1.png"], device="cpu")
    for folder, marked in ((answer.classes[0], True), ("holidays", False)):
        (tmp_path / folder).mkdir()
        (tmp_path / "1.png").rename(tmp_path / folder / "1.png")
        call("predict", small, tmp_path / folder, "--sheet", tmp_path / "s.png", "--top", "6", "--device", "cpu")
        (tmp_path / folder / "1.png").rename(tmp_path / "1.png")
        with Image.open(tmp_path / "s.png") as sheet:
            colours = {colour for _, colour in sheet.convert("RGB").getcolors(maxcolors=2**24)}
        assert ((0xE0, 0x8A, 0x82) in colours) is marked


@pytest.mark.parametrize("folder", ["n04", "dog"])
def test_a_folder_named_after_a_class_says_what_is_on_the_image(small, tmp_path, folder):
    """By WNID as ImageNet's, or by the name to be read."""
    (tmp_path / folder).mkdir()
    picture(80, 72).save(tmp_path / folder / "1.png")
    picture(80, 72).save(tmp_path / "2.png")
    known, unknown = predict(small, [tmp_path / folder, tmp_path / "2.png"], top=1, device="cpu")
    assert (known.truth, unknown.truth) == ("dog", None)


@pytest.mark.parametrize(("count", "pages"), [(20, 1), (21, 2), (62, 4)])
def test_many_images_make_several_sheets(call, small, tmp_path, monkeypatch, count, pages):
    drawn = []
    monkeypatch.setattr("alexnet.figures.predictions.draw_predictions", lambda a: drawn.extend(a) or Blank())
    (tmp_path / "many").mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8)).save(tmp_path / "many" / f"{number:02}.png")
    code, out, _ = call("predict", small, tmp_path / "many", "--sheet", tmp_path / "s.png", "--device", "cpu")
    names = ["s.png"] if pages == 1 else [f"s-{page}.png" for page in range(1, pages + 1)]
    assert code == 0
    assert [line for line in out.splitlines() if "written" in line] == [f"written: {tmp_path / n}" for n in names]
    assert sorted(f.name for f in tmp_path.glob("s*.png")) == sorted(names)
    assert [a.title for a in drawn] == [f"{number:02}.png" for number in range(count)]


def test_sheet_beside_json_keeps_the_json_clean(call, small, photos, tmp_path):
    code, out, err = call("predict", small, photos, "--json", "--sheet", tmp_path / "s.png", "--device", "cpu")
    assert code == 0
    assert len(json.loads(out)) == 3
    assert "s.png" in err


def test_command_ends_in_three_after_answering_the_others(call, small, photos, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    code, out, err = call(
        *("predict", small, tmp_path / "page.jpg", photos / "0.png", "--sheet", tmp_path / "s.png", "--device", "cpu")
    )
    assert code == 3
    assert "web page" in out
    assert any(name in out for name in NAMES)
    assert err.startswith("error: 1 of 2 images could not be read")
    assert "Traceback" not in err
    assert (tmp_path / "s.png").exists()


def test_a_sheet_that_was_not_drawn_is_not_announced(call, small, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    code, out, _ = call("predict", small, tmp_path / "page.jpg", "--sheet", tmp_path / "s.png", "--device", "cpu")
    assert code == 3
    assert not (tmp_path / "s.png").exists()
    assert "written" not in out


def test_a_sheet_that_cannot_be_written(call, small, photos, tmp_path):
    (tmp_path / "no").touch()
    code, out, err = call("predict", small, photos, "--sheet", tmp_path / "no" / "s.png", "--device", "cpu")
    assert (code, out) == (2, "")  # before the first answer
    assert "s.png" in err
    assert "choose another --sheet" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.pth", "a.png"], 4, "nothing.pth"),
        (["{small}", "nothing.png"], 3, "nothing.png"),
        (["{small}"], 3, "no image was named"),
        (["{small}", "{photos}", "--views", "3"], 2, "--views 3"),
        (["{small}", "{photos}", "--top", "0"], 2, "--top 0"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_command_errors(call, small, photos, arguments, code, message):
    filled = [a.format(small=small, photos=photos) for a in arguments]
    found, _, err = call("predict", *filled, "--device", "cpu")
    assert (found, err.startswith("error: "), message in err) == (code, True, True), err


def test_a_sheet_that_is_no_png_is_refused_first(call, small, photos, tmp_path):
    code, out, err = call("predict", small, photos, "--sheet", tmp_path / "s.pdf", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "s.pdf: figures are PNG files" in err


def test_bytes_are_one_image(photos, small):
    """And not as many as they have numbers."""
    content = (photos / "0.png").read_bytes()
    (alone,) = predict(small, content, device="cpu")
    (listed,) = predict(small, [content], device="cpu")
    (file,) = predict(small, photos / "0.png", device="cpu")
    assert (alone, alone.probabilities) == (listed, file.probabilities)


def test_what_a_program_holds_is_no_larger_than_what_it_names(small, monkeypatch, photos):
    monkeypatch.setattr("alexnet.data.images.LARGEST", 20)
    for held in ((photos / "0.png").read_bytes(), Image.open(photos / "0.png")):
        (answer,) = predict(small, [held], device="cpu")
        assert "megapixels; at most" in answer.error


@pytest.mark.parametrize("verb", ["predict", "compare", "evaluate"])
def test_help_names_all_views(call, verb):
    assert "9 a grid of three by three" in " ".join(call(verb, "--help")[1].replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "resize", "raw"),
    [("torchvision", 256, False), ("paper", 256, True), ("net145", 256, True), ("owt", 256, True), ("cifar", 32, False),
     ("owt-padded", 256, False), ("cifar-ungrouped", 32, False), ("cifar-resized", 64, False), ("caffenet", 256, True),
     ("convnet-18pct", VARIANTS["convnet-18pct"].input_size, True)],
)  # fmt: skip
def test_what_bare_weights_are_shown(name, resize, raw):
    prep = trained.usual_preprocessing(VARIANTS[name])
    assert (prep.resize, prep.std == CAFFE.std) == (resize, raw)


def test_a_network_that_is_open_needs_no_name(small, photos):
    opened = open_trained(small)
    for ask in (predict, lambda *a, **k: extract_features(*a, layers=["conv1"], **k)):
        with pytest.raises(UsageError, match="leave model='owt' out"):
            ask(opened, photos / "0.png", model="owt")
