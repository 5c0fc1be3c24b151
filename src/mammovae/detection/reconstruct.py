"""Images beside what a run makes of them."""

import numpy as np
import torch

from mammovae.config import InputError
from mammovae.data.dataset import Data
from mammovae.models.anomaly_maps import undo_standardisation
from mammovae.models.pyramid_vae import PyramidVae
from mammovae.models.residual_vae import ResidualVae
from mammovae.models.run import Run
from mammovae.models.vae import Vae


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their reconstructions at z = mean, float32 (n, S, S) in [0, 1] each.

    What a member says in standardised grey is brought back to the film's own. InputError for a run without a VAE.
    """
    name = next((name for name in ("vae", "residual_vae", "pyramid_vae") if name in run.members), None)
    if name is None:
        raise InputError(f"{run.path} has no member that reconstructs: train with residual_vae")
    member = run.members[name]
    batch = data.batch(positions, member.size).to(next(member.parameters()).device)
    with torch.inference_mode():
        if isinstance(member, Vae):
            made = member.decode(member.encode(batch.image)[0])
        elif isinstance(member, PyramidVae):
            made = member.reconstruct(batch)
        else:
            assert isinstance(member, ResidualVae)
            made = undo_standardisation(member.predict(batch)[1], batch.image, batch.mask)
    return batch.image[:, 0].cpu().numpy(), made[:, 0].cpu().numpy()
