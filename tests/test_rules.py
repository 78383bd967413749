"""The text form of rules: what it means, and what is said about text that means nothing."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import OptimConfig, TrainConfig
from alexnet.config.rules import Rule, Setting, in_force, parse_rule
from alexnet.config.values import flatten, override
from alexnet.errors import UsageError

SETTINGS = st.builds(Setting, st.floats(0, 1e6), st.booleans(), st.integers(1, 500))


def ascending(settings: list[Setting]) -> tuple[Setting, ...]:
    return tuple({s.epoch: s for s in sorted(settings, key=lambda s: s.epoch)}.values())


@given(rate=st.lists(SETTINGS, max_size=4), decay=st.lists(SETTINGS, min_size=1, max_size=4))
def test_a_rule_means_what_its_text_says(rate, decay):
    rule = Rule("conv*.biases", rate=ascending(rate), decay=ascending(decay))
    text = rule.which
    for field in ("rate", "decay"):
        values = [f"{s.value!r}{'x' * s.multiple}@{s.epoch}" for s in getattr(rule, field)]
        text += f" {field}={','.join(values)}" if values else ""
    assert parse_rule(text) == rule


def test_examples():
    assert parse_rule("biases rate=2x decay=0") == Rule("biases", rate=(Setting(2.0, True),), decay=(Setting(0.0),))
    assert parse_rule("conv1 rate=1e-5@67,0@72") == Rule(
        "conv1", rate=(Setting(1e-5, False, 67), Setting(0.0, False, 72))
    )
    assert parse_rule("  head   momentum=.5 ") == Rule("head", momentum=(Setting(0.5),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which parameters"),
        ("conv1", "which parameters"),
        ("rate=2x", "which parameters"),
        ("biases rat=2x", "unknown field 'rat'. Did you mean 'rate'"),
        ("biases decay", "'' is no decay"),
        ("biases rate=fast", "'fast' is no rate"),
        ("biases rate=-1", "'-1' is no rate"),
        ("biases rate=nan", "'nan' is no rate"),
        ("biases rate=1e999", "'1e999' is no rate"),
        ("biases rate=2x@0", "'2x@0' is no rate"),
        ("biases rate=1,,2", "'' is no rate"),
        ("biases momentum=2x", "'2x' is no momentum"),
        ("biases momentum=1", "'1' is no momentum"),
        ("biases rate=1 rate=2@3", "rate stands twice"),
        ("biases rate=1@3,2@3", "ascending"),
        ("biases rate=1@3,2", "ascending"),
    ],
)
def test_text_that_is_no_rule(text, message):
    with pytest.raises(UsageError, match=message) as problem:
        OptimConfig(rules=("head decay=0", text))
    assert "--optim.rules" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_momentum_is_sgds():
    OptimConfig(name="paper-sgd", rules=("head momentum=0.5",))
    with pytest.raises(UsageError, match=r"--optim\.rules needs --optim\.name sgd"):
        OptimConfig(name="adam", rules=("head momentum=0.5",))


def test_rules_go_through_yaml():
    config = override(TrainConfig(), {"optim.rules": ["biases rate=2x decay=0", "conv1 rate=1e-5@67,0@72"]})
    assert override(TrainConfig(), yaml.safe_load(yaml.safe_dump(flatten(config)))) == config


def test_a_later_rule_wins_from_its_first_epoch_on():
    rules = [(Setting(2, True),), (Setting(7, False, 3), Setting(9, False, 5)), ()]
    assert [in_force(rules, epoch, 10) for epoch in range(7)] == [10, 20, 20, 7, 7, 9, 9]
