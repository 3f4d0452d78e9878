"""Which objects outlive a block of code while the garbage collector is off."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collector_off(*types: type) -> Iterator[Callable[[], list[object]]]:
    """Turn the garbage collector off for the block.

    Yields a function that lists the objects of *types* that were created in the block
    and still exist. Older objects are frozen and not listed: after many tests the heap
    is so large that listing all of it takes half a second.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield lambda: [obj for obj in gc.get_objects() if isinstance(obj, types)]
    finally:
        gc.enable()
        gc.unfreeze()
