"""docs/json.md against what the verbs print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")


def section(verb: str) -> str:
    return re.split(f"### `{verb}\\b", TEXT)[1].split("\n### ")[0]


def documented(verb: str) -> list[str]:
    """The fields of a verb's table; one that is there only at times has "only" in what it is."""
    rows = [line.split(" | ", 1) for line in section(verb).splitlines() if line.startswith("| `")]
    return [field for names, what in rows for field in re.findall("`([^`]+)`", names) if not what.startswith("only")]


def optional(verb: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \| only", section(verb), re.MULTILINE)


def paths(value: Any, name: str = "") -> Iterator[str]:
    """The fields of a value as docs/json.md writes them; what is empty or null ends there."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from paths(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value or [None]:
            yield from paths(inner, f"{name}[]")
    else:
        yield name


def is_in(path: str, field: str) -> bool:
    """Whether a path is what a field stands for, or lies within it."""
    pattern = re.escape(field).replace(re.escape("*"), r"[^\[\]]+?")
    return re.fullmatch(rf"{pattern}([.\[].*)?", path) is not None


def told_by(call, *arguments):
    code, said, error = call(*arguments, "--json")
    assert code == 0, error
    return json.loads(said)


def check(verb, told, more=()):
    found = set(paths(told))
    known = [*documented(verb), *optional(verb), *more]
    empty = [path for path in found if any(is_in(field, path) for field in known)]
    assert not [path for path in found - {*empty} if not any(is_in(path, field) for field in known)]
    missing = [field for field in documented(verb) if not any(is_in(path, field) for path in found)]
    assert not [field for field in missing if not any(is_in(field, path) for path in empty)]


@pytest.mark.parametrize("verb", ["info", "ledger", "claims", "doctor"])
def test_what_needs_no_run(verb, call):
    arguments = {"info": ["cifar"], "ledger": ["cifar"]}.get(verb, [])
    check(verb, told_by(call, verb, *arguments))


def test_what_is_asked_of_a_run(finished, call, tmp_path):
    assert call("sample", "digits", "--out", tmp_path / "pictures", "--images", 2)[0] == 0
    result = told_by(call, "evaluate", finished.path, "--out", tmp_path)
    check("evaluate", result)
    both = told_by(call, "evaluate", finished.path, finished.path)
    assert both.keys() == {"single", "averaged"}
    assert both["single"][0].keys() == result.keys()
    check("predict", told_by(call, "predict", finished.path, tmp_path / "pictures"))
    check("verify", told_by(call, "verify", finished.path, "--split", "test"))
    for figure in ("errors", "kernels"):
        told = told_by(call, "figure", figure, finished.path, "--out", tmp_path / f"{figure}.png")
        check(f"figure {figure}", told)
    shared = [f"[].{field}" for field in documented("evaluate") if not field.startswith(("measured", "per_class"))]
    check("compare", told_by(call, "compare", "digits", finished.path), shared)
