"""Free memory goes back to the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Small blocks of the C library's, with some kept between them, so that none is at the end
# of a heap; XML elements are such, and not of Python's own small-object pools.
_PROGRAM = """
import ctypes
from objstore.host import real_memory

def own():
    with open("/proc/self/status") as status:
        (line,) = [l for l in status if l.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
real_memory.bound_arenas()
blocks = [libc.malloc(16384) for _ in range(4000)]
for block in blocks:
    ctypes.memset(block, 1, 16384)
for number, block in enumerate(blocks):
    if number % 50:
        libc.free(block)
before = own()
real_memory.give_back()
print(before - own())
"""


@pytest.mark.slow
def test_what_was_freed_between_used_blocks_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 32 << 20
