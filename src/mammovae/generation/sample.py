"""New images from a run: the samplers, and the folder that they fill."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mammovae.config import InputError, UsageError
from mammovae.data.dataset import Data
from mammovae.folders import Stage, file_hash, replacing
from mammovae.model.run import Run, device
from mammovae.model.vae import Vae
from mammovae.page.progress import Progress

DERIVED = "derived from one patient's image"
"""What every label of a varied image says."""


@torch.inference_mode()
def vary(run: Run, data: Data, positions: np.ndarray, seed: int, first: int = 0) -> np.ndarray:
    """Encode images, add noise, decode: the seed study's way, one new image for each position.

    z = mean + noise, noise ~ N(0, I); returns float32 (n, S, S) in [0, 1]. Image number first + i has its own
    noise, whatever stands beside it. Each result is derived from one patient by construction.
    """
    vae = _vae(run)
    made = []
    for start in range(0, len(positions), 32):
        part = positions[start : start + 32]
        mean, _ = vae.encode(data.batch(part, run.settings.vae.size).image.to(device()))
        noise = torch.stack([_noise(seed, first + start + number, mean.shape[1]) for number in range(len(part))])
        made.append(vae.decode(mean + noise.to(mean.device))[:, 0].cpu().numpy())
    return np.concatenate(made)


def _vae(run: Run) -> Vae:
    vae = run.members.get("vae")
    if not isinstance(vae, Vae):
        raise InputError(f"{run.path} has no vae among its members: train the seed preset to generate images")
    return vae


def sources(run: Run, data: Data, count: int, seed: int) -> np.ndarray:
    """Draw count training images to vary, each once before any is taken twice; raises InputError if there are none."""
    train = data.for_training(run.settings)["train"]
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(train) for _ in range(-(-count // len(train)))]
    return np.concatenate(rounds)[:count]


def generate(
    run: Path | str,
    *,
    out: Path | str,
    mode: Literal["vary"] = "vary",
    count: int = 16,
    source: Path | str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fill the folder out with count generated images: 16-bit PNG, index.csv, grid.png; return its manifest.

    vary needs source, the DATA folder whose training images are encoded; index.csv names the one behind each.
    The same run, source and seed give the same images.
    """
    from mammovae.page.pictures import image_grid
    from mammovae.page.style import save

    if source is None:
        raise UsageError(f"--mode {mode} starts from real images: name the DATA folder with --source")
    if count < 1:
        raise UsageError(f"--count {count} makes no image: give at least 1")
    opened, data = Run.open(run), Data.open(source)
    settings = {"mode": mode, "count": count, "seed": seed}
    inputs = {
        "run": str(opened.path.resolve()),
        "weights": opened.manifest["weights"]["vae"],
        "source": str(data.path.resolve()),
        "index": file_hash(data.path / "index.parquet"),
    }
    with Stage(Path(out), "generate", settings, inputs) as stage:
        if not stage.done:
            positions = sources(opened, data, count, seed)
            rows = []
            with Progress("generating", count, unit="images") as progress:
                for start in range(0, count, 32):
                    part = positions[start : start + 32]
                    for image, position in zip(vary(opened, data, part, seed, start), part, strict=True):
                        name = f"{mode}-{len(rows):05d}.png"
                        write_png(stage.out / name, image)
                        rows.append({"image": name, "mode": mode, "source_image_id": data.index["image_id"][position]})
                    progress.advance(len(part))
            with replacing(stage.out / "index.csv") as partial:
                pd.DataFrame(rows).to_csv(partial, index=False)
            shown = [read_png(stage.out / row["image"]) for row in rows[:64]]
            save(image_grid(np.stack(shown), columns=8), stage.out / "grid.png")
            stage.finish(note=f"each image is {DERIVED}")
        return stage.facts()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image in [0, 1] as 16-bit grey PNG in one step."""
    with replacing(path) as partial:
        Image.fromarray(np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)).save(partial)


def read_png(path: Path) -> np.ndarray:
    """Read a 16-bit grey PNG as an image in [0, 1]."""
    try:
        return np.asarray(Image.open(path), dtype=np.float64) / 65535
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _noise(seed: int, number: int, dimension: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return torch.randn(dimension, generator=generator)
