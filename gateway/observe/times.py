"""edge. The time of a log line: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def stamp(now: float) -> str:
    """Return *now*, in seconds since 1970, as `2026-11-27T13:27:37.273Z`.

    It is cut to milliseconds, not rounded.
    """
    second = int(now)
    # Rounded to microseconds first, as `datetime` does: .9999999 is the next second.
    micros = round((now - second) * 1e6)
    if micros == 1_000_000:
        second, micros = second + 1, 0
    return f"{_second(second)}.{micros // 1000:03d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """Return the time without its fraction; most lines share it with the one before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
