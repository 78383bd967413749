"""Seeds that follow from other numbers."""

from __future__ import annotations

import hashlib


def mixed_seed(*numbers: int) -> int:
    """A generator's seed in [0, 2^63) that depends on all the numbers and their order, whatever their size."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
