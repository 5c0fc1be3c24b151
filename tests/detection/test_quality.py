"""The quality score says which measures it needs, and a run or images of other measures are refused in words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammovae.config import InputError
from mammovae.detection.calibration import CALIBRATION
from mammovae.detection.quality import MEASURES, REFERENCE_MEASUREMENTS, THUMBNAIL, Quality

COMPARISONS = ("unlikeness", "better_upside_down", "outline_distance", "image_distance", "combination")


def healthy(count: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    names = [name for name in MEASURES if name not in COMPARISONS]
    pictures = rng.standard_normal((2, count, THUMBNAIL, THUMBNAIL))
    return pd.DataFrame(rng.uniform(0.1, 0.3, (count, len(names))), columns=names), *pictures


@pytest.mark.parametrize("name", ["metal", "shaded_edge", "tissue_below"])
def test_one_measure_far_above_healthy_is_the_reason_and_far_below_is_no_fault(name: str) -> None:
    quality = Quality.fit(*healthy(40))
    measures, images, outlines = healthy(2)
    measures[name] = [3.0, -3.0]
    normal = quality.normal_scores(measures, images, outlines)
    assert normal[name].tolist()[0] > 5 and normal[name].tolist()[1] == 0
    assert name in quality.reasons(normal)[0]


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
