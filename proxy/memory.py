"""How much memory a process holds."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: private and resident, of the heap and other data (``VmData``), resident; and Python's own count of blocks.

    The sum of several processes counts twice what they share.
    """

    allocated: int
    heap: int
    physical: int
    blocks: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.allocated + other.allocated,
            self.heap + other.heap,
            self.physical + other.physical,
            self.blocks + other.blocks,
        )


def memory_held() -> Memory:
    """From ``/proc/self/statm`` (proc(5): pages of size, resident, shared, text, lib, data, dirty), else ``rusage``."""
    blocks = sys.getallocatedblocks()
    try:
        pages = [int(field) for field in Path("/proc/self/statm").read_text().split()]
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        return Memory(peak, peak, peak, blocks)
    _, resident, shared, _, _, data, _ = (count * resource.getpagesize() for count in pages)
    return Memory(resident - shared, data, resident, blocks)
