"""The review sheet: the most suspicious images of an archive, each with its map and the reason, on one page."""

import heapq
import io
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mammovae.report.evaluation_page import page_environment
from mammovae.report.images import MapScale, grey
from mammovae.report.style import FONTS, MAP, data_uri
from mammovae.storage import write_text

SHOWN = 100
_SIDE = 192


class ReviewPage:
    """Keeps the most suspicious of any number of images, and no more than it will show."""

    def __init__(self, level: float, shown: int = SHOWN) -> None:
        """level: the value of maps that one healthy pixel in a thousand exceeds."""
        self._scale, self._shown = MapScale.of_healthy(level), shown
        self._kept: list[tuple[float, str, int, dict[str, Any], bytes]] = []
        self._refused: list[dict[str, Any]] = []
        self._number, self._n_refused = count(), 0

    def refuse(self, row: dict[str, Any]) -> None:
        """Take an image that could not be used."""
        self._n_refused += 1
        self._refused.append(row)
        if len(self._refused) > 2 * self._shown:
            self._refused = self._first_refused()

    def _first_refused(self) -> list[dict[str, Any]]:
        return sorted(self._refused, key=lambda row: str(row["image_id"]))[: self._shown]

    def add(self, row: dict[str, Any], suspicion: float, image: np.ndarray, map: np.ndarray) -> None:
        """Take a scored image: its row of scores.csv, what to rank it by, its square (S, S) and its map (s, s).

        What is kept does not depend on the order in which images come.
        """
        rank = (suspicion, str(row["image_id"]))
        if len(self._kept) == self._shown and rank <= self._kept[0][:2]:
            return
        entry = (*rank, next(self._number), row, _thumbnail(image, map, self._scale))
        if len(self._kept) < self._shown:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heapreplace(self._kept, entry)

    def write(self, path: Path, table: str, total: int) -> None:
        """Write the page: refused images first, then the most suspicious; table is the name of the file with all."""
        cases = [
            {
                "image_id": row["image_id"],
                "uri": data_uri(picture),
                "finding": _percentile(row.get("finding_percentile")),
                "quality": _percentile(row.get("quality_percentile")),
                "reason": row.get("reason") or "nothing stands out",
            }
            for *_, row, picture in sorted(self._kept, key=lambda entry: (-entry[0], entry[1]))
        ]
        template = page_environment().get_template("review.html.j2")
        text = template.render(
            fonts=FONTS,
            cases=cases,
            refused=self._first_refused(),
            n_refused=self._n_refused,
            table=table,
            total=total,
        )
        write_text(path, text)


def _percentile(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.1f}"


def _thumbnail(image: np.ndarray, map: np.ndarray, scale: MapScale) -> bytes:
    """Return PNG bytes of an image beside itself under its map."""
    square = Image.fromarray((255 * grey(image)).astype(np.uint8))
    square = square.resize((_SIDE, _SIDE), Image.Resampling.BOX if square.width > _SIDE else Image.Resampling.BILINEAR)
    colour = MAP(np.clip((map - scale.low) / (scale.high - scale.low), 0, 1))
    over = Image.fromarray((255 * colour).astype(np.uint8), "RGBA").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    pair = Image.new("RGB", (2 * _SIDE, _SIDE))
    pair.paste(square, (0, 0))
    pair.paste(Image.alpha_composite(square.convert("RGBA"), over).convert("RGB"), (_SIDE, 0))
    buffer = io.BytesIO()
    pair.save(buffer, "PNG")
    return buffer.getvalue()
