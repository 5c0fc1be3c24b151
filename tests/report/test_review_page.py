"""The review page: the most suspicious first, whatever the order in which images come."""

from pathlib import Path

import numpy as np

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
