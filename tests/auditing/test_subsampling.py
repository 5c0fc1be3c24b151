"""The subsamples: a generator as good as real is measured like real, however many images each patient has."""

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from mammovae.auditing import image_set, subsampling
from mammovae.auditing.anatomical_measures import ANATOMY
from mammovae.auditing.audit_result import BLURRED, REAL_REFERENCE, AuditResult
from mammovae.auditing.image_set import FoldImages, ImageSet, MeasuredSet, Measures, sample_groups
from mammovae.auditing.radiomics import FEATURES
from mammovae.auditing.subsampling import audit_sets
from mammovae.config import InputError
from mammovae.data.dataset import Data

IMAGES = 3
"""Images of each patient."""


def measures(
    names: str, patients: int, rng: np.random.Generator, images: int = IMAGES, shared: float = 0.7
) -> Measures:
    """Measures of images, all of one distribution; those of a patient have a share of their variance in common."""
    groups = np.repeat([f"{names}{number}" for number in range(patients)], images)
    features, spectra, anatomy, coarse, latents = (
        np.sqrt(shared) * np.repeat(rng.normal(size=(patients, width)), images, axis=0)
        + np.sqrt(1 - shared) * rng.normal(size=(patients * images, width))
        for width in (len(FEATURES), 24, len(ANATOMY), 6, 8)
    )
    # About the values of real images, so that a share of them is defined.
    return Measures(groups, features, spectra, 0.5 + 0.05 * anatomy, coarse.astype(np.float32), latents)


def as_set(one: Measures) -> ImageSet:
    rows = np.arange(len(one.groups))
    return ImageSet(cast(Data, None), rows, 64, one.groups, one.coarse, [(b"", b"")] * len(rows), rows)


def fold(held: Measures, train: Measures, made: Measures, blurred: Measures | None = None) -> FoldImages:
    real, generated = (MeasuredSet(**vars(as_set(one)), measures=one) for one in (held, made))
    return FoldImages(real, as_set(train), {"made": generated}, blurred or held)


def simulated(seed: int, **origins: int) -> FoldImages:
    rng = np.random.default_rng(seed)
    held, train = measures("held", 80, rng), measures("train", 160, rng)
    return fold(held, train, measures("made", origins.get("patients", 240), rng, origins.get("images", 1)))


@pytest.fixture(scope="module")
def audits() -> list[AuditResult]:
    """Audits of sets drawn anew, all from one distribution; the generated images are independent of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subsampling, "SUBSAMPLES", 6)
        return [audit_sets([simulated(seed)], seed) for seed in range(60)]


def over_audits(audits: list[AuditResult], arm: str, name: str) -> NDArray[np.float64]:
    return np.array([one.draws[arm][name].mean() for one in audits])


@pytest.mark.parametrize("name", ["kernel_distance", "kernel_distance_encoder"])
@pytest.mark.parametrize("arm", [REAL_REFERENCE, "made"])
def test_the_kernel_distance_of_one_distribution_is_zero_on_average(
    audits: list[AuditResult], name: str, arm: str
) -> None:
    found = over_audits(audits, arm, name)
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))


@pytest.mark.parametrize(
    "name",
    ["frechet_distance", "frechet_distance_encoder", "spectrum_error", "ks_area", "ks_density", "ks_grey", "spread",
     "nearness", "precision", "recall", "density", "coverage", "two_sample_auroc", "membership_auroc"],
)  # fmt: skip
def test_independent_images_of_the_same_distribution_are_measured_as_real_against_real(
    audits: list[AuditResult], name: str
) -> None:
    difference = over_audits(audits, "made", name) - over_audits(audits, REAL_REFERENCE, name)
    assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(len(difference))


def test_six_images_of_each_of_a_few_women_are_no_narrower_and_no_farther_than_six_women_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subsampling, "SUBSAMPLES", 6)
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        held, others = measures("held", 24, rng, 6, 0.9), [measures(name, 150, rng, 1) for name in ("train", "made")]
        found.append(audit_sets([fold(held, *others)], seed))
    # In half of the women 5 of an image's 71 partners are her own, in all of them 5 of 143.
    assert over_audits(found, REAL_REFERENCE, "spread").mean() == pytest.approx(1, abs=0.012)
    # Not nearer to 72 women in training than to 12 held out; a mean of quotients lies a little above 1.
    assert 1 < over_audits(found, "made", "nearness").mean() < 1.1
    assert 1 < over_audits(found, REAL_REFERENCE, "nearness").mean() < 1.1


def test_blurred_images_are_of_other_patients_than_those_they_are_measured_against() -> None:
    # Images that are not blurred at all are the reference itself.
    result = audit_sets([simulated(0)], 0)
    shared = [name for name in result.draws[BLURRED] if name in result.draws[REAL_REFERENCE]]
    assert {"kernel_distance", "frechet_distance", "recall", "ks_area", "two_sample_auroc"} <= set(shared)
    for name in shared:
        assert np.array_equal(result.draws[BLURRED][name], result.draws[REAL_REFERENCE][name]), name


def test_images_of_one_origin_count_once_where_the_number_of_images_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsampling, "SUBSAMPLES", 6)
    found = [audit_sets([simulated(seed, patients=80, images=3)], seed) for seed in range(40)]
    for name in ("frechet_distance", "recall", "spread", "kernel_distance"):
        difference = over_audits(found, "made", name) - over_audits(found, REAL_REFERENCE, name)
        assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(len(difference)), name
    with pytest.raises(InputError, match="90 generated images of 9 origins are too few"):
        audit_sets([simulated(0, patients=9, images=10)], 0)


def test_a_run_of_one_training_patient_is_refused() -> None:
    rng = np.random.default_rng(0)
    held, made = measures("held", 24, rng), measures("made", 90, rng, 1)
    with pytest.raises(InputError, match="trained on one patient's images"):
        audit_sets([fold(held, measures("train", 1, rng), made)], 0)


def test_generated_images_named_like_patients_are_nobody_s() -> None:
    rng = np.random.default_rng(0)
    held, train, made = (measures(name, 24, rng) for name in ("held", "train", "held"))
    other = made._replace(groups=np.char.replace(made.groups, "held", "made"))
    first, second = (audit_sets([fold(held, train, one)], 0).draws["made"] for one in (made, other))
    assert np.array_equal(first["kernel_distance"], second["kernel_distance"])
    assert np.allclose(first["two_sample_auroc"], second["two_sample_auroc"])


def test_a_sample_holds_whole_patients_and_no_more_images_than_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_set, "MOST", 10)
    groups = np.repeat([f"p{number}" for number in range(20)], 3)
    rows = sample_groups(groups, 1)
    assert len(rows) == 10 and (np.diff(rows) > 0).all()
    assert sorted(np.unique(groups[rows], return_counts=True)[1]) == [1, 3, 3, 3]
    assert not np.array_equal(rows, sample_groups(groups, 2))
    assert np.array_equal(sample_groups(groups[:10], 1), np.arange(10))
