"""A network's layers as its modules have them, whatever its table says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from alexnet.ledger.facts import Facts
from alexnet.models.columns import ColumnNetwork
from alexnet.models.local import GroupedLinear
from alexnet.models.lrn import LocalResponseNorm, MapResponseNorm
from alexnet.models.network import AlexNet
from alexnet.models.summary import Layer, trace
from alexnet.models.table import Dropout, Norm, Pool


def facts_of_model(model: AlexNet | ColumnNetwork) -> Facts:
    """What the ledger needs of a network: its layers with the constants of the modules themselves. Of a column on a
    process of its own, whose modules are halves, the table speaks for the whole."""
    if isinstance(model, ColumnNetwork):
        return Facts.of_table(model.variant)
    layers = (replace(layer, **_read(model.get_submodule(layer.name), layer)) for layer in trace(model.variant))
    by_name = {layer.name: layer for layer in layers}
    built = tuple(by_name[name] for name, _ in model.named_children() if name in by_name)
    return Facts(built, model.variant.init, model.variant.positive_bias)


def _read(module: nn.Module, layer: Layer) -> dict[str, Any]:
    """What a module says of itself, as fields of `Layer`."""
    match module:
        case LocalResponseNorm():
            row: Any = Norm(module.size, module.alpha, module.beta, module.k, "channels", module.columns)
        case nn.LocalResponseNorm():
            row = Norm(module.size, module.alpha, module.beta, module.k, "channels")
        case MapResponseNorm():
            row = Norm(module.size, module.alpha, module.beta, module.k, "map")
        case nn.MaxPool2d() | nn.AvgPool2d():
            average = isinstance(module, nn.AvgPool2d)
            row = Pool(_side(module.kernel_size), _side(module.stride), module.ceil_mode, average)
        case nn.Dropout():
            row = Dropout(module.p)
        case nn.ReLU():
            row = "relu"
        case nn.Tanh():
            row = "tanh"
        case nn.Conv2d():
            kernel, stride, padding = map(_side, (module.kernel_size, module.stride, module.padding))
            seen = {"kernel": kernel, "stride": stride, "padding": padding, "groups": module.groups}
            return seen | {"out_shape": (module.out_channels, *layer.out_shape[1:])}
        case GroupedLinear():  # before nn.Linear, which it is too, with the inputs of a group
            return {"groups": module.groups}
        case nn.Linear():
            return {"in_shape": (module.in_features,), "out_shape": (module.out_features,)}
        case nn.ZeroPad2d():
            return {"padding": module.padding[1]}
        case _ if layer.kind in ("activation", "norm", "pool", "dropout"):
            row = type(module).__name__  # nothing of this package: it stands for itself
        case _:
            return {}
    return {"row": row}


def _side(value: Any) -> int:
    """Of a window, which torch has as one number or as two."""
    return int(value if isinstance(value, int) else value[0])
