"""Decoders of compressed streams: one for each kind, called only after the stream's own header was checked."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gdcm
import jpeg_ls
import numpy as np
from openjpeg.utils import decode as decode_jpeg_2000
from PIL import Image

from mammovae.imageio.codestream import Stream
from mammovae.imageio.decoded_image import UnreadableError

# pydicom would try gdcm first, which ends the process over some damaged JPEG 2000 and JPEG-LS streams, and offers no
# decoder for JPEG of 12 bits.


_standard_error = threading.Lock()


def decode_stream(stream: Stream) -> np.ndarray:
    """Return a grey stream's bit patterns, uint8 or uint16 (rows, columns), the sign extended where there is one."""
    try:
        if stream.kind == "JPEG 2000":
            codes = decode_jpeg_2000(stream.content)
        elif stream.kind == "JPEG-LS":
            content, _ = jpeg_ls.decode_pixel_data(stream.content)
            codes = _from_bytes(content, stream)
        elif stream.kind == "JPEG" and stream.bits == 8:
            with Image.open(io.BytesIO(stream.content), formats=["JPEG"]) as image:
                codes = np.asarray(image)
        else:
            codes = _by_gdcm(stream)
    except MemoryError:
        raise
    except Exception:  # decoders raise anything
        raise UnreadableError(f"its {stream.kind} stream is damaged, fetch the file again") from None
    if codes.shape != (stream.rows, stream.columns):
        raise UnreadableError(f"its {stream.kind} stream is damaged, fetch the file again")
    return codes.view(f"u{codes.itemsize}")


def _from_bytes(content: bytes | bytearray, stream: Stream) -> np.ndarray:
    return np.frombuffer(content, "u1" if stream.bits <= 8 else "<u2").reshape(stream.rows, stream.columns)


def _by_gdcm(stream: Stream) -> np.ndarray:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream.content)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = "JPEGExtendedProcess2_4" if stream.kind == "JPEG" else "JPEGLosslessProcess14"
    image.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    allocated = 8 if stream.bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, stream.bits, stream.bits - 1, 0))
    with _nothing_printed():
        content = image.GetBuffer()
    return _from_bytes(content.encode("utf-8", "surrogateescape"), stream)  # its bytes come as a text


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep gdcm's C code from printing that its first decoder, of 8 bits, is none for 12."""
    with _standard_error:
        try:
            kept = os.dup(2)
        except OSError:  # a process without standard error
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
