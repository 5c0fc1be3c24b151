"""The audit: figures with their reference, and the cheats that it must catch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from tests.test_formats import compare, documented, items

import mammovae as mv
from mammovae import config
from mammovae.auditing import subsampling
from mammovae.auditing.subsampling import REAL_REFERENCE
from mammovae.data import index
from mammovae.evaluation import reference
from mammovae.models.run import Run

pytestmark = pytest.mark.slow

PATIENTS = 52


@pytest.fixture(scope="module")
def held_out_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Healthy phantoms of which half of the patients are held out: an audit needs twenty of them."""
    folder = tmp_path_factory.mktemp("audited")
    mv.phantom(out=folder / "raw", patients=PATIENTS, size=128, finding_share=0, workers=2)
    mv.prepare("vindr", folder / "raw", out=folder / "data", workers=2, settings=mv.PrepareSettings(size=64))
    frame = mv.Data.open(folder / "data").index
    patients = sorted(frame["patient_id"].unique())
    shares = np.linspace(0, 1, len(patients), endpoint=False)
    names = np.array(["train", "validation", "calibration", "test"])[
        np.searchsorted([0.35, 0.42, 0.5], shares, "right")
    ]
    split = frame["patient_id"].map(dict(zip(patients, names, strict=True)))
    index.write(frame.assign(split=split.astype(frame["split"].dtype)), folder / "data" / "index.parquet")
    return folder / "data"


@pytest.fixture(scope="module")
def tiny(held_out_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run trained on it."""
    out = tmp_path_factory.mktemp("audited-run") / "run"
    mv.train(held_out_data, out=out, preset="tiny", settings=mv.TrainSettings(epochs=4))
    return out


@pytest.fixture(scope="module")
def generated(tiny: Path, held_out_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that it varied."""
    out = tmp_path_factory.mktemp("audited-made") / "made"
    mv.generate(tiny, out=out, mode="vary", count=80, source=held_out_data)
    return out


def cheat(generated: Path, images: np.ndarray, masks: np.ndarray, out: Path) -> Path:
    """Put other images into a generated folder, with a sampler that claims to start from no patient."""
    shutil.copytree(generated, out)
    frame = index.read(out / "index.parquet").iloc[: len(images)].copy()
    names = [f"image-{number}" for number in range(len(images))]
    frame = frame.assign(image_id=names, patient_id=names, status="ok", reason=None)
    index.write(frame, out / "index.parquet")
    np.save(out / "images.npy", images.astype(np.uint16))
    np.save(out / "masks.npy", masks.astype(np.uint8))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["sampling"]["mode"] = "prior"
    del manifest["run"]  # from somebody else
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def breast_images(data: Path, split: str, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    opened = mv.Data.open(data)
    positions = opened.select(split)[:count]
    return np.array(opened.images[positions]), np.array(opened.masks[positions])


def conclusions(made: Path, run: Path, data: Path, out: Path) -> dict[str, str]:
    lines = mv.audit(made, run, data, out=out)["conclusions"]
    return dict(line.split(": ", 1) for line in lines)


def test_training_images_given_as_generated_are_called_copied(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    images, masks = breast_images(held_out_data, "train")
    audited = conclusions(cheat(generated, images, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert audited["Privacy"].startswith("Copied") and "very pixels" in audited["Privacy"]
    metrics = json.loads((tmp_path / "audit" / "metrics.json").read_text())
    assert metrics["exact_copies"] == len(images) and metrics["membership_auroc_low"] > 0.9


def test_training_images_made_brighter_and_noisy_are_called_copied_too(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    images, masks = breast_images(held_out_data, "train")
    noise = np.random.default_rng(0).normal(0, 600, images.shape)
    changed = np.clip((images * 0.9 + 2000.0 + noise) * masks, 0, 65535)
    audited = conclusions(cheat(generated, changed, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert audited["Privacy"].startswith("Copied") and "nearer to images of" in audited["Privacy"]


def test_one_image_many_times_has_no_diversity(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    images, masks = breast_images(held_out_data, "test", 1)
    images, masks = np.repeat(images, 60, axis=0), np.repeat(masks, 60, axis=0)
    audited = conclusions(cheat(generated, images, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert audited["Diversity"].startswith("No diversity")


def test_blurred_real_images_are_unrealistic(generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path) -> None:
    images, masks = breast_images(held_out_data, "test")
    blurred = ndimage.gaussian_filter(images.astype(float), (0, 1.5, 1.5)) * masks
    audited = conclusions(cheat(generated, blurred, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert audited["Realism"].startswith("Unrealistic")


def test_noise_is_unrealistic(generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path) -> None:
    images, masks = breast_images(held_out_data, "test")
    noise = np.random.default_rng(0).integers(0, 65536, images.shape) * masks
    audited = conclusions(cheat(generated, noise, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert audited["Realism"].startswith("Unrealistic") and audited["Diversity"].startswith("No diversity")


def test_real_images_of_others_pass_as_real_varied_and_no_patient_s_copy(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    images, masks = breast_images(held_out_data, "calibration")
    more = breast_images(held_out_data, "validation")
    images, masks = np.concatenate([images, more[0]]), np.concatenate([masks, more[1]])
    audited = conclusions(cheat(generated, images, masks, tmp_path / "made"), tiny, held_out_data, tmp_path / "audit")
    assert not audited["Realism"].startswith("Unrealistic")
    assert not audited["Diversity"].startswith("No diversity") and audited["Privacy"].startswith("No copies")


def test_every_figure_stands_beside_its_reference_with_an_interval(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    metrics = mv.audit(generated, tiny, held_out_data, out=tmp_path / "audit")
    compare(documented("metrics.json of audit"), items(dict(metrics)))
    for key in ("kernel_distance", "frechet_distance", "spectrum_error", "ks_area", "two_sample_auroc", "recall",
                "coverage", "membership_auroc", "kernel_distance_encoder"):  # fmt: skip
        assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
        assert metrics[f"reference_{key}_low"] <= metrics[f"reference_{key}"] <= metrics[f"reference_{key}_high"]
    assert metrics["reference_two_sample_auroc_low"] < 0.5 < metrics["reference_two_sample_auroc_high"]
    assert metrics["reference_kernel_distance"] < metrics["kernel_distance"]
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "derived from" in page and REAL_REFERENCE in page
    assert "Phantoms, no patients." in page and "It shows patients’ images" not in page
    sheet = (generated / "data_sheet.md").read_text()
    assert "Not audited" not in sheet and f"| {metrics['membership_auroc']:.2f} (" in sheet
    before = (tmp_path / "audit" / "metrics.json").read_bytes()
    assert mv.audit(generated, tiny, held_out_data, out=tmp_path / "audit") == json.loads(before)


def test_what_the_images_are_of_use_for_is_measured_on_the_same_real_images(
    generated: Path, trapped_data: Path, tmp_path: Path
) -> None:
    from mammovae.auditing.audit import measure_utility

    images, masks = breast_images(trapped_data, "train")
    images = images ^ (masks > 0)  # of copies one alone would be used where both folders train
    sets = mv.Data.open(trapped_data), mv.Data.open(cheat(generated, images, masks, tmp_path / "made"))
    used = measure_utility(tmp_path, *sets, "tiny", 0)
    real, other, both, difference, gain = used.values()
    assert real.value is not None and other.value is not None
    assert real.n_healthy == other.n_healthy == both.n_healthy
    assert real.n_finding == other.n_finding == both.n_finding > 0
    assert difference.value == pytest.approx(other.value - real.value)
    assert both.value is not None and gain.value == pytest.approx(both.value - real.value)
    runs = {name: Run.open(tmp_path / f"utility-{name}") for name in ("real", "generated", "both")}
    counts = {name: run.manifest["images"]["train"] for name, run in runs.items()}
    assert counts["real"] == counts["generated"] and counts["both"] == 2 * counts["real"]


def test_too_few_held_out_patients_are_refused_with_the_numbers(
    generated: Path, run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    made = cheat(generated, *breast_images(trapped_data, "train"), tmp_path / "made")
    with pytest.raises(mv.InputError, match="too few to audit by"):
        mv.audit(made, run, trapped_data, out=tmp_path / "audit")


def test_folders_that_do_not_belong_together_are_refused(
    generated: Path, tiny: Path, run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(mv.InputError, match="was made by another run"):
        mv.audit(generated, run, trapped_data, out=tmp_path / "audit")
    with pytest.raises(mv.InputError, match="was not trained on"):
        mv.audit(generated, tiny, trapped_data, out=tmp_path / "audit")
    with pytest.raises(mv.UsageError, match="both as the generated and as the real images"):
        mv.audit(trapped_data, run, trapped_data, out=tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


def test_a_preset_that_the_images_are_too_small_for_is_refused_before_anything_is_written(
    generated: Path, tiny: Path, held_out_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(mv.UsageError, match="128"):
        mv.audit(generated, tiny, held_out_data, out=tmp_path / "audit", utility="detect")
    assert not (tmp_path / "audit").exists()


def test_a_generating_preset_is_audited_in_folds_beside_the_original_preset(
    held_out_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The original preset has 51 million parameters: what stands beside a preset here is the tiny one, a few epochs long.
    monkeypatch.setattr(reference, "REFERENCE_PRESET", "tiny")
    monkeypatch.setattr(subsampling, "SUBSAMPLES", 20)
    monkeypatch.setitem(config.PRESETS, "tiny", config.preset("tiny", {"epochs": 8}))
    small = {"size": 64, "widths": [8, 12], "latent": 2, "bands": 2, "refiner": [8, 8], "presentations": None}
    metrics = mv.crossval(
        held_out_data,
        out=tmp_path / "folds",
        preset="generate",
        folds=2,
        settings=mv.TrainSettings(epochs=8, pyramid_vae=small),
    )
    arms = {"tiny_vary", "tiny_prior", "generate_prior", "generate_latent"}
    assert all(f"{arm}_kernel_distance" in metrics for arm in arms)
    assert "tiny_vary_less_generate_latent_kernel_distance_low" in metrics
    assert (tmp_path / "folds" / "report.html").stat().st_size > 100_000
    rows = pd.read_csv(tmp_path / "folds" / "fold-0" / "tiny-vary" / "generated.csv")
    frame = mv.Data.open(held_out_data).index
    held = set(frame["image_id"]) - set(rows["source_image_ids"])
    assert len(held) >= len(frame) // 2
