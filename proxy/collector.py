"""Python's cyclic garbage collector, kept out of the way of what is built once and stays.

Ten thousand services are two million objects, none of them garbage: looking through them again and again makes reading
them twice as slow, and later stops the event loop for the better part of a second each time. So nothing is collected
while a plan is made and applied, and what is there afterwards is frozen: it is freed when it is no longer referred to,
as ever, but never looked through. Cycles among what is frozen would stay for good; resources and plans have none.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let the collector rest within the block, and freeze what is there at its end. May be nested."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
