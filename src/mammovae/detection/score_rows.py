"""The rows of scores.csv: finding, quality, flag, and the reason in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from mammovae.data.geometry import Geometry
from mammovae.data.index import other_breasts
from mammovae.detection.calibration import FusedScore, flagged
from mammovae.detection.detector import Detection
from mammovae.detection.quality import MEASURES, Quality, thumbnails
from mammovae.models.run import Run
from mammovae.report.formatting import percentile

IDENTITY = ["image_id", "source", "patient_id", "side", "view"]
COLUMNS = [*IDENTITY, "finding", "finding_percentile", "finding_p", "quality", "quality_percentile"]
COLUMNS += ["flag", "other", "reason"]
"""The first columns of scores.csv; the raw scores follow."""
REASON_DEVIATION = float(ndtri(0.95))  # from this deviation on, the 95th percentile, a row gives a reason


@dataclass(frozen=True)
class PreparedImages:
    """A batch of n prepared images and masks, (n, S, S), and what is known of each, n entries a list.

    identities hold IDENTITY and reason (a warning); measures those of data/measurements.py, empty for a run without a
    quality score; shapes the rows and columns of the sources.
    """

    images: np.ndarray
    masks: np.ndarray
    identities: Sequence[dict[str, Any]]
    measures: Sequence[Mapping[Any, float]]
    geometries: Sequence[Geometry]
    shapes: Sequence[tuple[int, int]]


class ScoreRowBuilder:
    """Builds a run's rows of scores.csv, batch by batch, and adds the bilateral scores once all rows are known.

    rate is the false-positive rate to flag at; UsageError for one that the calibration images cannot promise.
    """

    def __init__(self, run: Run, rate: float | None) -> None:
        self.finding, self.quality, self.rate = FusedScore(run), Quality.open(run.path), rate
        self.convention = run.manifest["prepared"]["stored_as"]
        self.level = run.manifest["map_scale"]  # the 99.9th percentile of healthy pixels in the fused map
        self.n_patients = self.finding.one_sided.n_patients  # of calibration
        if rate is not None:
            self.finding.one_sided.check_rate(rate)

    def rows(self, prepared: PreparedImages, detection: Detection) -> list[tuple[dict[str, Any], float]]:
        """Return each image's row and suspicion: the worse output's distance from healthy, in healthy deviations."""
        scores = detection.scores
        finding, finding_reasons = self.finding.finding_columns(scores), self.finding.reasons(scores)
        quality, quality_reasons = self._quality(prepared)
        deviations = [self.finding.one_sided.deviation(scores), *([quality["quality_deviation"]] if quality else [])]
        worst = np.nanmax(np.stack([*deviations, np.full(len(prepared.images), -np.inf)]), axis=0)
        columns = finding | {name: quality[name] for name in ("quality", "quality_percentile") if name in quality}
        rows = []
        for number, identity in enumerate(prepared.identities):
            row = dict(identity) | {name: float(values[number]) for name, values in columns.items()}
            if self.rate is not None:
                p_values = {"finding": finding["finding_p"][number]}
                p_values |= {"quality": quality["quality_p"][number]} if quality else {}
                row["flag"] = "+".join(name for name, p in p_values.items() if flagged(p, self.rate)) or None
            reasons = [identity["reason"]] if identity["reason"] else []
            if deviations[0][number] >= REASON_DEVIATION:
                place = _describe_peak(prepared.geometries[number], detection.fused_map[number], self.level)
                rank = f"finding above {percentile(row['finding_percentile'], self.n_patients)} % of healthy images"
                reasons.append(f"{rank}: {finding_reasons[number]}, {place}")
            if quality and quality["quality_deviation"][number] >= REASON_DEVIATION:
                reasons.append(f"quality: {quality_reasons[number]}")
            row["reason"] = "; ".join(reasons) or None
            row |= {name: float(values[number]) for name, values in scores.items()}
            rows.append((row, float(worst[number])))
        return rows

    def _quality(self, prepared: PreparedImages) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return Quality.columns of images and their reasons; both empty for a run without a quality score."""
        if self.quality is None:
            return {}, []
        names = [name for name in MEASURES if name in prepared.measures[0]]
        cells = np.array([[measures[name] for name in names] for measures in prepared.measures], np.float64)
        table = pd.DataFrame(cells, columns=names)
        normal_scores = self.quality.normal_scores(table, *thumbnails(prepared.images, prepared.masks))
        return self.quality.columns(normal_scores), self.quality.reasons(normal_scores)

    def add_bilateral(self, table: pd.DataFrame, folders: Sequence[int]) -> pd.DataFrame:
        """Add the columns that need the patient's other breast of the same view, for a run with bilateral scores.

        folders (n,): the number of each row's DATA folder; patients of two folders are never paired.
        """
        is_scored = table["finding"].notna().to_numpy() if "finding" in table else np.zeros(len(table), bool)
        if not self.finding.bilateral or not is_scored.any():
            return table
        scored = table.assign(folder=folders)[is_scored]
        partner = other_breasts(scored, np.ones(len(scored), bool))
        raw = {name: scored[name].to_numpy(np.float64) for name in self.finding.one_sided.names}
        for name in self.finding.bilateral:
            # Without either, it is of a member that sees both breasts at once, which single files do not give it.
            one_sided = raw.get(name.removesuffix("_bilateral"), np.full(len(partner), np.nan))
            difference = np.where(partner >= 0, one_sided - one_sided[partner], np.nan)
            raw[name] = scored[name].to_numpy(np.float64) if name in table else difference
        for name, values in self.finding.columns(raw).items():
            table.loc[is_scored, name] = values
        return table


def _describe_peak(geometry: Geometry, anomaly_map: np.ndarray, level: float) -> str:
    """Describe where a map is highest: in words from the chest wall, and in pixels of the source."""
    y, x = np.unravel_index(int(np.argmax(anomaly_map)), anomaly_map.shape)
    ratio = geometry.size / len(anomaly_map)
    across, down = (x + 0.5) * ratio, (y + 0.5) * ratio
    column, row = geometry.to_source(across - 0.5, down - 0.5)
    # Thirds of the breast, which does not fill the prepared image.
    tall = (geometry.crop_y1 - geometry.crop_y0) * geometry.scale_y
    wide = (geometry.crop_x1 - geometry.crop_x0) * geometry.scale_x
    third = ("upper", "middle", "lower")[int(np.clip(3 * (down - geometry.pad_top) / tall, 0, 2))]
    depth = ("near the chest wall", "half-way in", "towards the nipple")[int(np.clip(3 * across / wide, 0, 2))]
    place = f"x {column:.0f}, y {row:.0f}; {float(anomaly_map[y, x]) / level:.1f} times the healthy level"
    return f"map highest in the {third} third {depth} ({place})"
