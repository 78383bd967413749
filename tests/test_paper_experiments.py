"""The experiments that come with the framework: figure 1, net 145 by construction, the claims on ImageNet."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import TrainConfig
from alexnet.config.values import flatten
from alexnet.errors import UsageError
from alexnet.inference.evaluation import evaluate
from alexnet.models.network import blank_model
from alexnet.paper import arms, imagenet
from alexnet.paper.experiments import construction, figure1, normalisation, overfitting
from alexnet.paper.experiments.figure1 import EXPERIMENT as S1
from alexnet.paper.imagenet import STUDIES, imagenet_experiment
from alexnet.paper.reporter import Reporter
from alexnet.paper.reproduce import reproduce
from alexnet.recipes import RECIPES
from alexnet.runs.folder import Run
from alexnet.training.optim import Optimizer


class Fake:
    """A run that has ended with these training errors at every half epoch."""

    def __init__(self, config: TrainConfig, errors: list[float], diverged: bool = False) -> None:
        self.config, self.test = config, {"top1": 0.5}
        self.status = {"state": "failed" if diverged else "finished"}
        self.metrics = [
            {"kind": "train-score", "epoch": i / 2, "step": i, "train_top1": 1 - e} for i, e in enumerate(errors, 1)
        ]


def fall(epochs: float, limit: int = 60) -> list[float]:
    """Errors that fall from 0.9 along a line that meets 0.25 after so many epochs."""
    errors = [0.9 - 0.65 * i / 2 / epochs for i in range(1, 2 * limit + 1)]
    return errors[: next((i for i, e in enumerate(errors, 1) if e <= 0.25), len(errors))]


def finish(job, epochs):
    return Fake(job.config, fall(epochs(job.config.model.activation, job.config.optim.lr, job.config.seed)))


def carry_out(epochs, order=1):
    """All jobs of figure 1's plan, ended one by one in an order; and how many were asked for at each time."""
    finished, asked = {}, []
    while waiting := [job for job in S1.plan(finished, False) if job.name not in finished]:
        job = waiting[::order][0]
        finished[job.name] = finish(job, epochs)
        asked.append(job.name)
    return finished, asked


def speed(activation, rate, seed):
    """ReLU is best at .002 and six times as fast as tanh, which is best at .016, beyond the rates tried first."""
    best, fast = {"relu": (0.002, 4.0), "tanh": (0.016, 24.0)}[activation]
    return fast * (1 + abs(np.log2(rate / best))) + 0.1 * seed


@pytest.mark.parametrize("order", [1, -1])
def test_plan_of_figure_1_finds_the_best_rates(order):
    finished, asked = carry_out(speed, order)
    seeds = {name: run.config for name, run in finished.items() if "-seed" in name}
    assert {(c.model.activation, c.optim.lr) for c in seeds.values()} == {("relu", 0.002), ("tanh", 0.016)}
    assert sorted(c.seed for c in seeds.values()) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    tried = {name for name in asked if "-rate" in name}
    assert {f"four-layers-tanh-rate{rate}" for rate in ("0.016", "0.032")} <= tried
    assert "four-layers-relu-rate0.016" not in tried
    assert len(tried) == 12
    assert set(finished) == set(carry_out(speed, -order)[0])


def test_jobs_of_figure_1_differ_in_activation_rate_and_seed_alone():
    configs = [flatten(run.config) for run in carry_out(speed)[0].values()]
    differing = {name for name in configs[0] if len({str(c[name]) for c in configs}) > 1}
    assert differing == {"model.activation", "optim.lr", "seed"}
    base = figure1.FOUR_LAYERS.config
    assert (base.optim.weight_decay, base.data.flip, base.data.crop, base.data.val_fraction) == (0, False, None, 0)
    assert (base.score_train, base.stop_train_error) == (2, 0.25)


def test_search_for_a_rate_ends():
    """The best rate at an end for ever: eight rates, then the seeds."""
    finished, asked = carry_out(lambda a, rate, seed: 1 / rate / 100 + seed / 10)
    assert len([name for name in asked if "relu-rate" in name]) == 8
    assert len([name for name in finished if "-seed" in name]) == 10


def test_rates_that_diverge_are_never_chosen():
    def ended(job):
        diverged = job.config.optim.lr > 0.002
        return Fake(job.config, [] if diverged else fall(9 / job.config.optim.lr / 1000), diverged)

    finished = {}
    while waiting := [job for job in S1.plan(finished, False) if job.name not in finished]:
        finished |= {job.name: ended(job) for job in waiting}
    assert {run.config.optim.lr for name, run in finished.items() if "-seed" in name} == {0.002}
    rows = S1.measure(finished, None)
    assert {row["epochs"] for row in rows if row["rate"] > 0.002} == {None}


def rows_of(relu, tanh):
    return json.loads(
        json.dumps(
            [
                {"net": "four layers", "activation": a, "rate": 0.002, "stage": "seeds", "seed": i, "epochs": e}
                | {"limit": 60, "curve": [(e or 60, 0.25)]}
                for a, sample in (("relu", relu), ("tanh", tanh))
                for i, e in enumerate(sample)
            ]
        )
    )


@pytest.mark.parametrize(
    ("relu", "tanh", "states", "says"),
    [
        ([4, 4.2, 4.1, 3.9, 4], [24, 25, 23, 24, 26], ("reproduced", "direction only"), "six lies within"),
        ([4, 4.2, 4.1, 3.9, 4], [16, 17, 16.5, 16, 17], ("reproduced", "direction only"), "six lies outside"),
        ([4, 4.2, 4.1, 3.9, 4], [None, 50, None, None, 40], ("reproduced", "direction only"), "at least"),
        ([4, 4.2, 4.1, 3.9, 4], [8, 9, 8.5, 8, 9], ("direction only", "direction only"), "six lies outside"),
        ([4, 4.2, 4.1, 3.9, 4], [4.1, 4, 3.9, 4.2, 4], ("not reproduced", "not reproduced"), "six lies outside"),
        ([2, 9, 3, 30, 4], [4, 40, 3, 50, 9], ("inconclusive", "inconclusive"), "times as many"),
        ([4, None, 4, 4, 4], [24, 25, 23, 24, 26], ("inconclusive", "inconclusive"), "Too few"),
        ([], [], ("inconclusive", "inconclusive"), "Too few"),
    ],
)
def test_verdicts_of_figure_1(relu, tanh, states, says):
    verdicts = S1.judge(rows_of(relu, tanh))
    assert (verdicts[15].state, verdicts[16].state) == states
    assert says in verdicts[15].sentence


def test_epochs_are_read_between_two_scores():
    assert figure1.epochs_to([(0.5, 0.45), (1.0, 0.05)]) == pytest.approx(0.75)
    assert figure1.epochs_to([(0.5, 0.25)]) == 0.5
    assert figure1.epochs_to([(0.5, 0.6), (1.0, 0.3)]) is None
    assert figure1.epochs_to([(i / 2, error) for i, error in enumerate(fall(7.3), 1)]) == pytest.approx(7.3)


def test_figure_1_is_drawn_and_tabled():
    finished, _ = carry_out(speed)
    rows = json.loads(json.dumps(S1.measure(finished, None)))
    axes = S1.draw(rows).axes[0]
    assert len(axes.lines) == len(finished) + 3
    table = S1.table(rows)
    (line,) = [line for line in table.lines if line[:3] == ("four layers, relu", "seeds", "0.002")]
    assert line[3:6] == ("4.3", "4.1 to 4.5", "5 of 5")


@pytest.mark.parametrize("name", list(construction.CHECKS))
def test_construction(name):
    assert construction.CHECKS[name]() < 1e-12


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("normalisation over channels", lambda net: setattr(net.norm1, "columns", 1)),
        ("normalisation over channels", lambda net: setattr(net.norm1, "alpha", 5e-4)),
        ("normalisation within maps", lambda net: setattr(net.norm2b, "k", 2.0)),
        ("implicit zeros of conv1", lambda net: setattr(net, "pad1", torch.nn.ReplicationPad2d((0, 3, 0, 3)))),
        ("two columns", lambda net: setattr(net, "norm2", torch.nn.Identity())),
        ("dropout, doubled or not", lambda net: setattr(net.drop7, "p", 0.4)),
    ],
    ids=["columns", "alpha", "k", "zeros", "none", "rate"],
)
def test_construction_sees_what_is_wrong(monkeypatch, name, spoil, request):
    build = construction._net

    def spoilt(**fields):
        net = build(**fields)
        spoil(net)
        return net

    monkeypatch.setattr(construction, "_net", spoilt)
    if request.node.callspec.id == "none":  # no normalisation keeps the columns apart as well
        assert construction.CHECKS[name]() == 0
    else:
        assert construction.CHECKS[name]() > 1e-4


def test_what_normalisation_measured_is_recalled_without_the_weights(tmp_path):
    """A record keeps measurements and no weights, and goes on."""
    run = Run(tmp_path / "lrn-seed1")
    run.path.mkdir()
    run.write_config(normalisation.ARMS.base)
    asked = []
    assert normalisation.error_before_drops(run, lambda name, compute: asked.append(name) or 17.5) == 17.5
    assert asked == [f"lrn-seed1-epoch-{int(normalisation.ARMS.base.keep):04}-test"]


def test_every_count_must_be_the_released_one():
    check = {"kind": "check", "what": "a computation", "difference": 1e-16}
    rows = [check] + [
        {"kind": kind, "what": what, "ours": 9, "released": 9, "difference": 0}
        for kind, what in [
            ("parameters", "net 145"),
            ("neurons", "net 145"),
            ("maps", "c"),
            ("parameters", "net 145-half"),
        ]
    ]
    assert {verdict.state for verdict in construction.judge(rows).values()} == {"reproduced"}
    rows[2] = rows[2] | {"ours": 8, "difference": 1}
    found = construction.judge(rows)
    assert {verdict.state for verdict in found.values()} == {"not reproduced"}
    assert "9, as released" in found[1].sentence
    assert "8, not as released" in found[2].sentence
    assert all(verdict.sentence.endswith("; not as released: neurons of net 145.") for verdict in found.values())


def test_studies_name_what_exists():
    for number, study in STUDIES.items():
        assert {arm.recipe for arm in study.arms.values()} <= set(RECIPES)
        experiment = imagenet_experiment(number)
        jobs = experiment.plan({}, False)
        assert len(jobs) == study.seeds * len(study.arms)
        assert all(job.config.model.width < 0.1 for job in experiment.plan({}, True))
        assert all(job.config.data.source == "imagenet" for job in jobs)
        assert experiment.judge([])[number].state == "inconclusive"
        assert {arm for arm, _ in study.sides} == set(study.arms)
        assert {figure for _, figure in study.sides} <= set(imagenet.FIGURES)


def test_networks_of_studies_can_be_trained():
    """Their rules name parameters that they have."""
    configs = [imagenet.recipe(arm.recipe, **arm.changes) for study in STUDIES.values() for arm in study.arms.values()]
    for config in configs:
        fields = {name: value for name, value in vars(config.model).items() if value not in (None, ())}
        model = blank_model(fields.pop("variant"), **fields, width=0.0625)
        Optimizer(config.optim, model)


def test_arms_differ_in_what_they_say():
    for study in STUDIES.values():
        for arm in study.arms.values():
            config, base = flatten(imagenet.recipe(arm.recipe, **arm.changes)), flatten(RECIPES[arm.recipe])
            assert {name for name in base if config[name] != base[name]} == set(arm.changes)


def test_claims_that_imagenet_cannot_settle():
    with pytest.raises(UsageError, match="claim 29 has no experiment on ImageNet"):
        imagenet_experiment(29)


def judged(number, **samples):
    """A verdict on made-up figures: arm__figure number."""
    rows = [
        {"arm": arm, "seed": i, "figure": figure, "value": v}
        for (arm, figure), sample in samples["of"].items()
        for i, v in enumerate(sample)
    ]
    return imagenet_experiment(number).judge(rows)[number]


def test_verdicts_on_imagenet():
    norm, none = [40.6, 40.7, 40.8], [42.0, 42.1, 42.2]
    five, five_none = [18.1, 18.2, 18.3], [19.3, 19.4, 19.5]
    sides = {("net145", imagenet.TOP1): norm, ("net145", imagenet.TOP5): five}
    sides |= {("no-norms", imagenet.TOP1): none, ("no-norms", imagenet.TOP5): five_none}
    assert judged(11, of=sides).state == "reproduced"
    assert judged(11, of=sides | {("no-norms", imagenet.TOP1): [40.6, 40.8, 40.9]}).state == "not reproduced"
    assert judged(11, of=sides | {("no-norms", imagenet.TOP1): [39.0, 42.0, 44.0]}).state == "inconclusive"
    assert judged(11, of=sides | {("no-norms", imagenet.TOP1): [None, 42.0, None]}).state == "inconclusive"
    assert (
        judged(27, of={("net145", imagenet.TOP1): norm, ("net145", imagenet.TOP5): five}).state == "direction only"
    ), "a part of the claim"
    noise = {("net145", imagenet.TOP1): norm, ("no-colour-noise", imagenet.TOP1): [43.6, 43.7, 43.8]}
    assert judged(18, of=noise).state == "reproduced", "more than one point"
    epochs = {("with", imagenet.EPOCHS): [60.0, 62.0, 64.0], ("without", imagenet.EPOCHS): [30.0, 31.0, 33.0]}
    assert judged(20, of=epochs).state == "reproduced"
    slightly = epochs | {("without", imagenet.EPOCHS): [55.0, 57.0, 58.0]}
    assert judged(20, of=slightly).state == "direction only", "longer, and not twice as long"
    late = {("with", imagenet.EPOCHS): [62.0, 61.0, 69.0], ("without", imagenet.EPOCHS): [63.0, 62.0, 64.0]}
    assert judged(20, of=late).state == "inconclusive", "90 epochs cannot hold 1.5 times as many"
    gaps = {("with", imagenet.GAP): norm, ("without", imagenet.GAP): none}
    assert judged(21, of=gaps).state == "direction only", "less than two points"
    assert judged(21, of=gaps | {("without", imagenet.GAP): [42.6, 42.8, 43.0]}).state == "reproduced"
    assert judged(21, of=gaps | {("without", imagenet.GAP): [40.6, 40.8, 40.9]}).state == "not reproduced"
    assert judged(21, of=gaps | {("without", imagenet.GAP): [39.0, 42.0, 44.0]}).state == "inconclusive"
    colours = [[0.1, 0.2, 0.15] * 8 + [0.7, 0.8, 0.75] * 8] * 5
    assert judged(30, of={("net145", imagenet.COLOUR): colours}).state == "reproduced"
    assert judged(30, of={("net145", imagenet.COLOUR): colours[:3]}).state == "inconclusive"
    near = {"mean rank": 0.2, "agree": [0.8, 0.3], "far": {"5": 50, "6": 50}, "more agree": {"2": 50, "4": 50}}
    assert judged(31, of={("net145", imagenet.NEAR): [near]}).state == "reproduced"
    deep = {(arm, imagenet.TOP1): norm for arm in ("without-conv3", "without-conv4")}
    assert judged(32, of=deep | {("net145", imagenet.TOP1): [38.6, 38.7, 38.8]}).state == "reproduced"
    assert judged(32, of=deep | {("net145", imagenet.TOP1): norm}).state == "not reproduced"


def test_tables_and_pictures_of_what_is_no_number(tmp_path):
    shares = [0.1] * 4 + [0.3] * 4
    rows = [
        {"arm": "net145", "seed": 0, "figure": imagenet.COLOUR, "value": shares},
        {"arm": "net145", "seed": 0, "figure": imagenet.NEAR, "value": {"mean rank": 0.25}},
        {"arm": "no-norm1", "seed": 0, "figure": imagenet.TOP1, "value": None},
    ]
    assert [line[2] for line in imagenet.table(rows).lines] == ["3.00", "25.00", "diverged"]
    imagenet.draw(rows).savefig(tmp_path / "figure.png", dpi=50)


@pytest.fixture
def tiny_imagenet(tmp_path):
    """Three classes by WNID, with their validation images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for number, wnid in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = tmp_path / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (64, 80, 3), dtype=np.uint8) + np.uint8(60 * number)
                Image.fromarray(pixels).save(folder / f"{wnid}_{split}{i}.JPEG")
    return tmp_path / "imagenet"


@pytest.mark.slow
def test_a_claim_on_imagenet_from_end_to_end(tiny_imagenet, tmp_path, monkeypatch):
    """Claim 19's rehearsal on photographs that are made here, of one network of a sixteenth of the width."""
    monkeypatch.setattr(
        imagenet, "_REHEARSED", imagenet._REHEARSED | {"epochs": 1, "data.fraction": 1.0, "data.crop": 99}
    )
    experiment = imagenet_experiment(19)
    outcome = reproduce(
        experiment, tmp_path / "19", root=str(tiny_imagenet), jobs=2, quick=True, reporter=Reporter(quiet=True)
    )
    assert [(row["seed"], row["figure"]) for row in outcome.rows] == [
        (seed, figure)
        for figure in (imagenet.CENTRE1, imagenet.TOP1, imagenet.CENTRE5, imagenet.TOP5)
        for seed in (0, 1)
    ]
    assert all(0 <= row["value"] <= 100 for row in outcome.rows)
    assert outcome.verdicts(experiment)[19].state in ("inconclusive", "not reproduced", "reproduced", "direction only")
    assert len(list((tmp_path / "19" / "measurements").glob("*.json"))) == 4


def test_experiments_measure_what_a_run_says(finished):
    def recall(_, compute):
        return compute()

    one, ten, seen = (evaluate(finished.last, split, views=v) for split, v in ((None, 1), (None, 10), ("train", 1)))
    apart = (imagenet.COLOUR, imagenet.NEAR, imagenet.EPOCHS)
    found = {name: figure(finished, recall) for name, figure in imagenet.FIGURES.items() if name not in apart}
    assert found == pytest.approx(
        {
            imagenet.TOP1: 100 * ten.top1_error,
            imagenet.TOP5: 100 * ten.top5_error,
            imagenet.CENTRE1: 100 * one.top1_error,
            imagenet.CENTRE5: 100 * one.top5_error,
            imagenet.TRAINING: 100 * seen.top1_error,
            imagenet.GAP: 100 * (one.top1_error - seen.top1_error),
            imagenet.FIRST: 100 * (1 - finished.epochs[0]["train_top1"]),
        }
    )
    for split in ("train", "test"):
        assert arms.error(split)(finished, recall) == pytest.approx(100 * evaluate(finished.last, split).top1_error)
    assert arms.final_error(finished, recall) == pytest.approx(100 * (1 - finished.test["top1"]))
    errors = [100 * (1 - row["val_top1"]) for row in finished.epochs]
    assert overfitting.validation_errors(finished, recall) == pytest.approx(errors, abs=1e-3)


def test_convergence_is_within_a_point_of_the_end():
    fell = SimpleNamespace(epochs=[{"val_top1": top1} for top1 in (0.2, 0.5, 0.692, 0.695, 0.7)])
    assert imagenet.FIGURES[imagenet.EPOCHS](fell, None) == 3
