"""Train a run: fit its members, calibrate them, and keep what a person wants to see of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch

from mammovae import config
from mammovae.config import PresetName
from mammovae.data.dataset import Data
from mammovae.detect.detector import Detector
from mammovae.folders import Stage, file_hash, replacing, write_text
from mammovae.model.member import WEIGHTS
from mammovae.model.run import CONFIG, Run, build
from mammovae.page.charts import loss_curve
from mammovae.page.pictures import image_grid
from mammovae.page.style import save
from mammovae.study.leaks import remember


def train(data: Path | str, *, out: Path | str, preset: PresetName = "seed", **settings: Any) -> dict[str, Any]:
    """Train a preset on the healthy training images of a DATA folder, calibrate it, and return the manifest.

    settings replace the preset's (epochs=5, side="R", vae={"latent": 16}). The RUN folder out holds config.toml,
    the weights, history.csv, calibration.parquet, loss.png and private/. Interrupted, the same call goes on from the
    last checkpoint and ends with the very same weights.
    """
    from mammovae.fit import fit  # its framework takes seconds to import

    chosen, opened = config.preset(preset, settings), Data.open(data)
    parts = opened.for_training(chosen)
    opened.batch(parts["train"][:1], chosen.vae.size)  # a size that does not fit is refused before anything is written
    members = build(chosen)
    inputs = {"data": str(opened.path.resolve()), "index": file_hash(opened.path / "index.parquet")}
    with Stage(Path(out), "train", {"preset": preset} | chosen.model_dump(), inputs) as stage:
        if not stage.done:
            write_text(stage.out / CONFIG, tomli_w.dumps(_without_nulls(chosen.model_dump())))
            history = pd.DataFrame()
            for name, member in members.items():
                history = fit(member, opened, parts, stage.out / "members" / name, chosen)
                save(loss_curve(history), stage.out / "loss.png")
            run = Run(stage.out, {}, chosen, members)
            scale = _calibrate(run, opened, parts)
            _reconstructions(run, opened, parts)
            remember(run, opened, np.concatenate(list(parts.values())))
            stage.finish(
                preset=preset,
                training_seconds=round(float(history["seconds"].sum()), 1),
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
    inside = [maps[maps > 0] for _, _, maps in detector.data(data, calm[:256])]  # outside the breast a map is 0
    return float(np.quantile(np.concatenate(inside), 0.999))


def _reconstructions(run: Run, data: Data, parts: dict[str, np.ndarray]) -> None:
    positions = (parts["validation"] if len(parts["validation"]) else parts["train"])[:8]
    originals, made = reconstruct(run, data, positions)
    (run.path / "private").mkdir(exist_ok=True)
    grid = image_grid(np.concatenate([originals, made]), len(positions), row_labels=["image", "reconstruction"])
    save(grid, run.path / "private" / "reconstructions.png")


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their reconstructions at z = mean, float32 (n, S, S) in [0, 1] each."""
    vae = run.members["vae"]
    image, _ = data.batch(positions, run.settings.vae.size)
    with torch.inference_mode():
        made = vae.decode(vae.encode(image.to(next(vae.parameters()).device))[0])
    return image[:, 0].numpy(), made[:, 0].cpu().numpy()
