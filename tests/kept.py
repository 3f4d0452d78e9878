"""Which objects of a block are still there, without the garbage collector's help."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def no_collector(*kinds: type) -> Iterator[Callable[[], list[object]]]:
    """Turn the collector off; give what returns the objects made since, of *kinds*.

    Objects from before the block are frozen: they are not counted, and not walked
    through. After many tests the heap has so many that one count takes half a second.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield lambda: [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    finally:
        gc.enable()
        gc.unfreeze()
