"""The quality score says which measures it needs, and a run or images of other measures are refused in words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from mammovae.config import InputError
from mammovae.detection.calibration import CALIBRATION
from mammovae.detection.cut_off import cut_value, widths
from mammovae.detection.quality import MEASURES, REFERENCE_MEASUREMENTS, THUMBNAIL, Quality

COMPARISONS = (
    "unlikeness",
    "better_upside_down",
    "cut_above",
    "outline_distance",
    "image_distance",
    "combination",
)


def healthy(count: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    names = [name for name in MEASURES if name not in COMPARISONS]
    images = rng.standard_normal((count, THUMBNAIL, THUMBNAIL))
    return pd.DataFrame(rng.uniform(0.1, 0.3, (count, len(names))), columns=names), images, outlines(rng, count)


def outlines(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw breasts that fill the height: narrow above, broadest at about two thirds."""
    down = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL
    place, broadest, narrowest = (rng.uniform(*span, (count, 1)) for span in ((0.6, 0.75), (14, 22), (0.2, 0.4)))
    above = narrowest + (1 - narrowest) * np.sin(0.5 * np.pi * np.clip(down / place, 0, 1))
    below = np.sqrt(1 - np.clip((down - place) / (1 - place), 0, 1) ** 2)
    widths = broadest * np.where(down < place, above, below)
    return np.clip(widths[:, :, None] - np.arange(THUMBNAIL), 0, 1)


@pytest.mark.parametrize("name", ["metal", "shaded_edge", "tissue_below"])
def test_one_measure_far_above_healthy_is_the_reason_and_far_below_is_no_fault(name: str) -> None:
    quality = Quality.fit(*healthy(40))
    measures, images, outlines = healthy(2)
    measures[name] = [3.0, -3.0]
    normal = quality.normal_scores(measures, images, outlines)
    assert normal[name].tolist()[0] > 5 and normal[name].tolist()[1] == 0
    assert name in quality.reasons(normal)[0]


def test_breasts_cut_off_above_are_distinguished_by_their_widths_alone() -> None:
    quality = Quality.fit(*healthy(60))
    measures, images, whole = healthy(50)
    rows = slice(None), slice(8, None)
    enlarged = np.repeat(np.repeat(whole[rows], 4, axis=1), 4, axis=2)[:, :, :96]  # the rest fills the height again
    cut = enlarged.reshape(50, THUMBNAIL, 3, THUMBNAIL, 3).mean(axis=(2, 4))
    normal, of_cut = (quality.normal_scores(measures, images, outline) for outline in (whole, cut))
    assert (normal["cut_above"] == 0).mean() > 0.3 and (normal["cut_above"] > 3).mean() < 0.05
    assert of_cut["cut_above"].median() > 4
    assert any("cut_above" in reason for reason in quality.reasons(of_cut))


def test_a_weighted_measure_needs_less_to_be_as_unusual() -> None:
    quality = Quality.fit(*healthy(60))
    distribution = quality._distributions["cut_above"]
    measures, images, whole = healthy(50)
    raw = distribution.to_normal_score(cut_value(widths(whole), quality.templates["cut_direction"]))
    weighted = quality.normal_scores(measures, images, whole)["cut_above"].to_numpy()
    above = raw > 0
    assert above.any()
    assert norm.sf(weighted[above]) == pytest.approx(norm.sf(raw[above]) / 8)
    assert (weighted[~above] == 0).all()


def test_images_and_runs_of_other_measures_are_refused(tmp_path: Path) -> None:
    quality = Quality.fit(*healthy(20))
    measures, images, outlines = healthy(3)
    with pytest.raises(InputError, match="nothing says metal of the images: prepare them again"):
        quality.normal_scores(measures.drop(columns="metal"), images, outlines)
    quality.save(tmp_path)
    pd.DataFrame({"quality": [1.0, 2.0]}).to_parquet(tmp_path / CALIBRATION)
    assert Quality.open(tmp_path) is not None
    pd.read_parquet(tmp_path / REFERENCE_MEASUREMENTS).assign(speck_height=0.0).to_parquet(
        tmp_path / REFERENCE_MEASUREMENTS
    )
    with pytest.raises(InputError, match="measures speck_height, as is no longer done; train again"):
        Quality.open(tmp_path)
