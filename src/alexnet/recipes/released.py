"""Net 145, the network of 2012, and its relatives, as their layer files and parameter files were released: rates,
decays, the epochs at which they changed, and what was done to the images."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.config.colours import CAFFE

# The released dropout scales nothing in training and halves in evaluation. Ours is the same network and learns the same
# with half the weights behind it (which the tables have), a quarter of their rate and four times their decay.
_DROPOUT = ("fc7.weights rate=0.25x decay=4x", "fc8.weights rate=0.25x decay=4x")


def _released(name: str, epochs: int, drops: tuple[float, ...], noise_until: int | None, *rules: str) -> TrainConfig:
    """A net of the release, after whose table it is called. `drops` are the epochs after which all weights' rate was
    divided by ten; `rules` are those of the biases and of conv1.

    Of every change the comments say alike "epoch 25: set ...". That is read as after this epoch for a drop and as from
    this epoch on for conv1's rates and the noise: an epoch's difference, which the comments do not settle.
    """
    return TrainConfig(
        name=name,
        epochs=epochs,
        batch_size=128,
        precision="fp32",
        data=DataConfig(
            source="imagenet",
            resize=256,
            crop=224,
            flip=True,
            crop_chunk=32,
            reshuffle=False,
            colour_noise=0.1,
            noise_divisor=1.1,
            noise_until=noise_until,
            # the mean image's centre, or where the photographs were not prepared its mean colour; raw pixels
            mean=CAFFE.mean,
            std=CAFFE.std,
            mean_image=True,
        ),
        model=ModelConfig(variant=name),
        optim=OptimConfig(
            name="paper-sgd",
            lr=1e-2,
            decay_biases=False,  # layer.cu:565
            schedule="step",
            drops=drops,
            rules=(*rules, *_DROPOUT),
        ),
    )


# layers/layer-params-145.cfg: .01, .001, .0001, 1e-5; the biases' rate was never lowered. It was killed in epoch 91.
# 40.7 % top-1 and 18.2 % top-5 error of the validation images of 2012 with ten views.
NET145 = _released(
    *("net145", 91, (25, 51, 79), 66),
    *("biases rate=0.02", "conv1.weights rate=1e-5@67,0@72", "conv1.biases rate=0@72"),
)
# On the images of 2010: the third drop came at 78. At the end the biases' rate was .002; when it was lowered is not
# recorded, and taken from net 147, which still had .02 at a rate of .001.
NET145_2010 = replace(
    NET145,
    name="net145-2010",
    epochs=93,
    data=replace(NET145.data, noise_until=67),
    optim=replace(
        NET145.optim,
        drops=(23, 51, 78),
        rules=(
            "biases rate=0.02,0.002@52",
            "conv1.weights rate=1e-5@68,0@72",
            "conv1.biases rate=0@72",
            *_DROPOUT,
        ),
    ),
)
RECIPES = [
    NET145,
    NET145_2010,
    # Its file's comments know two drops and conv1 frozen; its numbers, all of one later moment, are a rate of 1e-5 for
    # every layer, conv1 too. The comments are followed.
    _released(
        *("net145-half", 96, (20, 48), 65),
        *("biases rate=0.02", "conv1.biases rate=0.002", "conv2.biases rate=0.002"),
        *("conv1.weights rate=1e-5@66,0@72", "conv1.biases rate=0@72"),
    ),
    _released(
        *("net147", 90, (23, 51, 79), None),
        *("biases rate=0.02,0.002@52", "conv1 rate=0@79"),
    ),
    _released(
        *("net148", 97, (22, 44, 86), 68),
        *("biases rate=0.02", "conv1.weights rate=1e-5@69,0@73", "conv1.biases rate=0@73"),
    ),
    _released(
        *("net150", 92, (25, 49, 79), 65),
        *("biases rate=0.02", "conv1.weights rate=1e-5@66,0@72", "conv1.biases rate=0@72"),
    ),
]
ORIGINS = {
    "net145": "the paper's network as it was trained: layer-params-145.cfg of the release",
    "net145-2010": "the same, as it was trained on the images of 2010",
    "net145-half": "the release's 145-half: one column (section 3.2)",
    "net147": "the release's 147: pooling without overlap (section 3.4)",
    "net148": "the release's 148: no normalisation (section 3.3)",
    "net150": "the release's 150: two columns that meet in the last layer alone",
}
