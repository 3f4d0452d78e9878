"""PURE. The keys below `tests`: what requests are expected to get."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding, did_you_mean
from gateway.config.forms import FieldName, Flag, Name, Seconds, Status, Text
from gateway.config.models.always import AlwaysConfig
from gateway.config.models.base import Model

NOBODY: Final = ("none", "expired")
"""Sessions that no person has: none at all, and one whose token has expired."""
_REFUSAL: Final = re.compile(r"([1-5][0-9]{2})(?: (\S+))?").fullmatch


class PersonConfig(Model):
    """What a session says of its user."""

    id: Text = "someone"
    """The user's id."""
    roles: tuple[Text, ...] | None = None
    """Unset: the session has no such claim."""
    permissions: tuple[Text, ...] | None = None
    """Unset: the session has no such claim."""
    email_verified: Flag | None = None
    """Unset: the session has no such claim."""
    mfa: Flag | None = None
    """Whether all factors are completed. Unset: the session has no such claim."""
    tenant: Text = "public"
    """The tenant of the session."""
    age: Seconds = 0.0
    """How long ago the claims were fetched from the core."""
    claims: dict[str, Any] = Field(default_factory=dict)
    """Any others, as the access token has them."""


class ExpectedConfig(Model):
    """What a request gets. Only the keys that are set are compared."""

    route: Text | None = None
    """The name of the route that lets it through."""
    status: Status | None = None
    """Of the gateway's own response."""
    claim: Text | None = None
    """The claim that isn't met, such as `st-role`."""
    upstream: Text | None = None
    """What the service gets: method and path, as in `GET /a?b=c`."""
    headers: dict[FieldName, Text] = Field(default_factory=dict)
    """Fields that the service gets, each once."""
    absent: tuple[FieldName, ...] = ()
    """Fields that the service doesn't get."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if nothing is expected."""
        if not self.model_fields_set:
            yield Finding(loc=(), message="nothing is expected", hint="Set a key")


def short_expected(value: object) -> object:
    """Return the keys that a status, `403 CLAIM` or a route's name stands for."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"status": value}
    if not isinstance(value, str):
        return value
    if (refusal := _REFUSAL(value)) is None:
        return {"route": value}
    keys: dict[str, object] = {"status": int(refusal[1])}
    if refusal[2] is not None:
        keys["claim"] = refusal[2]
    return keys


Expected = Annotated[
    ExpectedConfig,
    BeforeValidator(short_expected, json_schema_input_type=ExpectedConfig | int | str),
]


Expects = Annotated[dict[Text, Expected], Field(min_length=1)]


class CaseConfig(Model):
    """A request, and what it gets for each person."""

    request: Annotated[Text, Field(pattern=r"^\S+ \S+$")]
    """Method, and path or URL."""
    headers: dict[FieldName, Text] = Field(default_factory=dict)
    """Its header fields."""
    client: Text = "127.0.0.1"
    """The address that it comes from."""
    expect: Expects
    """Person, `none` or `expired` → what the request gets: a status, `403 CLAIM`, the
    name of the route that lets it through, or keys."""


def short_case(value: object) -> object:
    """Return `METHOD PATH: {…}` as the keys `request` and `expect`."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((request, expect),) = value.items()
        if isinstance(request, str) and " " in request:
            return {"request": request, "expect": expect}
    return value


Case = Annotated[
    CaseConfig,
    BeforeValidator(
        short_case, json_schema_input_type=CaseConfig | dict[str, dict[str, Any]]
    ),
]


class RouteTestsConfig(Model):
    """Tests of the route table; `gateway test` runs them."""

    people: dict[Name, PersonConfig] = Field(default_factory=dict)
    """Name → what the session of this person says."""
    cases: tuple[Case, ...] = ()
    """Requests, and what they get."""
    public: tuple[Text, ...] | None = None
    """The names of all routes that need no session, those that are optional included.
    Unset: any route may."""
    always: tuple[AlwaysConfig, ...] = ()
    """What holds for every request; decided over the whole table."""
    on_reload: Literal["refuse", "warn", "off"] = "refuse"
    """What a reload does if a test fails: it is refused, or a warning is logged. With
    `off`, no test is run. They have 15 s."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each person that isn't described."""
        for name in NOBODY:
            if name in self.people:
                yield Finding(
                    loc=("people", name),
                    message="this name has a meaning of its own",
                    hint="Choose another name",
                    at_key=True,
                )
        known = (*NOBODY, *self.people)
        for number, case in enumerate(self.cases):
            for name in case.expect:
                if name not in known:
                    yield Finding(
                        loc=("cases", number, "expect", name),
                        message=f"nobody is called '{name}'",
                        hint=did_you_mean(name, known)
                        or f"Describe the person in tests.people, or use {known[0]}",
                    )
