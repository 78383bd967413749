"""The notebook does what it says, and what is kept of it says nothing of the machine that it was written on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "figure1.ipynb"


def cells(kind):
    return [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == kind]


def test_it_is_kept_without_outputs_and_is_python():
    for cell in cells("code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile("".join(line for line in cell["source"] if not line.startswith("%")), "cell", "exec")
    assert "# Figure 1" in cells("markdown")[0]["source"][0]


@pytest.mark.slow
@pytest.mark.clients
def test_it_draws_the_three_figures(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    settings = {"EPOCHS": "1", "WIDTH": "0.125", "RATES": "0.01 0.02", "RUNS": str(tmp_path / "runs")}
    for name, value in settings.items():
        monkeypatch.setitem(os.environ, f"FIGURE1_{name}", value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    names = {"relu-0.01", "relu-0.02", "tanh-0.01", "tanh-0.02"}
    assert {path.parent.name for path in (tmp_path / "runs").glob("*/test.json")} == names
    # What training says is plain text, no box of HTML for each line.
    assert not [output for output in outputs if "text/html" in output.get("data", {})]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "\x1b" not in said
    assert said.count("training digits: ") == len(names)
