"""The verbs that join stages: train = fit then calibrate; evaluate = score, judge, report."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tomli_w

from mammovae import config
from mammovae.config import PresetName
from mammovae.data.dataset import Data
from mammovae.detect.baselines import PcaResidual, trivial
from mammovae.detect.detector import FINDING, Detector
from mammovae.folders import Stage, file_hash, replacing, write_text
from mammovae.model.member import CONFIG, WEIGHTS, Run, build
from mammovae.page.pictures import image_grid
from mammovae.page.plots import loss_curve
from mammovae.page.style import save

SCORES = {FINDING: "Reconstruction loss", "kl_divergence": "KL divergence"}
BASELINES = {"mean_grey": "Mean grey", "breast_area": "Breast area", "pca_residual": "PCA residual"}
SEED_PROTOCOL_IMAGES = 20


def train(data: Path | str, *, out: Path | str, preset: PresetName = "seed", **settings: Any) -> dict[str, Any]:
    """Train a preset on the healthy training images of a DATA folder, calibrate it, and return the manifest.

    settings replace the preset's (epochs=5, side="R", vae={"latent": 16}). The RUN folder out holds config.toml,
    the weights, history.csv, calibration.parquet, loss.png and private/. Interrupted, the same call goes on from the
    last checkpoint and ends with the very same weights.
    """
    from mammovae.fit import fit

    chosen, opened = config.preset(preset, settings), Data.open(data)
    parts = opened.for_training(chosen)
    inputs = {"data": str(data), "index": file_hash(opened.path / "index.parquet")}
    with Stage(Path(out), "train", {"preset": preset} | chosen.model_dump(), inputs) as stage:
        if not stage.done:
            write_text(stage.out / CONFIG, tomli_w.dumps(_without_nulls(chosen.model_dump())))
            members = build(chosen)
            for name, member in members.items():
                history = fit(member, opened, parts, stage.out / "members" / name, chosen)
                save(loss_curve(history), stage.out / "loss.png")
            run = Run(stage.out, {}, chosen, members)
            scale = _calibrate(run, opened, parts)
            _reconstructions(run, opened, parts)
            stage.finish(
                preset=preset,
                images={name: len(positions) for name, positions in parts.items()},
                parameters={name: sum(p.numel() for p in member.parameters()) for name, member in members.items()},
                weights={name: file_hash(stage.out / "members" / name / WEIGHTS) for name in members},
                map_scale=scale,
                prepared=opened.manifest["settings"] | {"stored_as": opened.manifest["stored_as"]},
            )
        return stage.facts()


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not set, for TOML has no null."""
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _calibrate(run: Run, data: Data, parts: dict[str, np.ndarray]) -> float:
    """Write the healthy scores that percentiles are read from; return the map value that few healthy pixels exceed.

    Without calibration images the scale comes from training images, and there are no percentiles.
    """
    detector = Detector(run)
    scores = detector.table(data, parts["calibration"])
    with replacing(run.path / "calibration.parquet") as partial:
        pd.DataFrame(scores).to_parquet(partial, index=False)
    calm = parts["calibration"] if len(parts["calibration"]) else parts["train"]
    return float(np.mean([np.quantile(maps, 0.999) for _, _, maps in detector.data(data, calm[:256])]))


def _reconstructions(run: Run, data: Data, parts: dict[str, np.ndarray]) -> None:
    positions = (parts["validation"] if len(parts["validation"]) else parts["train"])[:8]
    originals, made = reconstruct(run, data, positions)
    (run.path / "private").mkdir(exist_ok=True)
    grid = image_grid(np.concatenate([originals, made]), len(positions), row_labels=["image", "reconstruction"])
    save(grid, run.path / "private" / "reconstructions.png")


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their reconstructions at z = mean, float32 (n, S, S) in [0, 1] each."""
    import torch

    vae = run.members["vae"]
    image, _ = data.batch(positions, run.settings.vae.size)
    with torch.inference_mode():
        made = vae.decode(vae.encode(image.to(next(vae.parameters()).device))[0])
    return image[:, 0].numpy(), made[:, 0].cpu().numpy()


def scores_table(run: Run, data: Data, positions: np.ndarray) -> pd.DataFrame:
    """Return a row an image with identity, health, categories, density, every score and every trivial baseline.

    The PCA is fitted on the run's own training images in data; without any there, its column is left out.
    """
    frame = data.index.iloc[positions]
    table = pd.DataFrame(
        {
            "position": positions,
            "image_id": frame["image_id"].to_numpy(),
            "patient_id": frame["patient_id"].to_numpy(),
            "healthy": frame["healthy"].to_numpy(),
            "categories": [sorted({item["category"] for item in cell}) for cell in frame["findings"]],
            "density": frame["density"].to_numpy(),
            **Detector(run).table(data, positions),
            **trivial(data, positions),
        }
    )
    train = data.select("train", side=run.settings.side, view=run.settings.view)
    if len(train) > 1:
        table["pca_residual"] = PcaResidual().fit(data, train).score_samples(data, positions)
    return table


def test_positions(run: Run, data: Data, protocol: Literal["full", "seed"], seed: int) -> tuple[np.ndarray, list[str]]:
    """Return the test images to judge, of the run's side and view, and what has to be said about their choice.

    full: all of them. seed: 20 healthy ones and 20 with findings, drawn at random; fewer where there are fewer.
    """
    positions = data.select("test", side=run.settings.side, view=run.settings.view)
    if protocol == "full":
        return positions, []
    rng, drawn, notes = np.random.default_rng(seed), [], []
    health = data.index["healthy"].iloc[positions].to_numpy(dtype=object)
    for wanted, words in ((True, "healthy images"), (False, "images with findings")):
        arm = positions[[value is not pd.NA and value == wanted for value in health]]
        if len(arm) < SEED_PROTOCOL_IMAGES:
            notes.append(f"the seed protocol wants {SEED_PROTOCOL_IMAGES} {words}; the test split has {len(arm)}")
        drawn.append(rng.choice(arm, min(len(arm), SEED_PROTOCOL_IMAGES), replace=False))
    return np.sort(np.concatenate(drawn)), notes
