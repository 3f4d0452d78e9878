"""PURE. The script by which Redis takes units from the buckets of rate limits.

It is the rule of `gateway.rate_limits.gcra`, in whole microseconds by the server's own
clock: numbers of Lua are exact up to 2^53. An interval is rounded up to a microsecond,
so a limit is never exceeded by rounding. A bucket is empty at most: neither a clock
that runs back nor a gateway with another rate makes a key wait for longer than a burst
takes.

A key holds when its bucket will be full, and expires then. So a full bucket needs no
memory, and no key is without an end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.rate_limits.leases import DrawAsked

CLOCK: Final = """\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
RULE: Final = """\
local reply = {}
for each, key in ipairs(KEYS) do
  local at = each * 4 - 4
  local interval, burst = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local cost, extra = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local empty = now + burst * interval
  local full = tonumber(redis.call('GET', key) or now) or now
  full = math.min(math.max(now, full), empty)
  cost = math.min(cost, burst)
  local left = empty - full
  local wait, granted = cost * interval - left, 0
  if wait <= 0 then
    wait = 0
    granted = math.min(cost + extra, math.floor(left / interval))
    full = full + granted * interval
    redis.call('SET', key, string.format('%.0f', full),
               'PX', string.format('%.0f', math.ceil((full - now) / 1000)))
  end
  reply[#reply + 1] = granted
  reply[#reply + 1] = wait
  reply[#reply + 1] = full - now
end
return reply
"""
SCRIPT: Final = CLOCK + RULE
DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""By which Redis knows the script."""
_US: Final = 1000
"""Nanoseconds."""


class StoreTaken(NamedTuple):
    """What the store gives a key."""

    granted: int
    wait_ns: int
    full_ns: int
    """How long until the bucket is full."""


def arguments(wishes: Sequence[DrawAsked]) -> list[int]:
    """Return the arguments of the script, for the keys of *wishes*."""
    return [
        number
        for one in wishes
        for number in (-(-one.interval_ns // _US), one.burst, one.cost, one.extra)
    ]


def read(reply: object, wishes: Sequence[DrawAsked]) -> list[StoreTaken]:
    """Return what the script has answered to *wishes*.

    Raises:
        ValueError: it is no such answer.
    """
    if not isinstance(reply, list) or len(reply) != 3 * len(wishes):
        raise ValueError("not the script's reply")
    taken = []
    for number, one in enumerate(wishes):
        granted, wait_us, full_us = reply[3 * number : 3 * number + 3]
        if not (
            isinstance(granted, int)
            and isinstance(wait_us, int)
            and isinstance(full_us, int)
            and 0 <= granted <= one.cost + one.extra
            and (granted > 0) != (wait_us > 0)
            and full_us >= 0
        ):
            raise ValueError("not the script's reply")
        taken.append(StoreTaken(granted, wait_us * _US, full_us * _US))
    return taken
