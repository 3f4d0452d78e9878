"""edge. The signals that end a process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP too, so that requests finish when the terminal is closed."""


def has_nohup() -> bool:
    """Return whether SIGHUP is ignored, as under `nohup`, which keeps a process."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def stop_signal(*, force: Callable[[], None]) -> asyncio.Event:
    """Return an event that the first SIGTERM, SIGINT or SIGHUP sets.

    Another SIGTERM or SIGINT calls *force*. Another SIGHUP doesn't: when a terminal is
    closed, both the system and the shell send one.

    Call it before the server reports that it is ready, since a signal may follow at
    once.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopped.is_set() and number != signal.SIGHUP:
            force()
        stopped.set()

    for number in _STOP_SIGNALS:
        if number != signal.SIGHUP or not has_nohup():
            loop.add_signal_handler(number, on_signal, number)
    return stopped
