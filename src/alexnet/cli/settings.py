"""A recipe's settings as flags, in groups for --help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal  # noqa: F401 (cyclopts reads the inherited fields' types here)

from cyclopts import Group, Parameter

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

_RUN, _TRAINING, _IMAGES, _NETWORK, _OPTIMISER = (
    Group.create_ordered(name) for name in ("The run", "Training", "Images", "Network", "Optimiser and learning rate")
)
RUN = Parameter(group=_RUN)


@dataclass(frozen=True)
class Settings(TrainConfig):
    """All of them, as they were typed: what they are together is known when the recipe is."""

    def __post_init__(self) -> None:
        self._check_each()

    data: Annotated[DataConfig, Parameter(group=_IMAGES)] = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Parameter(group=_NETWORK)] = field(default_factory=ModelConfig)
    optim: Annotated[OptimConfig, Parameter(group=_OPTIMISER)] = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class ImageSettings(TrainConfig):
    """The same flags, of which those about images are shown."""

    def __post_init__(self) -> None:
        self._check_each()

    data: Annotated[DataConfig, Parameter(group=_IMAGES, show=True)] = field(default_factory=DataConfig)


Given = Annotated[Settings, Parameter(name="*", group=_TRAINING)]
GivenOfImages = Annotated[ImageSettings, Parameter(name="*", show=False)]
