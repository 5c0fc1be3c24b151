"""Anatomy that features of texture do not see: strands, where they lead, and the nipple in the skin line.

Lengths are pixels of an image of 128, and grow with the image.

    strand_coherence   coherence of the local orientation in dense tissue, 0..1: 0 where no direction is preferred, 1 on
                       parallel lines (structure tensor: Bigun & Granlund, ICCV 1987). Grain of the same spectrum has
                       less of it than tissue.
    strands_to_nipple  the same times cos(2 a), a the angle between a strand and the direction to the nipple: 1 where
                       all strands lead there, 0 where none do more than others, -1 where they lie across
    nipple             1 where the skin line bulges by 1.5 pixels over a length of 14 near the breast's foremost point,
                       else 0
"""

import numpy as np
from scipy import ndimage

from mammovae.auditing.radiomics import REFERENCE_SIZE, inside_breast, scaled, without_rim
from mammovae.statistics import Bools, Floats

ANATOMY = ("strand_coherence", "strands_to_nipple", "nipple")
"""The names of what measure_anatomy returns, in its order."""
_COARSE = 4.0  # standard deviation of what is taken from the grey: the breast's thickness and whole lobes
_GRADIENT, _NEIGHBOURHOOD = 1.0, 2.0  # standard deviations of the structure tensor's two filters
_FEWEST_DENSE = 30  # dense pixels; where there are fewer, the whole breast counts
_NIPPLE, _SKIN = 7, 20  # half lengths of the skin line that a nipple may fill, and that the bulge is measured from
_FOREMOST, _BULGE = 0.9, 1.5


def measure_anatomy(image: np.ndarray, mask: np.ndarray) -> Floats:
    """Return the measures (3,) of an image (S, S), its chest wall on the left, in the order of ANATOMY; never NaN.

    image: uint16, or float in 0..1; mask: not 0 inside. InputError as radiomics.inside_breast.
    """
    grey, inside = inside_breast(image, mask)
    scale = len(inside) / REFERENCE_SIZE
    skin = _skin_line(inside)
    row, bulge = _find_nipple(skin, scale)
    return np.array([*_strands(grey, inside, (row, float(skin[row])), scale), float(bulge >= _BULGE)])


def compare_anatomy(real: Floats, other: Floats) -> dict[str, float]:
    """Return how measures (n, 3), (m, 3) of images differ on average: 0 where they do not, below where other has less.

    The coherence as a share of the real images', the others as differences.
    """
    first, second = (dict(zip(ANATOMY, part.mean(axis=0).tolist(), strict=True)) for part in (real, other))
    differences = {name: second[name] - first[name] for name in ANATOMY}
    differences["strand_coherence"] /= max(first["strand_coherence"], 1e-6)
    return differences


def _skin_line(inside: Bools) -> Floats:
    """Return the column behind the foremost pixel of the breast in each row; 0 where there is none."""
    return np.where(inside.any(axis=1), inside.shape[1] - inside[:, ::-1].argmax(axis=1), 0).astype(np.float64)


def _find_nipple(skin: Floats, scale: float) -> tuple[int, float]:
    """Return the row of the nipple's probable place, and by how much the skin line bulges there, in reference pixels.

    The skin on both sides, without what a nipple may fill, is continued by a parabola. Where nothing can be told, the
    foremost row and 0.
    """
    size, rows = len(skin), np.flatnonzero(skin)
    nipple, reach, core = (scaled(length, size) for length in (_NIPPLE, _SKIN, 2))
    best = int(np.argmax(ndimage.gaussian_filter1d(skin, 2 * scale))), 0.0
    offsets = np.arange(-reach, reach + 1)
    for row in rows[(skin[rows] >= _FOREMOST * skin.max()) & (rows >= core) & (rows < size - core)]:
        places = np.clip(row + offsets, 0, size - 1)
        # A skin line that leaves the image is not there to be continued.
        counts = (np.abs(offsets) > nipple) & (places == row + offsets) & (skin[places] > 0) & (skin[places] < size)
        if min(counts[:reach].sum(), counts[reach:].sum()) < 5:
            continue
        parabola = np.polyfit(offsets[counts], skin[places[counts]], 2)
        near = slice(reach - core, reach + core + 1)
        bulge = float((skin[places] - np.polyval(parabola, offsets))[near].mean()) / scale
        best = (int(row), bulge) if bulge > best[1] else best
    return best


def _strands(grey: Floats, inside: Bools, nipple: tuple[float, float], scale: float) -> tuple[float, float]:
    """Return coherence in dense tissue, and how much of it leads to the nipple (row, column)."""
    deep = without_rim(inside)  # along the skin all orientations are the skin's
    deep = deep if deep.any() else inside
    low, high = np.quantile(grey[inside], (0.05, 0.95))
    dense = deep & (grey > (low + high) / 2)
    dense = dense if dense.sum() >= _FEWEST_DENSE * scale**2 else deep
    weight = inside.astype(np.float64)
    detail = (grey - _mean_near(grey, weight, _COARSE * scale)) * weight
    down, across = (ndimage.gaussian_filter(detail, _GRADIENT * scale, order=order) for order in ((1, 0), (0, 1)))
    tensor = [
        _mean_near(part * deep, deep.astype(np.float64), _NEIGHBOURHOOD * scale)
        for part in (down * down, across * across, down * across)
    ]
    energy = tensor[0] + tensor[1] + 1e-12
    # A strand lies across the gradient: the double angle is turned by half a circle.
    cosine, sine = (tensor[0] - tensor[1]) / energy, -2 * tensor[2] / energy
    rows, columns = np.nonzero(dense)
    angle = 2 * np.arctan2(nipple[0] - rows, nipple[1] - columns)
    cosine, sine = cosine[dense], sine[dense]
    return float(np.hypot(cosine, sine).mean()), float((cosine * np.cos(angle) + sine * np.sin(angle)).mean())


def _mean_near(values: Floats, weight: Floats, width: float) -> Floats:
    """Return the mean of values (0 where weight is) by a Gaussian of width pixels, over the weight alone."""
    smooth, share = (ndimage.gaussian_filter(part, width) for part in (values, weight))
    return smooth / np.maximum(share, 1e-6)
