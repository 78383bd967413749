"""The benchmark: the baseline computes the same, the numbers fit together, the commands print them, the scripts run."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from alexnet.compute import configure_process
from alexnet.errors import UsageError
from alexnet.models.ablations import resolve
from alexnet.models.int8 import computes_int8
from alexnet.models.network import build_model
from alexnet.models.summary import trace
from alexnet.speed import baseline, networks
from alexnet.speed.baseline import Baseline, Request, _torchvision
from alexnet.speed.limits import training_bound
from alexnet.speed.networks import Rates, Speed
from alexnet.speed.steps import as_published
from alexnet.training.families import Spread

ROOT = Path(__file__).parent.parent


def test_the_peer_computes_the_same():
    """Only then is its time a fair measure."""
    model = build_model("cifar", width=0.25, num_classes=7, init="he").eval()
    baseline = as_published(model)
    assert any(isinstance(m, nn.LocalResponseNorm) for m in baseline.modules())
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(baseline(images), model(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.LocalResponseNorm) for m in model.modules())  # a copy was changed


def test_ratios_are_medians_over_pairs():
    rates = {"a": Rates("a", None, [10, 20, 40]), "training, b": Rates("training, b", "a", [20, 20, 120])}
    speed = Speed("paper", 8, "cpu", rates, arithmetic=6e9, bandwidth=1e9, bound=40.0, photographs=True)
    assert speed.ratio("training, b") == 2  # of 2, 1 and 3; the ratio of the medians is 1
    assert speed.ratio("a") is None
    assert speed.hours == pytest.approx(1_281_167 * 90 / 20 / 3600)
    assert speed.to_dict()["of_the_bound"] == 0.5


def test_bound_is_the_slower_of_arithmetic_and_memory():
    layers = trace(resolve("paper"))
    macs, weights = sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)
    assert training_bound(layers, 128, 6e12, 1e18) == pytest.approx(1e12 / macs, rel=1e-3)
    # With one image a step the memory bound is the weights', six times read or written, 4 bytes each.
    assert training_bound(layers, 1, 1e18, 24e9) == pytest.approx(1e9 / weights, rel=0.05)
    assert training_bound(layers, 128, 6e12, 1e9) < training_bound(layers, 128, 6e12, 2e9)


@pytest.mark.slow
def test_peer_process_answers_again_and_again():
    request = Request("cifar", training=True, count=2, steps=1, device="cpu")
    with Baseline() as baseline:
        assert baseline.seconds(request) > 0
        assert baseline.seconds(request) > 0
        with pytest.raises(UsageError, match="has ended"):
            baseline.seconds(Request("no such network", training=True, count=2, steps=1, device="cpu"))


def test_torchvisions_own_network_is_its_peer():
    torchvision = pytest.importorskip("torchvision")
    assert isinstance(_torchvision(), torchvision.models.AlexNet)


@pytest.mark.slow
def test_command(run_cli):
    done = run_cli(
        "benchmark", "cifar", "--batch-size", "4", "--rounds", "1", "--steps", "1", "--device", "cpu", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"training, baseline", "training, fp32", "inference of 64, baseline", "inference of 1, baseline"} <= set(
        told["rounds"]
    )
    assert set(told["ratios"]) <= set(told["images_per_second"])
    assert all(value > 0 for value in told["images_per_second"].values())
    assert told["bound"] > 0
    assert told["hours_for_90_epochs"] is None
    assert run_cli("benchmark", "papr").returncode == 2


@pytest.fixture
def scripts(monkeypatch):
    """The folder of the benchmarks as a place to import from."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.usefixtures("scripts")
def test_what_a_lever_saves():
    """By plain training of 2, 4, 6 and 8 epochs of a minute each, of which 6 was worse than 4; outside of what these
    reached both columns say so."""
    from levers import Row, table

    def row(what: str, epochs: int, top1: float) -> Row:
        return Row(what, epochs, Spread(3, top1, 0.0), float(epochs))

    plain = [row(f"plain, {n}", n, top1) for n, top1 in ((2, 0.5), (4, 0.7), (6, 0.6), (8, 0.9))]
    others = [row("between", 3, 0.8), row("worse", 3, 0.4), row("better", 3, 0.95), row("no more", 4, 0.7)]
    lines = [line.split("|")[-3:-1] for line in table(plain, others).splitlines()[6:]]
    assert [[cell.strip() for cell in cells] for cells in lines] == [
        ["6.0 epochs", "+3.0 minutes"],
        ["< 2.0 epochs", "< -1.0 minutes"],
        ["> 8.0 epochs", "> +5.0 minutes"],
        ["4.0 epochs", "+0.0 minutes"],
    ]


@pytest.mark.slow
def test_benchmarks_run_at_toy_size():
    sections = ["convolutions", "lrn", "loop", "whole"]
    command = [sys.executable, str(ROOT / "benchmarks" / "all.py"), *sections, "--toy", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    for section in sections:
        assert f"{section}\n| what" in done.stdout


def test_rows_of_networks(scripts):
    """The section of networks is `alexnet benchmark`, run above, told as rows."""
    import networks

    rates = {
        "training, baseline": Rates("training, baseline", None, [10]),
        "training, torchvision's": Rates("training, torchvision's", None, [20]),
        "training, bf16": Rates("training, bf16", "training, baseline", [50]),
    }
    on_cpu, on_gpu = (Speed("paper", 8, device, rates, 6e9, 1e9, 100.0, True) for device in ("cpu", "cuda"))
    told = {row.what: row for row in networks.rows_of(on_cpu)}
    assert (told["paper: training, bf16"].value, told["paper: training, bf16"].met) == (5, False)
    limit = told["paper: training, of the machine's limit"]
    assert (limit.value, limit.met) == (0.5, False)
    told = {row.what: row for row in networks.rows_of(on_gpu)}
    assert told["paper: our best against training, torchvision's"].value == 2.5
    assert told["paper: training, of the machine's limit"].met
    beside = networks.paper_beside_torchvision("cpu", True, 1)
    assert len(beside) == (4 if computes_int8(torch.device("cpu")) else 2)
    assert all(row.met is None and row.value > 0 for row in beside)


def test_tables_show_the_kept_results(tmp_path, scripts):
    """Rendered again they stay as they are, and the front page repeats lines of the whole table."""
    import all as every

    for name in ("README.md", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "benchmarks" / "results").mkdir()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        (tmp_path / "benchmarks" / "results" / path.name).write_text(path.read_text())
    every.render(tmp_path)
    for name in ("README.md", "benchmarks/README.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    assert {"networks", "convolutions", "lrn", "loop", "whole"} == {
        path.stem for path in (tmp_path / "benchmarks/results").iterdir()
    }


def test_the_reference_process_keeps_torchs_own_allocator(monkeypatch):
    """What the command sets up for our speed must not speed up what it is compared with."""
    asked = []
    monkeypatch.setattr(ctypes.CDLL, "__getattr__", lambda _, name: asked.append(name))
    request = {"network": "cifar", "training": True, "count": 2, "steps": 1, "device": "cpu", "tuned": False}
    assert baseline._answer(json.dumps(request)) > 0
    assert "mallopt" not in asked
    configure_process()
    assert "mallopt" in asked


@pytest.mark.parametrize(("name", "ways"), [("convnet-11pct", 0), ("cifar", 2)])
def test_8_bits_are_measured_where_they_can_be(monkeypatch, name, ways):
    """Networks with layers that 8 bits do not know have all other ways."""

    class Elsewhere:
        seconds = staticmethod(lambda _: 1.0)
        __enter__ = __exit__ = lambda self, *_: self

    given = {"Baseline": Elsewhere, "computes_int8": lambda _: True, "quantize": lambda model, _: model}
    given |= {"arithmetic": lambda *_: 1e9, "bandwidth": lambda _: 1e9}
    for each, stand_in in given.items():
        monkeypatch.setattr(networks, each, stand_in)
    speed = networks.benchmark(name, batch_size=1, device="cpu", rounds=1, steps=1)
    assert sum("int8" in way for way in speed.rates) == ways
    assert "training, fp32" in speed.rates
