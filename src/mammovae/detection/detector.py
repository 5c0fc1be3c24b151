"""The members of a run as one torch module: from prepared images to scores, anomaly maps and reconstructions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
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

_CPU_BATCH, _CPU_PIXELS = 16, 2**17  # images that stay in a core's caches; of small ones more, for linear layers
_GPU_PIXELS = 2**21  # of a batch on a GPU: 128 images of 128 px, a few GB at the widest layers


class Detection(NamedTuple):
    """Raw scores of n images, float64 (n,) by name, the members' anomaly maps and the fused map, float32 (n, s, s).

    There are members' maps only where they were asked for.
    """

    scores: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    fused_map: np.ndarray


class _Begun(NamedTuple):
    """A detection that a GPU may still compute: tensors of the host that are filled once it has."""

    names: list[str]
    scores: Tensor  # (k, n)
    maps: dict[str, Tensor]
    fused_map: Tensor
    arrived: torch.cuda.Event | None

    def result(self) -> Detection:
        """Return it, once it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        scores = dict(zip(self.names, self.scores.double().numpy(), strict=True))
        maps = {name: values[:, 0].numpy() for name, values in self.maps.items()}
        return Detection(scores, maps, self.fused_map[:, 0].numpy())


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

    @property
    def batch_size(self) -> int:
        """The number of images that are scored at once."""
        if device().type == "cpu":
            return max(_CPU_BATCH, _CPU_PIXELS // self.size**2)
        return max(1, _GPU_PIXELS // self.size**2)

    def detect(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        others: tuple[np.ndarray, np.ndarray] | None = None,
        with_maps: bool = False,
    ) -> Detection:
        """Score prepared images, uint16 (n, S, S), and masks; others: the other breasts', masks empty for none."""
        return self._begin(images, masks, others, with_maps).result()

    def detect_batches(
        self, data: Data, positions: np.ndarray, with_maps: bool = False
    ) -> Iterator[tuple[np.ndarray, Detection]]:
        """Yield (positions, Detection) of a DATA folder's images, batch_size at a time."""
        batches = self._batches(positions)
        yield from zip(batches, self._detect_each(data, batches, with_maps), strict=True)

    def detect_parts(self, data: Data, parts: Sequence[np.ndarray]) -> Iterator[Detection]:
        """Yield the Detection, without members' maps, of each part of a DATA folder's images: positions (n,), n > 0."""
        batches = [self._batches(part) for part in parts]
        detections = self._detect_each(data, chain.from_iterable(batches), with_maps=False)
        for own in batches:
            found = list(islice(detections, len(own)))
            scores = {name: np.concatenate([one.scores[name] for one in found]) for name in found[0].scores}
            yield Detection(scores, {}, np.concatenate([one.fused_map for one in found]))

    def _batches(self, positions: np.ndarray) -> list[np.ndarray]:
        return [positions[start : start + self.batch_size] for start in range(0, len(positions), self.batch_size)]

    def _detect_each(self, data: Data, batches: Iterable[np.ndarray], with_maps: bool) -> Iterator[Detection]:
        """Yield each batch's Detection; by then the next is begun, for a GPU to work while this one is used."""
        is_bilateral = any(member.bilateral for member in self.run.members.values())
        begun: _Begun | None = None
        for positions in batches:
            others = data.other_breasts(positions) if is_bilateral else None
            following = self._begin(data.images[positions], data.masks[positions], others, with_maps)
            if begun is not None:
                yield begun.result()
            begun = following
        if begun is not None:
            yield begun.result()

    @torch.inference_mode()
    def _begin(
        self, images: np.ndarray, masks: np.ndarray, others: tuple[np.ndarray, np.ndarray] | None, with_maps: bool
    ) -> _Begun:
        """Have images scored, which go to the device as they are stored; on a GPU this returns while it computes."""
        # What can be written to, which not every array that is given can.
        stored = StoredBatch.of(*(np.require(part, requirements=("C", "W")) for part in (images, masks)))
        if others is not None:
            other = StoredBatch.of(*others)
            stored = stored._replace(others=other.images, other_masks=other.masks)
        stored = stored.to(device())
        with float32_products("ieee"):
            sizes = {member.size for member in self.run.members.values()}
            scores, maps, fused_map = self({size: stored.to_batch(size) for size in sizes})
        # In as few pieces as there are kinds of it, and at once: later, a copy would wait for the next batch too.
        values = torch.stack(list(scores.values())).to("cpu", non_blocking=True)
        maps = {name: part.to("cpu", non_blocking=True) for name, part in maps.items() if with_maps}
        fused_map = fused_map.to("cpu", non_blocking=True)
        arrived = None
        if device().type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return _Begun(list(scores), values, maps, fused_map, arrived)

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
