"""The members of detect: their scores and maps, alone and together, on inserted lesions, shams and mirrored pairs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mammovae as mv
from mammovae.data.dataset import Data
from mammovae.detection.detector import Detector
from mammovae.models import training_lesions
from mammovae.perturbations.lesions import LesionSpec, insert_lesion
from mammovae.training import calibrate

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "epochs": 25,
    "members": ["residual_vae", "denoiser", "lesion_segmenter", "bilateral_vae"],
    "fused": ["normalised_peak", "denoising_local_peak", "lesion_segmenter_peak"],
    "maps": ["normalised", "denoising_local", "lesion_segmenter"],
    "fused_bilateral": ["pair_peak_bilateral"],
    "residual_vae": {"size": 64, "widths": [8, 16, 16], "latent": 4},
    "denoiser": {"size": 64, "widths": [8, 16], "grid": 8},
    "lesion_segmenter": {"size": 64, "widths": [8, 16], "presentations": 390, "kinds": ["mass"]},
    "bilateral_vae": {"size": 64, "widths": [8, 16]},
}
FINDING = (
    *("residual_peak", "normalised_peak", "local_peak", "denoising_peak", "denoising_local_peak"),
    "map_peak",
)


@pytest.fixture(scope="module")
def detect(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detect") / "run"
    mv.train(trapped_data, out=out, preset="detect", settings=mv.TrainSettings(**SETTINGS))
    return out


@pytest.fixture(scope="module")
def marking(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that has learnt enough to distinguish: large lesions alone, for 41 images of 64 px teach it no others."""
    out = tmp_path_factory.mktemp("marking") / "run"
    settings: dict[str, Any] = {
        "members": ["lesion_segmenter"],
        "fused": ["lesion_segmenter_peak"],
        "maps": ["lesion_segmenter"],
        "batch_size": 4,
        "learning_rate": 4e-3,
        "lesion_segmenter": {"size": 64, "widths": [16, 32], "presentations": 2400, "kinds": ["mass"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training_lesions.RADII_MM, "mass", (7.5, 20.0))
        mv.train(trapped_data, out=out, preset="detect", settings=mv.TrainSettings(**settings))
    return out


@pytest.fixture(scope="module")
def data(trapped_data: Path) -> Data:
    return Data.open(trapped_data)


def test_every_member_leaves_weights_and_a_history_and_the_vae_counts_its_active_units(detect: Path) -> None:
    for name in SETTINGS["members"]:
        assert (detect / "members" / name / "model.safetensors").is_file()
    history = pd.read_csv(detect / "members" / "residual_vae" / "history.csv")
    last = history.iloc[-1]
    dimensions = [last[name] for name in map(str, history) if name.startswith("kl_")]
    assert last["active_units"] == sum(value > 0.01 for value in dimensions)
    assert sum(dimensions) == pytest.approx(last["kl"], rel=1e-3)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert len(pd.read_csv(detect / "members" / "lesion_segmenter" / "history.csv")) == 10


def test_scores_are_the_same_alone_in_a_batch_from_data_from_files_and_without_the_other_breast(
    detect: Path, trapped_data: Path, trapped_raw: Path, tmp_path: Path, data: Data
) -> None:
    detector = Detector(mv.Run.open(detect))
    positions = data.select("test")[:5]
    together = detector.table(data, positions)
    alone, _, whole = detector.detect(data.images[positions[3:4]], data.masks[positions[3:4]])
    assert alone["map_peak"][0] == whole.max() > 0
    one_sided = [name for name in together if not name.endswith("_bilateral")]
    for name in one_sided:
        assert alone[name][0] == pytest.approx(together[name][3], rel=1e-5, abs=1e-6), name
    table = mv.score(detect, trapped_data, out=tmp_path / "data.csv")["table"].set_index("image_id")
    rows = data.index.iloc[positions]
    files = mv.score(detect, *[trapped_raw / source for source in rows["source"]], out=tmp_path / "files.csv")["table"]
    for name in [*one_sided, "finding", "finding_percentile", "quality"]:
        np.testing.assert_allclose(files[name], table.loc[rows["image_id"], name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert set(table["other"].dropna()) == {"used", "missing"} or set(table["other"].dropna()) == {"used"}
    remarkable = table["reason"].fillna("").str.contains("finding above")
    where = r"finding above .* \((?:normalised|denoising_local|lesion_segmenter)_peak, \d\.\d healthy deviations above\), map highest in"
    assert remarkable.any() and table.loc[remarkable, "reason"].str.contains(where).all()
    # Its few calibration patients tell no percentile of 95: what stands out has the highest that they tell.
    patients = mv.Run.open(detect).manifest["calibration_patients"]
    highest = 100 * patients / (patients + 1)
    assert highest < 95 and table.loc[remarkable, "finding_percentile"].tolist() == [highest] * remarkable.sum()
    assert table.loc[remarkable, "finding"].min() > table.loc[~remarkable, "finding"].max()


def with_lesion(data: Data, position: int, contrast: float, mm: float = 15) -> tuple[np.ndarray, np.ndarray]:
    image, mask = data.images[position], data.masks[position] > 0
    planting = insert_lesion(
        image, mask, float(data.mm_per_pixel(np.array([position]))[0]), LesionSpec("mass", "test", mm, contrast, 5)
    )
    return planting.image, planting.sham


def test_inserted_lesions_of_growing_contrast_raise_each_finding_score_and_shams_do_not(
    detect: Path, data: Data
) -> None:
    detector, positions = Detector(mv.Run.open(detect)), data.select("test")
    positions = positions[data.healthy(positions)][:12]
    masks, means = data.masks[positions], {name: [] for name in FINDING}
    for contrast in (0.0, 1.2, 1.5, 2.0):  # less does not stand out to a denoiser that has seen 39 images
        images = np.stack([with_lesion(data, int(position), contrast)[0] for position in positions])
        scores, _, _ = detector.detect(images, masks)
        for name in FINDING:
            means[name].append(float(scores[name].mean()))
    for name, values in means.items():
        assert values == sorted(values) and values[-1] > values[0], (name, values)
    clean, _, _ = detector.detect(data.images[positions], masks)
    shams, _, _ = detector.detect(np.stack([with_lesion(data, int(p), 0.9)[1] for p in positions]), masks)
    for name in FINDING:
        np.testing.assert_allclose(shams[name], clean[name], rtol=1e-6, err_msg=name)


def test_a_segmenter_answers_lesions_of_growing_contrast_and_size_and_no_sham(marking: Path, data: Data) -> None:
    detector, positions = Detector(mv.Run.open(marking)), data.select("test")
    positions = positions[data.healthy(positions)][:12]
    masks = data.masks[positions]

    def mean(contrast: float, mm: float) -> float:
        images = np.stack([with_lesion(data, int(position), contrast, mm)[0] for position in positions])
        return float(detector.detect(images, masks)[0]["lesion_segmenter_peak"].mean())

    by_contrast = [mean(contrast, 25) for contrast in (0.0, 0.9, 1.2, 1.5)]
    by_size = [mean(0.9, mm) for mm in (8, 16, 25)]
    for means in (by_contrast, by_size):
        assert means == sorted(means) and means[-1] > means[0] + 0.5, means
    shams = np.stack([with_lesion(data, int(position), 0.9, 25)[1] for position in positions])
    scores, clean = detector.detect(shams, masks)[0], detector.detect(data.images[positions], masks)[0]
    np.testing.assert_allclose(scores["lesion_segmenter_peak"], clean["lesion_segmenter_peak"], rtol=1e-6)


def test_a_mirrored_pair_leaves_bilateral_scores_calm_and_a_lesion_in_one_breast_does_not(
    detect: Path, data: Data
) -> None:
    """Squares lie with the chest wall at column 0, so a patient of two mirror images has the same square twice."""
    detector, positions = Detector(mv.Run.open(detect)), data.select("test")
    positions = positions[data.healthy(positions)][:10]
    twice = np.repeat(positions, 2)
    frame = data.index.iloc[twice].reset_index(drop=True)
    frame["side"], frame["image_id"] = ["L", "R"] * len(positions), [f"image-{row}" for row in range(len(twice))]
    frame["patient_id"] = frame["study_id"] = [f"patient-{row // 2}" for row in range(len(twice))]
    frame["view"] = "MLO"
    images, masks = data.images[twice].copy(), data.masks[twice]
    rows_of = {"patients": frame["patient_id"].to_numpy(object), "starts": (0, len(twice))}
    pair = replace(data, index=frame, images=images, masks=masks, **rows_of)
    rows = np.arange(len(twice))
    calm = detector.table(pair, rows)
    for name in SETTINGS["fused_bilateral"] + ["normalised_peak_bilateral", "lesion_segmenter_peak_bilateral"]:
        assert np.isfinite(calm[name]).all()
    np.testing.assert_allclose(calm["normalised_peak_bilateral"], 0, atol=1e-5)
    np.testing.assert_allclose(calm["pair_peak_bilateral"][::2], calm["pair_peak_bilateral"][1::2], rtol=1e-5)
    for row in rows[::2]:
        images[row] = with_lesion(data, int(twice[row]), 0.9)[0]
    struck = detector.table(replace(pair, images=images), rows)
    assert struck["normalised_peak_bilateral"][::2].mean() > 0.1


def test_a_segmenter_that_sees_what_was_inserted_without_a_lesion_is_refused(
    detect: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, breast_images = mv.Run.open(detect), data.select("test")[:16]
    calibrate.check_insertion_artefacts(run, data, breast_images)

    def showing(image: np.ndarray, mask: np.ndarray, mm: float, *_: Any) -> Any:
        planting = insert_lesion(image, mask > 0, mm, LesionSpec("mass", "validation", 25.0, 2.0, 5))
        return replace(planting, sham=planting.image)

    monkeypatch.setattr(calibrate, "insert_random_lesion", showing)
    with pytest.raises(mv.InputError, match="lesion_segmenter distinguishes sham insertions from raw images"):
        calibrate.check_insertion_artefacts(run, data, breast_images)


def test_a_score_or_map_that_no_member_makes_is_refused_before_any_training(trapped_data: Path, tmp_path: Path) -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"fused": ["lesion_segmenter_peek"]},
        {"maps": ["bilateral"]},
        {"fused_bilateral": ["kl_bilateral"]},
    )
    for wrong in wrongs:
        field, (name,) = next(iter(wrong.items()))
        with pytest.raises(mv.UsageError, match=f"no member makes '{name}', which {field} asks for"):
            mv.train(trapped_data, out=tmp_path / "run", preset="detect", settings=mv.TrainSettings(**SETTINGS | wrong))
    assert not (tmp_path / "run").exists()


def test_the_review_sheet_flags_and_maps_over_source_pixels(
    detect: Path, trapped_raw: Path, tmp_path: Path, data: Data
) -> None:
    from PIL import Image

    truth = json.loads((trapped_raw / "truth.json").read_text())
    folder = next(trapped_raw.rglob(f"{truth['trapped']['truncated'][0]}.dicom")).parent
    table = mv.score(
        detect, folder, out=tmp_path / "s.csv", maps=tmp_path / "maps", review=tmp_path / "review.html", flag=0.2
    )["table"]
    page = (tmp_path / "review.html").read_text()
    assert "Refused: " in page and "most suspicious first" in page
    flagged = table["flag"].fillna("").str.contains("finding")
    assert (table.loc[flagged, "finding_p"] <= 0.2 + 1e-9).all() and (
        table.loc[~flagged, "finding_p"].dropna() > 0.2
    ).all()
    row = table[table["finding"].notna()].iloc[0]
    known = data.index.set_index("image_id").loc[Path(row["image_id"]).name]
    made = Image.open(tmp_path / "maps" / f"{row['image_id'].replace('/', '_')}.map.png")
    assert made.size == (known["columns"], known["rows"])
    with pytest.raises(mv.UsageError, match=r"false-positive rate of 0\.001 cannot be promised"):
        mv.score(detect, folder, out=tmp_path / "s.csv", flag=0.001)
