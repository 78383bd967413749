"""cuda-convnet's own networks of CIFAR-10, which the paper's section 3.3 speaks of, as their parameter files say."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

# Pixels of 0 to 255 minus the mean image, all 50,000 training images, no validation: the weights of the last epoch are
# tested. cuda-convnet validated on a tenth of the images at first; here all are there from the beginning. The 19 %
# network's parameter file has no drops of the rate: these are the 18 % network's.
_19 = TrainConfig(
    name="convnet-19pct",
    epochs=140,
    batch_size=128,
    data=DataConfig(source="cifar10", val_fraction=0.0, std=(1 / 255,), mean_image=True, reshuffle=False),
    model=ModelConfig(variant="convnet-19pct"),
    optim=OptimConfig(
        name="paper-sgd",
        lr=1e-3,
        weight_decay=0.004,
        decay_biases=False,
        schedule="step",
        drops=(120, 130),
        rules=("biases rate=2x", "head.weights decay=3"),
    ),
)
# The 13 % network: crops of 24x24 at any of 9x9 places, and flips. Its parameter file has no drops; these are the 11 %
# network's, 350 epochs with validation, 150 with all images, 10 and 10 more, of which the first two are one here. With
# them it is the release's 12 % network. The convolutions have no decay, and of the rates the weights' alone are lowered
# ("lower learning rates (epsW)").
_13 = replace(
    _19,
    name="convnet-13pct",
    epochs=520,
    data=replace(_19.data, crop=24, flip=True),
    model=ModelConfig(variant="convnet-13pct"),
    optim=replace(_19.optim, drops=(500, 510), rules=("biases rate=0.002", "convolutions.weights decay=0")),
)


def _variation(base: TrainConfig, name: str, *rules: str) -> TrainConfig:
    optim = replace(base.optim, rules=(*base.optim.rules, *rules))
    return replace(base, name=name, model=ModelConfig(variant=name), optim=optim)


RECIPES = [
    _variation(_19, "convnet-18pct", "head.weights decay=1"),
    _19,
    _13,
    _variation(_13, "convnet-11pct", "head.weights decay=0.01"),
]
ORIGINS = {
    "convnet-18pct": "cuda-convnet, layer-params-18pct.cfg: normalisation within maps",
    "convnet-19pct": "cuda-convnet, layer-params-19pct.cfg, with the drops of layer-params-18pct.cfg",
    "convnet-13pct": "cuda-convnet, layer-params-conv-local-13pct.cfg (section 3.3: without LRN), with the drops of "
    "the 11 % network, by which it is the release's 12 % network",
    "convnet-11pct": "cuda-convnet, layer-params-conv-local-11pct.cfg (section 3.3: with LRN)",
}
