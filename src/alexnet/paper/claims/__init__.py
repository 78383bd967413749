"""The paper's 32 quantitative claims, by their numbers (no torch here)."""

from __future__ import annotations

from alexnet.errors import UsageError
from alexnet.paper.claims.architecture import ARCHITECTURE
from alexnet.paper.claims.claim import Check, Claim, Standing
from alexnet.paper.claims.results import RESULTS
from alexnet.paper.claims.sizes import SIZES
from alexnet.paper.claims.training import TRAINING

__all__ = ["CLAIMS", "Check", "Claim", "Standing", "claim"]

CLAIMS: tuple[Claim, ...] = (*SIZES, *ARCHITECTURE, *TRAINING, *RESULTS)


def claim(number: int) -> Claim:
    """The claim with this number. Raises UsageError if there is none."""
    if not 1 <= number <= len(CLAIMS):
        raise UsageError(f"the paper has claims 1 to {len(CLAIMS)} here, not {number}: see alexnet claims.")
    return CLAIMS[number - 1]
