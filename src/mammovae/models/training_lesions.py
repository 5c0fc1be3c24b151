"""Lesions that networks learn from, drawn for a whole batch at once where the batch lies, anew each time.

They share no shape, no blending and no random number with those of `mammovae.perturbations.lesions`, which choose and
report.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from mammovae.config import LesionKind
from mammovae.data.dataset import Batch
from mammovae.models import lesion_parts as parts
from mammovae.models.anomaly_maps import moments
from mammovae.models.lesion_parts import Draw, Site
from mammovae.models.noise import ImageNoise, uniform_places

RADII_MM: dict[LesionKind, tuple[float, float]] = {
    "mass": (2.5, 17.0),
    "spiculated": (5.0, 24.0),
    "calcification": (3.0, 15.0),
    "distortion": (5.0, 24.0),
    "asymmetry": (5.0, 24.0),
}
"""Of a lesion's full extent, with all spicules; also at most an eighth of the image's side, less three pixels."""

_LESION_SHARE, _SHAM_SHARE = 0.8, 0.1
"""Of images, how many get a lesion, and how many a place that is resampled without one."""
_CONTRASTS, _SPECK_CONTRASTS = (0.5, 3.2), (1.5, 10.0)
"""In standard deviations of the breast's grey; of specks at their thickest, which fills no whole pixel."""
_CELLS = 64  # rows and columns of the grid on which places are drawn
_CANDIDATES = 4  # places of which the brightest gives its tissue to an asymmetry
_MARGIN = 2  # cells between a lesion's centre and the breast's edge


def insert_lesions(batch: Batch, noise: ImageNoise, kinds: tuple[LesionKind, ...]) -> tuple[Batch, Tensor]:
    """Insert a lesion into four of five images, and return the region that it fills, (n, 1, S, S), 0 or 1.

    It is as likely of each of kinds, and depends on the image, its noise and batch.mm_per_pixel (n,) alone. In half of
    the images without one a place is resampled as for a distortion, but not pulled: that is to mean nothing.
    """
    assert batch.mm_per_pixel is not None
    image, mask, draw = batch.image[:, 0], batch.mask[:, 0], Draw(noise)
    size, side = image.shape[-1], image.shape[-1] // 4
    centre, donor = _places(image, mask, draw)
    here, there = (_pixels(place, side, size) for place in (centre, donor))
    tissue, inside = image[here], mask[here]

    share, choice = draw.uniform(0, 1, 1, 1), (draw.uniform(0, 1, 1, 1) * len(kinds)).long()
    kind = {name: choice == (kinds.index(name) if name in kinds else -1) for name in RADII_MM}
    mm, along = batch.mm_per_pixel.to(image.dtype).view(-1, 1, 1), draw.uniform(0, 1, 1, 1)
    spans = [(is_kind, *RADII_MM[name]) for name, is_kind in kind.items()]
    radius = torch.stack([is_kind * low * (high / low) ** along for is_kind, low, high in spans]).sum(dim=0)
    radius = (radius / mm).clamp(min=1.5, max=side / 2 - 3)
    y, x = (pixels - centre[:, axis, None, None] for axis, pixels in enumerate(here[1:]))
    is_lesion, is_sham = share < _LESION_SHARE, (share >= _LESION_SHARE) & (share < _LESION_SHARE + _SHAM_SHARE)
    site = Site(y, x, torch.hypot(y, x) / radius, radius, mm, tissue, image[there], kind, is_sham)
    change, region = _change(site, draw, *(part[:, 0] for part in moments(batch.image, batch.mask)))
    changed, lesion = image.clone(), torch.zeros_like(image)
    changed[here] = (tissue + change * inside * (is_lesion | is_sham)).clamp(0, 1)
    lesion[here] = region * inside * is_lesion
    return batch._replace(image=changed[:, None]), lesion[:, None]


def _pixels(place: Tensor, side: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the index of the window of side pixels about a place (n, 2) of each image: numbers, rows, columns."""
    corner = (place.round().long() - side // 2).clamp(0, size - side)
    rows, columns = (corner[:, axis, None] + torch.arange(side, device=place.device) for axis in range(2))
    return torch.arange(len(place), device=place.device)[:, None, None], rows[:, :, None], columns[:, None, :]


def _places(image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw lesions' centres in the breast, away from its edge, and the places that give tissue: (n, 2), in pixels.

    Of several places the brightest gives, and half of the lesions lie at the brighter of two: glandular tissue is where
    lesions are, and what asymmetries are made of.
    """
    cell = max(1, image.shape[-1] // _CELLS)
    whole = avg_pool2d(mask[:, None], cell)
    outside = pad((whole < 0.999).float(), (_MARGIN,) * 4, value=1.0)
    inner = 1 - max_pool2d(outside, 2 * _MARGIN + 1, stride=1)
    # Where the breast is too thin for that, anywhere in it.
    room = torch.where(inner.amax(dim=(1, 2, 3), keepdim=True) > 0, inner, whole).flatten(1)
    cells, columns = uniform_places(room > 0, draw.uniform(0, 1, 2 + _CANDIDATES)), whole.shape[-1]
    grey = avg_pool2d(image[:, None], cell).flatten(1).gather(1, cells)
    second = (grey[:, 1:2] > grey[:, :1]) & (draw.uniform(0, 1, 1) < 0.5)
    giver = 2 + grey[:, 2:].argmax(dim=1, keepdim=True)
    chosen = cells.gather(1, torch.cat([second.long(), giver], dim=1))
    places = torch.stack([chosen // columns, chosen % columns], dim=2) * cell + draw.uniform(0, cell, 2, 2) - 0.5
    return places[:, 0], places[:, 1]


def _change(site: Site, draw: Draw, mean: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much each pixel's grey changes, and the region that a reader would outline, (n, w, w) each.

    mean, unit: mean and standard deviation of the breast's grey, (n, 1, 1).
    """
    kind, texture, outline = site.kind, parts.power_law_field(site, draw), parts.outline(site, draw)
    contrast = draw.log_uniform(_CONTRASTS, 1, 1) * unit
    is_star = kind["spiculated"] | kind["distortion"]
    core_share = torch.where(kind["spiculated"], draw.uniform(0.25, 0.6, 1, 1), 1.0)
    body, in_body = parts.body(outline, core_share, texture, draw)
    spicules = parts.spicules(site, draw)
    specks, near_specks = parts.specks(site, draw)
    grafted, in_graft = parts.graft(site, outline, contrast, texture, draw)
    pulled = parts.pulled(site, outline, draw)

    has_body = kind["mass"] + kind["spiculated"] * draw.uniform(0.4, 1, 1, 1)
    has_body = has_body + kind["calcification"] * draw.uniform(-0.4, 0.2, 1, 1).clamp(min=0)
    strength = torch.where(kind["spiculated"], draw.uniform(0.3, 0.9, 1, 1), draw.uniform(0.15, 0.7, 1, 1)) * is_star
    rise = contrast * (body * has_body + spicules * strength)
    rise = rise + draw.log_uniform(_SPECK_CONTRASTS, 1, 1) * unit * specks * kind["calcification"]
    # The shoulder of a film's curve: where grey is near white already, more attenuation adds less of it.
    headroom = ((1 - site.tissue) / (1 - mean).clamp(min=0.05)).clamp(0, 1.5)
    rise = rise * torch.lerp(torch.ones_like(headroom), headroom, draw.uniform(0, 1, 1, 1))
    # Of a star the place that its strands lead to is outlined, not all of them.
    regions: dict[LesionKind, Tensor] = {"mass": in_body, "calcification": near_specks, "asymmetry": in_graft}
    region = sum((kind[name] * part for name, part in regions.items()), is_star * (site.distance < 0.6).float())
    return rise + grafted * kind["asymmetry"] + pulled, region.clamp(max=1)
