"""S0: net 145 by construction. Nothing is trained: the released code's formulae, written out, beside what ours does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alexnet.errors import listed
from alexnet.figures import new_figure
from alexnet.paper.experiment import Experiment, Recall, Row, Table, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from alexnet.models.network import AlexNet

LARGEST = 1e-5  # of a difference, where values are of the order of one
# Weights and biases of layers-145.cfg, both columns together, and of layers-145-half.cfg in all.
COUNTS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
PARAMETERS, NEURONS, HALF = 60_965_224, 659_272, 59_798_312
MAPS = {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6}


def _net(**fields: Any) -> AlexNet:
    """Net 145 with its own maps, but few kernels and hidden units, in float64."""
    import torch

    from alexnet.models.network import build_model

    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        return build_model("net145", **{"width": 1 / 12, "hidden": (8, 8), "num_classes": 3} | fields).double().eval()


def _numbers(*shape: int, scale: float = 1.0) -> Tensor:
    import torch

    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, where the values are larger than one in units of the largest."""
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def normalisation() -> float:
    """norm1: a / (2 + 1e-4/5 sum a^2)^.75 over five neighbouring maps, clipped at the ends of a column of 48
    (layer.py:1183-1186)."""
    import torch

    x = _numbers(2, 96, 7, 7, scale=100)
    sums = torch.zeros_like(x)
    for first in (0, 48):
        for f in range(48):
            window = x[:, first + max(f - 2, 0) : first + min(f + 3, 48)]
            sums[:, first + f] = (window * window).sum(dim=1)
    return _apart(_net().get_submodule("norm1")(x), x * (2 + 1e-4 / 5 * sums) ** -0.75)


def normalisation_within_maps() -> float:
    """norm2b: a (1 + 1e-3/25 sum a^2)^-.75 over 5x5 pixels of one map, clipped at its edge (conv_util.cu:802)."""
    import torch

    x = _numbers(2, 6, 9, 9, scale=100)
    padded = torch.nn.functional.pad(x * x, (2, 2, 2, 2))
    sums = torch.zeros_like(x)
    for i in range(5):
        for j in range(5):
            sums += padded[:, :, i : i + 9, j : j + 9]
    return _apart(_net().get_submodule("norm2b")(x), x * (1 + 1e-3 / 25 * sums) ** -0.75)


def implicit_zeros() -> float:
    """conv1 of 224 pixels has 55 positions 4 apart, of which the last reaches 3 pixels beyond the edge, where there are
    zeros (layer.py:1004)."""
    import torch

    net, x = _net(), _numbers(1, 3, 224, 224)
    conv = net.get_submodule("conv1")
    found: list[Tensor] = []
    conv.register_forward_hook(lambda *call: found.append(call[2].detach()))
    net(x)
    assert found[0].shape[-2:] == (55, 55)
    weight, bias = (parameter.detach() for parameter in conv.parameters())
    theirs = torch.full_like(found[0], torch.nan)
    places = (0, 27, 54)
    for i in places:
        for j in places:
            inside = x[0, :, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11]
            kernels = weight[:, :, : inside.shape[1], : inside.shape[2]]
            theirs[0, :, i, j] = (kernels * inside).sum(dim=(1, 2, 3)) + bias
    return max(_apart(found[0][..., i, j], theirs[..., i, j]) for i in places for j in places)


def columns() -> float:
    """Kernels of one column in conv1 change nothing in the other column before conv3, which sees both."""
    import torch

    net, x = _net(), _numbers(1, 3, 224, 224)
    layers = ("conv2", "conv3")
    before: dict[str, Tensor] = {}
    now: dict[str, Tensor] = {}
    for name in layers:
        net.get_submodule(name).register_forward_hook(lambda *call, name=name: now.update({name: call[2].detach()}))
    net(x)
    before |= now
    with torch.no_grad():
        conv1: Any = net.get_submodule("conv1")
        conv1.weight[conv1.out_channels // 2 :] += 1  # the second column
    net(x)
    assert not torch.equal(before["conv3"], now["conv3"])
    half = before["conv2"].shape[1] // 2
    return _apart(now["conv2"][:, :half], before["conv2"][:, :half])


def dropout() -> float:
    """Fifty steps of fc8 behind dropout: the released masks leave what they keep as it is and evaluation halves
    everything (layer.cu:1126-1135); ours doubles what it keeps, and learns the same from half the weights with the rule
    of the recipe, a quarter of the rate and four times the decay."""
    import torch

    from alexnet.config import OptimConfig
    from alexnet.training.optim import Optimizer

    net = _net()
    layer: Any = net.get_submodule("fc8")
    mask: Any = net.get_submodule("drop7").train()
    weight, increment = 2 * layer.weight.detach(), torch.zeros_like(layer.weight)
    config = OptimConfig(name="paper-sgd", lr=0.01, weight_decay=5e-4, rules=("fc8.weights rate=0.25x decay=4x",))
    optimizer = Optimizer(config, net)
    optimizer.set_lr(0.01, 1)
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(3)
        for _ in range(50):
            inputs, target = torch.randn(8, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
            kept = mask(torch.ones_like(inputs))  # 0 or 2
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter)
            layer.weight.grad = torch.outer(layer.weight.detach() @ (inputs * kept) - target, inputs * kept)
            optimizer.step()
            theirs = inputs * (kept > 0)
            gradient = torch.outer(weight @ theirs - target, theirs)
            increment = 0.9 * increment - 5e-4 * 0.01 * weight - 0.01 * gradient
            weight = weight + increment
    inputs = _numbers(8)
    return _apart(layer.weight.detach() @ inputs, weight @ (0.5 * inputs))


def update() -> float:
    """Fifty steps of the optimiser over two drops of the rate, which stays within the momentum: inc <- .9 inc - .0005
    eps w - eps g, w <- w + inc (weights.cu:152, 193, 195)."""
    import torch

    from alexnet.config import OptimConfig
    from alexnet.training.optim import Optimizer

    net = _net()
    layer: Any = net.get_submodule("fc8")
    weight, increment = layer.weight.detach().clone(), torch.zeros_like(layer.weight)
    optimizer = Optimizer(OptimConfig(name="paper-sgd", lr=0.01, momentum=0.9, weight_decay=5e-4), net)
    for step, gradient in enumerate(_numbers(50, *weight.shape)):
        rate = 0.01 * 0.1 ** (step // 20)
        increment = 0.9 * increment - 5e-4 * rate * weight - rate * gradient
        weight = weight + increment
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        layer.weight.grad = gradient.clone()
        optimizer.set_lr(rate, 1)
        optimizer.step()
    return _apart(layer.weight.detach(), weight)


CHECKS: dict[str, Callable[[], float]] = {
    "normalisation over channels": normalisation,
    "normalisation within maps": normalisation_within_maps,
    "implicit zeros of conv1": implicit_zeros,
    "two columns": columns,
    "dropout, doubled or not": dropout,
    "momentum, decay, rate": update,
}


def measure(_: Mapping[str, Any], recall: Recall) -> list[Row]:
    """Rows "what", "ours", "released", and "difference", the last of outputs or of numbers of parameters and sizes."""
    rows = [{"kind": "check", "what": name, "difference": check()} for name, check in CHECKS.items()]
    counts: list[Row] = recall("counts", _counted)
    return rows + counts


def _counted() -> list[Row]:
    from math import prod

    from alexnet.models.network import blank_model

    net = blank_model("net145")
    counts = {name: sum(p.numel() for p in net.get_submodule(name).parameters()) for name in COUNTS}
    rows = [_row("parameters", name, counts[name], released) for name, released in COUNTS.items()]
    rows.append(_row("parameters", "net 145", sum(counts.values()), PARAMETERS))
    half = blank_model("net145-half")
    rows.append(_row("parameters", "net 145-half", sum(p.numel() for p in half.parameters()), HALF))
    shapes = _shapes(_net(width=1.0, hidden=(4096, 4096), num_classes=1000))
    rows.append(
        _row("neurons", "net 145", sum(prod(shape) for name, shape in shapes.items() if name in COUNTS), NEURONS)
    )
    return rows + [_row("maps", name, shapes[name][1], side) for name, side in MAPS.items()]


def _row(kind: str, what: str, ours: int, released: int) -> Row:
    return {"kind": kind, "what": what, "ours": ours, "released": released, "difference": abs(ours - released)}


def _shapes(net: AlexNet) -> dict[str, tuple[int, ...]]:
    """What every layer gives for one image, as it is run."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in net.named_children():
        layer.register_forward_hook(lambda *call, name=name: shapes.update({name: tuple(call[2].shape[1:])}))
    with torch.no_grad():
        net(_numbers(1, 3, 224, 224))
    return shapes


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    return {
        1: _judge(rows, "parameters", "net 145"),
        2: _judge(rows, "neurons", "net 145"),
        3: _judge(rows, "maps", None),
        8: _judge(rows, "parameters", "net 145-half"),
    }


def _judge(rows: Sequence[Row], kind: str, what: str | None) -> Verdict:
    checks = [row for row in rows if row["kind"] == "check"]
    counted = [row for row in rows if row["kind"] == kind and what in (None, row["what"])]
    if not checks or not counted:
        return Verdict("not yet run", "No rows.")
    largest = max(row["difference"] for row in checks)
    figures = ", ".join(f"{row['what']} {row['ours']:,}" for row in counted)
    wrong = [f"{row['kind']} of {row['what']}" for row in rows if row["kind"] != "check" and row["difference"]]
    same = largest < LARGEST and not wrong
    sentence = f"{kind} of the network as built: {figures}, {'not ' * any(row['difference'] for row in counted)}as "
    sentence += f"released; of {len(checks)} computations the largest difference is {largest:.1g}"
    sentence += f"; not as released: {listed(wrong)}." if wrong else "."
    return Verdict("reproduced" if same else "not reproduced", sentence.capitalize(), {"largest": largest})


def draw(rows: Sequence[Row]) -> Figure:
    """The differences of the computations on a logarithmic axis, beside what is allowed."""
    checks = [row for row in rows if row["kind"] == "check"][::-1]
    figure = new_figure(6, 2.6)
    axes = figure.subplots()
    axes.barh([row["what"] for row in checks], [max(row["difference"], 1e-17) for row in checks], color="tab:blue")
    axes.axvline(LARGEST, color="gray", ls=":")
    axes.set(xscale="log", xlim=(1e-17, 1), xlabel="largest difference (dotted: allowed)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def table(rows: Sequence[Row]) -> Table:
    """One line a check or count."""
    lines = []
    for row in rows:
        if row["kind"] == "check":
            lines.append((row["what"], "", "", f"{row['difference']:.1g}"))
        else:
            lines.append(
                (f"{row['kind']}: {row['what']}", f"{row['ours']:,}", f"{row['released']:,}", str(row["difference"]))
            )
    return Table(("what", "ours", "released", "difference"), tuple(lines))


EXPERIMENT = Experiment(
    id="S0",
    title="net 145 by construction",
    claims=(1, 2, 3, 8),
    method="The released network is built and asked: its parameters, neurons and maps are counted on the modules, and "
    "its normalisations, the zeros beyond the image, its columns, dropout and optimiser are compared in float64 with "
    "the released code's formulae, written out.",
    rule='"Reproduced" if every count is equal and every computation differs by less than 1e-5; else "not reproduced".',
    data="",
    hours=0.1,
    plan=lambda finished, quick: [],
    measure=measure,
    judge=judge,
    draw=draw,
    table=table,
    open_questions=(
        "The kernels that cuda-convnet ran in 2012 are not public; the formulae are those of its successor.",
        "Where several values of a pooling window are the largest, its successor sends the gradient to each of them, "
        "and torch, and so this network, to the first: not the same, and rare above zero, below which no gradient "
        "passes the ReLU.",
    ),
)
