"""The review page: the most suspicious first, whatever the order in which images come."""

from pathlib import Path

import numpy as np

from mammovae.report.formatting import percentile
from mammovae.report.review_page import ReviewPage


def page(path: Path, order: list[int]) -> str:
    """Write the page of eight images, of which it shows three, added in an order; all read 100 as percentiles."""
    review, image = ReviewPage(1.0, 200, shown=3), np.zeros((8, 8), np.uint16)
    for number in order:
        row = {"image_id": f"image-{number}", "finding_percentile": 100.0, "reason": f"reason {number}"}
        if number == 7:
            review.refuse({"image_id": "image-7", "reason": "no breast"})
        else:
            review.add(row, 9.0 + min(number, 5), image, np.zeros((8, 8), np.float32))
    review.write(path, "scores.csv", 8)
    return path.read_text()


def test_the_most_suspicious_come_first_and_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    text = page(tmp_path / "a.html", list(range(8)))
    assert text == page(tmp_path / "b.html", [7, 3, 5, 6, 0, 2, 4, 1])
    shown = [text.find(f"<code>image-{number}</code>") for number in (5, 6, 4)]
    assert shown == sorted(shown) and shown[0] > 0
    assert "image-3" not in text and "no breast" in text


def test_a_percentile_that_the_calibration_patients_cannot_exceed_is_shown_as_a_bound(tmp_path: Path) -> None:
    review, image = ReviewPage(1.0, patients=12), np.zeros((8, 8), np.uint16)
    highest = {"image_id": "high", "finding_percentile": 1200 / 13, "quality_percentile": 45.7}
    for row in (highest, {"image_id": "low", "finding_percentile": None, "quality_percentile": float("nan")}):
        review.add(row, 1.0, image, np.zeros((8, 8), np.float32))
    review.write(tmp_path / "review.html", "scores.csv", 2)
    text = (tmp_path / "review.html").read_text()
    assert "finding above 92, quality 45:" in text and "finding –, quality –:" in text and "of 12 patients" in text


def test_percentiles_have_the_digits_that_the_patients_carry_and_are_never_rounded_up() -> None:
    bounds = {patients: percentile(100 * patients / (patients + 1), patients) for patients in (1, 12, 98, 200, 10**5)}
    assert bounds == {1: "50", 12: "92", 98: "98", 200: "99.5", 10**5: "99.99"}
    assert percentile(99.96, 200) == "99.9" and percentile(95.0, 12) == "95"
