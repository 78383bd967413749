"""The page's server as a real process: what it answers, what it refuses, and that it lives through both."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from struct import pack

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request

import alexnet
from alexnet.compute import resolve_compute
from alexnet.data.augment import Preprocessing
from alexnet.data.loading import open_split
from alexnet.data.sources import load_dataset
from alexnet.errors import UsageError
from alexnet.figures.maps import blend_heat, colour_maps
from alexnet.inference.features import extract_features
from alexnet.inference.gradcam import grad_cam, last_maps
from alexnet.inference.neighbours import split_features
from alexnet.inference.trained import open_trained
from alexnet.models.network import build_model
from alexnet.page import server
from alexnet.page.index import Index
from alexnet.page.viewer import Viewer

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


def chunk(kind, content):
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))


def bomb():
    """A PNG of 60 megapixels in a few kilobytes."""
    header = pack(">IIBBBBB", 10_000, 6_000, 1, 0, 0, 0, 0)
    content = zlib.compress(bytes(6_000 * (1 + 1_250)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def picture(seed=0, size=(40, 30), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    return content.getvalue()


class Server:
    """`alexnet page` as a process."""

    def __init__(self, run, *arguments):
        command = [sys.executable, "-m", "alexnet", "page", str(run), "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_signals
        )
        said = iter(self.process.stdout.readline, "")  # before the address comes what was typed
        address = next((line for line in said if "http://127.0.0.1:" in line), None)
        assert address, self.process.communicate()
        self.port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
        self.url = f"http://127.0.0.1:{self.port}/"

    def ask(self, path, body=None, headers=(), method=None):
        """Status, headers and content of an answer."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method or ("GET" if body is None else "POST"), path, body, dict(headers))
            answer = line.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            line.close()

    def get(self, path, body):
        status, _, content = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def hear_signals():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background had it ignored


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    return alexnet.load_run(shutil.copytree(finished.path, tmp_path_factory.mktemp("page") / "run <b>"))


@pytest.fixture(scope="module")
def page(run):
    found = Server(run.path)
    yield found
    assert found.stop() == (0, "ended\n", "")


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_answers_are_those_of_predict(page, run, tmp_path):
    (tmp_path / "it.png").write_bytes(picture())
    told = page.get("/answer", picture())
    (expected,) = alexnet.predict(run, tmp_path / "it.png")
    assert [one["name"] for one in told["classes"]] == list(expected.classes)
    probabilities = [one["probability"] for one in told["classes"]]
    assert probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert told["notes"] == list(expected.notes)
    assert decoded(told["seen"]).size == decoded(told["heat"]).size == (320, 320)


def test_exif_is_applied(page):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, pixels = picture(exif=exif), Image.open(io.BytesIO(picture())).rotate(-90, expand=True)
    upright = io.BytesIO()
    pixels.save(upright, "PNG")
    told, expected = page.get("/answer", turned), page.get("/answer", upright.getvalue())
    assert told["seen"] == expected["seen"] != page.get("/answer", picture())["seen"]
    assert "turned upright (EXIF orientation)" in told["notes"]


@pytest.mark.parametrize("layer", ["conv1", "pool5", "fc7", "fc8"])
def test_maps_are_those_of_the_layer(page, run, tmp_path, layer):
    (tmp_path / "it.png").write_bytes(picture())
    values = extract_features(run, tmp_path / "it.png", [layer])[layer][0]
    told = page.get(f"/maps/{layer}", picture())
    pixels = np.asarray(decoded(told["picture"]).convert("RGBA"))
    if values.ndim == 3:
        count, side, _ = values.shape
        assert pixels.shape[:2] == (-(-count // 16) * (side + 1) - 1, min(count, 16) * (side + 1) - 1)
        np.testing.assert_array_equal(pixels[:side, :side, :3], colour_maps(values)[0])
        narrow = decoded(page.get(f"/maps/{layer}?narrow", picture())["picture"])
        assert narrow.size[0] == min(count, 8) * (side + 1) - 1
    else:
        shown = pixels.reshape(-1, 4)[: len(values)]
        assert (shown[:, 3] == 255).all()
        strength = np.abs(values) / np.abs(values).max()
        brightness = shown[:, :3].max(1)
        assert (brightness[strength < 0.002] <= 6).all()
        assert (brightness[strength > 0.05] > 6).all()
    assert f"{(values == 0).mean():.0%} of the values are zero" in told["text"]


def test_nearest_are_found_by_the_page(page):
    for _ in range(200):
        status, _, content = page.ask("/nearest", picture())
        told = json.loads(content)
        if "images" in told:
            break
        assert status in (200, 202)
        threading.Event().wait(0.1)
    assert [len(told["images"]), status] == [6, 200]
    distances = [one["distance"] for one in told["images"]]
    assert distances == sorted(distances)
    assert told["of"] == told["total"] == 325


@pytest.fixture
def viewer(run):
    return Viewer(open_trained(run), resolve_compute("cpu", "fp32"))


def test_index_finds_what_is_nearest_and_is_made_once(run, viewer, tmp_path):
    own = alexnet.load_run(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("page")))
    index = Index(own, viewer)
    assert not index.ready
    assert list(index.batches())[-1] == len(index) == 325
    train = load_dataset(own.config.data).train
    loader = open_split(train, torch.device("cpu"), own.config.data, viewer.trained.preprocessing)
    features = torch.cat(list(split_features(viewer.trained.model, loader, viewer.compute)))
    distances = np.linalg.norm(features.numpy().astype(float)[:, None] - features.numpy().astype(float)[:3], axis=2)
    again = Index(own, viewer)
    assert again.ready
    for row in range(3):
        found = again.nearest(features[row : row + 1])
        order = np.argsort(distances[:, row], kind="stable")[:6]
        assert found[0]["place"] == str(train.sources[row])
        assert [one["distance"] for one in found] == pytest.approx(distances[order, row], rel=0.02, abs=0.02)
        assert found[0]["name"] == str(train.labels[row])
    content = index.file.read_bytes()
    for damage in (b"", content[:100], content[:-1000], b"\x80\x04evil."):
        index.file.write_bytes(damage)
        assert not Index(own, viewer).ready
    index.file.write_bytes(content)
    shutil.copy(own.last, own.best)
    assert Index(own, viewer).file == index.file  # of the weights that the page shows
    assert Index(own, Viewer(open_trained(own), viewer.compute)).file != index.file


def test_heat_is_gradcam(viewer):
    captum = pytest.importorskip("captum.attr")
    model, layer = viewer.trained.model, last_maps(viewer.trained.model)
    assert layer == "relu5"
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 0, 9])
    found = grad_cam(model, images, labels, viewer.compute)
    theirs = captum.LayerGradCam(model, getattr(model, layer)).attribute(images, labels, relu_attributions=True)
    expected = torch.nn.functional.interpolate(theirs, images.shape[-2:], mode="bilinear").detach()[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():  # a caller's
        torch.testing.assert_close(grad_cam(model, images, labels, viewer.compute), found)
        for compute in (viewer.compute, resolve_compute("cpu", "bf16")):
            assert grad_cam(model, images, labels, compute, "relu3").max() == 1
    assert all(weight.grad is None for weight in model.parameters())
    with pytest.raises(UsageError, match="fc7"):
        grad_cam(model, images, labels, viewer.compute, "fc7")


@pytest.mark.parametrize("name", ["paper", "net145", "torchvision"])
def test_gradcam_looks_at_the_last_maps_of_every_network(name):
    model = build_model(name, width=0.125, num_classes=4, input_size=99).eval()
    compute = resolve_compute("cpu", "fp32")
    heat = grad_cam(model, torch.randn(2, 3, 99, 99), torch.tensor([0, 3]), compute)
    assert heat.shape == (2, 99, 99)
    assert 0 <= heat.min() <= heat.max() <= 1


def test_colours_say_sign_and_size():
    maps = np.array([[[0, 1], [0.5, -1]], [[0, 0.01], [0, 0]]], dtype=np.float32)
    pixels = colour_maps(maps).astype(int)
    assert pixels[0, 0, 0].sum() < 10
    assert pixels[0, 0, 1].sum() > pixels[0, 1, 0].sum() > 100
    assert pixels[0, 1, 1, 2] >= pixels[0, 1, 1, 0]
    assert pixels[1].max() < 60  # a map that says next to nothing stays dark
    image = np.full((2, 2, 1), 200, np.uint8)
    assert (blend_heat(image, np.zeros((2, 2))) == 150).all()
    assert not colour_maps(np.zeros((3, 2, 2), np.float32)).max() > 4


REFUSED = {
    "svg": ("/answer", SVG, {}, 415),
    "html": ("/answer", b"<!doctype html><p>no picture", {}, 415),
    "nothing": ("/answer", b"", {}, 415),
    "truncated": ("/answer", picture()[:-200], {}, 415),
    "pickle": ("/answer", b"\x80\x04\x95evil.", {}, 415),
    "60 megapixels": ("/answer", bomb(), {}, 413),
    "60 megapixels, maps": ("/maps/conv1", bomb(), {}, 413),
    "11 MB": ("/answer", bytes(11 * 2**20), {}, 413),
    "no layer": ("/maps/conv9", picture(), {}, 404),
    "no path": ("/%2e%2e/config.yaml", None, {}, 404),
    "a file of the package": ("/server.py", None, {}, 404),
    "no question": ("/answer", None, {}, 405),
    "another site": ("/answer", picture(), {"Origin": "http://evil.example"}, 403),
    "a name for this machine": ("/", None, {"Host": "evil.example"}, 400),
    "its question": ("/answer", picture(), {"Host": "evil.example"}, 400),
    "no length": ("/answer", picture(), {"Content-Length": "-5"}, 400),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(page, what):
    path, body, headers, expected = REFUSED[what]
    try:
        status, _, content = page.ask(path, body, headers)
    except (ConnectionError, http.client.HTTPException):  # ended while more was being sent
        assert what == "11 MB"
    else:
        assert status == expected
        assert b"Traceback" not in content
        if expected in (413, 415):
            assert json.loads(content)["error"]
    assert page.ask("/")[0] == 200


def test_pages_are_strict(page):
    for path in ("/", "/page.css", "/page.js"):
        status, headers, content = page.ask(path)
        policy = headers["content-security-policy"]
        assert status == 200
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert b"run <b>" not in content
    html = page.ask("/")[2].decode()
    assert "run &lt;b&gt;" in html
    assert " on" not in "".join(
        part for part in html.split("<") if part.startswith(("input", "img", "body", "section"))
    )
    assert "style=" not in html


def test_slow_and_broken_uploads_end(monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.05)

    async def never():
        await asyncio.sleep(60)

    async def gone():
        return {"type": "http.disconnect"}

    for receive, expected in ((never, 408), (gone, 400)):
        request = Request({"type": "http", "method": "POST", "headers": [(b"host", b"localhost")]}, receive)
        with pytest.raises(HTTPException) as end:
            asyncio.run(server._read_body(request))
        assert end.value.status_code == expected


def test_undeclared_sizes_are_counted():
    async def endless():
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, endless)
    with pytest.raises(HTTPException) as end:
        asyncio.run(server._read_body(request))
    assert end.value.status_code == 413


def test_two_hundred_mixed_questions_of_eight_clients(page):
    kinds = {
        "answer": ("/answer", picture(1), {200}),
        "maps": ("/maps/relu1", picture(2), {200}),
        "nearest": ("/nearest", picture(3), {200, 202}),
        "svg": ("/answer", SVG, {415}),
        "bomb": ("/answer", bomb(), {413}),
        "home": ("/", None, {200}),
    }
    alone = {name: page.ask(*kinds[name][:2])[2] for name in ("answer", "maps")}

    def ask(number):
        name = list(kinds)[number % len(kinds)]
        path, body, expected = kinds[name]
        status, _, content = page.ask(path, body)
        return name, status in expected and content == alone.get(name, content)

    with ThreadPoolExecutor(8) as clients:
        found = Counter(clients.map(ask, range(200)))
    assert {right for _, right in found} == {True}
    assert page.get("/answer", picture())["classes"]


def test_a_busy_port_gives_one_line(page, call, run):
    code, out, err = call("page", run.path, "--port", page.port)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"--port {page.port}" in err


def test_a_data_set_for_weights_alone_is_refused(call, finished, tmp_path):
    code, _, err = call("page", finished.best, "--data.root", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "--data.root names the training images of a run" in err


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(call, run, monkeypatch, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing or name == "alexnet.page.server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = call("page", run.path)
    assert (code, "pip install 'alexnet[page]'" in err) == (2, True)


def test_without_training_images_there_are_no_neighbours(viewer):
    async def body():
        return {"type": "http.request", "body": picture(), "more_body": False}

    asked = Request({"type": "http", "method": "POST", "headers": []}, body)
    answer = asyncio.run(server.PageServer("it", viewer)._nearest(asked))
    expected = {"missing": "There are no training images.", "opening": False}
    assert (answer.status_code, json.loads(answer.body)) == (200, expected)


@pytest.mark.slow
def test_weights_without_a_run_have_no_neighbours(finished, tmp_path):
    shutil.copy(finished.best, tmp_path / "weights.safetensors")
    found = Server(tmp_path / "weights.safetensors")
    try:
        assert found.get("/answer", picture())["classes"]
        assert found.get("/nearest", picture()) == {"missing": "There are no training images.", "opening": False}
    finally:
        ended = found.stop(signal.SIGTERM)
    assert ended == (0, "ended\n", "")
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_missing_training_images_are_said(viewer):
    def lost():
        raise UsageError("the data is gone")

    asked = server.PageServer("it", viewer, lost)

    async def look():
        async with asked.app.router.lifespan_context(asked.app):
            while asked._opening:
                await asyncio.sleep(0.01)
        return asked._no_index

    assert asyncio.run(look()) == "They are left out: the data is gone"
    assert isinstance(viewer.trained.preprocessing, Preprocessing)


def test_neighbours_of_earlier_weights_are_deleted(run, viewer, tmp_path):
    own = alexnet.load_run(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("page")))
    index = Index(own, viewer)
    index.file.parent.mkdir()
    for name in ("neighbours-0123.npz", "notes.txt"):
        (index.file.parent / name).touch()
    list(index.batches())
    assert {file.name for file in index.file.parent.iterdir()} == {index.file.name, "notes.txt"}


def test_names_that_are_not_utf8_can_be_sent():
    answer = server._Answer({"name": "caf\udce9"})
    assert json.loads(answer.body) == {"name": "caf\udce9"}
