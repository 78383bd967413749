"""Published files from the network: complete and verified, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path

from alexnet.errors import DataError


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
    """Fetch into a temporary file beside `path`; only a complete, verified file gets the final name.

    Raises DataError, which says what to do `otherwise`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            part = Path(folder) / path.name
            print(f"downloading {url}", file=sys.stderr)
            with contextlib.closing(urllib.request.urlopen(url, timeout=30)) as remote, part.open("wb") as local:
                shutil.copyfileobj(remote, local)
            verify(part, f"the download of {url}", **digest)
            part.replace(path)
    except (OSError, http.client.HTTPException) as problem:
        raise DataError(
            f"cannot download {url} to {path.parent} ({getattr(problem, 'reason', problem)}). Fetch it on a machine "
            f"with a network and put it at {path}, or {otherwise}."
        ) from None
