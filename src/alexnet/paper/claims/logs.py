"""Figures that Krizhevsky noted in the released code: comments at the end of layers/layer-params-*.cfg, errors with ten
views as fractions (computerhistory/AlexNet-Source-Code at 2f8b81f)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Logged:
    """Errors in per cent of one network."""

    top1: float
    top5: float
    source: str


def _logged(file: str, top1: float, top5: float, of: str) -> Logged:
    return Logged(100 * top1, 100 * top5, f"layer-params-{file}.cfg, {of}")


LOGGED = {
    "145": _logged("145", 0.406640, 0.182100, "2012 validation"),
    "145-2010": _logged("145-2010", 0.374727, 0.169987, "2010 test"),
    "145-2010, centre": _logged("145-2010", 0.390247, 0.182953, "2010 test, central crop"),
    "145-half": _logged("145-half", 0.391680, 0.182287, "2010 test"),
    "147": _logged("147", 0.410580, 0.185100, "2012 validation"),
    "148": _logged("148", 0.420340, 0.193620, "2012 validation"),
    "146-2012-2011": _logged("146-2012-2011", 0.389900, 0.166220, "2012 validation"),
    "2009-101": _logged("2009-101", 0.693822, 0.436466, "Fall 2009"),
    "137-2010, validation": _logged("137", 0.377960, 0.171020, "2010 validation"),
    "137-2010, test": _logged("137", 0.376167, 0.171247, "2010 test"),
}

# After which epochs the rate of net 145's weights was divided by ten (layer-params-145.cfg, -145-2010.cfg).
DROPS = {"145": (25, 51, 79), "145-2010": (23, 51, 78)}
