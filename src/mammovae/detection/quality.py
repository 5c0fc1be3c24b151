"""The quality score: how far an image's exposure, sharpness, objects, lines and position are from healthy images'."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mammovae.config import InputError
from mammovae.detection.calibration import CALIBRATION, Calibration, ScoreDistribution
from mammovae.storage import atomic_write

REFERENCE_MEASUREMENTS, TEMPLATES = "quality_reference.parquet", "quality_templates.safetensors"

TEMPLATE = 32
"""Side of the squares in which a whole image is compared with the healthy ones, in pixels."""
_COMPONENTS = 12


@dataclass(frozen=True)
class Measure:
    """How a measure is read: what it means to lie above or below the healthy images, None where that is no fault.

    floor is the smallest difference that matters, in the measure's own unit: equal healthy values have no spread.
    """

    floor: float
    above: str | None
    below: str | None


_SOFT, _NOISY = "fine structure is missing: motion, or a picture made soft", "fine structure is too strong: noise"
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
    "speck_height": Measure(0.02, "a small, very bright object in the breast", None),
    "ball_height": Measure(0.02, "a small, very bright object in the breast", None),
    "device_height": Measure(0.02, "a large, very bright object in the breast", None),
    "sharpest_edge": Measure(0.02, "an edge sharper than tissue has", None),
    "plateau": Measure(0.01, "a large area of one bright grey", None),
    "print_outside": Measure(0.2, "print beside the breast", None),
    "print_inside": Measure(0.2, "print over the breast", None),
    "steep_outside": Measure(0.2, "sharp bright things beside the breast", None),
    "level_step": Measure(0.05, "a straight edge across the breast", None),
    "upright_step": Measure(0.05, "a straight edge along the breast", None),
    "dead_rows": Measure(0.002, "rows that are empty or repeat", None),
    "height": Measure(0.02, None, "only a part of the picture's height is breast"),
    "filled": Measure(0.02, _SHAPE, _SHAPE),
    "middle_down": Measure(0.01, _PLACE, _PLACE),
    "middle_across": Measure(0.01, _PLACE, _PLACE),
    "upper_to_lower": Measure(0.1, _SHAPE, _SHAPE),
    "touches_top": Measure(0.05, "the breast is cut off above", None),
    "touches_bottom": Measure(0.05, "the breast is cut off below", None),
    "touches_front": Measure(0.02, "the breast is cut off in front", None),
    "touches_wall": Measure(0.03, None, "the chest wall's edge is not where it should be"),
    "straight_above": Measure(0.05, "a straight upper edge", None),
    "straight_below": Measure(0.05, "a straight lower edge", None),
    "unlikeness": Measure(0.02, "unlike any healthy image as a whole", None),
    "better_upside_down": Measure(0.02, "more like a healthy image when turned upside down", None),
    "outline_distance": Measure(0.1, _SHAPE, None),
    "picture_distance": Measure(0.1, "unlike any healthy image as a whole", None),
    "together": Measure(0.3, "an unusual combination of exposure, sharpness and position", None),
}
"""Every measure by name; the last five compare with the healthy training images as a whole."""


class Quality:
    """Knows healthy images by their measures; higher scores = further from them, whatever the reason.

    Each measure becomes a normal score among healthy training images (detection/calibration.py: Healthy); one-sided
    measures count only on their side. The quality score is the largest of them: a fault shows in one or two measures,
    and a mean over forty would hide it.
    """

    def __init__(
        self, measures: pd.DataFrame, templates: Mapping[str, np.ndarray], calibration: np.ndarray | None = None
    ) -> None:
        """measures: those of healthy training images, compared with the templates already; see fit.

        calibration: quality scores of healthy calibration images, (n,).
        """
        self.measures, self.templates = measures, templates
        self.calibration = np.empty(0) if calibration is None else calibration
        self._healthy = {
            str(name): ScoreDistribution(measures[name].to_numpy(), MEASURES[str(name)].floor) for name in measures
        }

    @classmethod
    def fit(cls, measures: pd.DataFrame, pictures: np.ndarray, outlines: np.ndarray) -> Self:
        """Learn from healthy images: measures (n rows), pictures and outlines of small (n, 32, 32), n >= 2."""
        templates = {"mean": pictures.mean(axis=0)}
        for name, values in (("picture", pictures), ("outline", outlines)):
            flat = values.reshape(len(values), -1)
            middle = flat.mean(axis=0)
            _, sizes, axes = np.linalg.svd(flat - middle, full_matrices=False)
            count = min(_COMPONENTS, len(flat) - 1)
            templates |= {f"{name}_mean": middle, f"{name}_axes": axes[:count]}
            # A quarter of the last spread kept: an axis without any would make the least change infinite.
            spread = sizes[:count] / np.sqrt(len(flat))
            templates |= {f"{name}_spread": np.maximum(spread, 0.25 * spread[0] + 1e-9)}
            rest = np.sqrt(np.square(flat - middle).sum(axis=1).mean() - np.square(spread).sum() + 1e-9)
            templates |= {f"{name}_rest": np.array(rest)}
        table = measures.assign(**_compared(templates, pictures, outlines))
        names = [name for name in MEASURES if name in table]
        normal = np.stack(
            [ScoreDistribution(table[n].to_numpy(), MEASURES[n].floor).normal(table[n].to_numpy()) for n in names],
            axis=1,
        )
        covariance = np.cov(np.clip(normal, -4, 4), rowvar=False)
        # Half the weight on the diagonal: forty measures of some eighty images leave no more to be known.
        shrunk = 0.5 * covariance + 0.5 * np.diag(np.maximum(np.diag(covariance), 0.2)) + 0.05 * np.eye(len(names))
        templates["inverse"] = np.linalg.inv(shrunk)
        table["together"] = _together(normal, templates["inverse"])
        return cls(table[[name for name in MEASURES if name in table]], templates)

    def normal(self, measures: pd.DataFrame, pictures: np.ndarray, outlines: np.ndarray) -> pd.DataFrame:
        """Return how far each measure of images is from healthy, a column a measure, 0 where its side is no fault."""
        table = measures.reset_index(drop=True).assign(**_compared(self.templates, pictures, outlines))
        known = {name: healthy for name, healthy in self._healthy.items() if name in table}
        signed = pd.DataFrame({name: healthy.normal(table[name].to_numpy()) for name, healthy in known.items()})
        together = _together(signed.to_numpy(), self.templates["inverse"])
        signed["together"] = self._healthy["together"].normal(together)
        lowest = pd.Series({name: -np.inf if MEASURES[str(name)].below else 0.0 for name in signed})
        highest = pd.Series({name: np.inf if MEASURES[str(name)].above else 0.0 for name in signed})
        return signed.clip(lowest, highest, axis=1)

    def score(self, normal: pd.DataFrame) -> np.ndarray:
        """Return the quality score of images from their normal scores, (n,)."""
        return normal.abs().max(axis=1).to_numpy(copy=True)

    def columns(self, normal: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return quality and its place among healthy calibration images: quality_percentile (0..100), quality_p, (n,).

        quality_deviation is the percentile as a normal quantile. NaN for all three where there are no calibration
        images; quality_p is conformal, as finding_p is.
        """
        score = self.score(normal)
        calibration = Calibration({"quality": self.calibration}, ["quality"])
        scores = {"quality": score}
        return scores | {
            "quality_percentile": calibration.percentile(scores),
            "quality_p": calibration.p_value(scores),
            "quality_deviation": calibration.deviation(scores),
        }

    def reasons(self, normal: pd.DataFrame) -> list[str]:
        """Return in words which measure makes each image's score, and on which side of healthy it lies."""
        found = []
        for name, (_, row) in zip(normal.abs().idxmax(axis=1), normal.iterrows(), strict=True):
            measure, value = MEASURES[str(name)], float(row[name])
            words = measure.above if value > 0 else measure.below
            found.append(f"{words} ({name}, {abs(value):.1f} healthy deviations {'above' if value > 0 else 'below'})")
        return found

    def save(self, folder: Path) -> None:
        """Write quality_reference.parquet and quality_templates.safetensors into a RUN folder."""
        with atomic_write(folder / REFERENCE_MEASUREMENTS) as partial:
            self.measures.to_parquet(partial, index=False)
        with atomic_write(folder / TEMPLATES) as partial:
            save_file({name: np.ascontiguousarray(value) for name, value in self.templates.items()}, partial)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Open what save wrote, with the calibration of the run; None for a run that had too few images to fit one."""
        if not (folder / REFERENCE_MEASUREMENTS).is_file():
            return None
        try:
            measures, templates = pd.read_parquet(folder / REFERENCE_MEASUREMENTS), load_file(folder / TEMPLATES)
            calibration = pd.read_parquet(folder / CALIBRATION)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds a damaged quality score: {error}; train again") from error
        scores = calibration["quality"].to_numpy(np.float64) if "quality" in calibration else None
        return cls(measures, templates, scores)


def thumbnails(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squares (n, S, S) as pictures of mean 0 and deviation 1, and outlines 0 to 1, float64 (n, 32, 32)."""

    def shrunk(square: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(square.astype(np.float32))
        return np.asarray(picture.resize((TEMPLATE, TEMPLATE), Image.Resampling.BOX), np.float64)

    pictures = np.stack([shrunk(image) for image in images])
    pictures -= pictures.mean(axis=(1, 2), keepdims=True)
    pictures /= np.maximum(pictures.std(axis=(1, 2), keepdims=True), 1.0)
    return pictures, np.stack([shrunk(mask) for mask in masks])


def _compared(templates: Mapping[str, np.ndarray], pictures: np.ndarray, outlines: np.ndarray) -> dict[str, np.ndarray]:
    """Return the measures that compare whole images with the healthy ones, (n,) each."""
    mean = templates["mean"] / max(float(templates["mean"].std()), 1e-9)
    like, turned = ((pictures * other).mean(axis=(1, 2)) for other in (mean, mean[::-1]))
    found = {"unlikeness": 1 - like, "better_upside_down": turned - like}
    for name, values in (("picture", pictures), ("outline", outlines)):
        flat = values.reshape(len(values), -1) - templates[f"{name}_mean"]
        along = flat @ templates[f"{name}_axes"].T
        rest = np.maximum(np.square(flat).sum(axis=1) - np.square(along).sum(axis=1), 0)
        distance = np.square(along / templates[f"{name}_spread"]).sum(axis=1) + rest / templates[f"{name}_rest"] ** 2
        found[f"{name}_distance"] = np.log(distance + 1e-9)
    return found


def _together(normal: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the log of the squared Mahalanobis distance of normal scores, (n,); each counts up to 4."""
    clipped = np.clip(normal, -4, 4)
    return np.log(np.einsum("ni,ij,nj->n", clipped, inverse, clipped) + 1e-9)
