"""A look into a run's latent space: what its dimensions do, the way between two samples, and where images lie."""

from collections.abc import Mapping

import numpy as np
import torch

from mammovae.auditing.image_set import ImageSet, MeasuredSet, Measures
from mammovae.generation.samplers import LatentSampler
from mammovae.models.run import Run, device
from mammovae.report.audit_page import LatentView

_ROWS, _REACH, _STEPS = 5, 2.0, 7


def latent_view(run: Run, train: ImageSet, real: MeasuredSet, arms: Mapping[str, MeasuredSet], seed: int) -> LatentView:
    """Decode a run's most active dimensions and an interpolation of two samples, and project real and generated images.

    No image shown starts from a patient's: dimensions are moved around the training latents' mean, and the way leads
    from one sample of the fitted distribution to another. A dimension is as active as the means of the training
    images, or of their sample, differ in it.
    """
    assert run.generator is not None
    learnt = train.latents(train.sample, run.generator[1])
    centre, deviation = learnt.mean(axis=0), learnt.std(axis=0)
    active = np.argsort(-deviation)[:_ROWS]
    moves = np.linspace(-_REACH, _REACH, _STEPS)
    z = np.tile(centre, (len(active), _STEPS, 1))
    z[np.arange(len(active)), :, active] += moves * deviation[active, None]
    traversals = _decode(run, z.reshape(-1, len(centre)), seed)
    ends = LatentSampler(run, "latent", seed).latents(np.arange(2)).double().numpy()
    share = np.linspace(0, 1, _STEPS)[:, None]
    points, labels, variance = _project(real.measures, {arm: one.measures for arm, one in arms.items()})
    return LatentView(
        traversals=traversals.reshape(len(active), _STEPS, *traversals.shape[1:]),
        row_labels=[f"dimension {dimension}" for dimension in active],
        column_labels=[f"{move:+.1f}".replace("-", "−") for move in moves],
        strip=_decode(run, (1 - share) * ends[:1] + share * ends[1:], seed),
        points=points,
        point_labels=labels,
        variance=variance,
    )


@torch.inference_mode()
def _decode(run: Run, z: np.ndarray, seed: int) -> np.ndarray:
    """Decode latent vectors (n, d), all with one texture and nothing known of them, to images (n, S, S)."""
    assert run.generator is not None
    textures = [torch.Generator().manual_seed(seed) for _ in z]
    images, _ = run.generator[1].generate_images(
        torch.from_numpy(z).float().to(device()), torch.zeros(len(z), 6, device=device()), textures
    )
    return images[:, 0].float().cpu().numpy()


def _project(real: Measures, arms: Mapping[str, Measures]) -> tuple[np.ndarray, list[str], tuple[float, float]]:
    """Return points (N, 2) on the real images' first two principal axes, their labels, and the axes' shares."""
    assert real.latents is not None
    mean = real.latents.mean(axis=0)
    _, values, axes = np.linalg.svd(real.latents - mean, full_matrices=False)
    shares = values**2 / max(float((values**2).sum()), 1e-12)
    sets = {"real": real} | {arm: images for arm, images in arms.items() if images.latents is not None}
    points = [(images.latents - mean) @ axes[:2].T for images in sets.values()]
    labels = [name for name, images in sets.items() for _ in images.groups]
    return np.concatenate(points), labels, (float(shares[0]), float(shares[1]))
