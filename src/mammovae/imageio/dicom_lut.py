"""Stored DICOM pixel values to grey: rescale, VOI, inversion and padding as one table of 16-bit values."""

from typing import Any

import numpy as np
from pydicom import Dataset


def build_lut(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Return uint16 (2 ** BitsStored,) of grey by stored bit pattern, and warnings of what was odd.

    Index with the stored pixel's lowest BitsStored bits, signed or not. The order is PS3.4 N.2's: modality
    LUT or rescale, then VOI (LUT before window, the first of several), then inversion of MONOCHROME1.
    Padding is background: 0, whatever the inversion. Without VOI the output range is what BitsStored can
    hold, rescaled. Raises ValueError for a rescale slope of 0.
    """
    warnings: list[str] = []
    bits = int(dataset.BitsStored)
    codes = np.arange(2**bits, dtype=np.int64)
    if dataset.PixelRepresentation:
        codes[codes >= 2 ** (bits - 1)] -= 2**bits
    values, low, high = _modality(dataset, codes)
    shown = _voi_lut(dataset, values, warnings)
    shown = _window(dataset, values, warnings) if shown is None else shown
    shown = (values - low) / (high - low) if shown is None else shown
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    shape = dataset.get("PresentationLUTShape")
    if shape and inverted != (shape == "INVERSE"):
        # PS3.3 C.8.11.3.1.2 couples the two, so the shape never inverts a second time.
        photometric = dataset.PhotometricInterpretation
        warnings.append(f"PresentationLUTShape {shape} contradicts {photometric}, which was followed")
    lut = np.rint((1 - shown if inverted else shown) * 65535).astype(np.uint16)
    lut[_is_padding(dataset, codes)] = 0
    return lut, warnings


def _modality(dataset: Dataset, codes: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the codes after PS3.3 C.11.1, and the ends of the range that they could have."""
    if dataset.get("ModalityLUTSequence"):
        entries, first, bits = _lut(dataset, dataset.ModalityLUTSequence[0], bool(dataset.PixelRepresentation))
        return entries[np.clip(codes - first, 0, len(entries) - 1)].astype(float), 0.0, float(2**bits - 1)
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise ValueError("RescaleSlope is 0, which makes every pixel the same")
    values = codes * slope + intercept
    return values, float(values.min()), float(values.max())


def _voi_lut(dataset: Dataset, values: np.ndarray, warnings: list[str]) -> np.ndarray | None:
    """Return 0..1 by the first VOI LUT (PS3.3 C.11.2.1.1), or None where there is none that can be used."""
    if not dataset.get("VOILUTSequence"):
        return None
    try:
        entries, first, bits = _lut(dataset, dataset.VOILUTSequence[0], bool(values.min() < 0))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        warnings.append("a damaged VOI LUT was ignored")
        return None
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)] / (2**bits - 1)


def _lut(dataset: Dataset, item: Dataset, signed: bool) -> tuple[np.ndarray, int, int]:
    """Return a LUT's entries, the input that its first entry is for, and the bits of an entry."""
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = (count & 0xFFFF) or 65536
    first &= 0xFFFF
    if signed and first >= 32768:
        first -= 65536
    data: Any = item.LUTData
    if isinstance(data, bytes):
        little = getattr(dataset, "original_encoding", (None, True))[1] is not False
        packed = bits <= 8 and len(data) < 2 * count
        entries = np.frombuffer(data, "u1" if packed else "<u2" if little else ">u2")[:count]
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64) & 0xFFFF)
    if len(entries) != count or not 1 <= bits <= 16:
        raise ValueError(f"a LUT has {len(entries)} entries of {count} and {bits} bits")
    # Entries above the bits stated are a known fault; the range that holds them is then the true one.
    return entries.astype(np.int64), first, max(bits, int(entries.max()).bit_length())


def _window(dataset: Dataset, values: np.ndarray, warnings: list[str]) -> np.ndarray | None:
    """Return 0..1 by the first window (PS3.3 C.11.2.1.2 and C.11.2.1.3), or None where there is none."""
    center, width = (_number(dataset, name, None) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        warnings.append(f"the unknown VOI LUT function {function} was taken for LINEAR")
        function = "LINEAR"
    if width < 1 if function == "LINEAR" else width <= 0:
        warnings.append(f"a window of width {width:g} was ignored")
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 1.0)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_padding(dataset: Dataset, codes: np.ndarray) -> np.ndarray:
    """Mark the codes that PS3.3 C.7.5.1.1.2 names as padding."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(codes), bool)
    limit, bits = dataset.get("PixelPaddingRangeLimit"), int(dataset.BitsAllocated)
    # A value read as the wrong one of US and SS still means the same bit pattern.
    signed = bool(dataset.PixelRepresentation)
    ends = [int(end) for end in (value, value if limit is None else limit)]
    ends = [end - 2**bits * (end >= 2 ** (bits - 1)) if signed else end % 2**bits for end in ends]
    return (codes >= min(ends)) & (codes <= max(ends))


def _number(dataset: Dataset, name: str, default: Any) -> Any:
    """Return the first of the numbers under name, or default where there is none."""
    value = dataset.get(name)
    values = [value] if isinstance(value, (int, float)) else list(value or ())
    return float(values[0]) if values else default
