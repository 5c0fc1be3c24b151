"""The members of a run as one torch module: from prepared images to scores, anomaly maps and reconstructions."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mammovae.config import InputError
from mammovae.data.dataset import Batch, Data, to_tensors
from mammovae.models.anomaly_maps import smooth
from mammovae.models.run import Run, device

_BATCH = 16


class Detection(NamedTuple):
    """Raw scores of n images, float64 (n,) by name, the members' anomaly maps and the fused map, float32 (n, s, s)."""

    scores: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    fused_map: np.ndarray


class Detector(nn.Module):
    """Maps prepared images to raw scores, the members' anomaly maps, and one fused map, all 0 outside the breast.

    The fused map is the mean of the run's maps, each smoothed by a Gaussian of 1/64 of the image's side and in units of
    the 99.9th percentile over healthy validation breasts (run.manifest["map_scales"]; 1 where not yet known). Its
    maximum is one more score, map_peak: unlike a mean of the maps' maxima, it requires that they agree on the place.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.members = nn.ModuleDict(run.members)
        self.size = max(member.size for member in run.members.values())
        self.scales: Mapping[str, float] = run.manifest.get("map_scales", {})
        # The fastest format of convolutions on CPUs and GPUs alike.
        self.to(device(), memory_format=torch.channels_last).eval()  # pyrefly: ignore[no-matching-overload]

    def forward(self, batches: Mapping[int, Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Return all scores (n,), all smoothed maps and the fused map for a batch at each size that a member has."""
        scores: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for member in self.run.members.values():
            batch = batches[member.size]
            if member.bilateral and batch.other is None:
                continue
            member_scores, member_maps = member.score(batch)
            scores |= member_scores
            maps |= {key: smooth(raw, raw.shape[-1] / 64) * batch.mask for key, raw in member_maps.items()}
        scaled = []
        for name in self.run.settings.maps:
            resized = interpolate(maps[name], size=(self.size, self.size), mode="bilinear", align_corners=False)
            scaled.append(resized / self.scales.get(name, 1.0))
        fused_map = torch.stack(scaled).mean(dim=0)
        return scores | {"map_peak": fused_map.amax(dim=(1, 2, 3))}, maps, fused_map

    @torch.inference_mode()
    def detect(
        self, images: np.ndarray, masks: np.ndarray, others: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Detection:
        """Score prepared images, uint16 (n, S, S), and masks; others: the other breasts', masks empty for none."""
        batches: dict[int, Batch] = {}
        for size in {member.size for member in self.run.members.values()}:
            batch = Batch(*to_tensors(images, masks, size))
            if others is not None:
                other, other_mask = to_tensors(*others, size)
                batch = batch._replace(other=other, other_mask=other_mask)
            batches[size] = batch.to(device())
        scores, maps, fused_map = self(batches)
        raw = {name: values.double().cpu().numpy() for name, values in scores.items()}
        arrays = {name: values[:, 0].cpu().numpy() for name, values in maps.items()}
        return Detection(raw, arrays, fused_map[:, 0].cpu().numpy())

    def detect_batches(self, data: Data, positions: np.ndarray) -> Iterator[tuple[np.ndarray, Detection]]:
        """Yield (positions, Detection) of a DATA folder's images, 16 at a time."""
        is_bilateral = any(member.bilateral for member in self.run.members.values())
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            others = data.other_breasts(part) if is_bilateral else None
            yield part, self.detect(data.images[part], data.masks[part], others)

    def fused_maps(self, data: Data, positions: np.ndarray) -> np.ndarray:
        """Return the fused maps of a DATA folder's images, float32 (n, s, s)."""
        return np.concatenate([detection.fused_map for _, detection in self.detect_batches(data, positions)])

    def table(self, data: Data, positions: np.ndarray, fused_maps: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the raw scores of a DATA folder's images, (n,) each, differences between the two breasts included.

        NAME_bilateral is NAME less the other breast's, for every fused score; NaN where there is no other breast. In
        the same pass the array fused_maps, (n, size, size), is filled.
        """
        partners = data.others[positions]
        scored = np.union1d(positions, partners[partners >= 0])
        rows, partner_rows = np.searchsorted(scored, positions), np.searchsorted(scored, partners)
        order, done = np.argsort(rows), 0
        parts: list[dict[str, np.ndarray]] = []
        for batch, detection in self.detect_batches(data, scored):
            parts.append(detection.scores)
            if fused_maps is not None:
                here = order[slice(*np.searchsorted(rows, (done, done + len(batch)), sorter=order))]
                fused_maps[here] = detection.fused_map[rows[here] - done]
            done += len(batch)
        scores = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
        table = {name: values[rows] for name, values in scores.items()}
        for name in self.run.settings.fused:
            if name in scores and len(self.run.members) > 1:
                difference = scores[name][rows] - scores[name][np.minimum(partner_rows, len(scored) - 1)]
                table[f"{name}_bilateral"] = np.where(partners >= 0, difference, np.nan)
        return table


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and a run's reconstructions of them without noise, float32 (n, S, S) in [0, 1] each."""
    if run.autoencoder is None:
        raise InputError(f"{run.path} has no member that reconstructs: train with residual_vae")
    _, member = run.autoencoder
    batch = data.batch(positions, member.size).to(next(member.parameters()).device)
    with torch.inference_mode():
        reconstruction = member.reconstruct(batch)
    return batch.image[:, 0].cpu().numpy(), reconstruction[:, 0].cpu().numpy()
