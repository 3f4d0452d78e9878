"""PURE. The keys below `cors`."""

from __future__ import annotations

from gateway.config.forms import FieldName, NotNegative, Origin
from gateway.config.models.base import Model


class CorsConfig(Model):
    """Which browser origins may read replies. What SuperTokens needs is added."""

    allow_origins: tuple[Origin, ...] | None = None
    """Exact origins. Unset: the website domain.

    Risk: pages of these origins can act for a signed-in user.
    """
    allow_headers: tuple[FieldName, ...] = ()
    """Request fields that frontends may send, besides SuperTokens' own."""
    expose_headers: tuple[FieldName, ...] = ()
    """Reply fields that frontends may read, besides SuperTokens' own."""
    max_age: NotNegative = 600
    """How many seconds browsers keep the reply to a preflight."""
