"""PURE. The keys below `cors`."""

from __future__ import annotations

from gateway.config.forms import FieldName, NotNegative, Origin
from gateway.config.models.base import Model


class CorsConfig(Model):
    """Which browser origins may read answers. What SuperTokens needs is added."""

    allow_origins: tuple[Origin, ...] | None = None
    """Exact origins; unset: the website domain.

    Risk: pages of these origins can act for a user who is signed in.
    """
    allow_headers: tuple[FieldName, ...] = ()
    """Request fields that frontends send, besides SuperTokens' own."""
    expose_headers: tuple[FieldName, ...] = ()
    """Reply fields that frontends read, besides SuperTokens' own."""
    max_age: NotNegative = 600
    """Seconds that browsers keep the answer to a preflight."""
