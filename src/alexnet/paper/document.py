"""docs/paper.md: all claims in the paper's order, from the claims and the published results alone."""

from __future__ import annotations

from alexnet.paper.experiment import Table


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    lines = [table.head, tuple("---" for _ in table.head), *table.lines]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
