"""The members of a run as one torch module: from prepared images to scores, anomaly maps and reconstructions."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mammovae.data.dataset import Batch, Data
from mammovae.models.anomaly_maps import smooth
from mammovae.models.precision import float32_products
from mammovae.models.run import Run, device
from mammovae.models.stored_batch import StoredBatch

BATCH_SIZES = {"cpu": 16, "cuda": 128}
"""Images that are scored at once, by the type of the device."""


class Detection(NamedTuple):
    """Raw scores of n images, float64 (n,) by name, the members' anomaly maps and the fused map, float32 (n, s, s).

    There are members' maps only where they were asked for.
    """

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

    def detect(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        others: tuple[np.ndarray, np.ndarray] | None = None,
        with_maps: bool = False,
    ) -> Detection:
        """Score prepared images, uint16 (n, S, S), and masks; others: the other breasts', masks empty for none."""
        return self._fetch(self._compute(images, masks, others), with_maps)

    def detect_batches(
        self, data: Data, positions: np.ndarray, with_maps: bool = False
    ) -> Iterator[tuple[np.ndarray, Detection]]:
        """Yield (positions, Detection) of a DATA folder's images, as many at a time as suit the device."""
        is_bilateral = any(member.bilateral for member in self.run.members.values())
        size, under_way = BATCH_SIZES[device().type], None
        for start in range(0, len(positions), size):
            part = positions[start : start + size]
            others = data.other_breasts(part) if is_bilateral else None
            computed = self._compute(data.images[part], data.masks[part], others)
            # A GPU computes this batch while the one before is fetched and used.
            if under_way is not None:
                yield under_way[0], self._fetch(under_way[1], with_maps)
            under_way = part, computed
        if under_way is not None:
            yield under_way[0], self._fetch(under_way[1], with_maps)

    @torch.inference_mode()
    def _compute(
        self, images: np.ndarray, masks: np.ndarray, others: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Return what forward does of images that go to the device as they are stored."""
        stored = StoredBatch.of(np.array(images), np.array(masks))
        if others is not None:
            other = StoredBatch.of(*others)
            stored = stored._replace(others=other.images, other_masks=other.masks)
        stored = stored.to(device())
        with float32_products("ieee"):
            return self({size: stored.to_batch(size) for size in {one.size for one in self.run.members.values()}})

    @torch.inference_mode()
    def _fetch(self, computed: tuple[dict[str, Tensor], dict[str, Tensor], Tensor], with_maps: bool) -> Detection:
        """Return what was computed, from the device in as few pieces as there are kinds of it."""
        scores, maps, fused_map = computed
        values = torch.stack(list(scores.values())).cpu().double().numpy()
        arrays = {name: part[:, 0].cpu().numpy() for name, part in maps.items()} if with_maps else {}
        return Detection(dict(zip(scores, values, strict=True)), arrays, fused_map[:, 0].cpu().numpy())

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


def reconstruct(run: Run, data: Data, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return images and reconstructions without noise, float32 (n, S, S) in [0, 1]; None if no member makes any."""
    member = next(iter(run.members.values())) if run.autoencoder is None else run.autoencoder[1]
    batch = data.batch(positions, member.size)
    images = batch.image[:, 0].numpy()
    if run.autoencoder is None:
        return images, None
    with torch.inference_mode():
        reconstruction = run.autoencoder[1].reconstruct(batch.to(device()))
    return images, reconstruction[:, 0].cpu().numpy()
