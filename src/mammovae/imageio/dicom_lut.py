"""Stored DICOM pixel values to grey: rescale, VOI, inversion and padding as one table of 16-bit values."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mammovae.imageio.decoded_image import UnreadableError
from mammovae.imageio.dicom_values import Values, padding_range

if TYPE_CHECKING:
    from mammovae.imageio.dicom_pixels import PixelDescription

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_OUTLIER_SHARE = 0.01  # of a LUT's entries, at least one, that may be wrong without saying anything of the others
_OVERSHOOT = 1 / 16  # of the largest entry, by which a LUT may be above it and still have the bits that it states
_NARROW_SHARE = 1 / 16  # of the range of grey, below which an image that uses no more of it shows next to nothing


class Lut(NamedTuple):
    """How stored values become grey."""

    table: np.ndarray
    """uint16 (2 ** bits stored,): grey by stored bit pattern."""
    warnings: list[str]
    """Sentences on what was odd; what is wrong with a value itself stands in `Values.warnings`."""
    steps: list[str]
    """What is done to a stored value, a sentence a step, in order."""


class _Entries(NamedTuple):
    """A LUT of the file: its entries, the input that the first of them is for, and the bits of an entry."""

    values: np.ndarray
    first: int
    bits: int

    def at(self, inputs: np.ndarray) -> np.ndarray:
        """Return the entries for whole numbers; beyond the ends, the first and the last."""
        return self.values[np.clip(inputs - self.first, 0, len(self.values) - 1)]

    @property
    def words(self) -> str:
        """What a step says of it."""
        return f"{len(self.values)} entries of {self.bits} bits, the first for {self.first}"


def build_lut(values: Values, pixels: "PixelDescription") -> Lut:
    """Return the table of grey of an image.

    Index with the stored pixel's lowest bits_stored bits, signed or not. The order is PS3.4 N.2's: modality LUT or
    rescale, then VOI (LUT before window, the first of several), then inversion of MONOCHROME1. Padding is background:
    0, whatever the inversion. Without VOI the output range is what bits_stored can hold, rescaled. A window, a VOI LUT
    or a padding that is wrong is left out with a warning. Raises UnreadableError for a rescale or a modality LUT that
    is wrong: without it the values mean nothing.
    """
    warnings: list[str] = []
    bits = pixels.bits_stored
    codes = np.arange(2**bits, dtype=np.int64)
    if pixels.is_signed:
        codes[codes >= 2 ** (bits - 1)] -= 2**bits
    signs = "signed" if pixels.is_signed else "unsigned"
    steps = [f"{bits} of {pixels.bits_allocated} bits are stored, {signs}: values of {codes.min()} to {codes.max()}"]
    inputs, low, high = _modality(values, codes, warnings, steps)
    shown = _voi_lut(values, inputs, warnings, steps)
    shown = _window(values, inputs, warnings, steps) if shown is None else shown
    if shown is None:
        shown = (inputs - low) / (high - low)
        steps.append(f"there is no VOI LUT and no window: all from {low:.15g} to {high:.15g} is shown")
    inverted = _is_inverted(values, pixels, warnings)
    steps.append(f"{pixels.photometric}: the largest value is {'black' if inverted else 'white'}")
    table = np.rint((1 - shown if inverted else shown) * 65535).astype(np.uint16)
    table[_is_padding(values, pixels, codes, warnings, steps)] = 0
    steps.append("grey is mapped to 0 (black) to 65535 (white)")
    return Lut(table, warnings, steps)


def narrow_range_warnings(grey: np.ndarray) -> list[str]:
    """Return the remark on an image that uses hardly any of the range of grey, as where 12 bits are taken for 16."""
    low, high = int(grey.min()), int(grey.max())
    if high - low >= 65536 * _NARROW_SHARE:
        return []
    return [f"the picture is nearly one grey, {low} to {high} of 65535: check its window or LUT and BitsStored"]


def _modality(
    values: Values, codes: np.ndarray, warnings: list[str], steps: list[str]
) -> tuple[np.ndarray, float, float]:
    """Return the codes after PS3.3 C.11.1, and the ends of the range that they could have."""
    items = values.items("ModalityLUTSequence")
    if values.has("ModalityLUTSequence") and not items:
        raise UnreadableError("its ModalityLUTSequence is damaged, and pixel values mean nothing without")
    for item in (values.within(item) for item in items[:1]):
        if item.has("LUTDescriptor") and item.has("LUTData"):
            try:
                entries = _read_entries(item, "modality LUT", bool(codes.min() < 0), warnings)
            except _DamagedLut as damage:
                raise UnreadableError(f"its modality LUT is damaged: {damage}") from None
            steps.append(f"the modality LUT has {entries.words}")
            return entries.at(codes).astype(float), 0.0, float(2**entries.bits - 1)
        warnings.append("an empty modality LUT was ignored")
    return _rescale(values, codes, steps)


def _rescale(values: Values, codes: np.ndarray, steps: list[str]) -> tuple[np.ndarray, float, float]:
    slope, intercept = _rescale_number(values, "RescaleSlope", 1.0), _rescale_number(values, "RescaleIntercept", 0.0)
    if slope == 0:
        raise UnreadableError("its RescaleSlope is 0, which makes every pixel the same")
    with np.errstate(over="ignore", invalid="ignore"):
        inputs = codes * slope + intercept
        low, high = float(inputs.min()), float(inputs.max())
        if not (np.isfinite(high - low) and high > low):
            raise UnreadableError(f"its RescaleSlope {slope:.15g} and RescaleIntercept {intercept:.15g} leave no range")
    if values.has("RescaleSlope") or values.has("RescaleIntercept"):
        steps.append(f"rescaled by slope {slope:.15g} and intercept {intercept:.15g}: {low:.15g} to {high:.15g}")
    else:
        steps.append("there is no modality LUT and no rescale")
    return inputs, low, high


def _rescale_number(values: Values, name: str, default: float) -> float:
    if not values.has(name):
        return default
    numbers = values.numbers(name)
    if len(numbers) != 1:
        raise UnreadableError(
            f"its {name} {values.quote(name)} is not one number, and pixel values mean nothing without"
        )
    return numbers[0]


def _voi_lut(values: Values, inputs: np.ndarray, warnings: list[str], steps: list[str]) -> np.ndarray | None:
    """Return 0..1 by the first VOI LUT (PS3.3 C.11.2.1.1), or None where there is none that can be used."""
    items = values.items("VOILUTSequence")
    if not items:
        return None
    try:
        entries = _read_entries(values.within(items[0]), "VOI LUT", bool(inputs.min() < 0), warnings)
    except _DamagedLut as damage:
        warnings.append(f"a damaged VOI LUT was ignored ({damage})")
        return None
    steps.append(f"VOI LUT 1 of {len(items)}: {entries.words}")
    return entries.at(np.rint(np.clip(inputs, -(2.0**40), 2.0**40)).astype(np.int64)) / (2**entries.bits - 1)


class _DamagedLut(Exception):
    """What is wrong with a LUT of the file."""


def _read_entries(item: Values, name: str, signed: bool, warnings: list[str]) -> _Entries:
    """Return the LUT in an item of a sequence."""
    descriptor = item.numbers("LUTDescriptor")
    if len(descriptor) != 3 or not all(number.is_integer() for number in descriptor):
        raise _DamagedLut("its LUTDescriptor is not three whole numbers")
    count, first, bits = (int(number) for number in descriptor)
    count = (count & 0xFFFF) or 65536
    first &= 0xFFFF
    if signed and first >= 32768:
        first -= 65536
    stored = item.stored("LUTData")
    if stored is None:
        raise _DamagedLut("it has no LUTData")
    if not 1 <= bits <= 16:
        raise _DamagedLut(f"its entries have {bits} bits, not 1 to 16")
    if bits <= 8 and len(stored.content) < 2 * count:
        entries = np.frombuffer(stored.content, "u1")[:count]
    else:
        whole = stored.content[: len(stored.content) // 2 * 2]
        entries = np.frombuffer(whole, "<u2" if stored.little_endian else ">u2")[:count]
    if len(entries) != count:
        raise _DamagedLut(f"it has {len(entries)} entries of {count}")
    return _in_range(_Entries(entries.astype(np.int64), first, bits), name, warnings)


def _in_range(lut: _Entries, name: str, warnings: list[str]) -> _Entries:
    """Return a LUT with the bits that it uses, its entries cut to them.

    Entries above the bits stated are a known fault. Where they are few, or hardly above, white is where the LUT says;
    where the LUT as a whole is above, the range that holds it is the true one, as any other would be white all over.
    """
    entries, bits = lut.values, lut.bits
    white = 2**bits - 1
    if entries.max() <= white:
        return lut
    outliers = max(1, int(len(entries) * _OUTLIER_SHARE))
    top = int(np.sort(entries)[-1 - outliers]) if len(entries) > outliers else white
    used = bits if top <= white * (1 + _OVERSHOOT) else top.bit_length()
    if used > bits:
        warnings.append(f"the {name} says that its entries have {bits} bits, they have {used}")
    above = int((entries > 2**used - 1).sum())
    if above:
        warnings.append(f"{above} of {len(entries)} entries of the {name} are above its {used} bits and were cut")
    return _Entries(np.minimum(entries, 2**used - 1), lut.first, used)


def _window(values: Values, inputs: np.ndarray, warnings: list[str], steps: list[str]) -> np.ndarray | None:
    """Return 0..1 by the first window (PS3.3 C.11.2.1.2 and C.11.2.1.3), or None where there is none to be used."""
    center, width = values.number("WindowCenter"), values.number("WindowWidth")
    if center is None or width is None:
        if values.has("WindowCenter") or values.has("WindowWidth"):
            warnings.append(f"a window without a {'center' if center is None else 'width'} was ignored")
        return None
    function = values.text("VOILUTFunction") or "LINEAR"
    if function not in _FUNCTIONS:
        warnings.append(f"the unknown VOI LUT function {values.quote('VOILUTFunction')} was taken for LINEAR")
        function = "LINEAR"
    if width < 1 if function == "LINEAR" else width <= 0:
        warnings.append(f"a window of width {width:.15g} was ignored")
        return None
    with np.errstate(over="ignore"):
        shown = _apply_window(inputs, center, width, function)
    if shown.min() == shown.max():
        warnings.append(f"the window of center {center:.15g} and width {width:.15g} makes all values one grey")
    count = len(values.texts("WindowCenter"))
    steps.append(f"window 1 of {count}: center {center:.15g}, width {width:.15g}, function {function}")
    return shown


def _apply_window(inputs: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (inputs - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((inputs - center) / width + 0.5, 0, 1)
    if width == 1:
        return np.where(inputs <= center - 0.5, 0.0, 1.0)
    return np.clip((inputs - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_inverted(values: Values, pixels: "PixelDescription", warnings: list[str]) -> bool:
    inverted = pixels.photometric == "MONOCHROME1"
    shape = values.text("PresentationLUTShape")
    if shape and inverted != (shape == "INVERSE"):
        # PS3.3 C.8.11.3.1.2 couples the two, so the shape never inverts a second time.
        shape = values.quote("PresentationLUTShape")
        warnings.append(f"PresentationLUTShape {shape} contradicts {pixels.photometric}, which was followed")
    return inverted


def _is_padding(
    values: Values, pixels: "PixelDescription", codes: np.ndarray, warnings: list[str], steps: list[str]
) -> np.ndarray:
    """Mark the codes that PS3.3 C.7.5.1.1.2 names as padding."""
    nothing = np.zeros(len(codes), bool)
    ends, bits = padding_range(values), pixels.bits_allocated
    if ends is None:
        return nothing
    if any(not -(2 ** (bits - 1)) <= end < 2**bits for end in ends):
        warnings.append(f"padding of {ends[0]} to {ends[1]} does not fit into {bits} bits and was ignored")
        return nothing
    # A value read as the wrong one of US and SS still means the same bit pattern.
    wrapped = [end % 2**bits for end in ends]
    first, last = sorted(end - 2**bits * (pixels.is_signed and end >= 2 ** (bits - 1)) for end in wrapped)
    marked = (codes >= first) & (codes <= last)
    if marked.all():
        warnings.append(f"padding of {first} to {last} would be every value and was ignored")
        return nothing
    steps.append(f"padding of {first} to {last} is black")
    return marked
