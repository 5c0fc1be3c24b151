"""A run with networks of two sizes, and DATA of another size than its own: refused in a sentence, before any work."""

from pathlib import Path

import numpy as np
import pytest
from tests.test_cli import refused

import mammovae as mv

OTHER_SIZES = (16, 48, 128)
"""Of DATA, beside the run's 64: the smaller network's, one that the larger does not fit, and a multiple of both."""


@pytest.fixture(scope="module")
def two_sizes(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two-sizes") / "run"
    settings = mv.TrainSettings(
        epochs=1,
        members=("vae", "residual_vae"),
        vae={"size": 16, "filters": [4, 8], "latent": 4},  # pyrefly: ignore
        residual_vae={"size": 32, "widths": [4, 8], "latent": 2},  # pyrefly: ignore
        fused=("reconstruction_loss", "normalised_peak"),
        maps=("reconstruction", "normalised"),
    )
    mv.train(trapped_data, out=out, preset="tiny", settings=settings)
    return out


@pytest.fixture(scope="module")
def other_data(trapped_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Data of other sizes than the run's."""
    folder = tmp_path_factory.mktemp("other-sizes")
    for size in OTHER_SIZES:
        mv.prepare("vindr", trapped_raw, out=folder / str(size), settings=mv.PrepareSettings(size=size, limit=12))
    return {size: folder / str(size) for size in OTHER_SIZES}


@pytest.mark.slow
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_data_of_another_size_than_the_runs_is_one_sentence_before_any_work(
    size: int,
    two_sizes: Path,
    other_data: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = other_data[size], tmp_path / "out"
    sentence = (
        f"{data} holds images of {size} px, and {two_sizes} was trained on images of 64 px, "
        "of which its networks take 16 and 32 px: prepare it again with --size 64"
    )
    for command in (mv.score, mv.evaluate, mv.stress):
        with pytest.raises(mv.UsageError) as error:
            command(two_sizes, data, out=out)
        assert str(error.value) == sentence
    with pytest.raises(mv.UsageError) as error:
        mv.generate(two_sizes, out=out, mode="vary", source=data, count=2)
    assert str(error.value) == sentence
    for tokens in (["score"], ["evaluate"], ["stress"]):
        status, said = refused([*tokens, str(two_sizes), str(data), "--out", str(out)], capsys)
        assert status == 2 and sentence in said
    arguments = ["generate", str(two_sizes), "--mode", "vary", "--source", str(data), "--out", str(out)]
    status, said = refused(arguments, capsys)
    assert status == 2 and sentence in said
    assert not out.exists()


@pytest.mark.parametrize("size", [16, 48])
def test_networks_are_not_trained_on_images_that_would_have_to_be_enlarged_or_cut(
    size: int,
    two_sizes: Path,
    other_data: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, settings = other_data[size], mv.Run.open(two_sizes).settings
    sentence = (
        f"{data} holds images of {size} px, and the networks take 16 and 32 px: "
        "prepare it again with --size 32, or choose other sizes of networks"
    )
    for call in (
        lambda: mv.train(data, out=tmp_path / "out", preset="tiny", settings=settings),
        lambda: mv.crossval(data, out=tmp_path / "out", preset="tiny", folds=2, settings=settings),
    ):
        with pytest.raises(mv.UsageError) as error:
            call()
        assert str(error.value) == sentence
    flags = ["--preset", "tiny", "--members", "vae", "--members", "residual_vae", "--vae.size", "16"]
    flags += ["--residual-vae.size", "32", "--out", str(tmp_path / "out")]
    for command in (["train"], ["crossval", "--folds", "2"]):
        status, said = refused([command[0], str(data), *command[1:], *flags], capsys)
        assert status == 2 and sentence in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_is_prepared_at_the_size_of_the_runs_data_not_of_a_network(
    two_sizes: Path, trapped_data: Path, trapped_raw: Path, tmp_path: Path
) -> None:
    data = mv.Data.open(trapped_data)
    rows = data.index[data.index["status"] == "ok"].head(3)
    names = ["finding", "quality", "reconstruction_loss", "normalised_peak"]
    of_data = mv.score(two_sizes, trapped_data, out=tmp_path / "data.csv")["table"].set_index("image_id")
    of_files = mv.score(two_sizes, *(trapped_raw / source for source in rows["source"]), out=tmp_path / "files.csv")
    # Quality is measured in the prepared image itself: at any other size it would be another.
    expected = of_data.loc[rows["image_id"], names].to_numpy(float)
    np.testing.assert_allclose(of_files["table"][names].to_numpy(float), expected, rtol=1e-5)
