"""Cross-validation and stress on phantoms: folds, the cache, interruption, and what the folder holds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.test_formats import compare, documented, items

import mammovae as mv
from mammovae.config import preset
from mammovae.cross_validation import crossval
from mammovae.data.dataset import Data
from mammovae.data.split import assign_folds, split_fold
from mammovae.evaluation import reference
from mammovae.models.run import Run
from mammovae.training.train import train_on

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "view": "MLO",
    "residual_vae": {"size": 32, "widths": [4, 8], "latent": 2},
    "denoiser": {"size": 32, "widths": [4, 8], "grid": 8},
    "lesion_segmenter": {"size": 32, "widths": [4, 8], "presentations": 40},
    "patch_segmenter": {"size": 64, "patch_size": 32, "widths": [4, 8], "presentations": 40},
    "fused_bilateral": ["lesion_segmenter_peak_bilateral"],
}


@pytest.fixture(scope="module", autouse=True)
def small_reference() -> Iterator[None]:
    """The original preset has 51 million parameters; presets are compared with the tiny one here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "REFERENCE_PRESET", "tiny")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    raw = mv.phantom(out=folder / "raw", patients=22, size=64, finding_share=0.4, workers=2).path
    mv.prepare("vindr", raw, out=folder / "data", workers=2, settings=mv.PrepareSettings(size=128, view="MLO"))
    return folder / "data"


@pytest.fixture(scope="module")
def folds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crossval") / "out"
    mv.crossval(data, out=out, folds=2, settings=mv.TrainSettings(**SETTINGS))
    return out


def test_no_patient_is_in_two_folds_or_in_two_parts_of_one(data: Path) -> None:
    opened = Data.open(data)
    fold_of = assign_folds(opened.index, 5, 0, set())
    tested = []
    for fold in range(5):
        frame = split_fold(opened.index, fold_of, fold, 0)
        parts = {split: set(part["patient_id"]) for split, part in frame[frame["split"] != "unused"].groupby("split")}
        assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
        tested += frame.loc[frame["split"] == "test", "image_id"].tolist()
    assert sorted(tested) == sorted(opened.index.loc[opened.index["status"] == "ok", "image_id"])


def test_every_image_is_scored_once_beside_the_original_preset_and_the_baselines(data: Path, folds: Path) -> None:
    table = pd.read_csv(folds / "scores.csv")
    assert sorted(table["image_id"]) == sorted(Data.open(data).index["image_id"])
    assert table[["finding", "original_reconstruction_loss", "blobs", "pca_residual"]].notna().all().all()
    metrics = json.loads((folds / "metrics.json").read_text())
    expected = ["auroc", "auroc_affected", "auroc_minus_original_reconstruction_loss", "baseline_blobs_auroc_affected"]
    expected += ["auroc_patients", "pointing", "pointing_chance", "quality_auroc_mean", "quality_recall_5_skin_marker"]
    assert set(expected) <= set(metrics)
    own = [entry for entry in documented("metrics.json of evaluate") if entry.name not in ("protocol", "notes")]
    inserted = [entry for entry in documented("metrics.json of stress") if entry.name != "notes"]
    compare(own + inserted + documented("metrics.json of crossval"), items(metrics))
    assert metrics["n_healthy"] + metrics["n_healthy_affected"] + metrics["n_finding"] <= len(table)
    for name in ("results.csv", "faults.csv", "lesions.csv", "detectability.png", "faults.png", "froc.png"):
        assert (folds / name).stat().st_size > 0
    page = (folds / "report.html").read_text()
    assert f"{metrics['auroc']:.2f}" in page and "no diagnosis" in page.lower()
    healthy = f"the {int((table['healthy'] == True).sum())} healthy test images"  # noqa: E712 - null among them
    assert f"inserted into {healthy}" in page and f"raw files of {healthy}" in page
    assert f"headline among the {metrics['n_healthy']:,} healthy images of patients without any finding" in page


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"other_view": "nowhere"}, "there is no file or folder nowhere"),
        ({"other_view": "empty"}, "there is no image in empty"),
        ({"cache": "file"}, "--cache file is a file"),
        ({"settings": mv.TrainSettings(**SETTINGS | {"fused": ["nonsense"]})}, "no member makes 'nonsense', which fused asks for"),
        ({"settings": mv.TrainSettings()}, "{data} holds images of 128 px, and the networks take 128, 256 and 512 px: prepare it again with --size 512"),
        ({"folds": 900}, "22 patients cannot be dealt to 900 folds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anything_is_written(
    data: Path, call: dict, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    small: dict[str, Any] = {"settings": mv.TrainSettings(**SETTINGS)}
    with pytest.raises(mv.UsageError) as error:
        mv.crossval(data, out="out", **(small | call))
    assert str(error.value).startswith(sentence.format(data=data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_selection_is_made_by_inserted_lesions_and_likelihood_alone(folds: Path) -> None:
    selection = json.loads((folds / "selection.json").read_text())
    compare(documented("selection.json of crossval"), items(selection))
    assert selection["scores"]["denoising_peak"]["sham"]["auroc"] == pytest.approx(0.5, abs=0.01)
    assert "validation_loss" in selection["likelihood"]["residual_vae"]


def test_interrupted_it_resumes_and_ends_with_the_same_scores(
    data: Path, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = crossval.inserted_lesion_table, []

    def failing(run: Run, data: Data, positions: np.ndarray, seed: int) -> pd.DataFrame:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(run, data, positions, seed)

    monkeypatch.setattr(crossval, "inserted_lesion_table", failing)
    monkeypatch.setattr(
        crossval, "score_inserted_faults", lambda *_: pytest.fail("faults that are in the cache, inserted anew")
    )
    cache = folds.parent / "members"
    with pytest.raises(KeyboardInterrupt):
        mv.crossval(data, out=tmp_path / "out", folds=2, cache=cache, settings=mv.TrainSettings(**SETTINGS))
    before = (tmp_path / "out" / "fold-0" / "scores.parquet").stat().st_mtime_ns
    mv.crossval(data, out=tmp_path / "out", folds=2, cache=cache, settings=mv.TrainSettings(**SETTINGS))
    assert (tmp_path / "out" / "fold-0" / "scores.parquet").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "scores.csv").read_bytes() == (folds / "scores.csv").read_bytes()


def test_attempts_share_the_members_that_are_the_same(data: Path, tmp_path: Path) -> None:
    cache, opened = tmp_path / "members", Data.open(data)
    changed = SETTINGS | {"denoiser": {**SETTINGS["denoiser"], "noise": 0.4}}
    for name, settings in (("first", SETTINGS), ("second", changed)):
        train_on(opened, tmp_path / name, "detect", preset("detect", settings), cache)
    assert sorted(path.name.split("-")[0] for path in cache.iterdir()) == ["denoiser"] * 2 + [
        "lesion_segmenter",
        "patch_segmenter",
        "residual_vae",
    ]
    first, second = (
        tmp_path / name / "members" / "lesion_segmenter" / "model.safetensors" for name in ("first", "second")
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.fixture(scope="module")
def trained(data: Path, folds: Path) -> Path:
    """A run of the same settings that has the original preset's network beside its own, as each fold has."""
    with_reference: dict[str, Any] = {
        "vae": preset("tiny").vae.model_dump(),
        "members": ("vae", *preset("detect").members),
    }
    out = folds.parent / "trained"
    mv.train(data, out=out, preset="detect", settings=mv.TrainSettings(**SETTINGS, **with_reference))
    return out


def test_evaluate_gives_what_crossval_gives_in_the_same_words(data: Path, folds: Path, trained: Path) -> None:
    evaluated = folds.parent / "evaluated"
    mv.evaluate(trained, data, out=evaluated)
    # Which groups of findings there are, and which rates are promised, depends on the images.
    by_images = re.compile(r"(auroc_(?!minus|affected|all_healthy|patients)\w+|quality_|lesion_|rate_0_0?\d_)")
    keys = [
        {key for key in json.loads((folder / "metrics.json").read_text()) if not by_images.match(key)}
        for folder in (evaluated, folds)
    ]
    assert keys[0] - {"protocol", "notes"} == keys[1]
    assert {"pointing", "froc_at_1_low", "pixel_average_precision", "auroc_patients", "auroc_affected"} < keys[1]
    assert {"auroc_affected_minus_original_reconstruction_loss", "gain_finding_bilateral"} < keys[1]
    pages = [(folder / "report.html").read_text() for folder in (evaluated, folds)]
    for section in ("detection", "localisation"):  # the folds have too few patients for a rate to be promised
        parts = [page.split(f'id="{section}"')[1].split("</section>")[0] for page in pages]
        headers = [re.findall(r"<t[rh][^>]*>([^<]+)</th>", part.split("</thead>")[0]) for part in parts]
        assert headers[0] == headers[1], section
    for words in ("The planned comparison.", "pointing game", "By patient", "Affected-patient"):
        assert all(words in page for page in pages), words
    # The reasons of the fold-wise pooling are the cross-validation's alone.
    assert "pooled in deviations of the fold" in pages[1] and "of the fold’s" not in pages[0]
    table = pd.read_csv(evaluated / "scores.csv")
    np.testing.assert_array_equal(table["original_reconstruction_loss"], table["reconstruction_loss"])


def test_stress_lists_every_fault_and_refuses_when_the_raw_files_are_gone(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    metrics = mv.stress(trained, data, out=tmp_path / "stress", workers=2)
    faults = pd.read_csv(tmp_path / "stress" / "faults.csv")
    assert faults["fault"].fillna("").nunique() == 22
    assert metrics["quality_auroc_blank"] == 1.0 and metrics["quality_auroc_wrong_side"] > 0.9
    assert metrics["quality_auroc_mean"] > 0.8
    raw = data.parent / "raw"
    raw.rename(data.parent / "gone")
    try:
        with pytest.raises(mv.UsageError, match="put them back there"):
            mv.stress(trained, data, out=tmp_path / "again")
    finally:
        (data.parent / "gone").rename(raw)
