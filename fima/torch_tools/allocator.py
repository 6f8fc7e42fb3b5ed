"""Memory of the process: large tensors are reused instead of being given back to the system after each step."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors for the next ones; False where it is another than glibc.

    glibc maps every large block afresh and unmaps it when it is freed, so each layer of a network on a CPU writes to
    pages that the system must first clear; benchmarks/allocator.py measures what that costs. The price is that memory
    freed between two phases of a program stays with it. A user's own `MALLOC_…` settings are respected.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Trimming must be off before mapping is: the other way round, every free of a large block would trim the heap.
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER_BYTES)) and bool(mallopt(M_MMAP_MAX, 0))
