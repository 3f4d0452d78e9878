"""PURE. The keys below `audit`: findings of `gateway audit` that are accepted."""

from __future__ import annotations

import calendar
import re
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

from gateway.config.findings import did_you_mean, wrong
from gateway.config.forms import Text
from gateway.config.models.base import Model

AUDIT_RULES: Final = tuple(f"GW{number:03}" for number in range(1, 25) if number != 20)
"""The codes of the rules whose findings can be accepted. There is no GW020 yet."""
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def _rule(value: str) -> str:
    if value not in AUDIT_RULES:
        raise wrong(
            "there is no rule of this name",
            did_you_mean(value.upper(), AUDIT_RULES)
            or f"The rules are {AUDIT_RULES[0]} to {AUDIT_RULES[-1]}: docs/tools.md",
        )
    return value


def day(value: str) -> str:
    """Return *value*, a day of the calendar.

    Raises:
        ValueError: it is none, or is written in another form.
    """
    parts = _DAY.fullmatch(value)
    if parts is None:
        raise wrong("expected a day such as 2027-01-31")
    year, month, number = map(int, parts.groups())
    if not year or not 1 <= month <= 12:
        raise wrong("there is no such day", "Write year-month-day")
    if not 1 <= number <= calendar.monthrange(year, month)[1]:
        raise wrong("there is no such day", "Check the number of days of this month")
    return value


RuleCode = Annotated[
    str, AfterValidator(_rule), WithJsonSchema({"enum": [*AUDIT_RULES]})
]
Day = Annotated[
    str,
    AfterValidator(day),
    WithJsonSchema({"type": "string", "pattern": f"^{_DAY.pattern}$"}),
]


class AcceptanceConfig(Model):
    """Findings of one rule that aren't reported until a day."""

    rule: RuleCode
    """Code of the rule, such as `GW004`."""
    route: Text | None = None
    """The route of the findings, as `gateway audit` prints it: its name or, without
    one, its methods, hosts and path. Unset: findings that are about no route.
    """
    counterpart: Text | None = None
    """What else the findings are about, as `gateway audit --format json` has it: a
    route, a service, a role, an origin. Unset: whatever it is.
    """
    why: Text
    """The reason, for the next reader."""
    until: Day
    """The last day on which this holds, in UTC. Then the findings are reported again.
    """


class AuditConfig(Model):
    """What `gateway audit` doesn't report."""

    accept: tuple[AcceptanceConfig, ...] = ()
    """Findings that are meant, each with a reason and an end."""
