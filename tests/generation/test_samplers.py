"""The samplers, and the folder that they fill."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mammovae as mv
from mammovae.config import ResidualVaeSettings, SamplingMode
from mammovae.generation.samplers import INTERPOLATION_STEPS, LatentSampler, to_uint16
from mammovae.imageio.read import read
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.run import Run, device

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "epochs": 2,
    "pyramid_vae": {
        "size": 64,
        "widths": [8, 16, 16],
        "latent": 2,
        "bands": 3,
        "refiner": [8, 8],
        "kl_weight": 1,
        "presentations": None,
    },
}


@pytest.fixture(scope="module")
def generating(trapped_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the generate preset."""
    out = tmp_path_factory.mktemp("generating") / "run"
    mv.train(trapped_data, out=out, preset="generate", settings=mv.TrainSettings(**SMALL))
    return out


def test_generated_images_are_the_same_for_the_same_seed_and_differ_for_another(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        mv.generate(run, out=tmp_path / name, mode="vary", count=5, source=trapped_data, seed=seed)
    for number in range(5):
        file = f"png/vary-{number:05d}.png"
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        assert (tmp_path / "first" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()
    assert Image.open(tmp_path / "first" / "png" / "vary-00000.png").mode == "I;16"


def test_a_varied_image_names_its_source_and_does_not_depend_on_its_neighbours(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    facts = mv.generate(run, out=tmp_path / "g", mode="vary", count=40, source=trapped_data)
    assert "derived from one patient" in facts["note"]
    rows, data = pd.read_csv(tmp_path / "g" / "generated.csv"), mv.Data.open(trapped_data)
    sampler = LatentSampler(Run.open(run), "vary", 0, data)
    positions = np.array([sources[0] for sources in sampler.source_positions(np.arange(40))])
    assert rows["source_image_ids"].tolist() == data.index["image_id"].iloc[positions].tolist()
    alone = to_uint16(sampler.generate(np.array([37])).images[0])
    written = np.asarray(Image.open(tmp_path / "g" / "png" / "vary-00037.png"))
    assert np.abs(written.astype(int) - alone).max() <= 1


def test_every_training_image_is_taken_once_before_any_twice(run: Path, trapped_data: Path) -> None:
    opened, data = Run.open(run), mv.Data.open(trapped_data)
    train = data.for_training(opened.settings)["train"]
    positions = [
        sources[0] for sources in LatentSampler(opened, "vary", 0, data).source_positions(np.arange(2 * len(train)))
    ]
    assert sorted(positions[: len(train)]) == sorted(positions[len(train) :]) == sorted(train.tolist())


def test_an_interpolation_leads_from_one_training_image_to_another(generating: Path, trapped_data: Path) -> None:
    opened, data = Run.open(generating), mv.Data.open(trapped_data)
    sampler = LatentSampler(opened, "interpolate", 3, data)
    origins = sampler.source_positions(np.arange(INTERPOLATION_STEPS))
    assert len(set(origins)) == 1 and origins[0][0] != origins[0][1]
    z = sampler.latents(np.arange(INTERPOLATION_STEPS)).numpy()
    steps = np.diff(z, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-5)
    member = opened.members["pyramid_vae"]
    assert isinstance(member, PyramidVae)
    ends = member.posterior(data.batch(np.array(origins[0]), 64).to(device()))[0].detach().cpu().numpy()
    np.testing.assert_allclose(z[[0, -1]], ends, atol=1e-5)


@pytest.mark.parametrize("mode", ["vary", "interpolate"])
def test_a_sampler_that_starts_from_real_images_says_that_it_needs_them(
    run: Path, tmp_path: Path, mode: SamplingMode
) -> None:
    with pytest.raises(mv.UsageError, match="name the DATA folder with --source"):
        mv.generate(run, out=tmp_path / "g", mode=mode)


def test_at_temperature_0_all_samples_of_one_component_are_the_same_and_above_it_they_differ(generating: Path) -> None:
    opened = Run.open(generating)
    cold, warm = (LatentSampler(opened, "prior", temperature=t).latents(np.arange(4)).numpy() for t in (0.0, 1.0))
    assert not cold.any() and np.ptp(warm, axis=0).min() > 0
    hot = LatentSampler(opened, "prior", temperature=2.0).latents(np.arange(4)).numpy()
    np.testing.assert_allclose(hot, 2 * warm, rtol=1e-6)


def test_the_folder_is_a_data_folder_that_can_be_trained_on_and_scored(
    generating: Path, run: Path, tmp_path: Path
) -> None:
    facts = mv.generate(generating, out=tmp_path / "g", count=40)
    generated = mv.Data.open(tmp_path / "g")
    assert generated.images.shape == (40, 64, 64) and facts["counts"]["images"] == 40
    ok = (generated.index["status"] == "ok").to_numpy(bool)
    assert ok.sum() >= 20 and all(generated.masks[place].any() for place in np.flatnonzero(ok))
    assert not (generated.images[ok] * (generated.masks[ok] == 0)).any()
    assert (generated.index.loc[ok, "healthy"] == True).all()  # noqa: E712 - nullable column
    assert facts["run"]["weights"] == Run.open(generating).manifest["weights"] and facts["sampling"]["mode"] == "latent"
    written = np.stack(
        [np.asarray(Image.open(tmp_path / "g" / source)) for source in generated.index.loc[ok, "source"]]
    )
    np.testing.assert_array_equal(written, generated.images[ok])
    mv.train(tmp_path / "g", out=tmp_path / "again", preset="tiny", settings=mv.TrainSettings(epochs=1))
    assert mv.score(run, tmp_path / "g", out=tmp_path / "scores.csv")["table"]["finding"].notna().sum() == ok.sum()


def test_a_side_and_a_view_can_be_asked_for_where_the_run_was_told_them(
    generating: Path, run: Path, tmp_path: Path
) -> None:
    mv.generate(generating, out=tmp_path / "asked", count=12, side="R", view="CC")
    index = mv.Data.open(tmp_path / "asked").index
    assert set(index["side"]) == {"R"} and set(index["view"]) == {"CC"}
    mv.generate(generating, out=tmp_path / "free", count=24)
    assert set(mv.Data.open(tmp_path / "free").index["view"]) == {"CC", "MLO"}
    with pytest.raises(mv.UsageError, match=r"vae .* cannot be asked for a side"):
        mv.generate(run, out=tmp_path / "unconditional", mode="prior", side="R")


def test_dicom_of_a_folder_reads_back_to_its_images(generating: Path, tmp_path: Path) -> None:
    mv.generate(generating, out=tmp_path / "g", count=6, dicom=True)
    generated = mv.Data.open(tmp_path / "g")
    ok = np.flatnonzero(generated.index["status"] == "ok")
    assert len(ok)
    for place in ok:
        decoded = read(tmp_path / "g" / generated.index["source"].iloc[place])
        geometry = generated.geometry(int(place))
        np.testing.assert_array_equal(geometry.apply(decoded.pixels), generated.images[place])
        assert decoded.header["side"] == generated.index["side"].iloc[place]
    prepared = mv.prepare(
        "dicom", tmp_path / "g" / "dicom", out=tmp_path / "prepared", workers=1, settings=mv.PrepareSettings(size=64)
    )
    assert prepared["counts"]["images"] == len(ok)


def test_dicom_without_a_known_side_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(mv.UsageError, match="give --side and --view"):
        mv.generate(run, out=tmp_path / "g", mode="prior", dicom=True)
    assert not (tmp_path / "g").exists()


def test_images_of_one_patient_stay_in_one_split_and_the_patient_id_out_of_the_folder(
    run: Path, trapped_data: Path, tmp_path: Path
) -> None:
    mv.generate(run, out=tmp_path / "g", mode="vary", count=120, source=trapped_data)
    generated, data = mv.Data.open(tmp_path / "g").index, mv.Data.open(trapped_data).index
    sources = pd.read_csv(tmp_path / "g" / "generated.csv")["source_image_ids"]
    real = data.set_index("image_id")["patient_id"].reindex(sources).to_numpy()
    assert generated.groupby(real)["patient_id"].nunique().max() == 1
    assert not set(generated["patient_id"]) & set(data["patient_id"].dropna())


def test_a_run_that_cannot_make_images_says_so(trapped_data: Path, tmp_path: Path) -> None:
    settings = mv.TrainSettings(
        epochs=1,
        members=("residual_vae",),
        residual_vae=ResidualVaeSettings(size=64, widths=(4, 8)),
        fused=("normalised_peak",),
        maps=("normalised",),
    )
    mv.train(trapped_data, out=tmp_path / "r", preset="detect", settings=settings)
    with pytest.raises(mv.InputError, match="no member that generates images"):
        mv.generate(tmp_path / "r", out=tmp_path / "g")
