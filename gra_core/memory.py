"""Memory settings of the process that make inference on a CPU faster."""

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Option numbers of glibc's `mallopt` (https://man7.org/linux/man-pages/man3/mallopt.3.html)."""


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory of any size for the next allocation; returns whether it obeys.

    By default glibc gives each large block back to the system at once, and the next feature map of the same size
    costs thousands of page faults again: half the time of an edit. Threads share one pool of memory, too: those of
    their own give large blocks back all the same, a fifth of the time. Call it before threads are started; does nothing
    where the C library is another one.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1))
    return all([mallopt(option, value) for option, value in settings])


def give_back_memory() -> bool:
    """Give freed memory back to the system; returns whether there was any. The next large blocks cost page faults."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
