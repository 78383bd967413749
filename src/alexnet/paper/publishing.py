"""`python -m alexnet.paper.publishing [FOLDER ...]`: results of `alexnet reproduce` become those that come with the
package, and docs/paper.md, its pictures and the README's line about the claims are made anew from all of them. For
whoever works on the repository."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from alexnet.errors import AlexNetError, UsageError
from alexnet.figures import save_figure
from alexnet.files import write_atomically
from alexnet.paper.document import render, summarise
from alexnet.paper.results import PUBLISHED, experiment_called, read_outcome

DOCS = Path(__file__).parents[3] / "docs"


def publish(folders: Iterable[Path], docs: Path = DOCS) -> list[str]:
    """Take over the results in folders of reproductions, and write docs/paper.md, docs/paper/ID.png and the line of
    README.md.

    Returns the ids of all published results. Raises UsageError for a rehearsal and for what is no experiment of the
    package, and DataError for a folder without a result.
    """
    for folder in folders:
        outcome = read_outcome(folder / "result.json")
        if outcome.quick:
            raise UsageError(f"{folder} holds a rehearsal (--quick): only whole experiments are published.")
        experiment_called(outcome.experiment)
        PUBLISHED.mkdir(exist_ok=True)
        made = {name: value for name, value in outcome.made.items() if name != "host"}
        outcome.write(PUBLISHED / f"{outcome.experiment}.json", made=made)
    pictures = docs / "paper"
    pictures.mkdir(parents=True, exist_ok=True)
    published = []
    for file in sorted(PUBLISHED.glob("*.json")):
        outcome = read_outcome(file)
        save_figure(experiment_called(outcome.experiment).draw(outcome.rows), pictures / f"{outcome.experiment}.png")
        published.append(outcome.experiment)
    write_atomically(docs / "paper.md", render().encode())
    front = docs.parent / "README.md"
    if front.is_file():
        write_atomically(front, put_claims(front.read_text(encoding="utf-8")).encode())
    return published


def put_claims(text: str) -> str:
    """The front page with the line about the claims between its marks made anew."""
    before, start, rest = text.partition("<!-- claims -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    return f"{before}{start}{summarise()}\n{end}{after}"


if __name__ == "__main__":
    try:
        print("published:", *publish(map(Path, sys.argv[1:])))
    except AlexNetError as problem:
        sys.exit(f"error: {problem}")
