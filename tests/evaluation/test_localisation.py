"""Whether maps point at lesions: hits, and marks that do not depend on how heights were rounded."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from mammovae.evaluation.localisation import localisation_metrics, localise, marks
from mammovae.statistics.bootstrap import PatientBootstrap


def test_a_map_that_is_highest_in_the_lesion_points_and_one_that_is_not_does_not() -> None:
    maps, lesions = np.zeros((24, 32, 32)), np.zeros((24, 32, 32), bool)
    breasts = np.ones_like(lesions)
    lesions[:12, 8:12, 8:12] = True
    maps[:6, 10, 10], maps[6:12, 25, 25], maps[12:, 5, 5] = 3.0, 3.0, 1.0
    patients, finding = np.arange(24).astype(str), np.asarray(lesions.any(axis=(1, 2)))
    bootstrap = PatientBootstrap(patients, finding, resamples=100)
    rows = pd.DataFrame([localise(*row) for row in zip(maps, lesions, breasts, ~finding, strict=True)])
    localisation = localisation_metrics(rows.assign(blob_hit=np.nan), ~finding, bootstrap)
    assert localisation is not None
    assert localisation.pointing.value == 0.5 and localisation.pointing.n_finding == 12
    assert localisation.chance.value == pytest.approx(16 / 1024)
    assert localisation.froc[0.5].value == 0.5
    places, heights = marks(maps[0])
    assert places.tolist() == [[10, 10]] and heights.tolist() == [3.0]


def test_a_plateau_is_one_mark_in_its_middle() -> None:
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[10:21, 10:13], anomaly_map[40, 40], anomaly_map[40, 42], anomaly_map[40, 50] = 3.0, 2.0, 2.0, 1.0
    places, heights = marks(anomaly_map)
    assert places.tolist() == [[15, 11], [40, 40], [40, 50]] and heights.tolist() == [3.0, 2.0, 1.0]


def test_a_flat_map_has_one_mark_and_an_empty_one_none() -> None:
    for height in (1.0, np.inf):
        assert len(marks(np.full((32, 32), height))[1]) == 1
    assert len(marks(np.zeros((32, 32)))[1]) == 0


def test_rounding_heights_adds_no_mark() -> None:
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 5)
    for digits in (2, 3):
        assert len(marks(1 + smooth.round(digits))[1]) <= len(marks(1 + smooth)[1])
