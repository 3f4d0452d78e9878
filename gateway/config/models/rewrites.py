"""PURE. The keys below `routes[].rewrite`, besides the path itself."""

from __future__ import annotations

from gateway.config.forms import CookieDomainChange, Flag
from gateway.config.models.base import Model


class CookieMapConfig(Model):
    """How cookies of the service are changed, so that browsers accept and return them.

    `cookies: true` is short for the defaults.
    """

    path: Flag = True
    """Map Path back as redirects are: `/` becomes `/app` behind `strip_prefix: /app`.
    """
    domain: CookieDomainChange = "remove"
    """For a Domain that is the service's own host and not the client's: `remove` it,
    `keep` it, or a domain to write in its place."""


def short_cookies(value: object) -> object:
    """Return the keys that `cookies: true` and `cookies: false` are short for."""
    if value is True:
        return {}
    return None if value is False else value
