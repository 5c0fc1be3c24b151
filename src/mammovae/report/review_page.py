"""The review page: the most suspicious images of an archive, each with its anomaly map and the reason."""

import heapq
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mammovae.report.formatting import percentile_in_words, plural
from mammovae.report.images import MapScale, grey, overlay, side_by_side, thumbnail
from mammovae.report.page import Figure, Images, Page, Section, Table, Text, write_page
from mammovae.report.style import data_uri

SHOWN = 100
_SIDE = 192


class ReviewPage:
    """Keeps the most suspicious of any number of images, and no more than it will show."""

    MARK = "the most suspicious first"
    """What the title of every such page ends with."""

    def __init__(self, level: float, patients: int, shown: int = SHOWN) -> None:
        """level: the value of anomaly maps that one healthy pixel in a thousand exceeds; patients: of calibration."""
        self._scale, self._patients, self._shown = MapScale.of_healthy(level), patients, shown
        self._heap: list[tuple[float, str, int, dict[str, Any], bytes]] = []
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

    def add(self, row: dict[str, Any], suspicion: float, image: np.ndarray, anomaly_map: np.ndarray) -> None:
        """Take a scored image: its row of scores.csv, what to rank it by, the image (S, S) and its map (s, s).

        What is kept does not depend on the order in which images come.
        """
        rank = (suspicion, str(row["image_id"]))
        if len(self._heap) == self._shown and rank <= self._heap[0][:2]:
            return
        entry = (*rank, next(self._number), row, _pair_png(image, anomaly_map, self._scale))
        heapq.heappush(self._heap, entry)
        if len(self._heap) > self._shown:
            heapq.heappop(self._heap)

    def write(self, path: Path, table: str, total: int) -> None:
        """Write the page: refused images first, then the most suspicious; table is the name of the file with all."""
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))
        figures = [_figure(row, png, self._patients) for *_, row, png in ordered]
        sections = [Section("suspicious", "Most suspicious", [Images(figures)])]
        if refused := self._first_refused():
            first = f", the first {len(refused)}" if self._n_refused > len(refused) else ""
            rows = [(row["image_id"], row["reason"]) for row in refused]
            listed = Table(("Image", "Reason"), rows, f"Images that could not be used{first}.", layout="pairs")
            sections.insert(0, Section("refused", f"Refused: {self._n_refused:,}", [listed]))
        words = Markup(
            "<strong>Research software, no diagnosis.</strong> A high percentile says that an image is unlike healthy "
            "ones, and the reason says in which measure. The colours mean the same in every image."
        )
        page = Page(
            "mammovae review page",
            f"{len(figures)} of {total:,} images, {self.MARK}",
            "Percentiles are places among healthy calibration images, of "
            f"{plural(self._patients, 'patient')}. All rows are in {table}.",
            [],
            Section("what", "How to read this page", [Text(words)]),
            sections,
        )
        write_page(path, page)


def _figure(row: dict[str, Any], png: bytes, patients: int) -> Figure:
    finding, quality = (percentile_in_words(row.get(f"{name}_percentile"), patients) for name in ("finding", "quality"))
    words = Markup("<code>{}</code> finding {}, quality {}: {}")
    caption = words.format(row["image_id"], finding, quality, row.get("reason") or "nothing stands out")
    return Figure(data_uri(png), f"{row['image_id']}: image, and image with anomaly map", caption)


def _pair_png(image: np.ndarray, anomaly_map: np.ndarray, scale: MapScale) -> bytes:
    """Return PNG bytes of an image beside itself under its map."""
    pixels = thumbnail((255 * grey(image)).astype(np.uint8), _SIDE)
    return side_by_side([pixels, overlay(pixels, anomaly_map, scale)])
