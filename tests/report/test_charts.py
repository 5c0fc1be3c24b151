"""Figures: the same bytes each time, one fixed scale, and no failure at the edges."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tests.report.fake_study import TITLES, breasts, history, table

from mammovae.report.charts import auroc_forest, loss_curves, roc, score_points
from mammovae.report.images import MapScale, case_panel, contact_sheet, grey, image_grid, map_legend, save_overlay
from mammovae.report.style import save, to_png, to_svg
from mammovae.statistics.bootstrap import Estimate, PatientBootstrap
from mammovae.statistics.detection_metrics import detection_metrics


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB"))


def test_grey_is_fixed_by_the_type_and_never_by_the_image() -> None:
    assert grey(np.array([[0, 30000]], np.uint16)).max() == pytest.approx(30000 / 65535)
    assert grey(np.array([[0, 128]], np.uint8)).max() == pytest.approx(128 / 255)
    assert grey(np.array([[0.25, 1.5]])).tolist() == [[0.25, 1.0]]


def test_a_dark_image_stays_dark_in_a_grid() -> None:
    shown = pixels(image_grid(np.full((1, 32, 32), 0.1, np.float32), 8))
    assert 20 <= np.median(shown) <= 30


@pytest.mark.parametrize("count", [1, 3, 9])
def test_grids_of_any_number(count: int) -> None:
    captions = [f"image {number}" for number in range(count)]
    assert pixels(image_grid(breasts(count), 8, captions, ["a", "b"])).size


def test_images_keep_whole_pixels_in_a_grid() -> None:
    checks = np.indices((1, 64, 64)).sum(0) % 2
    shown = pixels(image_grid(checks.astype(np.float32), 1))
    assert set(np.unique(shown[40:-40, 40:-40])) == {0, 255}


def test_loss_curves_accept_gaps_no_validation_and_a_single_epoch() -> None:
    bare = history(1)[["epoch", "loss", "reconstruction", "kl"]]
    gone = history().assign(validation_loss=np.nan)
    for rows in (history(), bare, gone, history(0)):
        assert "negative ELBO" in to_svg(loss_curves({"vae": rows}, TITLES))


def test_epochs_that_were_not_validated_leave_no_gap_in_the_dashed_line() -> None:
    rows = history(9).assign(validation_loss=[np.nan, np.nan, 3.0] * 3)
    training, validation = loss_curves({"vae": rows}, TITLES).axes[0].lines
    assert np.size(training.get_xdata()) == 9 and np.asarray(validation.get_xdata()).tolist() == [3, 6, 9]


def test_each_member_has_a_row_of_loss_curves_with_titles_of_its_own_and_a_single_one_needs_no_name() -> None:
    titles = TITLES | {"denoiser": {"loss": "half the squared error"}}
    both = loss_curves({"vae": history(), "denoiser": history(4)}, titles)
    drawn = [axes for axes in both.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in drawn] == [*TITLES["vae"].values(), "half the squared error"]
    assert [axes.get_ylabel() for axes in drawn] == ["vae", "", "", "denoiser"]
    assert np.size(drawn[-1].lines[0].get_xdata()) == 4
    assert not any(axes.get_ylabel() for axes in loss_curves({"vae": history()}, TITLES).axes)


def test_every_score_is_a_point_and_every_group_has_its_n() -> None:
    svg = to_svg(score_points({"healthy": np.arange(30.0), "finding": np.array([]), "mass": [3.0]}))
    assert "n = 30" in svg and "n = 0" in svg and "no image" in svg
    assert svg.count("<use ") >= 31


def test_constant_scores_and_thousands_of_them_can_be_drawn() -> None:
    assert to_svg(score_points({"healthy": np.ones(50)}))
    assert to_svg(score_points({"healthy": np.random.default_rng(0).normal(size=5000)}))


def test_roc_with_few_patients_has_no_band_and_says_so() -> None:
    curve = PatientBootstrap([*"abcd"], np.array([True, False, True, False])).roc([1, 2, 3, 4])
    assert "too few" in to_svg(roc(curve))


def test_forest_shows_rows_without_a_value_or_an_interval() -> None:
    rows = [Estimate(None, None, None, 5, 0, "a", "A"), Estimate(0.7, None, None, 5, 2, "b", "B", "baseline")]
    svg = to_svg(auroc_forest(rows))
    assert "not defined" in svg and "0.70 (too few)" in svg
    assert to_svg(auroc_forest([]))


def test_the_same_input_gives_the_same_bytes() -> None:
    metrics = detection_metrics(table(40), {"loss": "Loss"}, {"grey": "Grey"}, resamples=50)
    assert metrics.curve is not None
    for draw in (
        lambda: to_svg(roc(metrics.curve, metrics.baseline_curves)),  # pyrefly: ignore
        lambda: to_svg(score_points(metrics.groups)),
        lambda: to_svg(loss_curves({"vae": history()}, TITLES)),
        lambda: to_png(image_grid(breasts(2), 2)),
    ):
        assert draw() == draw()


def test_a_healthy_map_leaves_the_image_grey_and_a_high_one_does_not() -> None:
    image, scale = np.full((64, 64), 0.5, np.float32), MapScale.of_healthy(0.2)
    flat = pixels(case_panel(image, anomaly_map=np.full((64, 64), 0.09), scale=scale, decorated=False))
    high = pixels(case_panel(image, anomaly_map=np.full((64, 64), 0.4), scale=scale, decorated=False))
    spread = [np.ptp(shown[:, -60:-10].astype(int), axis=2).max() for shown in (flat, high)]
    assert spread[0] <= 2 and spread[1] > 80


def test_cases_need_neither_map_nor_reconstruction_nor_boxes() -> None:
    assert pixels(case_panel(breasts(1)[0])).size
    assert pixels(case_panel(breasts(1)[0], breasts(1)[0], boxes=[(1, 1, 9, 9)])).size


def test_a_scale_without_width_still_has_a_legend() -> None:
    assert to_svg(map_legend(MapScale.of_healthy(0.0)))
    assert pixels(case_panel(breasts(1)[0], anomaly_map=np.zeros((64, 64)), scale=MapScale.of_healthy(0.0))).size


def test_overlay_is_written_with_its_legend(tmp_path: Path) -> None:
    save_overlay(breasts(1)[0], np.zeros((64, 64)), 0.1, tmp_path / "case.png")
    assert Image.open(tmp_path / "case.png").width > 2 * Image.open(tmp_path / "case.png").height


def test_contact_sheet_outlines_the_breast_and_holds_hundreds() -> None:
    images = breasts(20)
    sheet = contact_sheet(np.tile(images, (15, 1, 1)), np.tile(images > 0, (15, 1, 1)), ["x" * 40] * 300)
    assert sheet.size == (16 * 98, 19 * 111)
    red, _, blue = np.asarray(sheet.crop((0, 0, 98, 97))).astype(int).transpose(2, 0, 1)
    assert ((red - blue) > 60).sum() > 50
    assert contact_sheet(images[:1]).size == (98, 98)


def test_save_follows_the_suffix(tmp_path: Path) -> None:
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        save(loss_curves({"vae": history(3)}, TITLES), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_a_map_coarser_than_its_image_covers_the_same_square() -> None:
    figure = case_panel(np.zeros((128, 128)), anomaly_map=np.ones((64, 64)), scale=MapScale(0.0, 1.0))
    layers = figure.axes[1].images
    assert len(layers) == 2 and layers[0].get_extent() == layers[1].get_extent()
