"""Keep memory in the process between the steps of a training or a scoring."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Let freed memory stay with the process, where its C library is glibc; elsewhere do nothing.

    A step of the original network frees and requests half a gigabyte on a CPU. By default every large block goes back
    to the kernel, which returns it page by page, cleared: a fifth of the step's time. Changes no result.
    """
    glibc: Any = None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version  # noqa: B018 - musl has another mallopt, or none
        glibc = library
        glibc.mallopt(_MMAP_MAX, 0)
        glibc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        if glibc is not None:
            glibc.mallopt(_MMAP_MAX, 65536)  # the defaults of mallopt(3)
            glibc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
            glibc.malloc_trim(0)
