"""Folders that one process holds, second names, and systems that lack something; crashes are in test_checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

from alexnet import files
from alexnet.data.images import find_images, read_picture
from alexnet.errors import DataError, UsageError, differing
from alexnet.files import LOCK, holding, keep_as, replacing, write_atomically

HOLD = """
import sys
from pathlib import Path
from alexnet.files import holding
with holding(Path(sys.argv[1]), "busy in", "wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


def test_a_held_folder_is_made_and_refused_to_others(tmp_path):
    folder = tmp_path / "new" / "folder"
    line = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match=f"another process is training in {folder}; wait for it or use --run DIR"),
            holding(folder, "training in", "use --run DIR"),
        ):
            pytest.fail("two processes hold it")
        assert names(folder) == {LOCK}  # the other's
        other.stdin.close()
    assert names(folder) == set()
    with holding(folder, "training in", "use --run DIR"):
        assert names(folder) == {LOCK}
    assert names(folder) == set()


def test_a_killed_holder_holds_no_more(tmp_path):
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
    assert names(tmp_path) == {LOCK}
    with holding(tmp_path, "training in", "use --run DIR"):
        pass


def test_what_the_block_raises_comes_through(tmp_path):
    with pytest.raises(OSError, match="full"), holding(tmp_path, "training in", "use --run DIR"):
        raise OSError("full")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("kind", [UsageError, DataError])
def test_a_folder_that_cannot_be_written(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(kind, match=f"cannot write to {tmp_path / 'file'}: .*; choose another --out"),
        holding(tmp_path / "file", "preparing", "choose another --out", unwritable=kind),
    ):
        pytest.fail("a file is no folder")


def test_a_second_name_stays_when_the_first_is_replaced(tmp_path):
    write_atomically(tmp_path / "last", b"one")
    for content, kept in [(b"two", b"one"), (b"three", b"two")]:
        keep_as(tmp_path / "last", tmp_path / "previous")
        keep_as(tmp_path / "last", tmp_path / "previous")  # one file under both names already
        write_atomically(tmp_path / "last", content)
        assert (tmp_path / "previous").read_bytes() == kept
    assert names(tmp_path) == {"last", "previous"}


# Systems that lack something


@pytest.mark.parametrize("problem", [OSError, NotImplementedError, PermissionError])
def test_without_hard_links_nothing_is_kept(tmp_path, monkeypatch, problem):
    def fail(*_):
        raise problem

    write_atomically(tmp_path / "last", b"one")
    monkeypatch.setattr(Path, "hardlink_to", fail)
    keep_as(tmp_path / "last", tmp_path / "previous")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {"last": b"one"}


def test_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    """Windows: no O_DIRECTORY, and os.open refuses folders."""
    real = os.open

    def windows_open(path, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", windows_open)
    write_atomically(tmp_path / "file", b"content")
    with replacing(tmp_path / "other") as part:
        part.write_bytes(b"more")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {"file": b"content", "other": b"more"}


def test_where_open_files_cannot_be_removed(tmp_path, monkeypatch):
    """Windows: the lock's file can be removed only when it is released."""
    unlink = Path.unlink

    def windows_unlink(path, *rest, **options):
        if path.name == LOCK:
            raise PermissionError(13, "used by another process", str(path))
        unlink(path, *rest, **options)

    monkeypatch.setattr(Path, "unlink", windows_unlink)
    for _ in range(2):
        with holding(tmp_path, "training in", "use --run DIR"):
            pass


def test_images_in_hidden_folders_are_passed_over_as_in_training(tmp_path):
    for name in ("a.png", ".b.png", ".checkpoints/c.png", "in/.d/e.png", "in/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a.png", "in/f.png"]


def test_a_pattern_names_every_image_once_and_nothing_else(tmp_path):
    for name in ("a.png", "notes.txt", "in/b.png", "in/deeper/c.png", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for pattern in ("**", "**/*"):
        found = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path / pattern)]
        assert sorted(found) == ["a.png", "in/b.png", "in/deeper/c.png"]
    with pytest.raises(DataError, match=r"\*\.txt matches no images"):
        find_images(tmp_path / "*.txt")


def test_images_come_in_the_same_order_where_paths_ignore_case(tmp_path, monkeypatch):
    """Windows compares paths without regard to case."""
    for name in ("b.png", "A/z.png", "a/B.png", "a/a.png", "C.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(Path, "__lt__", lambda a, b: str(a).lower() < str(b).lower(), raising=False)
    found = [p.relative_to(tmp_path).as_posix() for p in find_images([tmp_path])]
    assert found == ["A/z.png", "C.png", "a/B.png", "a/a.png", "b.png"]


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
def test_images_in_linked_folders_are_found_and_circles_are_left(tmp_path):
    folder = tmp_path / "set"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").touch()
    (folder / "b").symlink_to(folder / "a")
    (folder / "a" / "up").symlink_to(folder)
    expected = [folder / "a" / "1.png", folder / "b" / "1.png"]
    assert find_images(folder) == find_images(str(folder / "*")) == expected


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
def test_broken_links_are_refused_when_they_are_read(tmp_path):
    (tmp_path / "in").mkdir()
    gone = tmp_path / "in" / "gone.jpg"
    gone.symlink_to(tmp_path / "nowhere.jpg")
    for named in (gone, tmp_path, tmp_path / "in" / "*.jpg"):
        assert find_images([named]) == [gone]
    with pytest.raises(DataError, match=r"there is no image .*gone\.jpg"):
        read_picture(gone)


def test_folders_of_images_that_cannot_be_read_are_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for named in (tmp_path, tmp_path / "secret"):
        with pytest.raises(DataError, match=f"cannot read {tmp_path / 'secret'}: Permission denied"):
            find_images([named])


def test_photographs_that_are_not_read_are_told_of(tmp_path, capsys):
    (tmp_path / "1.HEIC").touch()
    with pytest.raises(
        DataError, match=r"holds no images \(.*\); photographs .* passed over \(1 \.heic\): convert them"
    ):
        find_images([tmp_path])
    (tmp_path / "2.jpg").touch()
    assert find_images([tmp_path]) == [tmp_path / "2.jpg"]
    assert capsys.readouterr().err.startswith(f"note: {tmp_path}: photographs that are not read were passed over (1 .h")


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        ("abc", "bca", "in another order"),
        ("abcdefgh", "abcdefgx", "missing h, more x"),
        ("ab", "abc", "missing none, more c"),
        (["Cafe\u0301", "x"], ["Caf\xe9", "x"], r"missing 'Cafe\u0301', more 'Caf\xe9'"),
        (["cat", "dog"], ["cat ", "Dog", "eel"], "missing 'cat', 'dog', more 'Dog', 'cat ', eel"),
    ],
)
def test_how_names_differ(expected, found, said):
    assert differing(expected, found) == said


def test_a_lock_that_a_killed_process_left_where_there_are_none(tmp_path, monkeypatch):
    """A file system without locks has files in their place, which stay when their process is killed elsewhere."""
    monkeypatch.setattr("alexnet.files.FileLock", SoftFileLock)
    with (
        SoftFileLock(tmp_path / LOCK),
        pytest.raises(UsageError, match=f"or use --run DIR, or, where that was killed, delete {tmp_path / LOCK}"),
        holding(tmp_path, "training in", "use --run DIR"),
    ):
        pytest.fail("two processes hold it")


def test_on_windows_a_file_that_somebody_reads_is_replaced_a_moment_later(tmp_path, monkeypatch):
    part, path, refusals = tmp_path / "part", tmp_path / "path", [PermissionError(), PermissionError()]
    part.write_text("new")
    path.write_text("old")
    replace = type(path).replace

    def held(self, target):
        if refusals:
            raise refusals.pop()
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", held)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    with pytest.raises(PermissionError):
        files._rename(part, path)
    monkeypatch.setattr(files.os, "name", "nt")
    files._rename(part, path)
    monkeypatch.undo()
    assert path.read_text() == "new"
