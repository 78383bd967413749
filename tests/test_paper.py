"""The paper's claims: what arithmetic and the released logs say, what the command shows, what docs/paper.md holds."""

import json
import re
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest
import torch

from alexnet import build_model
from alexnet.paper import results
from alexnet.paper.claims import CLAIMS, claim, logs, sizes, training
from alexnet.paper.document import markdown_table, render, state_of
from alexnet.paper.experiment import STATES, Table, Verdict
from alexnet.paper.experiments import experiments, experiments_on
from alexnet.paper.imagenet import STUDIES
from alexnet.paper.results import Finding, Outcome, findings, on_imagenet, published_outcome

DOCS = Path(__file__).parents[1] / "docs"


def test_all_claims_are_there_in_order():
    assert [one.number for one in CLAIMS] == list(range(1, 33))
    assert all(one.says.endswith(".") and 0 < len(one.title) <= 34 for one in CLAIMS)
    assert all(one.imagenet.sentence for one in CLAIMS if one.evidence in ("arithmetic", "log", "no data"))
    assert all(experiments_on(one.number) or one.without for one in CLAIMS)


def test_states_follow_from_figures():
    states = {one.number: one.imagenet.state for one in CLAIMS}
    assert {n for n, state in states.items() if state == "true by arithmetic"} == {1, 2, 3, 5, 8}
    assert {n for n, state in states.items() if state == "false by arithmetic"} == {4, 6}
    assert {n for n, state in states.items() if state == "plausible by arithmetic"} == {7, 9, 22}
    assert {n for n, s in states.items() if s == "the released log agrees"} == {10, 11, 13, 19, 25, 26}
    assert states[27] == "the released log agrees in part"
    assert {n for n, s in states.items() if s == "the released log differs"} == {28}
    assert states[29] == "data not to be had"
    assert states[12] == states[15] == "about CIFAR-10"


def test_shares_of_the_parameters_against_the_network_itself():
    """Claim 4 is false: conv3 and conv4 have more than 1 %."""
    model = build_model("paper")
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in model.named_children()}
    whole = sum(counts.values())
    assert [(check.what, check.value, check.holds) for check in sizes.shares()] == [
        (name, round(100 * counts[name] / whole, 2), counts[name] <= whole / 100)
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5")
    ]
    assert [check.what for check in sizes.shares() if not check.holds] == ["conv3", "conv4"]
    assert sizes.parameters()[0].value == whole == 60_965_224


def test_a_claim_of_several_experiments_counts_once_and_by_the_least_favourable():
    def found(state, runs=3):
        outcome = None if state is None else Outcome("S5", False, [], {"runs": runs})
        return Finding(experiments_on(17)[0], Verdict(state or "not yet run", ""), outcome)

    assert state_of([]) == "not testable here"
    assert state_of([found(None)]) == "not yet run"
    assert state_of([found("reproduced"), found(None)]) == "reproduced"
    assert state_of([found("reproduced"), found("inconclusive")]) == "reproduced"
    assert state_of([found("inconclusive"), found(None)]) == "inconclusive"
    assert state_of([found("not reproduced"), found("direction only")]) == "not reproduced"
    assert state_of([found("reproduced", runs=0)]) == "reproduced by construction"


def test_other_arithmetic():
    assert (
        sizes.neurons()[0].value == 55 * 55 * 96 + 27 * 27 * 256 + 2 * 13 * 13 * 384 + 13 * 13 * 256 + 2 * 4096 + 1000
    )
    assert sum(sizes.FIGURE2) == 622_312
    assert sizes.one_gpu_parameters()[0].value == 59_798_312
    assert sizes.busier_card()[0].value == 0.93
    assert sizes.bits()[0].value == log2(1000)
    assert [check.value for check in sizes.training_time()] == [34.4, 28.6]
    shapes = {check.what: check.value for check in sizes.shapes()}
    assert shapes["numbers of the input"] == 150_528
    assert [shapes[f"side of {name}'s maps"] for name in ("conv1", "pool1", "pool2", "pool5")] == [55, 27, 13, 6]


def test_a_changed_network_makes_a_claim_false(monkeypatch):
    monkeypatch.setattr(sizes, "PAPER", replace(sizes.PAPER, hidden=sizes.PAPER.hidden[:1]))
    assert claim(1).imagenet.state == "false by arithmetic"


def test_a_changed_log_makes_a_claim_differ(monkeypatch):
    monkeypatch.setitem(logs.LOGGED, "148", replace(logs.LOGGED["148"], top1=41.0))
    assert claim(11).imagenet.state == "the released log differs"


def test_halving_is_the_geometric_mean_of_one_layer_alone():
    """Claim 22's exact half against torch, and that it is not exact behind a second layer."""
    assert training.geometric_mean()[0].holds
    torch.manual_seed(0)
    first, second = torch.nn.Linear(6, 8).double(), torch.nn.Linear(8, 4).double()
    x = torch.rand(6).double()
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.double)] * 6)

    def gap(net):
        mean = torch.stack([net(x * mask).log_softmax(0) for mask in masks]).mean(0).softmax(0)
        return float((mean - net(x / 2).softmax(0)).abs().max().detach())

    assert gap(first) < 1e-12
    assert gap(lambda v: second(first(v).relu())) > 1e-6


@pytest.mark.parametrize("number", [0, 33, -1])
def test_there_is_no_such_claim(call, number):
    code, _, err = call("claims", f"{number}")
    assert code == 2
    assert "1 to 32" in err or number < 0


def test_command_lists_all_claims_within_80_columns(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call("claims")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 81
    assert [line.split()[0] for line in lines if line[:2].strip().isdigit()] == [str(n) for n in range(1, 33)]


def test_command_shows_one_claim(call):
    code, out, _ = call("claims", "4")
    text = " ".join(out.split())
    assert code == 0
    assert "false by arithmetic" in text
    assert "conv3: 1.45 %" in text


def test_json_has_everything(call):
    code, out, _ = call("claims", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["number"] for row in rows] == list(range(1, 33))
    assert rows[3]["imagenet"]["state"] == "false by arithmetic"
    assert all(e["state"] in STATES for row in rows for e in row["experiments"])
    assert all(row["experiments"] or row["without"] for row in rows)
    assert rows[3]["commands"] == []
    assert [line.partition(" (")[0] for line in rows[12]["commands"]] == [
        "alexnet reproduce S3 --data.root FOLDER",
        "alexnet reproduce imagenet-13 --data.root FOLDER",
    ]


def test_a_training_on_imagenet_tells_at_the_papers_scale_alone(monkeypatch, tmp_path, call):
    monkeypatch.chdir(tmp_path)
    figures = {"top-1, ten views, %": 40.7, "top-5, ten views, %": 18.2}
    rows = [
        {"arm": "net145", "seed": seed, "figure": figure, "value": value + 0.1 * seed}
        for figure, value in figures.items()
        for seed in range(-2, 3)
    ]
    folder = tmp_path / "runs" / "reproduce" / "imagenet-27"
    folder.mkdir(parents=True)
    Outcome("imagenet-27", False, rows, {"runs": 5}).write(folder / "result.json")
    assert on_imagenet(11) == []
    assert [finding.experiment.id for finding in findings(27)] == ["S8"]
    (finding,) = on_imagenet(27)
    assert (finding.own, finding.verdict.state) == (True, "direction only")  # of four pairs of figures one
    shown = json.loads(call("claims", "27", "--json")[1])[0]
    assert [one["id"] for one in shown["imagenet"]["measured"]] == ["imagenet-27"]
    assert "imagenet-27: direction only (own)" in call("claims", "27")[1]


def test_without_a_result_it_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "PUBLISHED", tmp_path)
    finding, other = findings(15)
    assert (finding.experiment.id, other.experiment.id) == ("S1", "S1b")
    assert finding.verdict == Verdict("not yet run", "alexnet reproduce S1 --data.root FOLDER (about 3 h on two cores)")


def test_own_results_come_first_and_rehearsals_do_not_count(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "published")
    rows = [
        {"net": "four layers", "activation": a, "rate": 1e-3, "stage": "seeds", "seed": s, "epochs": e + s / 10}
        | {"limit": 60, "curve": [[e, 0.2]]}
        for a, e in (("relu", 4.0), ("tanh", 24.0))
        for s in range(5)
    ]
    folder = tmp_path / "runs" / "reproduce" / "S1"
    folder.mkdir(parents=True)
    Outcome("S1", True, rows, {}).write(folder / "result.json")
    assert findings(15)[0].verdict.state == "not yet run"
    Outcome("S1", False, rows, {}).write(folder / "result.json")
    own, other = findings(15)
    assert (other.experiment.id, other.verdict.state) == ("S1b", "not yet run")
    assert (own.own, own.verdict.state) == (True, "reproduced")
    assert findings(15, own=False)[0].verdict.state == "not yet run"
    Outcome("S1", False, rows, {}).write(folder / "result.json", rows="damaged")
    with pytest.raises(ValueError, match="holds no result"):
        findings(15)


def test_published_results_are_judged_anew_and_drawn():
    for id, experiment in experiments().items():
        outcome = published_outcome(id)
        if outcome is not None:
            assert not outcome.quick
            assert set(outcome.verdicts(experiment)) == set(experiment.claims)
            assert (DOCS / "paper" / f"{id}.png").is_file()


def test_the_page_is_what_the_published_results_give():
    """Made by `python -m alexnet.paper.publishing`."""
    assert (DOCS / "paper.md").read_text() == render()


def test_the_page_speaks_of_every_claim():
    page = render()
    assert all(f"\n## Claim {one.number}\n" in page and one.says in page for one in CLAIMS)
    assert all(f"alexnet reproduce {number} --imagenet" in page for number in STUDIES)
    places = [
        page.index(f"\n## Claim {number}\n") for number in (2, 4, 7, 15, 8, 12, 14, 3, 5, 17, 22, 25, 19, 29, 31, 32)
    ]
    assert places == sorted(places), "the paper's order"


def test_every_result_has_its_record():
    """By whose time the page knows it; publish after records/keep.py."""
    page = render()
    assert "(no record)" not in page
    for folder in re.findall(r"\(\.\./records/([^/]+)/README\.md\)", page):
        assert (DOCS.parent / "records" / folder / "README.md").is_file()


def test_markdown_keeps_bars_apart():
    assert markdown_table(Table(("a|b",), (("c",),))) == "| a\\|b |\n| --- |\n| c |\n"


def test_experiments_are_whole():
    for id, experiment in experiments().items():
        assert experiment.id == id
        assert set(experiment.claims) <= set(range(1, 33))
        assert min(len(experiment.method), len(experiment.rule)) > 40
        assert set(experiment.judge([])) == set(experiment.claims)
        assert {v.state for v in experiment.judge([]).values()} <= {"not yet run", "inconclusive"}
        names = [job.name for job in experiment.plan({}, False)]
        assert len(set(names)) == len(names)
