"""An experiment of seconds, on the embedded digits: two rates with one seed, then a second seed at the better one."""

import sys
from pathlib import Path

from alexnet.figures import new_figure
from alexnet.paper.experiment import Experiment, Job, Table, Verdict, has_diverged, missing, seeded
from conftest import TINY, override

RATES = (1e-3, 2e-3)


def _config(rate, **more):
    return override(TINY, {"optim.lr": rate, "epochs": 1, "log_every": 1, "save_minutes": 1e-6, **more})


def plan(finished, quick):
    tried = [Job(f"rate{rate:g}", _config(rate)) for rate in RATES]
    if missing(tried, finished):
        return tried
    best = max(tried, key=lambda job: finished[job.name].test["top1"])
    return tried + seeded("best", best.config, range(1, 2 if quick else 4))


def measure(runs, recall):
    rows = [{"name": name, "top1": None if has_diverged(r) else r.test["top1"]} for name, r in runs.items()]
    return [row | {"square": recall(row["name"], lambda row=row: (row["top1"] or 0) ** 2)} for row in rows]


def judge(rows):
    return {15: Verdict("reproduced" if rows else "not yet run", f"{len(rows)} rows", {"rows": len(rows)})}


def table(rows):
    return Table(("name", "top-1"), tuple((row["name"], f"{row['top1']}") for row in rows))


TOY = Experiment(
    *("T1", "a toy", (15,), "method", "rule", "data", 0.1),
    plan=plan,
    measure=measure,
    judge=judge,
    draw=lambda rows: new_figure(1, 1),
    table=table,
)

if __name__ == "__main__":
    from alexnet.compute import usable_cores
    from alexnet.errors import AlexNetError
    from alexnet.paper.reproduce import reproduce

    try:
        reproduce(TOY, Path(sys.argv[1]), jobs=usable_cores(), quick=sys.argv[2] == "quick")
    except AlexNetError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
