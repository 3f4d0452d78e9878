"""PURE. Rate limits that can't work, and those that may be mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway import config
from gateway.config import Config, Finding, Loc, RateLimitConfig, RateUseConfig
from gateway.rate_limits.auth_calls import WITH_ACCOUNT

_OF_SESSION: Final = ("user", "session", "tenant")
_LEAST_REFRESHES: Final = 60
"""A minute, for the clients behind one address. Frontends refresh once an hour, but in
a burst after an outage."""
_SHARING_KEYS: Final = ("shared", "on_store_failure")
_MINUTE_NS: Final = 60 * 1_000_000_000


def unusable(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each attached limit that can't count there."""
    limits = settings.all_rate_limits
    for loc, use in _route_uses(settings):
        limit = limits[use.policy]
        yield from _too_dear(loc, use, limit)
        if limit.key == "email":
            yield Finding(
                loc=loc,
                message=f"{use.policy} counts by the account in a form, which only"
                " SuperTokens' API has",
                hint="Attach it below supertokens.rate_limits",
            )
    for call, uses in settings.supertokens.rate_limits.uses().items():
        for number, use in enumerate(uses):
            loc = ("supertokens", "rate_limits", call, number)
            limit = limits[use.policy]
            yield from _too_dear(loc, use, limit)
            if limit.key in _OF_SESSION:
                yield Finding(
                    loc=loc,
                    message=f"{use.policy} counts by {limit.key}, and no session is"
                    " verified before this call",
                    hint="Use a limit with key: client or key: email",
                )
            if limit.key == "email" and call not in WITH_ACCOUNT:
                yield Finding(
                    loc=loc,
                    message=f"{use.policy} counts by the account in a form, and this"
                    " call has none",
                    hint="Use a limit with key: client",
                )


def _too_dear(
    loc: Loc, use: RateUseConfig, limit: RateLimitConfig
) -> Iterator[Finding]:
    if use.cost > limit.full_burst:
        yield Finding(
            loc=loc,
            message=f"no request can cost {use.cost}: the burst of {use.policy} is"
            f" {limit.full_burst}",
            hint="Raise the burst, or lower the cost",
        )


def rate_warnings(settings: Config) -> Iterator[Finding]:
    """Yield a warning for each limit that may be a mistake."""
    limits = settings.all_rate_limits
    calls = settings.supertokens.rate_limits.uses()
    used = {use.policy for _, use in _route_uses(settings)}
    used |= {use.policy for uses in calls.values() for use in uses}
    for name in settings.rate_limits:
        if name not in used:
            yield Finding(
                loc=("rate_limits", name),
                message="nothing has this limit",
                hint="Attach it with rate_limit or supertokens.rate_limits, or remove"
                " it",
            )
    yield from _not_shared(settings)
    yield from _without_session(settings, limits)
    yield from _lock_outs(settings, limits)


def _not_shared(settings: Config) -> Iterator[Finding]:
    """Yield a warning for each key about sharing that has no effect, or a bad one."""
    has_store = settings.gateway.shared is not None
    for name, limit in settings.rate_limits.items():
        keys = limit.model_fields_set & {"shared", "on_store_failure"}
        loc = ("rate_limits", name, "on_store_failure")
        if not has_store and limit.shared and keys:
            yield Finding(
                loc=("rate_limits", name, max(keys, key=_SHARING_KEYS.index)),
                message="without gateway.shared, each gateway counts by itself",
                hint="Set gateway.shared, or remove this key",
            )
        elif not limit.shared and "on_store_failure" in keys:
            yield Finding(
                loc=loc,
                message="this limit isn't shared, so it needs no store",
                hint="Remove this key, or shared: false",
            )
        elif limit.on_store_failure == "deny" and has_store:
            for use in settings.supertokens.rate_limits.refresh:
                if use.policy == name:
                    yield Finding(
                        loc=loc,
                        message="no session can be refreshed while Redis is away",
                        hint="Use on_store_failure: local for the limit of refresh",
                    )


def _without_session(
    settings: Config, limits: Mapping[str, RateLimitConfig]
) -> Iterator[Finding]:
    for route in config.effective_routes(settings):
        for use in route.settings.rate_limit:
            key = limits[use.policy].key
            if route.protected is False and key in _OF_SESSION:
                yield Finding(
                    loc=route.loc,
                    message=f"{use.policy} counts by {key}, but this route reads no"
                    " session: it counts by the client's address",
                    hint="Use a limit with key: client here, or protected: optional",
                )


def _lock_outs(
    settings: Config, limits: Mapping[str, RateLimitConfig]
) -> Iterator[Finding]:
    """Yield a warning for each limit that may keep users from their sessions."""
    calls = settings.supertokens.rate_limits.uses()
    elsewhere = {use.policy: "a route" for _, use in _route_uses(settings)}
    for call, uses in calls.items():
        elsewhere |= {use.policy: call for use in uses if call != "refresh"}
        for number, use in enumerate(uses):
            if limits[use.policy].key == "route":
                yield Finding(
                    loc=("supertokens", "rate_limits", call, number),
                    message=f"{use.policy} counts all clients together: one of them"
                    " can lock out all others",
                    hint="Use a limit with key: client or key: email",
                )
    for number, use in enumerate(calls["refresh"]):
        loc = ("supertokens", "rate_limits", "refresh", number)
        limit = limits[use.policy]
        if use.policy in elsewhere:
            yield Finding(
                loc=loc,
                message=f"{use.policy} also limits {elsewhere[use.policy]}, which can"
                " lock users out of refreshing",
                hint="Use a limit of its own, such as the ready-made refresh",
            )
        per_minute = _MINUTE_NS // (limit.interval_ns * use.cost)
        if min(limit.full_burst // use.cost, per_minute) < _LEAST_REFRESHES:
            yield Finding(
                loc=loc,
                message=f"{use.policy} can lock users out of refreshing: all users"
                " behind one address share it",
                hint=f"Allow at least {_LEAST_REFRESHES}/m, with a burst of as many",
            )


def _route_uses(settings: Config) -> Iterator[tuple[Loc, RateUseConfig]]:
    """Yield what is attached to services, groups and routes, with its place."""
    for name, service in settings.services.items():
        for number, use in enumerate(service.rate_limit):
            yield ("services", name, "rate_limit", number), use
    for place, group in enumerate(settings.groups):
        for number, use in enumerate(group.rate_limit):
            yield ("groups", place, "rate_limit", number), use
        for index, route in enumerate(group.routes):
            for number, use in enumerate(route.rate_limit):
                loc = ("groups", place, "routes", index, "rate_limit", number)
                yield loc, use
    for index, route in enumerate(settings.routes):
        for number, use in enumerate(route.rate_limit):
            yield ("routes", index, "rate_limit", number), use
