"""Published files from the network: a download is complete and verified, or it is not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import sys
import urllib.request
from pathlib import Path

from alexnet.errors import DataError
from alexnet.files import replacing


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
