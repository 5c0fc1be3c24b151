"""What a run says of scored images, a row each: finding, quality, flag, and the reason in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammovae.data.geometry import Geometry
from mammovae.data.index import other_breasts
from mammovae.detection.calibration import flagged
from mammovae.detection.fusion import FusedScore
from mammovae.detection.quality import MEASURES, Quality, thumbnails
from mammovae.models.run import Run

IDENTITY = ["image_id", "source", "patient_id", "side", "view"]
COLUMNS = [
    *IDENTITY,
    *("finding", "finding_percentile", "finding_p", "quality", "quality_percentile"),
    *("flag", "other", "reason"),
]
"""The first columns of scores.csv; the raw scores follow."""
REMARKABLE = 95.0
"""From this percentile on, the table says why."""


@dataclass(frozen=True)
class PreparedImages:
    """n prepared images of one batch: squares and masks (n, S, S), and what is known of each, n entries a list.

    identities hold IDENTITY and reason (a remark); measures those of data/quality.py, empty for a run without a quality
    score.
    """

    images: np.ndarray
    masks: np.ndarray
    identities: Sequence[dict[str, Any]]
    measures: Sequence[Mapping[Any, float]]
    geometries: Sequence[Geometry]


class ScoreRowBuilder:
    """A run's verdicts: of images one after the other, and of a patient's two breasts once all are known."""

    def __init__(self, run: Run, rate: float | None) -> None:
        """rate: the false-positive rate to flag at; UsageError for one that the calibration images cannot promise."""
        self.verdict, self.quality, self.rate = FusedScore(run), Quality.open(run.path), rate
        self.convention = run.manifest["prepared"]["stored_as"]
        self.level = run.manifest["map_scale"]
        """What one pixel in a thousand of a healthy map exceeds."""
        if rate is not None:
            self.verdict.check_rate(rate)

    def rows(
        self, squares: PreparedImages, scores: Mapping[str, np.ndarray], maps: np.ndarray
    ) -> list[tuple[dict[str, Any], float]]:
        """Return of each image its row of scores.csv and how suspicious it is, for scores (n,) and maps (n, s, s).

        Suspicion is how far an image is from healthy in the worse of the two outputs, in healthy deviations.
        """
        said, why = self.verdict.alone(scores), self.verdict.why(scores)
        quality, blame = self._quality(squares)
        deviations = [self.verdict.one_sided.deviation(scores), *(quality[n] for n in quality if "deviation" in n)]
        worst = np.nanmax(np.stack([*deviations, np.full(len(maps), -np.inf)]), axis=0)
        shown = said | {name: quality[name] for name in ("quality", "quality_percentile") if name in quality}
        found = []
        for number, identity in enumerate(squares.identities):
            row = dict(identity) | {name: float(values[number]) for name, values in shown.items()}
            if self.rate is not None:
                bounds = {"finding": said["finding_p"][number]}
                bounds |= {"quality": quality["quality_p"][number]} if quality else {}
                row["flag"] = "+".join(name for name, p in bounds.items() if flagged(p, self.rate)) or None
            reasons = [identity["reason"]] if identity["reason"] else []
            if row["finding_percentile"] >= REMARKABLE:
                above = f"finding above {row['finding_percentile']:.1f} % of healthy images"
                where = _where(squares.geometries[number], maps[number], self.level)
                reasons.append(f"{above}: {why[number]}, {where}")
            if row.get("quality_percentile", 0) >= REMARKABLE:
                reasons.append(f"quality: {blame[number]}")
            row["reason"] = "; ".join(reasons) or None
            row |= {name: float(values[number]) for name, values in scores.items()}
            found.append((row, float(worst[number])))
        return found

    def _quality(self, squares: PreparedImages) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return Quality.columns of images and the measure behind each; nothing for a run without a quality score."""
        if self.quality is None:
            return {}, []
        table = pd.DataFrame(squares.measures)
        table = table[[name for name in MEASURES if name in table]].astype(np.float64)
        normal = self.quality.normal(table, *thumbnails(squares.images, squares.masks))
        return self.quality.columns(normal), self.quality.reasons(normal)

    def paired(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add what needs the patient's other breast of the same view, for a run with bilateral scores."""
        needed = self.verdict.bilateral
        known = table["finding"].notna().to_numpy() if "finding" in table else np.zeros(len(table), bool)
        if not needed or not known.any():
            return table
        there = table[known]
        partner = other_breasts(there, np.ones(len(there), bool))
        raw = {name: table.loc[known, name].to_numpy(np.float64) for name in self.verdict.one_sided.names}
        for name in needed:
            one = name.removesuffix("_bilateral")
            if name in table:
                raw[name] = table.loc[known, name].to_numpy(np.float64)
            elif one in raw:
                raw[name] = np.where(partner >= 0, raw[one] - raw[one][partner], np.nan)
            else:  # a member that sees both breasts at once, which files alone do not give it
                raw[name] = np.full(len(partner), np.nan)
        for name, values in self.verdict.columns(raw).items():
            table.loc[known, name] = values
        return table


def _where(geometry: Geometry, map: np.ndarray, level: float) -> str:
    """Say where a map is highest: in words from the chest wall, and in pixels of the source."""
    y, x = np.unravel_index(int(np.argmax(map)), map.shape)
    ratio = geometry.size / len(map)
    across, down = (x + 0.5) * ratio, (y + 0.5) * ratio
    column, row = geometry.to_source(across - 0.5, down - 0.5)
    # Thirds of the breast, which does not fill the square.
    tall = (geometry.crop_y1 - geometry.crop_y0) * geometry.scale_y
    wide = (geometry.crop_x1 - geometry.crop_x0) * geometry.scale_x
    third = ("upper", "middle", "lower")[int(np.clip(3 * (down - geometry.pad_top) / tall, 0, 2))]
    depth = ("near the chest wall", "half-way in", "towards the nipple")[int(np.clip(3 * across / wide, 0, 2))]
    height = float(map[y, x]) / level
    place = f"x {column:.0f}, y {row:.0f}; {height:.1f} times the healthy level"
    return f"map highest in the {third} third {depth} ({place})"
