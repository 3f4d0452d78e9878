"""PURE. What was found about one thing: well, doubtful, or broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

_MAX_TEXT = 500
"""Of a text, in characters: some hold the words of another server."""


class DiagnosisSeverity(StrEnum):
    """How bad it is, in rising order."""

    OK = "ok"
    WARN = "warn"
    """The gateway can serve, but probably not as it should."""
    FAIL = "fail"
    """It can't serve, or not what the file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found about one thing. It holds no secret."""

    check: str
    """What was examined, such as `core` or `services.orders`."""
    severity: DiagnosisSeverity
    text: str
    """What was found, on one line."""
    remedy: str = field(default="")
    """What to do; empty if nothing is to be done."""

    def __post_init__(self) -> None:
        for name in ("text", "remedy"):
            object.__setattr__(self, name, one_line(getattr(self, name)))


def one_line(text: str) -> str:
    """Return *text* without line breaks and control characters, shortened."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]}…"


def ok(check: str, text: str) -> Diagnosis:
    """Return a diagnosis without a remedy."""
    return Diagnosis(check=check, severity=DiagnosisSeverity.OK, text=text)


def warn(check: str, text: str, remedy: str) -> Diagnosis:
    """Return a doubtful one."""
    return Diagnosis(
        check=check, severity=DiagnosisSeverity.WARN, text=text, remedy=remedy
    )


def fail(check: str, text: str, remedy: str) -> Diagnosis:
    """Return a broken one."""
    return Diagnosis(
        check=check, severity=DiagnosisSeverity.FAIL, text=text, remedy=remedy
    )


def worst(found: Iterable[Diagnosis]) -> DiagnosisSeverity:
    """Return the highest severity; OK if nothing was found."""
    order = [*DiagnosisSeverity]
    return max(
        (each.severity for each in found), key=order.index, default=DiagnosisSeverity.OK
    )
