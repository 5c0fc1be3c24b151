"""Numbers as words: the same durations, counts and values in progress lines, figures and reports."""

import math
from collections.abc import Mapping
from typing import Any

UNAFFECTED = "of patients without any finding"
"""Which healthy images the findings are compared with, where nothing else is said."""


def duration(seconds: float) -> str:
    """Return a time as its two largest units: "8 s", "9 min 31 s", "2 h 5 min", "3 d 4 h"."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def value(item: Any) -> str:
    """Return a setting or fact for people: thousands separated, null as "unknown", lists joined, floats short."""
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return "unknown" if math.isnan(item) else f"{item:,.4g}"
    if isinstance(item, (list, tuple)):
        return ", ".join(value(part) for part in item) or "none"
    return "unknown" if item is None else str(item)


def percentile(item: float, patients: int) -> str:
    """Return a percentile no finer than a number of calibration patients allows, rounded down: "92", "99.5"."""
    digits = min(max(math.ceil(math.log10(patients + 1)) - 2, 0), 2)
    return f"{math.floor(item * 10**digits + 1e-6) / 10**digits:.{digits}f}"


def percentile_in_words(item: float | None, patients: int) -> str:
    """Return a percentile in words: "45", "above 92" where patients cannot tell more, "–" where there is none."""
    if item is None or math.isnan(item):
        return "–"
    is_highest = item >= 100 * patients / (patients + 1) - 1e-9
    return f"{'above ' if is_highest else ''}{percentile(item, patients)}"


def plural(number: int, noun: str) -> str:
    """Return "1 image" or "1,200 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def count_line(facts: Mapping[str, Any]) -> str:
    """Return what prepare found, from its manifest: images, patients, health, what failed, and the splits."""
    counts = facts["counts"]
    health = f"{counts['healthy']:,} healthy, {counts['finding']:,} with a finding, {counts['unknown']:,} unknown"
    patients = plural(counts["patients"], "patient") if facts["by_patient"] else "unknown patients"
    odd = f"{counts['failed']:,} failed, {counts['missing']:,} missing, {counts['warned']:,} with a warning"
    splits = ", ".join(f"{name} {number:,}" for name, number in counts["splits"].items())
    return f"{plural(counts['images'], 'image')} of {patients}: {counts['ok']:,} ok ({health}), {odd}; {splits}"


def headline(metrics: Mapping[str, Any]) -> str:
    """Return evaluate's last line from the flat keys of metrics.json."""
    from mammovae.statistics.bootstrap import Estimate

    healthy, finding = metrics["n_healthy"], metrics["n_finding"]
    if metrics["auroc"] is None:
        return f"no AUROC: {healthy:,} healthy images {UNAFFECTED} and {finding:,} with a finding, and both are needed"
    row = Estimate(metrics["auroc"], metrics["auroc_low"], metrics["auroc_high"], healthy, finding)
    return f"AUROC {row.text}, {healthy:,} healthy images {UNAFFECTED} and {finding:,} with a finding"
