"""PURE. The forms of rates and of what requests are counted by."""

from __future__ import annotations

import re
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.config.findings import did_you_mean, wrong
from gateway.config.forms import number
from gateway.http.fields import is_token

MAX_BURST: Final = 1_000_000
_RATE = re.compile(r"([1-9]\d{0,5})/([smhd])")
_SECOND_NS: Final = 1_000_000_000
_UNIT_NS: Final = {
    "s": _SECOND_NS,
    "m": 60 * _SECOND_NS,
    "h": 3600 * _SECOND_NS,
    "d": 86400 * _SECOND_NS,
}
LIMIT_KEYS: Final = (
    *("client", "user", "session", "tenant", "route", "email"),
    "header:NAME",
)
"""What requests can be counted by."""


class ParsedRate(NamedTuple):
    """So many requests in a time."""

    requests: int
    per_ns: int


def parse_rate(text: str) -> ParsedRate:
    """Return the rate in *text*, such as `10/m`.

    Raises:
        ValueError: it is none.
    """
    parts = _RATE.fullmatch(text)
    if parts is None:
        raise wrong("expected a rate such as 10/m, 100/s, 500/h or 1000/d")
    return ParsedRate(int(parts[1]), _UNIT_NS[parts[2]])


def _rate(text: str) -> str:
    parse_rate(text)
    return text


def _limit_key(text: str) -> str:
    kind, colon, name = text.partition(":")
    if kind == "header" and colon and is_token(name.encode("utf-8", "replace")):
        return f"header:{name.lower()}"
    if text not in LIMIT_KEYS[:-1]:
        expected = f"expected {', '.join(LIMIT_KEYS[:-1])} or {LIMIT_KEYS[-1]}"
        raise wrong(expected, did_you_mean(text, LIMIT_KEYS))
    return text


Rate = Annotated[
    str,
    AfterValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE.pattern}$"}),
]
LimitKey = Annotated[str, AfterValidator(_limit_key)]
Burst = Annotated[int, Field(ge=1, le=MAX_BURST), BeforeValidator(number)]
Cost = Annotated[int, Field(ge=1, le=MAX_BURST), BeforeValidator(number)]
