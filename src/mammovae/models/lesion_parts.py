"""The parts that training lesions are made of: bodies, spicules, specks, grafted tissue and pulled strands.

Each is drawn for all images of a batch, whatever the kind of their lesions, so that a batch has one shape.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mammovae.config import LesionKind
from mammovae.models.noise import ImageNoise

_SPECKS_MM, _BLUR_PIXELS = (0.15, 0.9), 0.5
_SPICULES, _SPECKS, _WAVES = 14, 20, range(2, 10)
_TURN = 2 * torch.pi


class Draw:
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


class Site(NamedTuple):
    """The square around each image's lesion, w pixels wide: where its pixels lie, what is there, what is to come."""

    y: Tensor  # (n, w, 1), from the lesion's centre, in pixels
    x: Tensor  # (n, 1, w)
    distance: Tensor  # (n, w, w), from the centre in radii
    radius: Tensor  # (n, 1, 1), of the lesion's full extent, in pixels
    mm: Tensor  # (n, 1, 1), of a pixel
    tissue: Tensor  # (n, w, w), the grey that is there
    other: Tensor  # (n, w, w), the grey of another place of the breast
    kind: dict[LesionKind, Tensor]  # bool (n, 1, 1) by kind: whether it is the lesion's
    is_sham: Tensor  # bool (n, 1, 1): resampled, but without a lesion


class Outline(NamedTuple):
    """An uneven oval, turned at random, that all kinds share, of which an image has one: (n, w, w) each."""

    distance: Tensor  # from the centre, in radii of the oval's long axis
    waves: Tensor  # a function of the angle about the centre, mean 0, of about 1
    side: Tensor  # 0 to 2, the cosine of that angle plus 1


def power_law_field(site: Site, draw: Draw) -> Tensor:
    """Draw a field with mean 0 and variance 1 whose power falls with frequency, as tissue's does, to the 2.5 to 3.5.

    Burgess, "Mammographic structure" (Proc. SPIE 3661:642, 1999) measured about 3.
    """
    side = site.y.shape[1]
    down, across = (frequency(side, device=site.y.device) for frequency in (torch.fft.fftfreq, torch.fft.rfftfreq))
    gain = torch.hypot(down[:, None], across).clamp(min=1 / side) ** (-0.5 * draw.uniform(2.5, 3.5, 1, 1))
    gain[:, 0, 0] = 0
    field = torch.fft.irfft2(torch.fft.rfft2(draw.normal(side, side)) * gain, s=(side, side))
    return field / field.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def outline(site: Site, draw: Draw) -> Outline:
    """Draw the outline that a mass, an asymmetry and the folds of a distortion have."""
    turn, stretch = draw.uniform(0, _TURN, 1, 1), draw.uniform(1, 1.8, 1, 1)
    sin, cos = turn.sin() / site.radius, turn.cos() / site.radius
    along, across = site.y * cos - site.x * sin, (site.y * sin + site.x * cos) * stretch
    distance = torch.hypot(along, across)
    # The harmonics of the angle, each from the one before.
    sin, cos = across / distance.clamp(min=1e-6), along / distance.clamp(min=1e-6)
    waves, s, c = torch.zeros_like(distance), sin, cos
    strength, phase = draw.normal(len(_WAVES), 1, 1), draw.uniform(0, _TURN, len(_WAVES), 1, 1)
    for place, order in enumerate(_WAVES):
        s, c = s * cos + c * sin, c * cos - s * sin
        height = strength[:, place] * order**-0.7
        waves = waves + height * phase[:, place].cos() * c + height * phase[:, place].sin() * s
    return Outline(distance, waves, 1 + cos)


def body(outline: Outline, share: Tensor, texture: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw a mass, 0 to about 1: a flat disc to a soft hill with an uneven rim, sharp on one side or all around.

    Return it and its region, (n, w, w).
    """
    rim = (0.9 + draw.uniform(0, 0.22, 1, 1) * outline.waves).clamp(0.45, 1) * share
    inside = (1 - (outline.distance / rim).square()).clamp(min=0)
    # A part of the margin is obscured: the hill is flatter there.
    softness = draw.log_uniform((0.4, 2.2), 1, 1) * (1 + draw.uniform(0, 0.8, 1, 1) * outline.side)
    mottled = (1 + draw.uniform(0, 0.35, 1, 1) * texture).clamp(0.3, 1.7)
    return inside**softness * mottled, (inside > 0.02).float()


def spicules(site: Site, draw: Draw) -> Tensor:
    """Draw curved lines that leave the centre and fade, fine ones and coarse ones, 0 to about 1, (n, w, w)."""
    even = torch.arange(_SPICULES, device=site.y.device) / _SPICULES
    heading = _TURN * (even + draw.uniform(0, 1.5 / _SPICULES, _SPICULES)) + draw.uniform(0, _TURN, 1)
    radius = site.radius[:, 0]
    bend = draw.normal(_SPICULES) * draw.uniform(0, 0.5, 1) / radius
    length = draw.uniform(0.4, 1, _SPICULES) * radius
    # In a distortion they begin beside the centre as well: they lead to a line, not to a point.
    beside = draw.normal(_SPICULES) * 0.15 * radius * site.kind["distortion"][:, :, 0]
    width = draw.log_uniform((0.25, 1.0), _SPICULES) / site.mm[:, 0]
    blurred = (width.square() + _BLUR_PIXELS**2).sqrt()
    is_there = draw.uniform(0, 1, _SPICULES) < draw.uniform(0.35, 1, 1)
    # A line finer than a pixel fills a part of it.
    strength = draw.uniform(0, 1, _SPICULES) * is_there * width / blurred
    total = torch.zeros_like(site.distance)
    # Positions along and across a line are in units of its length, and of twice its standard deviation.
    parts = (heading.sin(), heading.cos(), 1 / length, 0.5 / blurred, bend * length.square(), strength, beside)
    for line in zip(*(part[:, :, None, None].unbind(dim=1) for part in parts), strict=True):
        sin, cos, shortness, narrowness, curve, strong, aside = line
        ahead = site.y * (sin * shortness) + site.x * (cos * shortness)
        lateral = site.y * (cos * narrowness) - (site.x * (sin * narrowness) + aside * narrowness)
        lateral = torch.addcmul(lateral, ahead * ahead, curve * narrowness, value=-1)
        profile = (1 - lateral * lateral).clamp_(min=0).square_()  # nearly a Gaussian's, and 0 soon
        total = torch.maximum(total, profile * (strong - strong * ahead).clamp_(min=0) * (ahead > 0))
    return total


def specks(site: Site, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw a cluster of specks of 0.15 to 0.9 mm as a detector's pixels see them: how much of a speck each holds.

    The cluster is a cloud, or follows a duct; specks are round, uneven or linear. Return it and its region, (n, w, w).
    """
    many = draw.uniform(4, _SPECKS + 1, 1)
    is_there = torch.arange(_SPECKS, device=site.y.device) < many
    turn, flat = draw.uniform(0, _TURN, 1), draw.log_uniform((0.12, 1.0), 1)
    along = draw.normal(_SPECKS) * 0.4
    across = draw.normal(_SPECKS) * 0.4 * flat
    radius = site.radius[:, 0]
    y = (along * turn.cos() - across * turn.sin()).clamp(-0.9, 0.9) * radius
    x = (along * turn.sin() + across * turn.cos()).clamp(-0.9, 0.9) * radius
    # A speck is three points of one width, near each other, apart, or in a row.
    heading = turn + draw.normal(_SPECKS) * draw.uniform(0, 2, 1)
    diameter = draw.log_uniform(_SPECKS_MM, 1) * draw.log_uniform((0.5, 2.0), _SPECKS)
    diameter = diameter.clamp(*_SPECKS_MM) / site.mm[:, 0]
    apart = draw.uniform(0, 0.9, 1) * diameter
    points_y = torch.cat([y + k * apart * heading.cos() for k in (-1, 0, 1)], dim=1)
    points_x = torch.cat([x + k * apart * heading.sin() for k in (-1, 0, 1)], dim=1)
    # A disc of one thickness, and a Gaussian of the same second moment and volume after the detector's blur.
    spread = ((diameter / 4).square() + _BLUR_PIXELS**2).sqrt()
    volume = 0.4 * diameter.square() / spread.square() / 8 * is_there * draw.uniform(0.4, 1, _SPECKS)
    spread, volume = spread.repeat(1, 3)[:, :, None], volume.repeat(1, 3)[:, :, None]
    cluster = _points(site, points_y, points_x, spread, volume)
    reach = torch.full_like(spread, 1.0) * (1.5 / site.mm)
    near = _points(site, points_y, points_x, reach, is_there.repeat(1, 3)[:, :, None].float())
    return cluster, (near > 0.4).float()


def _points(site: Site, y: Tensor, x: Tensor, spread: Tensor, height: Tensor) -> Tensor:
    """Return the sum of Gaussians at y, x (n, k) in pixels, of spread and height (n, k, 1), as (n, w, w)."""
    rows, columns = (
        torch.exp(-0.5 * ((along - place[:, :, None]) / spread).square().clamp(max=80))  # numbers too small are slow
        for along, place in ((site.y[:, None, :, 0], y), (site.x[:, None, 0, :], x))
    )
    return (rows * height).transpose(1, 2) @ columns


def graft(site: Site, outline: Outline, contrast: Tensor, texture: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Put tissue of another place of the breast, mirrored at random and raised, in place of what is there.

    Return the change and its region, (n, w, w). The island has an uneven, concave border.
    """
    is_up, is_left, is_turned = (draw.uniform(0, 1, 1, 1) < 0.5 for _ in range(3))
    other = torch.where(is_up, site.other.flip(1), site.other)
    other = torch.where(is_left, other.flip(2), other)
    other = torch.where(is_turned, other.transpose(1, 2), other)
    rim = 0.7 * (1 + draw.uniform(0.05, 0.25, 1, 1) * outline.waves + draw.uniform(0, 0.3, 1, 1) * texture)
    island = torch.sigmoid(draw.log_uniform((2, 8), 1, 1) * (rim - outline.distance))
    island = island * (1 - site.distance.square()).clamp(min=0).sqrt()
    weight = island.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    own, foreign = (part - (part * island).sum(dim=(1, 2), keepdim=True) / weight for part in (site.tissue, other))
    share = draw.uniform(0.3, 1, 1, 1)
    return island * (share * (foreign - own) + 0.8 * contrast), (island > 0.4).float()


def pulled(site: Site, outline: Outline, draw: Draw) -> Tensor:
    """Return by how much grey changes where strands are drawn to the centre, or to a line through it, (n, w, w).

    A sham is moved by less than a pixel: resampled as much, and pulled nowhere.
    """
    kind = site.kind
    amount = kind["distortion"] * draw.uniform(0.25, 0.9, 1, 1)
    amount = amount + kind["spiculated"] * draw.uniform(-0.3, 0.5, 1, 1).clamp(min=0)
    amount = amount - kind["mass"] * draw.uniform(-0.6, 0.3, 1, 1).clamp(min=0)  # which pushes strands aside
    turn, line = draw.uniform(0, _TURN, 1, 1), draw.uniform(0, 1, 1, 1)
    fall = (1 - site.distance.square()).clamp(min=0).square()
    folds = (1 + draw.uniform(0, 0.6, 1, 1) * outline.waves).clamp(0, 2)
    along = site.y * turn.cos() + site.x * turn.sin()
    pull = torch.where(site.is_sham, 0.0, amount) * fall * folds
    # Along the line less is pulled than across it.
    move_y = pull * (site.y - line * along * turn.cos())
    move_x = pull * (site.x - line * along * turn.sin())
    drift = draw.uniform(-0.5, 0.5, 2, 1, 1)
    is_moved = site.is_sham | kind["distortion"] | kind["spiculated"] | kind["mass"]
    move_y, move_x = move_y + drift[:, 0] * fall * is_moved, move_x + drift[:, 1] * fall * is_moved
    side = site.tissue.shape[-1]
    offset = torch.arange(side, device=site.tissue.device)
    rows, columns = offset[:, None] + move_y, offset + move_x
    grid = torch.stack([columns, rows], dim=3) * (2 / (side - 1)) - 1
    source = {"mode": "bicubic", "padding_mode": "border", "align_corners": True}
    return grid_sample(site.tissue[:, None], grid, **source)[:, 0] - site.tissue
