"""Images with the same pixels: one is used, or none where they contradict each other."""

import numpy as np
import pandas as pd

from mammovae.data import index
from mammovae.data.copies import contradicting_health, copy_groups, find_copies, set_aside


def frame_of(rows: list[tuple[str, bool | None, str]]) -> pd.DataFrame:
    return index.table([{"image_id": name, "healthy": healthy, "split": split} for name, healthy, split in rows])


def test_rows_with_equal_pixels_are_a_group_and_rows_without_pixels_are_none() -> None:
    assert copy_groups(np.array(["x", "y", "x", None, None], object)).tolist() == [0, -1, 0, -1, -1]
    assert copy_groups(np.array([None, None], object)).tolist() == [-1, -1]


def test_health_contradicts_only_where_one_copy_is_healthy_and_another_has_a_finding() -> None:
    healthy = pd.array([True, False, True, None, False, None, True, False], "boolean")
    groups = np.array([0, 0, 1, 1, 2, 2, -1, -1])
    assert contradicting_health(pd.Series(healthy), groups).tolist() == [True, True] + [False] * 6


def test_of_copies_the_one_in_test_is_used_else_a_used_one_else_one_of_known_health() -> None:
    frame = frame_of(
        [
            ("a", True, "train"),
            ("b", True, "test"),
            ("c", None, "unused"),
            ("d", True, "train"),
            ("e", None, "unused"),
            ("f", False, "unused"),
        ]
    )
    copies = find_copies(frame, np.array([0, 0, 1, 1, 2, 2]), np.zeros(6, bool))
    assert copies.duplicates == [["b", "a"], ["d", "c"], ["f", "e"]] and not copies.contradictions
    assert copies.reasons.fillna("").tolist() == [
        "the same pixels as b",
        "",
        "the same pixels as d",
        "",
        "the same pixels as f",
        "",
    ]


def test_of_contradicting_copies_none_is_used_and_each_says_so() -> None:
    frame = frame_of([("a", None, "train"), ("b", None, "train"), ("c", True, "train")])
    copies = find_copies(frame, np.array([0, 0, -1]), np.array([True, True, False]))
    assert copies.contradictions == [["a", "b"]] and not copies.duplicates
    assert "pixels as b, with another health" in copies.reasons[0] and "pixels as a, with" in copies.reasons[1]
    assert pd.isna(copies.reasons[2])


def test_set_aside_are_copies_contradictions_and_kinds_that_were_not_asked_for() -> None:
    frame = index.table(
        [{"image_id": name, "kind": "spot" if name == "e" else "mammogram"} for name in "abcde"] + [{"image_id": "f"}]
    )
    manifest = {"duplicates": [["a", "b"]], "contradictions": [["c", "d"]], "settings": {"kinds": ["mammogram"]}}
    assert set_aside(frame, manifest) == {"b", "c", "d", "e"}
    assert set_aside(frame, {"duplicates": [], "settings": {"seed": 0}}) == set()
