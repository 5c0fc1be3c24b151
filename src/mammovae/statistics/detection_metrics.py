"""What an evaluation says of a table of scores: headline, baselines, categories, densities, and metrics.json's keys."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mammovae.statistics.bootstrap import (
    RESAMPLES,
    Bools,
    Estimate,
    Floats,
    PatientBootstrap,
    RocCurve,
    check_finite,
    flatten_estimates,
    spearman,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class DetectionMetrics:
    """All that an evaluation says of one table of scores; the first score is the headline.

    Every figure is read against the healthy images of patients without any finding. affected holds the same scores
    against healthy images whose patient has a finding elsewhere, mostly in the other breast: a score that compares the
    two breasts pushes exactly those down, so it may claim nothing there.
    """

    scores: tuple[Estimate, ...]
    baselines: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    """Headline minus each baseline, in the same resamples."""
    affected: Mapping[str, Estimate]
    """The second arm by name of score or baseline; empty where no healthy image has an affected patient."""
    average_precision: Estimate
    tables: Mapping[str, tuple[Estimate, ...]]
    """The headline by "category", "severity" and "size" (against the healthy images of unaffected patients), and within
    "density" and "vendor"."""
    affected_tables: Mapping[str, tuple[Estimate, ...]]
    """The first three of them in the second arm."""
    curve: RocCurve | None
    baseline_curves: tuple[RocCurve, ...]
    correlations: Mapping[str, float | None]
    """Spearman correlation of the headline with each baseline (by name) and "density", among healthy images."""
    groups: Mapping[str, Floats]
    """The headline's values by group: healthy (both arms), finding, then each category."""
    n_unknown: int
    n_patients: int
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
        for row in (*self.scores, *self.baselines):
            if row.name in self.affected:
                whose = "auroc" if row is self.headline else f"{row.kind}_{row.name}_auroc"
                rows[f"{whose}_affected"] = self.affected[row.name]
        for heading, table in self.tables.items():
            within = "" if heading == "category" else f"{heading}_"
            rows |= {f"auroc_{within}{row.name}": row for row in table}
            second = self.affected_tables.get(heading, ())
            rows |= {f"auroc_{within}{row.name}_affected": row for row in second}
        rows |= {f"auroc_minus_{row.name}": row for row in self.differences}
        second = self.affected.get(self.headline.name)
        counts = {
            "n_healthy": self.headline.n_healthy,
            "n_healthy_affected": second.n_healthy if second else 0,
            "n_finding": self.headline.n_finding,
            "n_unknown": self.n_unknown,
            "n_patients": self.n_patients,
        }
        return counts | flatten_estimates(rows) | {f"spearman_{name}": rho for name, rho in self.correlations.items()}


@dataclass(frozen=True)
class Arms:
    """A table's images of known health as masks (N,): finding; healthy of unaffected patients; healthy of affected."""

    finding: Bools
    unaffected: Bools
    affected: Bools

    @classmethod
    def of(cls, rows: "DataFrame") -> Self:
        """Part images of known health by whether their patient has a finding anywhere.

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
    def main(self) -> Bools:
        """The images of the main figure."""
        return self.finding | self.unaffected

    @property
    def second(self) -> Bools:
        """The images of the second arm."""
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
    """Judge scores (column: label; the first is the headline) and trivial baselines against the table's health.

    table: a row an image with patient_id, healthy (true, false, null: in neither arm, but counted), a column for each
    score (higher = further from healthy), and where known patient_affected (whether any image of the patient has a
    finding), categories and severity (lists of names), size_mm, density and vendor. strata names a column, such as the
    fold. A NaN in a score is refused with its column: leave out failed images first.
    """
    known = table["healthy"].notna().to_numpy()
    rows = table[known]
    arms, baselines = Arms.of(rows), baselines or {}
    finding = arms.finding
    columns = {name: check_finite(rows[name], name) for name in [*scores, *baselines]}
    patients = np.array([str(patient) for patient in rows["patient_id"]], dtype=object).astype(str)
    bootstrap = PatientBootstrap(patients, finding, rows[strata].tolist() if strata else None, resamples, seed)
    first = next(iter(scores))
    main = columns[first]
    named = {name: (label, "score") for name, label in scores.items()}
    named |= {name: (label, "baseline") for name, label in baselines.items()}
    both = finding.any() and arms.unaffected.any()
    densities = _texts(rows, "density")
    letters = np.array([ord(letter) if letter else 0 for letter in densities], float)
    graded = arms.unaffected & (letters > 0)
    held = _held(rows, "categories")
    groups = {"healthy": main[arms.unaffected], "healthy, patient affected": main[arms.affected]}
    return DetectionMetrics(
        scores=_rows(bootstrap, columns, scores, "score", arms.main),
        baselines=_rows(bootstrap, columns, baselines, "baseline", arms.main),
        differences=tuple(
            bootstrap.difference(main, columns[name], arms.main).named(name, label, "difference")
            for name, label in baselines.items()
        ),
        affected={
            name: bootstrap.auroc(columns[name], arms.second).named(name, *about) for name, about in named.items()
        }
        if arms.affected.any()
        else {},
        average_precision=bootstrap.average_precision(main, arms.main),
        tables=_of_findings(bootstrap, main, rows, arms.finding, arms.unaffected)
        | _within(bootstrap, main, rows, arms.main),
        affected_tables=_of_findings(bootstrap, main, rows, arms.finding, arms.affected) if arms.affected.any() else {},
        curve=_curve(bootstrap, main, first, scores[first], "score", arms.main) if both else None,
        baseline_curves=tuple(
            _curve(bootstrap, columns[name], name, label, "baseline", arms.main)
            for name, label in (baselines if both else {}).items()
        ),
        correlations={name: spearman(main[arms.unaffected], columns[name][arms.unaffected]) for name in baselines}
        | ({"density": spearman(main[graded], letters[graded])} if graded.any() else {}),
        groups={name: values for name, values in groups.items() if name == "healthy" or values.size}
        | {"finding": main[finding]}
        | {name: main[mask & finding] for name, mask in held.items() if (mask & finding).any()},
        n_unknown=int((~known).sum()),
        n_patients=len(set(patients)),
        resamples=resamples,
    )


def _of_findings(
    bootstrap: PatientBootstrap, main: Floats, rows: "DataFrame", finding: Bools, healthy: Bools
) -> dict[str, tuple[Estimate, ...]]:
    """Return the headline for the findings of each category, severity and size, against the same healthy images."""
    size = rows["size_mm"].to_numpy(float) if "size_mm" in rows else np.full(len(rows), np.nan)
    parts = {
        "category": _held(rows, "categories"),
        "severity": {_SEVERITY.get(name, name): mask for name, mask in _held(rows, "severity").items()},
        "size": {label: (size > low) & (size <= high) for low, high, label in SIZES_MM},
    }
    tables = {
        heading: tuple(
            bootstrap.auroc(main, (mask & finding) | healthy).named(metric_key(name), name, heading)
            for name, mask in part.items()
            if (mask & finding).any()
        )
        for heading, part in parts.items()
    }
    return {heading: table for heading, table in tables.items() if table}


def _within(
    bootstrap: PatientBootstrap, main: Floats, rows: "DataFrame", keep: Bools
) -> dict[str, tuple[Estimate, ...]]:
    """Return the headline within each density and each vendor; a single vendor is no table."""
    tables = {
        heading: tuple(
            bootstrap.auroc(main, (texts == text) & keep).named(metric_key(text), text, heading)
            for text in sorted({*texts} - {""})
        )
        for heading in ("density", "vendor")
        if (texts := _texts(rows, heading)).any()
    }
    return {heading: table for heading, table in tables.items() if not (heading == "vendor" and len(table) == 1)}


def _held(rows: "DataFrame", column: str) -> dict[str, Bools]:
    """Return for each name in a column of lists which images hold it."""
    cells = [_names(value) for value in rows[column]] if column in rows else []
    return {name: np.array([name in cell for cell in cells]) for name in sorted(set().union(*cells))}


def _texts(rows: "DataFrame", column: str) -> "NDArray[Any]":
    return rows[column].fillna("").astype(str).to_numpy() if column in rows else np.full(len(rows), "")


def metric_key(name: str) -> str:
    """Return a name as a key of metrics.json: "Suspicious Calcification" -> "suspicious_calcification"."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _rows(
    bootstrap: PatientBootstrap, columns: Mapping[str, Floats], labels: Mapping[str, str], kind: str, keep: Bools
) -> tuple[Estimate, ...]:
    return tuple(bootstrap.auroc(columns[name], keep).named(name, label, kind) for name, label in labels.items())


def _curve(bootstrap: PatientBootstrap, values: Floats, name: str, label: str, kind: str, keep: Bools) -> RocCurve:
    curve = bootstrap.roc(values, keep)
    return replace(curve, estimate=curve.estimate.named(name, label, kind))


def _names(value: Any) -> Collection[str]:
    """Return the categories of one image; a missing cell is none, and an array (as parquet gives) is a list."""
    return [] if value is None or isinstance(value, float) else [str(name) for name in value]
