"""PURE. Settings that have no effect on AWS Lambda, or another one than elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config import Config, Finding
from gateway.identity import CheckDatabase, Protection
from gateway.routes import Route, RouteTable

_UNUSED: Final = (
    ("listen", "AWS takes the requests"),
    ("admin", "a function has no admin listener"),
    ("decision", "a function has no listener for other proxies"),
    ("overload", "a function serves one request at a time, so it is never overloaded"),
    ("shared", "the instances of a function don't share what they know"),
)
"""Keys below `gateway` that have no effect, and why."""
_REMOVE: Final = "Remove it, or run gateway serve"
_SIGN_OUT: Final = (
    "Set session.check_database to always where the others mustn't accept the session"
    " until its access token expires"
)
_LOOPBACK: Final = ("127.", "localhost", "[::1]")


def doubts(config: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each setting that has no effect, or another one, on Lambda.

    What holds for many routes is said once, at the first of them.
    """
    for name, why in _UNUSED:
        if name in config.gateway.model_fields_set:
            yield Finding(
                loc=("gateway", name),
                message=f"no effect on Lambda: {why}",
                hint=_REMOVE,
                at_key=True,
            )
    yield from _of_services(config)
    yield from _of_routes(table)


def _of_services(config: Config) -> Iterator[Finding]:
    for name, service in config.services.items():
        loc = ("services", name)
        if service.mirror is not None:
            yield Finding(
                loc=(*loc, "mirror"),
                message="on Lambda, copies may be sent late or never: AWS freezes the"
                " process after the reply",
                hint=_REMOVE,
            )
        for number, target in enumerate(service.targets):
            if target.url.partition("://")[2].startswith(_LOOPBACK):
                yield Finding(
                    loc=(*loc, "targets", number),
                    message="on Lambda, a loopback address is the function itself",
                    hint="Name an address that the function can reach",
                )


def _of_routes(table: RouteTable) -> Iterator[Finding]:
    said: set[str] = set()
    for route in table.routes:
        for message, hint in _of_route(route):
            if message not in said:
                said.add(message)
                yield Finding(loc=route.loc, message=message, hint=hint)


def _of_route(route: Route) -> Iterator[tuple[str, str]]:
    """Yield what is to say of one route, and the remedy."""
    session = route.session
    if route.limits is not None:
        yield (
            "on Lambda, each instance of the function has rate limits of its own",
            "Use the throttling of API Gateway as well, or run gateway serve",
        )
    if session.requirements.max_age_s is not None:
        yield (
            "an authorizer can't give clients the new tokens of require.max_age",
            "Use the handler for this route, or remove require.max_age",
        )
    is_local = session.check_database is CheckDatabase.NEVER
    if session.protection is not Protection.PUBLIC and is_local:
        yield (
            "on Lambda, only one instance of the function learns of a sign-out",
            _SIGN_OUT,
        )
