"""Files that appear under their name only when they are complete and on the disk, downloads among them, and folders
that one process holds.

Everything the package writes goes through here, so that a crash, a full disk or a second process never leaves half a
file behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, SoftFileLock, Timeout

from alexnet.errors import AlexNetError, DataError, UsageError

LEFTOVERS = ".*.*.????????"
"""The names of temporary files, such as .last.safetensors.k3j2h1g0."""
LOCK = ".lock"
CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that a system leaves in folders that somebody looks into."""
T = TypeVar("T")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, for the caller to create and fill, which takes the place of `path` when the
    block ends well: it is synchronised to the disk and renamed, so that a crash or a full disk at any moment leaves
    either the old file or the new one.

    Raises what the block raises, and OSError; no temporary file is left then. A pipe or a device is refused: root would
    put a file in the place of /dev/null, for the whole system.
    """
    _refuse_devices(path)
    part = _beside(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        _rename(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """A block that writes a file (or a folder) which the user chose, in a folder that is made where there is none.

    Raises UsageError, which names the `flag` that chooses another, for an OSError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror or problem}; choose another {flag}.") from None


def _rename(part: Path, path: Path) -> None:
    # On Windows whatever reads a file, such as a virus scanner for a moment, keeps it from being replaced.
    for _ in range(20 if os.name == "nt" else 0):
        with contextlib.suppress(PermissionError):
            part.replace(path)
            return
        time.sleep(0.1)
    part.replace(path)


def make_ready(path: Path, flag: str) -> None:
    """Make the folder of a file and try whether the file can be written, before the hours of work that it is to hold.

    Raises UsageError, which names the `flag` that chooses another.
    """
    probe = _beside(path)
    with writing(path, flag):
        _refuse_devices(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        probe.open("xb").close()
        probe.unlink()


def write_atomically(path: Path, content: Any) -> None:
    """Write bytes (or any buffer) to a file as `replacing` does. Raises OSError."""
    with replacing(path) as part, part.open("xb") as stream:
        stream.write(content)


def read_settled(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file, all of it from one and the same content: where another process, such as a run that
    trains, has put another file in its place meanwhile, it is read again, a few times. Raises what `read` raises."""
    for _ in range(9):
        file = _identity(path)
        try:
            content = read(path)
        except (AlexNetError, OSError, RuntimeError):  # the last of torch, where the next file is shorter
            if _identity(path) == file:
                raise
        else:
            if _identity(path) == file:
                return content
    return read(path)  # on a share, perhaps, that gives a file another number at every look


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, as `sha256sum` prints it. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keep_as(path: Path, name: Path) -> None:
    """Give the file at `path` a second name in its folder, in the place of what bore that name, so that it can still be
    read when `path` is replaced. The file is not copied: on a file system without hard links nothing is kept."""
    spare = _beside(name)
    with contextlib.suppress(OSError, NotImplementedError):
        spare.hardlink_to(path)
        try:
            spare.replace(name)
        finally:
            spare.unlink(missing_ok=True)  # renaming one link of a file to another does nothing


def remove_leftovers(folder: Path, *names: str) -> None:
    """Delete the temporary files that a process left in a folder when it was killed: those of files of these names, or
    of all in a folder that is known to be the package's own."""
    for pattern in [f".{name}.????????" for name in names] or [LEFTOVERS]:
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def holding(folder: Path, doing: str, otherwise: str, unwritable: type[AlexNetError] = UsageError) -> Iterator[None]:
    """Hold a folder for this process until the block ends, also against processes on other machines where the file
    system locks across them; the folder is made if it is not there.

    `doing` and `otherwise` complete the errors: "another process is {doing} {folder}; wait for it or {otherwise}."
    Raises UsageError while another process holds it, and `unwritable` if the folder cannot be made or written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        # What filelock takes where the file system has no locks: a file that a killed process leaves there.
        left = f", or, where that was killed, delete {folder / LOCK}" if isinstance(lock, SoftFileLock) else ""
        raise UsageError(f"another process is {doing} {folder}; wait for it or {otherwise}{left}.") from None
    except OSError as problem:
        raise unwritable(f"cannot write to {folder}: {problem.strerror}; {otherwise}.") from None
    try:
        yield
    finally:
        # While it is held: after that it may be another process's. Windows removes no open file, but its lock does.
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()


def check_outside(out: Path, root: str) -> None:
    """Raise UsageError if a folder to write to lies in the one that a data set is read from, however it is named."""
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(os.path.expanduser(root))):
        raise UsageError(f"--out {out} lies inside {root}, among the photographs: choose a folder outside.")


def verify(path: Path, name: str, **digest: str) -> None:
    """Check a file against a published checksum, `md5=` or `sha256=`, of which only the first digits may be known.

    Raises DataError; `name` stands for the file in its message.
    """
    ((algorithm, published),) = digest.items()
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if not found.startswith(published):
        raise DataError(
            f"{name} is damaged: its {algorithm.upper()} is {found}, published is {published}. Fetch it again."
        )


def download(url: str, path: Path, otherwise: str, **digest: str) -> None:
    """Fetch a file from the network to `path`, which appears only when it is complete and its checksum, `md5=` or
    `sha256=`, is the published one. Folders are made where they are missing.

    Raises DataError, which says what to do `otherwise`.
    """
    import http.client
    import urllib.request

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            print(f"downloading {url}", file=sys.stderr)
            with contextlib.closing(urllib.request.urlopen(url, timeout=30)) as remote, part.open("xb") as local:
                shutil.copyfileobj(remote, local)
            verify(part, f"the download of {url}", **digest)
    except (OSError, http.client.HTTPException) as problem:
        raise DataError(
            f"cannot download {url} to {path.parent} ({getattr(problem, 'reason', problem)}). Fetch it on a machine "
            f"with a network and put it at {path}, or {otherwise}."
        ) from None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _refuse_devices(path: Path) -> None:
    """Raise OSError for what a file cannot take the place of without harm."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(path))


def _beside(path: Path) -> Path:
    # The name is random and the mode the umask's: mkstemp's 0600 would hide the file from a group's other members.
    return Path(tempfile.mktemp(dir=path.parent, prefix=f".{path.name}."))


def _sync_folder(folder: Path) -> None:
    """Put the folder's entries on the disk, where the system opens folders (Windows does not)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):  # which say that folders of this kind cannot be: shares
            raise
    finally:
        os.close(descriptor)
