"""The quality score: how far exposure, sharpness, objects, lines and position of an image are from healthy images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import log_ndtr, ndtri_exp

from mammovae.config import InputError
from mammovae.detection import cut_off
from mammovae.detection.calibration import CALIBRATION, Calibration
from mammovae.detection.score_distribution import ScoreDistribution, to_normal_scores
from mammovae.storage import atomic_write

REFERENCE_MEASUREMENTS, TEMPLATES = "quality_reference.parquet", "quality_templates.safetensors"

THUMBNAIL = 32  # side of the thumbnails in which whole images are compared, in pixels
_COMPONENTS = 12


@dataclass(frozen=True)
class Measure:
    """What it means to lie above or below the healthy images in a measure, None where that is no fault."""

    floor: float  # the smallest difference that matters, in the measure's unit: equal healthy values have no spread
    above: str | None
    below: str | None
    weight: float = 1.0
    """How many times the false alarms of other measures it may raise: more where a fault hides among healthy images."""


_SOFT, _NOISY = "fine structure is missing: motion, or a softened image", "fine structure is too strong: noise"
_SHAPE, _PLACE = "an unusual outline of the breast", "the breast lies at an unusual place"

MEASURES: Mapping[str, Measure] = {
    "against_header": Measure(0.1, "the chest wall contradicts the side in the header", None),
    "grey_low": Measure(0.01, "too bright", "too dark"),
    "grey_median": Measure(0.02, "too bright", "too dark"),
    "grey_high": Measure(0.02, "too bright", "too dark"),
    "saturated": Measure(0.01, "saturated", None),
    "air_median": Measure(0.01, "the background is not dark", None),
    "air_haze": Measure(0.03, "the background is not dark", None),
    "fine_energy": Measure(0.1, _NOISY, _SOFT),
    "fine_to_middle": Measure(0.05, _NOISY, _SOFT),
    "middle_to_coarse": Measure(0.05, _NOISY, _SOFT),
    "metal": Measure(0.02, "a thing as white and sharp as metal in the breast: a marker, clip or wire", None),
    "ball_height": Measure(0.02, "a small, very bright object in the breast", None),
    "device_height": Measure(0.02, "a large, very bright object in the breast", None),
    "sharpest_edge": Measure(0.02, "an edge sharper than tissue has", None),
    "plateau": Measure(0.01, "a large area of one bright grey", None),
    "print_outside": Measure(0.2, "print beside the breast", None),
    "print_inside": Measure(0.2, "print over the breast", None),
    "steep_outside": Measure(0.2, "sharp bright things beside the breast", None),
    "shaded_edge": Measure(0.02, "a straight edge beyond which the image is darker: a collimator", None),
    "upright_step": Measure(0.05, "a straight edge along the breast", None),
    "dead_rows": Measure(0.002, "rows that are empty or repeat", None),
    "height": Measure(0.02, None, "only a part of the image's height is breast"),
    "filled": Measure(0.02, _SHAPE, _SHAPE),
    "middle_down": Measure(0.01, _PLACE, _PLACE),
    "middle_across": Measure(0.01, _PLACE, _PLACE),
    "upper_to_lower": Measure(0.1, _SHAPE, _SHAPE),
    "touches_top": Measure(0.05, "the breast is cut off above", None),
    "tissue_below": Measure(0.02, "the breast is cut off below", None),
    "touches_front": Measure(0.02, "the breast is cut off in front", None),
    "touches_wall": Measure(0.03, None, "the chest wall's edge is not where it should be"),
    "straight_above": Measure(0.05, "a straight upper edge", None),
    "straight_below": Measure(0.05, "a straight lower edge", None),
    "unlikeness": Measure(0.02, "unlike any healthy image as a whole", None),
    "better_upside_down": Measure(0.02, "more like a healthy image when turned upside down", None),
    "cut_above": Measure(0.02, "the breast is as wide at each height as one that is cut off above", None, weight=8.0),
    "outline_distance": Measure(0.1, _SHAPE, None),
    "image_distance": Measure(0.1, "unlike any healthy image as a whole", None),
    "combination": Measure(0.3, "an unusual combination of exposure, sharpness and position", None),
}
"""Every measure by name; the last six compare with the healthy training images as a whole."""


class Quality:
    """How far images are from healthy ones by their measures, whatever the reason.

    Each measure becomes a normal score among healthy training images (ScoreDistribution); one-sided measures are 0 on
    their other side. The quality score is the largest of them: a fault shows in one or two measures, and a mean over
    forty would hide it. A measure's weight divides the share of healthy images beyond a value: Genovese, Roeder &
    Wasserman, "False discovery control with p-value weighting" (Biometrika 93:509, 2006).

    measures are those of healthy training images, comparisons with the templates included; calibration that of the
    score quality.
    """

    def __init__(
        self, measures: pd.DataFrame, templates: Mapping[str, np.ndarray], calibration: Calibration | None = None
    ) -> None:
        self.measures, self.templates = measures, templates
        self.calibration = calibration or Calibration({}, ["quality"])
        self._distributions = _fit_distributions(measures)

    @classmethod
    def fit(cls, measures: pd.DataFrame, images: np.ndarray, outlines: np.ndarray) -> Self:
        """Learn from healthy images: measures (n rows), thumbnails and outlines (n, 32, 32), n >= 2."""
        templates = {"mean": images.mean(axis=0)}
        for name, values in (("image", images), ("outline", outlines)):
            flat = values.reshape(len(values), -1)
            centre = flat.mean(axis=0)
            _, sizes, axes = np.linalg.svd(flat - centre, full_matrices=False)
            count = min(_COMPONENTS, len(flat) - 1)
            spread = sizes[:count] / np.sqrt(len(flat))
            rest = np.sqrt(np.square(flat - centre).sum(axis=1).mean() - np.square(spread).sum() + 1e-9)
            # At least a quarter of the largest spread: an axis without any would make the least change infinite.
            floored = np.maximum(spread, 0.25 * spread[0] + 1e-9)
            parts = {"mean": centre, "axes": axes[:count], "spread": floored, "rest": np.array(rest)}
            templates |= {f"{name}_{part}": value for part, value in parts.items()}
        templates["cut_direction"], uncut = cut_off.learn_cuts(cut_off.widths(outlines))
        compared = _comparisons(templates, images, outlines) | {"cut_above": uncut}
        table = measures.assign(**compared).filter(list(MEASURES))
        normal_scores = _to_normal_scores(_fit_distributions(table), _columns(table))
        covariance = np.cov(np.clip(normal_scores, -4, 4), rowvar=False)
        # Half the weight on the diagonal: some eighty images determine no more of forty measures.
        diagonal = np.diag(np.maximum(np.diag(covariance), 0.2))
        shrunk = 0.5 * covariance + 0.5 * diagonal + 0.05 * np.eye(len(diagonal))
        templates["inverse"] = np.linalg.inv(shrunk)
        table = table.assign(combination=_combination(normal_scores, templates["inverse"]))
        return cls(table, templates)

    def normal_scores(self, measures: pd.DataFrame, images: np.ndarray, outlines: np.ndarray) -> pd.DataFrame:
        """Return how far each measure of images is from healthy, a column a measure, 0 where its side is no fault.

        Raises InputError when a measure of the healthy images is not among these.
        """
        values = _columns(measures) | _comparisons(self.templates, images, outlines)
        if lacking := [name for name in self._distributions if name not in values and name != "combination"]:
            raise InputError(
                f"nothing says {lacking[0]} of the images: prepare them again, as the run was trained on it"
            )
        *fitted, combined = self._distributions.items()
        signed = _to_normal_scores(dict(fitted), values)
        combination = _combination(signed, self.templates["inverse"])
        signed = np.column_stack([signed, combined[1].to_normal_score(combination)])
        for column, name in enumerate(self._distributions):
            if (weight := MEASURES[name].weight) != 1:
                above = np.maximum(signed[:, column], 0)
                signed[:, column] = np.where(above > 0, -ndtri_exp(log_ndtr(-above) - np.log(weight)), 0)
        lowest = [-np.inf if MEASURES[name].below else 0.0 for name in self._distributions]
        highest = [np.inf if MEASURES[name].above else 0.0 for name in self._distributions]
        return pd.DataFrame(np.clip(signed, lowest, highest), columns=list(self._distributions))

    def score(self, normal_scores: pd.DataFrame) -> np.ndarray:
        """Return the quality score of images, (n,)."""
        return np.abs(normal_scores.to_numpy()).max(axis=1)

    def columns(self, normal_scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return quality, and quality_percentile (0..100), quality_p and quality_deviation as Calibration does."""
        scores = {"quality": self.score(normal_scores)}
        columns = self.calibration.columns("quality", scores)
        return columns | {"quality_deviation": self.calibration.deviation(scores)}

    def reasons(self, normal_scores: pd.DataFrame) -> list[str]:
        """Return in words which measure gives each image's score, and on which side of healthy it lies."""
        reasons = []
        names, values = list(normal_scores), normal_scores.to_numpy()
        for row, column in enumerate(np.abs(values).argmax(axis=1)):
            name, value = names[column], float(values[row, column])
            measure = MEASURES[str(name)]
            meaning, side = (measure.above, "above") if value > 0 else (measure.below, "below")
            reasons.append(f"{meaning} ({name}, {abs(value):.1f} healthy deviations {side})")
        return reasons

    def save(self, folder: Path) -> None:
        """Write quality_reference.parquet and quality_templates.safetensors into a RUN folder."""
        with atomic_write(folder / REFERENCE_MEASUREMENTS) as partial:
            self.measures.to_parquet(partial, index=False)
        with atomic_write(folder / TEMPLATES) as partial:
            save_file({name: np.ascontiguousarray(value) for name, value in self.templates.items()}, partial)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Open the quality score of a RUN folder; None for a run that had too few images to fit one."""
        if not (folder / REFERENCE_MEASUREMENTS).is_file():
            return None
        try:
            measures, templates = pd.read_parquet(folder / REFERENCE_MEASUREMENTS), load_file(folder / TEMPLATES)
            calibration = pd.read_parquet(folder / CALIBRATION)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds a damaged quality score: {error}; train again") from error
        if unknown := [name for name in measures if name not in MEASURES]:
            raise InputError(
                f"{folder} holds a quality score that measures {unknown[0]}, as is no longer done; train again"
            )
        if "cut_direction" not in templates:
            raise InputError(f"{folder} holds a quality score that does not know cut-off breasts; train again")
        return cls(measures, templates, Calibration(calibration, ["quality"]))


def thumbnails(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return thumbnails of mean 0 and deviation 1, and outlines 0 to 1, float64 (n, 32, 32), of prepared images."""

    def shrink(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels.astype(np.float32))
        return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float64)

    small = np.stack([shrink(image) for image in images])
    small -= small.mean(axis=(1, 2), keepdims=True)
    small /= np.maximum(small.std(axis=(1, 2), keepdims=True), 1.0)
    return small, np.stack([shrink(mask) for mask in masks])


def _fit_distributions(table: pd.DataFrame) -> dict[str, ScoreDistribution]:
    return {str(name): ScoreDistribution(table[name].to_numpy(), MEASURES[str(name)].floor) for name in table}


def _columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return dict(zip(map(str, table), table.to_numpy(np.float64).T, strict=True))


def _to_normal_scores(distributions: Mapping[str, ScoreDistribution], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return values as normal scores, (n, number of distributions)."""
    return to_normal_scores(list(distributions.values()), np.stack([values[name] for name in distributions], axis=1))


def _comparisons(
    templates: Mapping[str, np.ndarray], images: np.ndarray, outlines: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the measures that compare whole images with the healthy ones, (n,) each."""
    mean = templates["mean"] / max(float(templates["mean"].std()), 1e-9)
    upright, turned = ((images * template).mean(axis=(1, 2)) for template in (mean, mean[::-1]))
    measures = {"unlikeness": 1 - upright, "better_upside_down": turned - upright}
    measures["cut_above"] = cut_off.cut_value(cut_off.widths(outlines), templates["cut_direction"])
    for name, values in (("image", images), ("outline", outlines)):
        flat = values.reshape(len(values), -1) - templates[f"{name}_mean"]
        along = flat @ templates[f"{name}_axes"].T
        rest = np.maximum(np.square(flat).sum(axis=1) - np.square(along).sum(axis=1), 0)
        distance = np.square(along / templates[f"{name}_spread"]).sum(axis=1) + rest / templates[f"{name}_rest"] ** 2
        measures[f"{name}_distance"] = np.log(distance + 1e-9)
    return measures


def _combination(normal_scores: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the log of the squared Mahalanobis distance of normal scores, clipped to +-4, (n,)."""
    clipped = np.clip(normal_scores, -4, 4)
    return np.log(np.einsum("ni,ij,nj->n", clipped, inverse, clipped) + 1e-9)
