"""The ledger's points about what learns at which rate (no torch here)."""

from __future__ import annotations

from math import isclose

from alexnet.config.rules import parse_rule
from alexnet.ledger.facts import Facts, Training
from alexnet.ledger.points import Answer, differs, number, training_point


@training_point(
    14,
    "learning rate of the biases",
    paper="equal for all layers (5); biases are not singled out",
    release=".02, twice that of the weights at first, and never lowered (layer-params-145.cfg: epsB)",
    effect="in CaffeNet 2 x 47.1, 1 x 47.0, 5 x 47.2 % accuracy",
)
def _bias_rate(facts: Facts, training: Training) -> Answer:
    ends = (1, training.config.end)
    ratios: list[set[str]] = []
    for epoch in ends:
        plain = training.at(facts.plain, epoch).rate
        rates = (training.at(f"{layer.name}.bias", epoch).rate for layer in facts.weighted[1:] or facts.weighted)
        ratios.append({number(rate / plain) if plain else "-" for rate in rates})
    first, last = (" or ".join(sorted(ratio)) for ratio in ratios)
    shown = f"{first} x that of the weights" + (f", {last} x in the end" if last != first else "")
    constant = all(
        len({stage.rate for stage in training.learning[f"{layer.name}.bias"]}) == 1 for layer in facts.weighted[1:]
    )
    # What the plateau schedule lowers is not foreseen; a rate in numbers of its own it leaves alone.
    plateau = any(leg.optim.schedule == "plateau" for leg in training.config.legs)
    constant = constant and (not plateau or _has_own_bias_rate(training))
    shown += ", never lowered" if constant and first != last else ""
    return Answer(shown, paper=ratios != [{"1"}, {"1"}], release=not (constant and ratios[0] == {"2"}))


def _has_own_bias_rate(training: Training) -> bool:
    """Whether rules give the biases rates as numbers, not as multiples of the schedule's."""
    rules = (parse_rule(text) for leg in training.config.legs for text in leg.optim.rules)
    rates = [setting for rule in rules if "bias" in rule.which for setting in rule.rate]
    return bool(rates) and not any(setting.multiple for setting in rates)


@training_point(
    15,
    "weight decay of the biases",
    paper="not said",
    release="none (layer.cu:565)",
    effect="not known; torch's optimisers decay them unless told otherwise",
)
def _bias_decay(facts: Facts, training: Training) -> Answer:
    decays = {
        layer.name: max(stage.decay for stage in training.learning[f"{layer.name}.bias"]) for layer in facts.weighted
    }
    decayed = [name for name, decay in decays.items() if decay]
    which = "all" if len(decayed) == len(decays) else ", ".join(decayed)
    values = " or ".join(sorted({number(decays[name]) for name in decayed}))
    return Answer(f"{values} ({which})" if decayed else "none", release=bool(decayed))


@training_point(
    16,
    "momentum",
    paper=".9, the learning rate inside: v <- .9 v - .0005 e w - e g, w <- w + v (5)",
    release="likewise (weights.cu:152, 193, 195)",
    effect="the rate outside, as torch has it, differs only when the rate changes",
)
def _momentum(facts: Facts, training: Training) -> Answer:
    optim = training.config.optim
    if optim.name in ("adam", "adamw"):
        return Answer({"adam": "Adam", "adamw": "AdamW"}[optim.name], **differs(True))
    values = sorted({stage.momentum for stages in training.learning.values() for stage in stages})
    shown = " or ".join(map(number, values)) + (", Nesterov's" if optim.nesterov else "")
    right = values == [0.9] and not optim.nesterov
    if optim.name == "paper-sgd":
        return Answer(f"{shown}, the rate inside", **differs(not right))
    moving = {leg.optim.schedule for leg in training.config.legs} != {"constant"} or any(
        len({stage.rate for stage in stages}) > 1 for stages in training.learning.values()
    )
    moving |= any(leg.optim.warmup_epochs for leg in training.config.legs)
    shown += ", the rate outside" + ("" if moving else ": the same, as the rate never changes")
    return Answer(shown, **differs(moving or not right))


@training_point(
    17,
    "weight decay",
    paper=".0005 (5)",
    release=".0005 on all weights (layer-params-145.cfg: wc)",
    effect=".0001 costs CaffeNet 2.1 points",
)
def _decay(facts: Facts, training: Training) -> Answer:
    found: dict[str, list[str]] = {}
    same = True
    for layer in facts.weighted:
        kept = facts.equivalent(layer)
        for stage in training.learning[f"{layer.name}.weight"]:
            if stage.rate:
                same &= isclose(stage.decay * kept**2, 5e-4)
                names = found.setdefault(number(stage.decay * kept**2), [])
                names += [layer.name] if layer.name not in names else []
    if not found:
        return Answer("no weights learn: does not apply")
    shown = "; ".join(f"{value} in {', '.join(names)}" for value, names in found.items())
    return Answer(f"{next(iter(found))} on all weights" if len(found) == 1 else shown, **differs(not same))


@training_point(
    20,
    "conv1's learning rate",
    paper="equal for all layers (5)",
    release="1e-5 from epoch 67 on, frozen from 72 on (layer-params-145.cfg)",
    effect="not known",
)
def _first_layer(facts: Facts, training: Training) -> Answer:
    name = f"{facts.weighted[0].name}.weight"
    said: list[tuple[int, str]] = []
    for epoch in training.changes(name, facts.plain):
        own, plain = training.at(name, epoch).rate, training.at(facts.plain, epoch).rate
        text = "as the others" if own == plain else f"{number(own)}" if own else "frozen"
        if not said or said[-1][1] != text:
            said.append((epoch, text))
    shown = ", ".join(text if epoch == 1 else f"{text} from epoch {epoch} on" for epoch, text in said)
    released = [(1, "as the others"), (67, "1e-05"), (72, "frozen")]
    return Answer(
        f"{shown} throughout" if len(said) == 1 else shown,
        paper=said != [(1, "as the others")],
        release=said != released,
    )


@training_point(
    32,
    "batch and learning rate",
    paper="128 images, .01 at first (5)",
    release="likewise (convnet.py: mini 128; layer-params-145.cfg)",
    effect="256 at twice the rate matches exactly (logged net 170); Caffe takes 256 at .01",
)
def _batch(facts: Facts, training: Training) -> Answer:
    config = training.config
    highest = max(stage.rate for stage in training.learning[facts.plain])
    shown = f"{config.batch_size} images, {number(highest)} at most, {config.optim.schedule} for {config.end} epochs"
    return Answer(shown, **differs(config.batch_size != 128 or not isclose(highest, 0.01)))


POINTS = (_bias_rate, _bias_decay, _momentum, _decay, _first_layer, _batch)
