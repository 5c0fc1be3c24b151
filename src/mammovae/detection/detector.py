"""One torch module from prepared squares to scores and a map: a run's members and the smoothing of their maps."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mammovae.data.dataset import Batch, Data, to_tensors
from mammovae.models.anomaly_maps import smooth
from mammovae.models.run import Run, device


class Detector(nn.Module):
    """Maps a Batch to the named raw scores (n,) and one map (n, 1, S, S), 0 outside the breast.

    The map is the mean of the run's maps, each smoothed by a Gaussian of 1/64 of the image's side and in units of what
    one pixel in a thousand of healthy validation breasts exceeds (run.manifest["map_scales"]; 1 where not yet known).
    To the members' scores it adds map_peak, the map's maximum: unlike a mean of their single maxima, it asks that the
    members agree on the place.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.members = nn.ModuleDict(run.members)
        self.sizes = {name: member.size for name, member in run.members.items()}
        self.size = max(self.sizes.values())
        self.scales: Mapping[str, float] = run.manifest.get("map_scales", {})
        # The fastest format of convolutions on CPUs and GPUs alike.
        self.to(device(), memory_format=torch.channels_last).eval()  # pyrefly: ignore[no-matching-overload]

    def forward(self, batches: dict[int, Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take the images at each size that a member has; return all scores and all maps, smoothed."""
        scores: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for name, member in self.run.members.items():
            batch = batches[self.sizes[name]]
            if member.bilateral and batch.other is None:
                continue
            found, drawn = member.score(batch)
            scores |= found
            maps |= {key: smooth(map, map.shape[-1] / 64) * batch.mask for key, map in drawn.items()}
        return scores, maps

    def fused(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of settings.maps in units of their scales, (n, 1, S, S) at the largest member's size."""
        parts = []
        for name in self.run.settings.maps:
            map = maps[name]
            if map.shape[-1] != self.size:
                map = interpolate(map, size=(self.size, self.size), mode="bilinear", align_corners=False)
            parts.append(map / self.scales.get(name, 1.0))
        return torch.stack(parts).mean(dim=0)

    @torch.inference_mode()
    def squares(
        self, images: np.ndarray, masks: np.ndarray, others: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """Score uint16 squares (n, S, S) with their masks, and the other breasts' squares and masks where known.

        Returns named float64 scores (n,), the single maps and the fused map, float32 (n, s, s). An other breast whose
        mask is empty is none.
        """
        batches: dict[int, Batch] = {}
        for size in set(self.sizes.values()):
            batch = Batch(*to_tensors(images, masks, size))
            if others is not None:
                other, other_mask = to_tensors(*others, size)
                batch = batch._replace(other=other, other_mask=other_mask)
            batches[size] = batch.to(device())
        scores, maps = self(batches)
        whole = self.fused(maps)
        scores["map_peak"] = whole.amax(dim=(1, 2, 3))
        return (
            {name: value.double().cpu().numpy() for name, value in scores.items()},
            {name: map[:, 0].cpu().numpy() for name, map in maps.items()},
            whole[:, 0].cpu().numpy(),
        )

    def data(
        self, data: Data, positions: np.ndarray, batch_size: int = 16
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]]:
        """Yield (positions, scores, single maps, fused map) of a DATA folder's images, a batch at a time."""
        bilateral = any(member.bilateral for member in self.run.members.values())
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            others = data.other_breasts(part) if bilateral else None
            yield (part, *self.squares(data.images[part], data.masks[part], others))

    def table(self, data: Data, positions: np.ndarray, fused_maps: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the named scores of a DATA folder's images, (n,) each, differences of the two breasts included.

        NAME_bilateral is NAME less the other breast's, for every fused score; NaN where there is no other breast. In
        the same pass the array fused_maps, (n, size, size), is filled.
        """
        partners = data.others[positions]
        everything = np.union1d(positions, partners[partners >= 0])
        parts = []
        for batch, scores, _, fused in self.data(data, everything):
            parts.append(scores)
            if fused_maps is not None:
                rows, places = np.nonzero(positions[:, None] == batch)
                fused_maps[rows] = fused[places]
        found = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}
        own, other = np.searchsorted(everything, positions), np.searchsorted(everything, partners)
        table = {name: values[own] for name, values in found.items()}
        for name in self.run.settings.fused:
            if name in found and len(self.run.members) > 1:
                difference = found[name][own] - found[name][np.minimum(other, len(everything) - 1)]
                table[f"{name}_bilateral"] = np.where(partners >= 0, difference, np.nan)
        return table
