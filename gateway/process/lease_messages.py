"""PURE. The messages about leases of rate limits, between workers and the hub.

The supervisor relays them. It says which worker asks; the worker can't.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, assert_never

from gateway.config.rates import MAX_BURST
from gateway.process.message_values import BadMessage, to_number
from gateway.rate_limits.leases import DrawAnswer, DrawAsked

MAX_DRAWS: Final = 500
"""In one message."""
_MAX_NS: Final = 10**18
_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class DrawLeases:
    """From a worker, and to the hub: units of limits are asked for."""

    draws: tuple[DrawAsked, ...]
    child: int = 0
    """The worker's number. 0: the sender's own."""


@dataclass(frozen=True, slots=True)
class LeasesDrawn:
    """From the hub, and to a worker: the answers."""

    answers: tuple[DrawAnswer, ...]
    child: int = 0
    """The number of the worker that has asked. 0: the receiver's own."""


LeaseMessage = DrawLeases | LeasesDrawn


def to_json(message: LeaseMessage) -> dict[str, object]:
    """Return *message* as JSON."""
    match message:
        case DrawLeases(draws, child):
            return {"draw": [child, *draws]}
        case LeasesDrawn(answers, child):
            return {"drawn": [child, *answers]}
        case never:
            assert_never(never)


def from_json(value: object) -> LeaseMessage:
    """Return the message in *value*.

    Raises:
        BadMessage: it is none of these.
    """
    match value:
        case {"draw": [child, *draws], **rest} if not rest:
            return DrawLeases(tuple(map(_asked, _few(draws))), to_number(child))
        case {"drawn": [child, *answers], **rest} if not rest:
            return LeasesDrawn(tuple(map(_answer, _few(answers))), to_number(child))
        case _:
            raise BadMessage("an invalid message about leases")


def _few(items: list[object]) -> list[object]:
    if len(items) > MAX_DRAWS:
        raise BadMessage("too many leases in a message")
    return items


def _asked(value: object) -> DrawAsked:
    match value:
        case [
            number,
            str(key),
            interval_ns,
            burst,
            cost,
            extra,
            ("" | "local" | "allow" | "deny") as sharing,
        ] if _KEY.fullmatch(key):
            return DrawAsked(
                _within(number, 0),
                key,
                _within(interval_ns, 1),
                _within(burst, 1, MAX_BURST),
                _within(cost, 1, MAX_BURST),
                _within(extra, 0, MAX_BURST),
                sharing,
            )
        case _:
            raise BadMessage("an invalid wish for a lease")


def _answer(value: object) -> DrawAnswer:
    match value:
        case [number, units, wait_ns]:
            return DrawAnswer(
                _within(number, 0), _within(units, 0), _within(wait_ns, 0)
            )
        case _:
            raise BadMessage("an invalid lease")


def _within(value: object, least: int, most: int = _MAX_NS) -> int:
    number = to_number(value)
    if not least <= number <= most:
        raise BadMessage("a number of a lease is out of bounds")
    return number
