"""Names of maps: one for each image, on every disk."""

import random

import pytest

from mammovae.detection.map_files import map_name

ALIKE = [
    ["a/b", "a_b", "a:b", "a b", "a-b"],
    ["L_CC", "l_cc", "l_CC"],
    ["film", "film.map", "film.png"],
    ["x" * 300, "x" * 301, "x" * 150],
    ["é", "e\u0301", "E\u0301", "É"],
    ["con", "con.1", "nul"],
    [".", "..", "", ".hidden"],
    ["straße", "strasse"],
    [map_name("a/b"), "a/b"],
]


@pytest.mark.parametrize("image_ids", ALIKE)
def test_no_two_images_share_a_file(image_ids: list[str]) -> None:
    files = [f"{map_name(name)}{suffix}".casefold() for name in image_ids for suffix in (".png", ".map.png")]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("image_ids", ALIKE)
def test_a_name_is_one_that_every_disk_takes(image_ids: list[str]) -> None:
    for name in map(map_name, image_ids):
        assert len(f".{name}.map.4194304.partial.png".encode()) <= 255
        assert not set(name) & set('/\\:*?"<>| \n') and not name.startswith(".")
        assert name.partition(".")[0] not in ("con", "nul")


@pytest.mark.parametrize("image_id", ["mdb001", "1.2.840.113619.2.55.3.1234", "latent-00001", "l_cc"])
def test_a_plain_name_stays_what_it_is(image_id: str) -> None:
    assert map_name(image_id) == image_id


def test_no_two_of_many_random_names_share_a_file() -> None:
    draw = random.Random(0)
    names = {"".join(draw.choices("aAbB/_.:- é\n", k=draw.randint(1, 6))) for _ in range(20_000)}
    assert len({map_name(name).casefold() for name in names}) == len(names) > 10_000
