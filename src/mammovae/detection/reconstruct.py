"""Images beside a run's reconstructions of them."""

import numpy as np
import torch

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.models.run import Run


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their reconstructions without noise, float32 (n, S, S) in [0, 1] each.

    Raises InputError for a run in which no member reconstructs.
    """
    if run.autoencoder is None:
        raise InputError(f"{run.path} has no member that reconstructs: train with residual_vae")
    _, member = run.autoencoder
    batch = data.batch(positions, member.size).to(next(member.parameters()).device)
    with torch.inference_mode():
        reconstruction = member.reconstruct(batch)
    return batch.image[:, 0].cpu().numpy(), reconstruction[:, 0].cpu().numpy()
