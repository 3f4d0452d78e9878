"""PURE. The keys below `rate_limits`, and how limits are attached."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from gateway.config.forms import Flag, Name
from gateway.config.models.base import Model
from gateway.config.rates import Burst, Cost, LimitKey, Rate, parse_rate


class RateLimitConfig(Model):
    """How often requests may come."""

    rate: Rate
    """How often in the long run: `10/m`, or per `s`, `h` or `d`."""
    burst: Burst | None = None
    """How many may come at once. Unset: the number of `rate`."""
    key: LimitKey = "client"
    """What is counted by itself: `client` (its address; an IPv6 network of 64 bits is
    one client), `user`, `session`, `tenant`, `header:NAME`, `route` (all clients of a
    route together), or `email` (the account that a form names; below
    `supertokens.rate_limits` only). A request without it counts by its client.

    Risk: with `header:NAME`, a client that changes the value has a new limit each time,
    unless a proxy before the gateway sets the field.
    """
    fields: Flag = False
    """True adds `RateLimit` and `RateLimit-Policy` to refusals."""
    shared: Flag = True
    """With `gateway.shared`: all gateways that share the store count together. False:
    each counts by itself."""
    on_store_failure: Literal["local", "allow", "deny"] = "local"
    """What happens while the shared store can't be used. `local`: each gateway applies
    the limit by itself. `allow`: requests aren't limited. `deny`: requests that the
    limit counts are refused.

    Risk: with `allow`, whoever can disturb Redis has no limit. With `deny`, an outage
    of Redis is one of all routes with this limit.
    """

    @property
    def interval_ns(self) -> int:
        """The time in which one request comes back, rounded up."""
        requests, per_ns = parse_rate(self.rate)
        return -(-per_ns // requests)

    @property
    def full_burst(self) -> int:
        """How many requests may come at once."""
        return parse_rate(self.rate).requests if self.burst is None else self.burst


READY: Final = {
    "sign-in": RateLimitConfig(rate="20/m"),
    "sign-in-account": RateLimitConfig(rate="10/m", key="email"),
    "sign-up": RateLimitConfig(rate="10/m"),
    "reset": RateLimitConfig(rate="5/m"),
    "refresh": RateLimitConfig(rate="120/m"),
}
"""The limits that need no entry in `rate_limits`. An entry replaces the one of its
name."""


class RateUseConfig(Model):
    """A limit where it is attached. Its name is short for it."""

    policy: Name
    """Name of a limit in `rate_limits`, or of a ready-made one."""
    cost: Cost = 1
    """How many requests one of these counts as."""


def _short_use(value: object) -> object:
    return {"policy": value} if isinstance(value, str) else value


def _list_of_uses(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


RateUses = Annotated[
    tuple[
        Annotated[
            RateUseConfig,
            BeforeValidator(_short_use, json_schema_input_type=RateUseConfig | str),
        ],
        ...,
    ],
    BeforeValidator(
        _list_of_uses,
        json_schema_input_type=str | RateUseConfig | list[str | RateUseConfig],
    ),
]
"""A limit, or a list of them."""


class AuthRateLimitsConfig(Model):
    """The limits of SuperTokens' API. Signing out has none."""

    sign_in: RateUses = ()
    """Signing in, whatever the recipe; a code or a second factor is tried."""
    sign_up: RateUses = ()
    """A new account with a password or a passkey."""
    reset: RateUses = ()
    """A mail to reset a password, and the new password itself."""
    message: RateUses = ()
    """A mail or text message with a code or link: to sign in, or to verify an address.
    """
    exists: RateUses = ()
    """Whether there is an account for an address."""
    refresh: RateUses = ()
    """New tokens for a session.

    Risk: a refusal leaves users signed in, but without access until they may refresh.
    Users behind one address share the limit of that address.
    """
    other: RateUses = ()
    """All other calls, except signing out."""

    def uses(self) -> dict[str, tuple[RateUseConfig, ...]]:
        """Return what is attached to each call, by the call's key."""
        return {call: getattr(self, call) for call in type(self).model_fields}
