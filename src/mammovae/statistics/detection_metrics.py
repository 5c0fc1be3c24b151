"""The detection metrics of a table of scores: headline, baselines, categories, densities, and keys of metrics.json."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mammovae.statistics import Bools, Floats, bootstrap
from mammovae.statistics.bootstrap import RESAMPLES, Estimate, PatientBootstrap, RocCurve

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class DetectionMetrics:
    """The detection metrics of one table of scores; the first score is the headline.

    Findings are compared with the healthy images of patients without any finding; in affected, with affected-patient
    controls: healthy images whose patient has a finding elsewhere, mostly in the other breast. A score that compares
    the two breasts lowers exactly those, so a good result there means nothing.
    """

    scores: tuple[Estimate, ...]
    baselines: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    """Headline minus each baseline, in the same resamples."""
    affected: Mapping[str, Estimate]
    """AUROC against affected-patient controls, by name of score or baseline; empty where there are no such controls."""
    average_precision: Estimate
    tables: Mapping[str, tuple[Estimate, ...]]
    """The headline by "category", "severity" and "size" (each against the same healthy images), and within "density"
    and "vendor"."""
    affected_tables: Mapping[str, tuple[Estimate, ...]]
    """The first three of them against affected-patient controls."""
    curve: RocCurve | None
    baseline_curves: tuple[RocCurve, ...]
    correlations: Mapping[str, float | None]
    """Spearman correlation of the headline with each baseline (by name) and "density", among healthy images."""
    groups: Mapping[str, Floats]
    """The headline's values by group: healthy (of unaffected, of affected patients), finding, then each category."""
    n_unknown: int
    n_patients: int
    """Patients behind the headline."""
    resamples: int

    @property
    def headline(self) -> Estimate:
        """The first score's AUROC."""
        return self.scores[0]

    def metrics(self) -> dict[str, float | int | None]:
        """Return the flat keys of metrics.json: auroc, auroc_low, auroc_affected, auroc_mass, ..."""
        rows = {"auroc": self.headline, "average_precision": self.average_precision}
        rows |= {f"score_{row.name}_auroc": row for row in self.scores[1:]}
        rows |= {f"baseline_{row.name}_auroc": row for row in self.baselines}
        for row in (row for row in (*self.scores, *self.baselines) if row.name in self.affected):
            key = "auroc" if row is self.headline else f"{row.kind}_{row.name}_auroc"
            rows[f"{key}_affected"] = self.affected[row.name]
        for heading, table in self.tables.items():
            prefix = "auroc_" if heading == "category" else f"auroc_{heading}_"
            rows |= {f"{prefix}{row.name}": row for row in table}
            rows |= {f"{prefix}{row.name}_affected": row for row in self.affected_tables.get(heading, ())}
        rows |= {f"auroc_minus_{row.name}": row for row in self.differences}
        controls = self.affected.get(self.headline.name)
        counts = {
            "n_healthy": self.headline.n_healthy,
            "n_healthy_affected": controls.n_healthy if controls else 0,
            "n_finding": self.headline.n_finding,
            "n_unknown": self.n_unknown,
            "n_patients": self.n_patients,
        }
        correlations = {f"spearman_{name}": rho for name, rho in self.correlations.items()}
        return counts | bootstrap.flatten_estimates(rows) | correlations


@dataclass(frozen=True)
class Arms:
    """A table's images of known health as masks (N,): finding; healthy of unaffected patients; healthy of affected."""

    finding: Bools
    unaffected: Bools
    affected: Bools

    @classmethod
    def of(cls, rows: "DataFrame") -> Self:
        """Group images of known health by whether their patient has a finding anywhere.

        The column patient_affected says so of the whole data set, of which rows may be one side or view; without it a
        patient is affected who has a finding among the rows.
        """
        finding = np.array([not healthy for healthy in rows["healthy"]], bool)
        patients = rows["patient_id"].astype(str).to_numpy(str)
        affected = np.isin(patients, patients[finding])
        if "patient_affected" in rows:
            affected |= rows["patient_affected"].to_numpy(bool)
        return cls(finding, ~(affected | finding), affected & ~finding)

    @property
    def with_unaffected(self) -> Bools:
        """The images behind the main AUROC: findings, and healthy images of unaffected patients."""
        return self.finding | self.unaffected

    @property
    def with_affected(self) -> Bools:
        """Findings and affected-patient controls."""
        return self.finding | self.affected


SIZES_MM = ((0.0, 10.0, "up to 10 mm"), (10.0, 20.0, "10 to 20 mm"), (20.0, np.inf, "above 20 mm"))
_SEVERITY = {"B": "benign", "M": "malignant"}


def detection_metrics(
    table: "DataFrame",
    scores: Mapping[str, str],
    baselines: Mapping[str, str] | None = None,
    strata: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DetectionMetrics:
    """Measure how well scores and trivial baselines separate findings from healthy images.

    table: a row an image: patient_id, healthy (null is counted and no more), a column for each score (higher = further
    from healthy; InputError for NaN: leave out failed images first), and where known patient_affected (whether any
    image of the patient has a finding), categories and severity (lists of names), size_mm, density and vendor. scores,
    baselines: column -> label; the first score is the headline. strata: a column, such as the fold, within which
    patients are resampled.
    """
    known = table["healthy"].notna().to_numpy()
    rows, baselines = table[known], baselines or {}
    arms, labels = Arms.of(rows), {**scores, **baselines}
    patients = rows["patient_id"].astype(str).to_numpy(str)
    resampled = PatientBootstrap(patients, arms.finding, rows[strata].tolist() if strata else None, resamples, seed)
    values = {name: bootstrap.check_finite(rows[name], name) for name in labels}
    headline, main = values[next(iter(scores))], arms.with_unaffected

    def named(name: str, estimate: Estimate) -> Estimate:
        return estimate.named(name, labels[name], "score" if name in scores else "baseline")

    def aurocs(names: Iterable[str], keep: Bools) -> tuple[Estimate, ...]:
        return tuple(named(name, resampled.auroc(values[name], keep)) for name in names)

    def by_part(parts: Mapping[str, Mapping[str, Bools]]) -> dict[str, tuple[Estimate, ...]]:
        return {heading: _aurocs_of(resampled, headline, masks, heading) for heading, masks in parts.items() if masks}

    curves: list[RocCurve] = []
    if arms.finding.any() and arms.unaffected.any():
        rocs = {name: resampled.roc(values[name], main) for name in [*list(scores)[:1], *baselines]}
        curves = [replace(roc, estimate=named(name, roc.estimate)) for name, roc in rocs.items()]
    has_controls = arms.affected.any()
    return DetectionMetrics(
        scores=aurocs(scores, main),
        baselines=aurocs(baselines, main),
        differences=tuple(
            resampled.difference(headline, values[name], main).named(name, label, "difference")
            for name, label in baselines.items()
        ),
        affected={row.name: row for row in aurocs(values, arms.with_affected)} if has_controls else {},
        average_precision=resampled.average_precision(headline, main),
        tables=by_part(_parts_of_findings(rows, arms.finding, arms.unaffected) | _parts_within(rows, main)),
        affected_tables=by_part(_parts_of_findings(rows, arms.finding, arms.affected)) if has_controls else {},
        curve=curves[0] if curves else None,
        baseline_curves=tuple(curves[1:]),
        correlations=_correlations(headline, {name: values[name] for name in baselines}, rows, arms.unaffected),
        groups=_groups(headline, rows, arms),
        n_unknown=int((~known).sum()),
        n_patients=len(set(patients[main])),
        resamples=resamples,
    )


def _aurocs_of(
    resampled: PatientBootstrap, headline: Floats, masks: Mapping[str, Bools], heading: str
) -> tuple[Estimate, ...]:
    return tuple(resampled.auroc(headline, mask).named(metric_key(name), name, heading) for name, mask in masks.items())


def _parts_of_findings(rows: "DataFrame", finding: Bools, healthy: Bools) -> dict[str, dict[str, Bools]]:
    """Return the findings of each category, severity and size, together with the same healthy images."""
    size = rows["size_mm"].to_numpy(float) if "size_mm" in rows else np.full(len(rows), np.nan)
    parts = {
        "category": _masks_by_name(rows, "categories"),
        "severity": {_SEVERITY.get(name, name): mask for name, mask in _masks_by_name(rows, "severity").items()},
        "size": {label: (size > low) & (size <= high) for low, high, label in SIZES_MM},
    }
    return {
        heading: {name: (mask & finding) | healthy for name, mask in masks.items() if (mask & finding).any()}
        for heading, masks in parts.items()
    }


def _parts_within(rows: "DataFrame", keep: Bools) -> dict[str, dict[str, Bools]]:
    """Return the images of each density and of each vendor; a single vendor is no part."""
    parts = {}
    for heading in ("density", "vendor"):
        column = _texts(rows, heading)
        parts[heading] = {text: (column == text) & keep for text in sorted({*column} - {""})}
    return parts | ({"vendor": {}} if len(parts["vendor"]) == 1 else {})


def _correlations(
    headline: Floats, baselines: Mapping[str, Floats], rows: "DataFrame", healthy: Bools
) -> dict[str, float | None]:
    """Return the headline's rank correlation with each baseline and with density, among unaffected healthy images."""
    rho = {name: bootstrap.spearman(headline[healthy], values[healthy]) for name, values in baselines.items()}
    grades = np.array([ord(letter) if letter else 0 for letter in _texts(rows, "density")], float)
    graded = healthy & (grades > 0)
    return rho | ({"density": bootstrap.spearman(headline[graded], grades[graded])} if graded.any() else {})


def _groups(headline: Floats, rows: "DataFrame", arms: Arms) -> dict[str, Floats]:
    masks = {"healthy": arms.unaffected, "healthy, patient affected": arms.affected, "finding": arms.finding}
    masks |= {name: mask & arms.finding for name, mask in _masks_by_name(rows, "categories").items()}
    return {name: headline[mask] for name, mask in masks.items() if mask.any() or name in ("healthy", "finding")}


def _masks_by_name(rows: "DataFrame", column: str) -> dict[str, Bools]:
    """Return for each name in a column of lists which images hold it; a missing cell is an empty list."""
    holders: dict[str, list[int]] = {}
    for number, cell in enumerate(rows.get(column, [])):
        for name in () if cell is None or isinstance(cell, float) else cell:
            holders.setdefault(str(name), []).append(number)
    masks = {name: np.zeros(len(rows), bool) for name in sorted(holders)}
    for name, mask in masks.items():
        mask[holders[name]] = True
    return masks


def _texts(rows: "DataFrame", column: str) -> "NDArray[Any]":
    return rows[column].fillna("").astype(str).to_numpy() if column in rows else np.full(len(rows), "")


def metric_key(name: str) -> str:
    """Return a name as a key of metrics.json: "Suspicious Calcification" -> "suspicious_calcification"."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
