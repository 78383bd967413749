"""docs/api.md from the docstrings of the package's public names: `uv run python docs/api.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe

HERE = Path(__file__).parent
TITLES = {  # by the room that a name is defined in, in the page's order
    "models": "Networks",
    "training": "Training",
    "runs": "Runs",
    "inference": "Trained networks",
    "data": "Data",
    "recipes": "Settings",
    "config": "Settings",
}
OTHERS = "What goes with all of them"
HEAD = """# The Python interface

Everything that `import alexnet` gives, made from the docstrings by `uv run python docs/api.py`; a test keeps it
current. Importing the package costs no torch: a name loads what it needs when it is first used.
"""


def render() -> str:
    """The page in Markdown."""
    package = griffe.load("alexnet", search_paths=[HERE.parent / "src"])
    sections: dict[str, list[str]] = {title: [] for title in (*dict.fromkeys(TITLES.values()), OTHERS)}
    names: dict[str, list[str]] = {title: [] for title in sections}
    for name in sorted(_public(package), key=str.lower):
        found = package[name].final_target
        title = TITLES.get(found.path.split(".")[1], OTHERS)
        sections[title] += _entry(found)
        names[title].append(f"[`{name}`](#{name.lower()})")
    index = [f"- {title}: {', '.join(names[title])}" for title in sections if names[title]]
    parts = [part for title, entries in sections.items() if entries for part in (f"## {title}", *entries)]
    return "\n\n".join([HEAD + "\n" + "\n".join(index), *parts]) + "\n"


def _public(package: griffe.Object | griffe.Alias) -> list[str]:
    return [str(name) for name in package.exports or []]


def _entry(found: griffe.Object) -> Iterator[str]:
    """A function or class: signature, docstring, fields and methods."""
    yield f"### {found.name}"
    if isinstance(found, griffe.Function):
        yield _code(_signature(found))
        yield _text(found)
        return
    yield _text(found)
    members = [member for name, member in found.members.items() if not name.startswith("_") and not member.is_alias]
    fields = [member for member in members if isinstance(member, griffe.Attribute) and "property" not in member.labels]
    if rows := [_row(field) for field in fields if field.annotation is not None]:
        yield "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])
    for member in members:
        if member.docstring is None:
            continue
        if isinstance(member, griffe.Function):
            yield f"**`{found.name}.{_signature(member)}`**: {_text(member)}"
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            yield f"**`{found.name}.{member.name}: {member.annotation}`**: {_text(member)}"


def _signature(function: griffe.Function) -> str:
    """As it would be written in Python, without `self`."""
    shown: list[str] = []
    named_only = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not named_only:
            named_only = True
            shown.append("*")
        stars = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(parameter.kind or griffe.ParameterKind.positional_or_keyword, "")
        named_only = named_only or stars == "*"
        annotation = f": {parameter.annotation}" if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        shown.append(f"{stars}{parameter.name}{annotation}{default}")
    return f"{function.name}({', '.join(shown)}) -> {function.returns}"


def _row(field: griffe.Attribute) -> str:
    cells = [
        f"`{field.name}`",
        f"`{field.annotation}`",
        "" if field.value is None else f"`{field.value}`",
        _text(field),
    ]
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(found: griffe.Object) -> str:
    return found.docstring.value.strip() if found.docstring else ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


if __name__ == "__main__":
    (HERE / "api.md").write_text(render(), encoding="utf-8")
