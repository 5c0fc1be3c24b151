"""From a run to figures: scores, generated images, evaluation and report, and what they promise."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mammovae as mv
from mammovae.detection.detector import Detector
from mammovae.evaluation.evaluate import select_test_images
from mammovae.evaluation.scored_images import score_images


@pytest.fixture(scope="module")
def evaluation(run: Path, trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    mv.evaluate(run, trapped_data, out=out)
    return out


@pytest.mark.slow
def test_a_score_is_the_same_alone_in_a_batch_from_data_and_from_the_source_file(
    run: Path, trapped_data: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    table = mv.score(run, trapped_data, out=tmp_path / "data.csv")["table"].set_index("image_id")
    data = mv.Data.open(trapped_data)
    good = data.index[data.index["status"] == "ok"].head(5)
    files = [trapped_raw / source for source in good["source"]]
    from_files = mv.score(run, *files, out=tmp_path / "files.csv", workers=1)["table"]
    np.testing.assert_allclose(from_files["finding"], table.loc[good["image_id"], "finding"], rtol=1e-5)
    alone = mv.score(run, files[2], out=tmp_path / "alone.csv")["table"]
    assert alone["finding"][0] == pytest.approx(from_files["finding"][2], rel=1e-5)


@pytest.mark.slow
def test_a_file_that_fails_is_a_row_with_its_reason_and_does_not_affect_others(
    run: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    truth = json.loads((trapped_raw / "truth.json").read_text())
    broken = truth["trapped"]["truncated"][0]
    folder = next(trapped_raw.rglob(f"{broken}.dicom")).parent
    table = mv.score(run, folder, out=tmp_path / "scores.csv", maps=tmp_path / "maps")["table"]
    assert len(table) == 4
    bad = table[table["finding"].isna()]
    assert bad["source"].str.contains(broken).tolist() == [True] and bad["reason"].notna().all()
    assert table["finding_p"].notna().sum() == 3
    pictures = [path for path in (tmp_path / "maps").glob("*.png") if not path.name.endswith(".map.png")]
    assert len(pictures) == 3
    again = pd.read_csv(tmp_path / "scores.csv")
    assert list(again.columns[:13]) == [
        "image_id", "source", "patient_id", "side", "view", "finding", "finding_percentile", "finding_p",
        "quality", "quality_percentile", "flag", "other", "reason",
    ]  # fmt: skip


@pytest.mark.slow
def test_metrics_carry_n_and_stand_beside_the_trivial_baselines(evaluation: Path, trapped_data: Path) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    frame = mv.Data.open(trapped_data).index
    tested = frame[(frame["split"] == "test") & (frame["status"] == "ok")]
    assert metrics["n_healthy"] + metrics["n_healthy_affected"] == (tested["healthy"] == True).sum()  # noqa: E712 - nullable column
    assert metrics["n_finding"] == (tested["healthy"] == False).sum()  # noqa: E712 - nullable column
    for key in ("auroc", "average_precision", "baseline_mean_grey_auroc", "baseline_pca_residual_auroc"):
        assert {key, f"{key}_low", f"{key}_high"} <= set(metrics)


@pytest.mark.slow
def test_the_report_is_there_and_shows_the_same_figure(evaluation: Path) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    page = (evaluation / "report.html").read_text()
    assert f"{metrics['auroc']:.2f}" in page
    healthy = (
        f"{metrics['n_healthy']} healthy of patients without any finding, {metrics['n_healthy_affected']} healthy of"
    )
    assert f"{healthy} patients with one elsewhere, {metrics['n_finding']} with findings" in page
    assert "derived from one patient" in page and "no diagnosis" in page.lower()
    assert f"{metrics['n_annotated']} images with a position" in page and "pointing game" in page
    assert f"all {metrics['n_healthy'] + metrics['n_healthy_affected']} healthy test images" in page
    table = pd.read_csv(evaluation / "scores.csv")
    assert not {"marks", "lesion_marks", "hit", "position"} & set(table)


@pytest.mark.slow
def test_the_original_protocol_draws_twenty_of_each_at_most_and_says_when_there_are_fewer(
    run: Path, trapped_data: Path
) -> None:
    opened, data = mv.Run.open(run), mv.Data.open(trapped_data)
    positions, notes = select_test_images(opened, data, "original", 0)
    healthy = data.healthy(positions).sum()
    assert healthy <= 20 and len(positions) - healthy <= 20
    assert any("images with findings; the test split has" in note for note in notes)
    assert positions.tolist() == select_test_images(opened, data, "original", 0)[0].tolist()


@pytest.mark.slow
def test_evaluating_the_same_run_twice_gives_the_same_scores(run: Path, trapped_data: Path) -> None:
    opened, data = mv.Run.open(run), mv.Data.open(trapped_data)
    positions, _ = select_test_images(opened, data, "full", 0)
    pd.testing.assert_frame_equal(score_images(opened, data, positions), score_images(opened, data, positions))


def test_maps_stay_inside_the_breast(run: Path, trapped_data: Path) -> None:
    data = mv.Data.open(trapped_data)
    positions = data.select("test")[:4]
    for part, (_, _, maps) in Detector(mv.Run.open(run)).detect_batches(data, positions):
        assert (maps[data.masks[part] == 0] == 0).all() and (maps > 0).any()


@pytest.mark.parametrize(("folder", "words"), [("run", "RUN folder"), ("trapped_data", "DATA folder")])
def test_info_says_what_a_folder_is(folder: str, words: str, request: pytest.FixtureRequest) -> None:
    assert words in str(mv.info(request.getfixturevalue(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("healthy", [None, False])
def test_data_without_a_healthy_image_is_evaluated_as_far_as_it_goes(
    healthy: bool | None, run: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    source = mv.phantom(out=tmp_path / "folder", layout="folder", patients=5, size=64, finding_share=0, workers=1).path
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        target = raw / ("finding" if healthy is False else "images") / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(file)
    mv.prepare("folder", raw, out=tmp_path / "data", workers=1, settings=mv.PrepareSettings(size=64))
    metrics = mv.evaluate(run, tmp_path / "data", out=tmp_path / "evaluation")
    assert metrics["auroc"] is None and metrics["n_healthy"] == 0
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert "No detection figures" in page and "No generated images" in page
    assert "No healthy image was scored" in page and "No image has an annotated position" in page


@pytest.mark.slow
def test_images_that_the_run_was_trained_on_are_left_out_of_its_test_and_counted(
    trapped_raw: Path, tmp_path: Path
) -> None:
    raw = mv.phantom(out=tmp_path / "raw", layout="folder", patients=16, size=64, workers=2).path
    for seed in (0, 3):
        mv.prepare(
            "folder", raw, out=tmp_path / f"data{seed}", workers=2, settings=mv.PrepareSettings(size=32, seed=seed)
        )
    mv.train(
        tmp_path / "data0", out=tmp_path / "run", preset="tiny", settings=mv.TrainSettings(epochs=1, vae={"size": 32})
    )
    run, other = mv.Run.open(tmp_path / "run"), mv.Data.open(tmp_path / "data3")
    learnt = mv.Data.open(tmp_path / "data0")
    used = set(learnt.index[learnt.index["split"].isin(["train", "validation", "calibration"])]["patient_id"])
    positions, notes = select_test_images(run, other, "full", 0)
    left = other.index.iloc[positions]["patient_id"]
    assert len(positions) < len(other.select("test")) and not set(left) & used
    assert "the run was trained on their patients" in notes[0]
    same, none = select_test_images(run, learnt, "full", 0)
    assert same.tolist() == learnt.select("test").tolist() and none == []


def test_data_of_another_geometry_is_refused(run: Path, trapped_raw: Path, tmp_path: Path) -> None:
    mv.prepare(
        "vindr", trapped_raw, out=tmp_path / "data", workers=2, settings=mv.PrepareSettings(size=64, stretch=True)
    )
    with pytest.raises(mv.UsageError, match="prepared with stretch True"):
        mv.evaluate(run, tmp_path / "data", out=tmp_path / "evaluation")


def test_no_test_image_of_the_runs_side_is_one_sentence(trapped_data: Path, tmp_path: Path, run: Path) -> None:
    mv.prepare(
        "folder",
        only_one(trapped_data, tmp_path),
        out=tmp_path / "data",
        workers=1,
        settings=mv.PrepareSettings(size=64),
    )
    with pytest.raises(mv.InputError, match="has no test image to evaluate"):
        mv.evaluate(run, tmp_path / "data", out=tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def only_one(data: Path, folder: Path) -> Path:
    """A raw folder of one healthy image, whose patient therefore trains."""
    opened = mv.Data.open(data)
    image = opened.images[opened.select("test")[0]]
    (folder / "one" / "healthy").mkdir(parents=True)
    Image.fromarray(np.asarray(image)).save(folder / "one" / "healthy" / "a.png")
    return folder / "one"


def test_files_of_one_name_in_two_folders_keep_a_row_and_a_map_each(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    folders = [only_one(trapped_data, tmp_path / name) / "healthy" for name in "ab"]
    table = mv.score(run, *folders, out=tmp_path / "scores.csv", maps=tmp_path / "maps")["table"]
    assert table["image_id"].nunique() == 2 and len(list((tmp_path / "maps").glob("*.map.png"))) == 2


def test_a_path_that_does_not_exist_stops_scoring_before_any_work(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(mv.UsageError, match="there is no file or folder"):
        mv.score(run, trapped_data, tmp_path / "gone", out=tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()


def test_a_folder_of_the_other_view_without_images_stops_a_stress_test_before_any_work(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    for place, sentence in (("gone", "there is no file or folder"), ("", "there is no image in")):
        with pytest.raises(mv.UsageError, match=sentence):
            mv.stress(run, trapped_data, out=tmp_path / "stress", other_view=tmp_path / place)
    assert not (tmp_path / "stress").exists()


def test_a_file_is_no_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(mv.InputError, match=r"config.toml is no folder: name a RUN folder"):
        mv.Run.open(run / "config.toml")


def test_a_healthy_map_exceeds_the_stated_level_once_in_a_thousand_pixels_of_breast(
    run: Path, trapped_data: Path
) -> None:
    opened, data = mv.Run.open(run), mv.Data.open(trapped_data)
    positions = data.for_training(opened.settings)["calibration"]
    maps = Detector(opened).fused_maps(data, positions)
    inside = maps[maps > 0]
    assert (inside > opened.manifest["map_scale"]).mean() == pytest.approx(0.001, abs=2e-4)
