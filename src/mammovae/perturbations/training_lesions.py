"""Lesions that networks learn from, drawn for a whole batch at once where the batch lies, anew each time.

They share no shape, no blending and no random number with those of `mammovae.perturbations.lesions`, which choose and
report.
"""

import math
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d, pad

from mammovae.config import LesionKind
from mammovae.data.dataset import Batch
from mammovae.models.noise import ImageNoise

RADII_MM: dict[LesionKind, tuple[float, float]] = {
    "mass": (2.5, 17.0),
    "spiculated": (5.0, 24.0),
    "calcification": (3.0, 15.0),
    "distortion": (5.0, 24.0),
    "asymmetry": (5.0, 24.0),
}
"""Of a lesion's full extent, with all spicules; also at most an eighth of the image's side, less three pixels."""

_KINDS: tuple[LesionKind, ...] = get_args(LesionKind)
_LESION_SHARE, _SHAM_SHARE = 0.8, 0.1
"""Of images, how many get a lesion, and how many a place that is resampled without one."""
_CONTRASTS, _SPECK_CONTRASTS = (0.5, 3.2), (1.5, 10.0)
"""In standard deviations of the breast's grey; of specks at their thickest, which fills no whole pixel."""
_SPECKS_MM, _BLUR_PIXELS = (0.15, 0.9), 0.5
_CELLS = 64  # rows and columns of the grid on which places are drawn
_CANDIDATES = 4  # places of which the brightest gives its tissue to an asymmetry
_MARGIN = 2  # cells between a lesion's centre and the breast's edge
_SPICULES, _SPECKS, _WAVES = 14, 20, range(2, 10)
_TURN = 2 * torch.pi


class _Draw:
    """The random numbers of each image, (n, ...), one call for each."""

    def __init__(self, noise: ImageNoise) -> None:
        self.normal = noise.normal
        self._noise = noise

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw from [low, high), (n, *shape)."""
        return self._noise.uniform(*shape) * (high - low) + low

    def log_uniform(self, span: tuple[float, float], *shape: int) -> Tensor:
        """Draw from span, as often from each octave, (n, *shape)."""
        return self.uniform(math.log(span[0]), math.log(span[1]), *shape).exp()


class _Window(NamedTuple):
    """The square around each slot's lesion, in pixels: positions from the lesion's centre, and how large things are."""

    y: Tensor  # (n, w, 1)
    x: Tensor  # (n, 1, w)
    distance: Tensor  # (n, w, w), in radii
    radius: Tensor  # (n, 1, 1), of the lesion's full extent
    mm: Tensor  # (n, 1, 1), of a pixel


class _Outline(NamedTuple):
    """An uneven oval, turned at random, that all kinds share, of which an image has one: (n, w, w) each."""

    distance: Tensor  # from the centre, in radii of the oval's long axis
    waves: Tensor  # a function of the angle about the centre, mean 0, of about 1
    side: Tensor  # 0 to 2, the cosine of that angle plus 1


def insert_lesions(batch: Batch, noise: ImageNoise, kinds: tuple[LesionKind, ...]) -> tuple[Batch, Tensor]:
    """Insert a lesion into four of five images, and return the region that it fills, (n, 1, S, S), 0 or 1.

    Each is as likely of each of kinds. An image's lesion depends on its noise, itself and batch.mm_per_pixel (n,) alone.
    In half of the images without one a place is resampled as for a distortion, but not pulled: it is to mean nothing.
    """
    assert batch.mm_per_pixel is not None
    image, mask, draw = batch.image[:, 0], batch.mask[:, 0], _Draw(noise)
    size, side = image.shape[-1], image.shape[-1] // 4
    centre, donor = _places(image, mask, draw)
    here, there = (_pixels(place, side, size) for place in (centre, donor))
    tissue, inside, other = image[here], mask[here], image[there]

    share, choice = draw.uniform(0, 1, 1, 1), (draw.uniform(0, 1, 1, 1) * len(kinds)).long()
    kind = {name: choice == (kinds.index(name) if name in kinds else -1) for name in _KINDS}
    mm, along = batch.mm_per_pixel.to(image.dtype).view(-1, 1, 1), draw.uniform(0, 1, 1, 1)
    radius = sum(is_kind * low * (high / low) ** along for (low, high), is_kind in zip(RADII_MM.values(), kind.values(), strict=True))
    radius = (radius / mm).clamp(min=1.5, max=side / 2 - 3)
    y, x = (pixels - centre[:, axis, None, None] for axis, pixels in enumerate(here[1:]))
    window = _Window(y, x, torch.hypot(y, x) / radius, radius, mm)
    is_lesion, is_sham = share < _LESION_SHARE, (share >= _LESION_SHARE) & (share < _LESION_SHARE + _SHAM_SHARE)
    change, region = _change(window, tissue, other, kind, is_sham, draw, *_grey_scale(image, mask))
    changed, lesion = image.clone(), torch.zeros_like(image)
    changed[here] = (tissue + change * inside * (is_lesion | is_sham)).clamp(0, 1)
    lesion[here] = region * inside * is_lesion
    return batch._replace(image=changed[:, None]), lesion[:, None]


def _pixels(place: Tensor, side: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the index of the window of side pixels about a place (n, 2) of each image: numbers, rows, columns."""
    corner = (place.round().long() - side // 2).clamp(0, size - side)
    rows, columns = (corner[:, axis, None] + torch.arange(side, device=place.device) for axis in range(2))
    return torch.arange(len(place), device=place.device)[:, None, None], rows[:, :, None], columns[:, None, :]


def _grey_scale(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the grey inside the masks, (n, 1, 1) each."""
    pixels = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = (image * mask).sum(dim=(1, 2), keepdim=True) / pixels
    return mean, (((image - mean).square() * mask).sum(dim=(1, 2), keepdim=True) / pixels).sqrt()


def _places(image: Tensor, mask: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
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
    running = (room > 0).cumsum(dim=1)
    # The k-th cell with room is where the running count of such cells reaches k.
    kth = (draw.uniform(0, 1, 2 + _CANDIDATES) * running[:, -1:]).long() + 1
    cells, columns = torch.searchsorted(running, kth).clamp(max=running.shape[1] - 1), whole.shape[-1]
    grey = avg_pool2d(image[:, None], cell).flatten(1).gather(1, cells)
    second = (grey[:, 1:2] > grey[:, :1]) & (draw.uniform(0, 1, 1) < 0.5)
    giver = 2 + grey[:, 2:].argmax(dim=1, keepdim=True)
    chosen = cells.gather(1, torch.cat([second.long(), giver], dim=1))
    places = torch.stack([chosen // columns, chosen % columns], dim=2) * cell + draw.uniform(0, cell, 2, 2) - 0.5
    return places[:, 0], places[:, 1]


def _change(
    window: _Window,
    tissue: Tensor,
    other: Tensor,
    kind: dict[str, Tensor],
    is_sham: Tensor,
    draw: _Draw,
    mean: Tensor,
    unit: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return by how much each pixel's grey changes, and the region that a reader would outline, (n, w, w) each.

    Every part of every kind is computed for all images, and a kind says how much of it counts: a batch has one shape.
    """
    texture, outline = _power_law_field(draw, window), _outline(window, draw)
    contrast = draw.log_uniform(_CONTRASTS, 1, 1) * unit
    is_star = kind["spiculated"] | kind["distortion"]
    core_share = torch.where(kind["spiculated"], draw.uniform(0.25, 0.6, 1, 1), 1.0)
    body, in_body = _body(outline, core_share, texture, draw)
    spicules = _spicules(window, kind["distortion"], draw)
    specks, near_specks = _specks(window, draw)
    grafted, in_graft = _graft(window, outline, tissue, other, contrast, texture, draw)
    pulled = _pulled(window, outline, tissue, kind, is_sham, draw)

    has_body = kind["mass"] + kind["spiculated"] * draw.uniform(0.4, 1, 1, 1)
    has_body = has_body + kind["calcification"] * (draw.uniform(-0.4, 0.2, 1, 1)).clamp(min=0)
    strength = torch.where(kind["spiculated"], draw.uniform(0.3, 0.9, 1, 1), draw.uniform(0.15, 0.7, 1, 1)) * is_star
    rise = contrast * (body * has_body + spicules * strength)
    rise = rise + draw.log_uniform(_SPECK_CONTRASTS, 1, 1) * unit * specks * kind["calcification"]
    # The shoulder of a film's curve: where grey is near white already, more attenuation adds less of it.
    headroom = ((1 - tissue) / (1 - mean).clamp(min=0.05)).clamp(0, 1.5)
    rise = rise * torch.lerp(torch.ones_like(headroom), headroom, draw.uniform(0, 1, 1, 1))
    in_star = (window.distance < 0.6).float()
    parts = (("mass", in_body), ("calcification", near_specks), ("asymmetry", in_graft))
    region = sum((kind[name] * part for name, part in parts), is_star * in_star)
    # What is pulled is seen by eye from the place that the strands lead to.
    return rise + grafted * kind["asymmetry"] + pulled, region.clamp(max=1)


def _power_law_field(draw: _Draw, window: _Window) -> Tensor:
    """Draw a field with mean 0 and variance 1 whose power falls with frequency, as tissue's does, to the 2.5 to 3.5.

    Burgess, "Mammographic structure" (Proc. SPIE 3661:642, 1999) measured about 3.
    """
    side = window.y.shape[1]
    down, across = (frequencies(side, device=window.y.device) for frequencies in (torch.fft.fftfreq, torch.fft.rfftfreq))
    gain = torch.hypot(down[:, None], across).clamp(min=1 / side) ** (-0.5 * draw.uniform(2.5, 3.5, 1, 1))
    gain[:, 0, 0] = 0
    field = torch.fft.irfft2(torch.fft.rfft2(draw.normal(side, side)) * gain, s=(side, side))
    return field / field.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def _outline(window: _Window, draw: _Draw) -> _Outline:
    turn, stretch = draw.uniform(0, _TURN, 1, 1), draw.uniform(1, 1.8, 1, 1)
    sin, cos = turn.sin() / window.radius, turn.cos() / window.radius
    along, across = window.y * cos - window.x * sin, (window.y * sin + window.x * cos) * stretch
    distance = torch.hypot(along, across)
    # The harmonics of the angle, each from the one before.
    sin, cos = across / distance.clamp(min=1e-6), along / distance.clamp(min=1e-6)
    waves, s, c = torch.zeros_like(distance), sin, cos
    strength, phase = draw.normal(len(_WAVES), 1, 1), draw.uniform(0, _TURN, len(_WAVES), 1, 1)
    for place, order in enumerate(_WAVES):
        s, c = s * cos + c * sin, c * cos - s * sin
        height = strength[:, place] * order**-0.7
        waves = waves + height * phase[:, place].cos() * c + height * phase[:, place].sin() * s
    return _Outline(distance, waves, 1 + cos)


def _body(outline: _Outline, share: Tensor, texture: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Draw a mass, 0 to about 1: a flat disc to a soft hill with an uneven rim, sharp on one side or all around.

    Return it and its region, (n, w, w).
    """
    rim = (0.9 + draw.uniform(0, 0.22, 1, 1) * outline.waves).clamp(0.45, 1) * share
    inside = (1 - (outline.distance / rim).square()).clamp(min=0)
    # A part of the margin is obscured: the hill is flatter there.
    softness = draw.log_uniform((0.4, 2.2), 1, 1) * (1 + draw.uniform(0, 0.8, 1, 1) * outline.side)
    mottled = (1 + draw.uniform(0, 0.35, 1, 1) * texture).clamp(0.3, 1.7)
    return inside**softness * mottled, (inside > 0.02).float()


def _spicules(window: _Window, is_distortion: Tensor, draw: _Draw) -> Tensor:
    """Draw curved lines that leave the centre and fade, fine ones and coarse ones, 0 to about 1, (n, w, w)."""
    even = torch.arange(_SPICULES, device=window.y.device) / _SPICULES
    heading = _TURN * (even + draw.uniform(0, 1.5 / _SPICULES, _SPICULES)) + draw.uniform(0, _TURN, 1)
    radius = window.radius[:, 0]
    bend = draw.normal(_SPICULES) * draw.uniform(0, 0.5, 1) / radius
    length = draw.uniform(0.4, 1, _SPICULES) * radius
    # In a distortion they begin beside the centre as well: they lead to a line, not to a point.
    beside = draw.normal(_SPICULES) * 0.15 * radius * is_distortion[:, :, 0]
    width = draw.log_uniform((0.25, 1.0), _SPICULES) / window.mm[:, 0]
    blurred = (width.square() + _BLUR_PIXELS**2).sqrt()
    is_there = draw.uniform(0, 1, _SPICULES) < draw.uniform(0.35, 1, 1)
    strength = draw.uniform(0, 1, _SPICULES) * is_there * width / blurred  # a line finer than a pixel fills a part of it
    total = torch.zeros_like(window.distance)
    # Positions along and across a line are in units of its length, and of twice its standard deviation.
    parts = (heading.sin(), heading.cos(), 1 / length, 0.5 / blurred, bend * length.square(), strength, beside)
    for line in zip(*(part[:, :, None, None].unbind(dim=1) for part in parts), strict=True):
        sin, cos, shortness, narrowness, curve, strong, aside = line
        ahead = window.y * (sin * shortness) + window.x * (cos * shortness)
        lateral = window.y * (cos * narrowness) - (window.x * (sin * narrowness) + aside * narrowness)
        lateral = torch.addcmul(lateral, ahead * ahead, curve * narrowness, value=-1)
        profile = (1 - lateral * lateral).clamp_(min=0).square_()  # nearly a Gaussian's, and 0 soon
        total = torch.maximum(total, profile * (strong - strong * ahead).clamp_(min=0) * (ahead > 0))
    return total


def _specks(window: _Window, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Draw a cluster of specks of 0.15 to 0.9 mm as a detector's pixels see them: how much of a speck each holds.

    The cluster is a cloud, or follows a duct; specks are round, uneven or linear. Return it and its region, (n, w, w).
    """
    many = draw.uniform(4, _SPECKS + 1, 1)
    is_there = torch.arange(_SPECKS, device=window.y.device) < many
    turn, flat = draw.uniform(0, _TURN, 1), draw.log_uniform((0.12, 1.0), 1)
    along = draw.normal(_SPECKS) * 0.4
    across = draw.normal(_SPECKS) * 0.4 * flat
    radius = window.radius[:, 0]
    y = (along * turn.cos() - across * turn.sin()).clamp(-0.9, 0.9) * radius
    x = (along * turn.sin() + across * turn.cos()).clamp(-0.9, 0.9) * radius
    # A speck is three points of one width, near each other, apart, or in a row.
    heading = turn + draw.normal(_SPECKS) * draw.uniform(0, 2, 1)
    diameter = draw.log_uniform(_SPECKS_MM, 1) * draw.log_uniform((0.5, 2.0), _SPECKS)
    diameter = diameter.clamp(*_SPECKS_MM) / window.mm[:, 0]
    apart = draw.uniform(0, 0.9, 1) * diameter
    points_y = torch.cat([y + k * apart * heading.cos() for k in (-1, 0, 1)], dim=1)
    points_x = torch.cat([x + k * apart * heading.sin() for k in (-1, 0, 1)], dim=1)
    # A disc of one thickness, and a Gaussian of the same second moment and volume after the detector's blur.
    spread = ((diameter / 4).square() + _BLUR_PIXELS**2).sqrt()
    volume = 0.4 * diameter.square() / spread.square() / 8 * is_there * draw.uniform(0.4, 1, _SPECKS)
    spread, volume = spread.repeat(1, 3)[:, :, None], volume.repeat(1, 3)[:, :, None]
    cluster = _points(window, points_y, points_x, spread, volume)
    reach = torch.full_like(spread, 1.0) * (1.5 / window.mm)
    near = _points(window, points_y, points_x, reach, is_there.repeat(1, 3)[:, :, None].float())
    return cluster, (near > 0.4).float()


def _points(window: _Window, y: Tensor, x: Tensor, spread: Tensor, height: Tensor) -> Tensor:
    """Return the sum of Gaussians at y, x (n, k) in pixels, of spread and height (n, k, 1), as (n, w, w)."""
    rows, columns = (
        torch.exp(-0.5 * ((along - place[:, :, None]) / spread).square().clamp(max=80))  # numbers too small are slow
        for along, place in ((window.y[:, None, :, 0], y), (window.x[:, None, 0, :], x))
    )
    return (rows * height).transpose(1, 2) @ columns


def _graft(  # noqa: PLR0913
    window: _Window, outline: _Outline, tissue: Tensor, other: Tensor, contrast: Tensor, texture: Tensor, draw: _Draw
) -> tuple[Tensor, Tensor]:
    """Put tissue of another place of the breast, mirrored at random and raised, in place of what is there.

    Return the change and its region, (n, w, w). The island has an uneven, concave border.
    """
    is_up, is_left, is_turned = (draw.uniform(0, 1, 1, 1) < 0.5 for _ in range(3))
    other = torch.where(is_up, other.flip(1), other)
    other = torch.where(is_left, other.flip(2), other)
    other = torch.where(is_turned, other.transpose(1, 2), other)
    rim = 0.7 * (1 + draw.uniform(0.05, 0.25, 1, 1) * outline.waves + draw.uniform(0, 0.3, 1, 1) * texture)
    island = torch.sigmoid(draw.log_uniform((2, 8), 1, 1) * (rim - outline.distance))
    island = island * (1 - window.distance.square()).clamp(min=0).sqrt()
    weight = island.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    own, foreign = (part - (part * island).sum(dim=(1, 2), keepdim=True) / weight for part in (tissue, other))
    share = draw.uniform(0.3, 1, 1, 1)
    return island * (share * (foreign - own) + 0.8 * contrast), (island > 0.4).float()


def _pulled(  # noqa: PLR0913
    window: _Window, outline: _Outline, tissue: Tensor, kind: dict[str, Tensor], is_sham: Tensor, draw: _Draw
) -> Tensor:
    """Return by how much grey changes where strands are drawn to the centre, or to a line through it, (n, w, w).

    A sham is moved by less than a pixel: resampled as much, and pulled nowhere.
    """
    amount = kind["distortion"] * draw.uniform(0.25, 0.9, 1, 1)
    amount = amount + kind["spiculated"] * draw.uniform(-0.3, 0.5, 1, 1).clamp(min=0)
    amount = amount - kind["mass"] * draw.uniform(-0.6, 0.3, 1, 1).clamp(min=0)  # which pushes strands aside
    turn, line = draw.uniform(0, _TURN, 1, 1), draw.uniform(0, 1, 1, 1)
    fall = (1 - window.distance.square()).clamp(min=0).square()
    folds = (1 + draw.uniform(0, 0.6, 1, 1) * outline.waves).clamp(0, 2)
    along = window.y * turn.cos() + window.x * turn.sin()
    pull = torch.where(is_sham, 0.0, amount) * fall * folds
    # Along the line less is pulled than across it.
    move_y = pull * (window.y - line * along * turn.cos())
    move_x = pull * (window.x - line * along * turn.sin())
    drift = draw.uniform(-0.5, 0.5, 2, 1, 1)
    is_moved = is_sham | kind["distortion"] | kind["spiculated"] | kind["mass"]
    move_y, move_x = move_y + drift[:, 0] * fall * is_moved, move_x + drift[:, 1] * fall * is_moved
    side = tissue.shape[-1]
    offset = torch.arange(side, device=tissue.device)
    rows, columns = offset[:, None] + move_y, offset + move_x
    grid = torch.stack([columns, rows], dim=3) * (2 / (side - 1)) - 1
    source = {"mode": "bicubic", "padding_mode": "border", "align_corners": True}
    return grid_sample(tissue[:, None], grid, **source)[:, 0] - tissue
