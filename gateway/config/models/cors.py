"""PURE. The keys below `cors`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.findings import Finding
from gateway.config.forms import FieldName, NotNegative, OriginPattern, RouteOrigin
from gateway.config.models.base import Model


class CorsConfig(Model):
    """Which browser origins may read replies. What SuperTokens needs is added."""

    allow_origins: tuple[OriginPattern, ...] | None = None
    """Origins in full, or `https://*.example.com` for one label or more. Unset: the
    website domain.

    Risk: pages of these origins can act for a signed-in user.
    """
    allow_headers: tuple[FieldName, ...] = ()
    """Request fields that frontends may send, besides SuperTokens' own."""
    expose_headers: tuple[FieldName, ...] = ()
    """Reply fields that frontends may read, besides SuperTokens' own."""
    max_age: NotNegative = 600
    """How many seconds browsers keep the reply to a preflight."""


class RouteCorsConfig(Model):
    """The CORS policy of a route, group or service. An unset key comes from `cors`."""

    allow_origins: tuple[RouteOrigin, ...] | None = None
    """As in `cors`; or `*`, every origin without credentials, on public routes only.

    Risk: pages of these origins can act for a signed-in user, but with `*`.
    """
    allow_headers: tuple[FieldName, ...] | None = None
    """As in `cors`."""
    expose_headers: tuple[FieldName, ...] | None = None
    """As in `cors`."""
    max_age: NotNegative | None = None
    """As in `cors`."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if an origin is listed beside `*`."""
        origins = self.allow_origins or ()
        if "*" in origins and len(origins) > 1:
            yield Finding(
                loc=("allow_origins",),
                message="* allows every origin, and others are listed",
                hint="Remove one of the two",
            )
