"""PURE. The limits of the file, compiled, and the key that a request counts under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.clients import Clients
from gateway.config import Config, RateLimitConfig, RateUseConfig
from gateway.http.fields import Fields, first
from gateway.identity import Principal, SessionIdentity
from gateway.rate_limits.gcra import Gcra
from gateway.rate_limits.store import Sharing

_KEY_BYTES: Final = 16
"""Of a key's digest: so many bits that no two keys meet."""
_OF_SESSION: Final = frozenset(("user", "session", "tenant"))
_MAX_ACCOUNTS: Final = 4
"""The addresses of one form that are counted. No form of the SDK has more than one."""

_clients = Clients()


class Caller(NamedTuple):
    """What is known of the client of a request."""

    client: str
    """Its address, as the access log has it."""
    fields: Fields
    route: str
    """The route's name."""
    principal: Principal | None = None
    """Whose session the request has, once it is verified."""
    accounts: tuple[str, ...] = ()
    """The mail addresses or phone numbers of the form, once it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePolicy:
    """One limit of `rate_limits`."""

    name: str
    gcra: Gcra
    kind: str
    """`client`, `user`, `session`, `tenant`, `route`, `email` or `header`."""
    field: bytes = b""
    """For `header`: the name of the field, in lower case."""
    says_fields: bool = False
    """Whether a refusal has the RateLimit fields."""
    sharing: Sharing = ""
    """Whether other gateways count as well."""

    @classmethod
    def of(
        cls, name: str, config: RateLimitConfig, *, has_store: bool = False
    ) -> RatePolicy:
        """Return the policy called *name* that *config* describes.

        *has_store*: gateways share a store.
        """
        kind, _, field = config.key.partition(":")
        return cls(
            name=name,
            gcra=Gcra(config.interval_ns, config.full_burst),
            kind=kind,
            field=field.encode(),
            says_fields=config.fields,
            sharing=config.on_store_failure if has_store and config.shared else "",
        )

    def keys(self, caller: Caller) -> Iterable[str]:
        """Yield the keys that the request counts under; mostly one.

        A request without what it is counted by counts by its client's address. One
        without a known address counts with all others like it.
        """
        kind, values = self.kind, self._values(caller)
        if not values:
            kind = "client"
            values = (_clients.key(caller.client) or caller.client,)
        for value in values:
            text = f"{self.name}\0{kind}\0{value}".encode("utf-8", "surrogatepass")
            yield blake2b(text, digest_size=_KEY_BYTES).hexdigest()

    def _values(self, caller: Caller) -> tuple[str, ...]:
        match self.kind, caller.principal:
            case "route", _:
                return (caller.route,)
            case "email", _:
                return caller.accounts[:_MAX_ACCOUNTS]
            case "header", _:
                value = first(caller.fields, self.field)
                return (value.decode("latin-1"),) if value else ()
            case "user", SessionIdentity(user_id=user_id):
                return (user_id,)
            case "session", SessionIdentity(session_handle=handle):
                return (handle,)
            case "tenant", SessionIdentity(tenant_id=tenant_id):
                return (tenant_id,)
            case _:
                return ()


@dataclass(frozen=True, slots=True)
class RateUse:
    """A policy where it is attached."""

    policy: RatePolicy
    cost: int = 1
    """How many units one request takes."""


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """The limits of one route."""

    before: tuple[RateUse, ...]
    """Those that are judged before the session is verified."""
    after: tuple[RateUse, ...]
    """Those that need the session."""

    @classmethod
    def of(
        cls, uses: Sequence[RateUseConfig], policies: Mapping[str, RatePolicy]
    ) -> RouteLimits | None:
        """Return the limits that *uses* attach; None: there are none."""
        if not uses:
            return None
        compiled = [RateUse(policies[use.policy], use.cost) for use in uses]
        return cls(
            tuple(use for use in compiled if use.policy.kind not in _OF_SESSION),
            tuple(use for use in compiled if use.policy.kind in _OF_SESSION),
        )


@dataclass(frozen=True, slots=True)
class AuthLimits:
    """The limits of the calls of the SDK's API, by the names of `auth_calls`."""

    before: Mapping[str, tuple[RateUse, ...]]
    """Those that are judged before the body is read."""
    after: Mapping[str, tuple[RateUse, ...]]
    """Those that need the form."""

    @classmethod
    def of(cls, settings: Config) -> AuthLimits | None:
        """Return the limits of `supertokens.rate_limits`; None: there are none."""
        calls, policies = settings.supertokens.rate_limits.uses(), policies_of(settings)
        if not any(calls.values()):
            return None
        compiled = {
            call: tuple(RateUse(policies[use.policy], use.cost) for use in uses)
            for call, uses in calls.items()
        }
        return cls(
            {
                call: tuple(use for use in uses if use.policy.kind != "email")
                for call, uses in compiled.items()
            },
            {
                call: tuple(use for use in uses if use.policy.kind == "email")
                for call, uses in compiled.items()
            },
        )


def policies_of(settings: Config) -> dict[str, RatePolicy]:
    """Return the limits of the file by name, the ready-made ones included."""
    has_store = settings.gateway.shared is not None
    return {
        name: RatePolicy.of(name, limit, has_store=has_store)
        for name, limit in settings.all_rate_limits.items()
    }
