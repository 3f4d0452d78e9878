"""edge. The supervisor's terminal, streams, ended children, and memory."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
from pathlib import Path
from typing import TextIO

HUB_NAME = "gateway hub"
WORKER_NAME = "gateway worker"
"""What `ps -o comm` and `top` show. The system keeps 15 bytes."""


def how_it_ended(code: int) -> str:
    """Return in words how a process ended.

    *code* is the result of `os.waitstatus_to_exitcode`.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def set_name(name: str) -> None:
    """Name this process in the lists of the system, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def is_read(stream: TextIO) -> bool:
    """Return whether a line can be written to *stream* without blocking.

    The supervisor must not block, and has no thread that could write instead.
    """
    try:
        _, ready, _ = select.select((), (stream,), (), 0)
    except (OSError, ValueError):  # no descriptor, or one that never blocks
        return True
    return bool(ready)


def share_memory() -> None:
    """Exempt all objects from collection, so that workers share their memory.

    The collector would write to the objects, and so copy their pages.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
