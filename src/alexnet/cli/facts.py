"""The verbs that tell of networks and of this machine: info, list, benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from alexnet.cli.command import LOOK, MACHINE, Count, app, given_values, note_load, print_json, start_computing, within
from alexnet.config import ModelConfig
from alexnet.config.ranges import Range
from alexnet.errors import UsageError


@app.command(group=LOOK)
def info(
    model: str = "paper",
    /,
    *,
    config: Annotated[ModelConfig, Parameter(name="model")] = ModelConfig(),  # noqa: B008 (frozen)
    input_size: Annotated[int | None, within(Range(least=1, most=4096))] = None,
    batch_size: Count = 128,
    json: bool = False,
) -> None:
    """Show a network layer by layer: kernels, shapes, parameters, multiply-accumulates, neurons, memory.

    Parameters
    ----------
    model
        A name of `alexnet list models`.
    config
        Fields that replace the table's, for example --model.groups 1.
    input_size
        Side of the input in pixels; without it the table's.
    batch_size
        Images a batch, for the memory column.
    json
        Print as JSON.
    """
    from alexnet.cli.tables import show_description
    from alexnet.ledger import Facts, as_rows, examine, summarise
    from alexnet.models.ablations import resolve
    from alexnet.models.describe import describe
    from alexnet.models.summary import smallest_input

    fields = given_values(config)
    if "variant" in fields:
        raise UsageError(f"the network is named first: alexnet info {fields['variant']}, without --model.variant.")
    if "freeze_to" in fields:
        raise UsageError("--model.freeze-to is for training and changes no layer: leave it out.")
    fields |= {"input_size": input_size} if input_size else {}
    if input_size and input_size < (least := smallest_input(resolve(model, **fields))):
        raise UsageError(
            f"--input-size {input_size} is too small for this network: the smallest that works is {least}."
        )
    description = describe(model, batch_size, **fields)
    points = as_rows(examine(Facts.of_table(resolve(model, **fields))))
    if json:
        departing = {key: [p["number"] for p in points if p[key]] for key in points[0] if key.startswith("departs")}
        print_json(description | departing | {"ledger": points})
    else:
        show_description(description)
        print(f"\n{summarise(points)}: {'--json has them' if fields else f'alexnet ledger {model}'}")


@app.command(name="list", group=LOOK)
def list_names(kind: Literal["models", "recipes", "data", "all"] = "all", /) -> None:
    """List what there is: models, recipes, data sets.

    Parameters
    ----------
    kind
        What to list.
    """
    from alexnet.cli.tables import show_names

    show_names(kind)


@app.command(group=MACHINE)
def benchmark(
    model: str = "paper",
    /,
    *,
    batch_size: Count = 128,
    rounds: Count = 5,
    steps: Count = 2,
    device: str = "auto",
    compile: bool = False,
    json: bool = False,
) -> None:
    """Measure how fast this machine trains and applies a network, beside the network as public code runs it.

    Parameters
    ----------
    model
        A name of `alexnet list models`.
    batch_size
        Images a training step.
    rounds
        The ways take turns this many times; medians are shown.
    steps
        Steps of each way in a round.
    device
        auto, cpu, cuda or cuda:N.
    compile
        Measure ours compiled by torch as well.
    json
        Print as JSON.
    """
    from alexnet.cli.tables import show_speed
    from alexnet.speed.networks import benchmark as measure

    if not json:
        note_load()
    start_computing()
    speed = measure(model, batch_size=batch_size, device=device, rounds=rounds, steps=steps, compile=compile)
    if json:
        print_json(speed.to_dict())
    else:
        show_speed(speed)
