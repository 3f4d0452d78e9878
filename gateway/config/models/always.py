"""PURE. The keys below `tests.always`: what holds for every request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding
from gateway.config.forms import Method, Prefix, Text
from gateway.config.models.base import Model
from gateway.config.models.policies import RequireConfig

_KINDS: Final = ("public", "needs", "reaches_only", "near_misses")
_WITH: Final = {
    "below": "needs",
    "methods": "needs",
    "except_for": "needs",
    "role": "reaches_only",
    "permissions": "reaches_only",
}
"""Key → the one that it needs."""


def _session(value: object) -> object:
    return {} if value == "session" else value


Needs = Annotated[
    RequireConfig,
    BeforeValidator(
        _session, json_schema_input_type=RequireConfig | Literal["session"]
    ),
]


class PublicConfig(Model):
    """Which routes need no session."""

    only: tuple[Text, ...]
    """The names of all that may. A route with an optional session needs none."""


class AlwaysConfig(Model):
    """Something that holds for every request: exactly one of `public`, `needs`,
    `reaches_only` and `near_misses`."""

    public: PublicConfig | None = None
    """Only these routes need no session."""
    needs: Needs | None = None
    """Nobody gets through without it: `session`, or conditions as in `require`."""
    below: Prefix | None = None
    """With `needs`: only for this path, byte for byte, and those below it."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = None
    """With `needs`: only for these methods. GET doesn't include HEAD here."""
    except_for: Annotated[tuple[Text, ...], Field(alias="except")] = ()
    """With `needs`: the names of routes that need less."""
    role: Text | None = None
    """With `reaches_only`: the only role of a session."""
    permissions: tuple[Text, ...] | None = None
    """With `reaches_only`: all permissions of the session. Unset: it may have any."""
    reaches_only: tuple[Text, ...] | None = None
    """The names of all routes that let such a session through; `public`: also those
    that need no session."""
    near_misses: Literal["safe"] | None = None
    """No request is forwarded whose service may read its path as that of a stricter
    route."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless the keys say one thing."""
        kinds = self._keys_set(*_KINDS)
        if len(kinds) != 1:
            yield Finding(
                loc=(),
                message=f"expected exactly one of {', '.join(_KINDS[:-1])} and"
                f" {_KINDS[-1]}",
                hint="Make an item of each",
            )
            return
        for key in self._keys_set(*_WITH):
            if _WITH[key] not in kinds:
                name = "except" if key == "except_for" else key
                yield Finding(
                    loc=(name,),
                    message=f"this key goes with {_WITH[key]} only",
                    at_key=True,
                )
        if self.reaches_only is not None and self.role is None:
            yield Finding(
                loc=("reaches_only",),
                message="this key needs role",
                hint="Say which role the session has",
            )
