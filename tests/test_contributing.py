"""The additions that CONTRIBUTING.md shows: each applies to the source as it is, and its test passes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.S | re.M)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the source with all of them applied."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=folder, check=True)
    return folder


def test_each_touches_one_file_and_its_test():
    assert len(DIFFS) == 3
    for diff in DIFFS:
        made = re.findall(r"^--- /dev/null\n\+\+\+ b/(\S+)$", diff, re.M)
        assert not [file for file in made if (ROOT / file).exists()]
        files = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.M)
        assert [file.partition("/")[0] for file in files] == ["src", "tests"]


def test_they_pass(copied):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {"PYTHONPATH": str(copied / "src"), "OMP_NUM_THREADS": "1"}  # others use the other processors
    ended = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout
