"""The verb ledger: what a run, a recipe or a network does at the points where implementations part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from alexnet.cli.command import PAPER, app, print_json
from alexnet.errors import CheckpointError, UsageError, unknown


@app.command(group=PAPER)
def ledger(
    target: str,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative="--departures")] = True,
    json: bool = False,
) -> None:
    """Show, point by point, what the paper says, what the released source does, and what a run did.

    A run's ledger is what it wrote when it was trained; older runs get one from their checkpoint or configuration. Of a
    recipe it is what it would do where the data does not decide it, of a network what its table decides. The release is
    net 145's, also where a relative of it follows its own file.

    Parameters
    ----------
    target
        A run folder, a name of `alexnet list recipes` or `alexnet list models`, or a YAML file such as an earlier run's
        config.yaml.
    every
        Every point, or the departures alone.
    json
        Print as JSON.
    """
    from alexnet.cli.tables import show_ledger

    rows = ledger_of(target)
    shown = [row for row in rows if every or row["departs_from_paper"] or row["departs_from_release"]]
    if json:
        print_json(shown)
    else:
        show_ledger(target, rows, shown)


def ledger_of(target: str) -> list[dict[str, Any]]:
    """The rows of a run, a recipe, a configuration or a network, whichever the name means. Raises UsageError."""
    from alexnet.models.variants import VARIANTS
    from alexnet.recipes import RECIPES

    if target.endswith((".yaml", ".yml")):
        from alexnet.runs.folder import load_config
        from alexnet.training.facts import ledger_of_config

        return ledger_of_config(load_config(Path(target)))
    if target in RECIPES:
        from alexnet.training.facts import ledger_of_config

        return ledger_of_config(RECIPES[target])
    if target in VARIANTS:
        from alexnet.ledger import Facts, as_rows, examine

        return as_rows(examine(Facts.of_table(VARIANTS[target])))
    if (Path(target) / "config.yaml").is_file():
        from alexnet.runs.folder import load_run

        return load_run(target).ledger or _of_run(target)
    raise UsageError(f"there is no run folder {target}, and {unknown('recipe or network', target, RECIPES | VARIANTS)}")


def _of_run(folder: str) -> list[dict[str, Any]]:
    """Of a run without a ledger of its own: by its checkpoint, or, where there is none, its configuration."""
    from alexnet.inference.trained import open_trained
    from alexnet.runs.folder import load_run
    from alexnet.training.facts import ledger_of_config, ledger_of_run

    run = load_run(folder)
    try:
        trained = open_trained(run)
    except CheckpointError:
        return ledger_of_config(run.config)
    return ledger_of_run(run.config, trained.model, prep=trained.preprocessing)
