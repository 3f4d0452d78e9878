"""PURE. Times that have no setting: how long, and how often, the gateway waits.

And what is a time, where another process has written it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The gateway's fixed times, in seconds. Made once, by the composition root."""

    sweep_s: float = 0.5
    """How often the deadlines of all client connections are checked. A deadline may
    take effect this much later."""
    rejections_s: float = 10.0
    """The shortest time between two messages about connections that were rejected."""
    cut_s: float = 1.0
    """How long requests that were cut at the end of a drain may take to end."""
    body_rate_grace_s: float = 10.0
    """A request body may start slowly: its rate is judged after this long."""
    reply_rate_grace_s: float = 10.0
    """A client may start to read slowly: its rate is judged after this long."""
    drain_body_s: float = 2.0
    """How long the rest of a request body that was refused may take to arrive."""
    websocket_close_s: float = 1.0
    """How long the other end of a WebSocket may take to answer a close frame."""
    websocket_linger_s: float = 1.0
    """How long an upstream may take to read the last bytes of a WebSocket."""
    confirm_s: float = 0.25
    """How long the answer to a sign-out waits until the other workers know of it."""
    keys_retry_s: float = 1.0
    """How soon a failed fetch of the signing keys is repeated; doubled each time."""
    keys_max_retry_s: float = 30.0
    """The longest pause between two fetches, reached by doubling."""


def finite_s(value: object) -> float:
    """Return *value*, which a message or an entry has as a time in seconds.

    Raises:
        ValueError: it isn't a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("an invalid time")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError("an invalid time")
    return result


PACE: Final = Pace()
"""The times of a running gateway; tests use shorter ones."""


def backoff_s(first_s: float, failures: int, most_s: float) -> float:
    """Return the delay in seconds after *failures* in a row.

    It is *first_s*, doubled with each further failure, and at most *most_s*.
    """
    return min(most_s, first_s * 2.0 ** min(failures - 1, 32))
