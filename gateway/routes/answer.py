"""PURE. Routes that the gateway answers itself, and the way to the page to sign in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.http.fields import Fields, first, values
from gateway.http.redirect_template import RedirectTemplate

_HTML = re.compile(
    rb"(?:^|,)[ \t]*(?:text/html|application/xhtml\+xml)[ \t]*(?:;([^,]*))?(?=,|$)",
    re.IGNORECASE,
)
_REFUSED = re.compile(rb";?[ \t]*q[ \t]*=[ \t]*0(?:\.0*)?[ \t]*$", re.IGNORECASE)
_OF_SCRIPTS: Final = (b"rid", b"st-auth-mode", b"authorization", b"x-requested-with")
"""Fields that no browser adds when it opens a page: SuperTokens' frontends add two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a route that leads to no service."""

    status: int
    fields: Fields
    body: bytes
    location: RedirectTemplate | None

    @property
    def refuses(self) -> bool:
        """Whether it keeps requests from services: its paths are guarded."""
        return self.status >= 400


def opens_a_page(method: str, fields: Fields) -> bool:
    """Return whether a request is a browser's that opens a page.

    A script's isn't, whatever it accepts: it couldn't follow the redirect to a page.

    Source: RFC 9110 §12.5.1 (Accept), W3C Fetch Metadata (Sec-Fetch-Mode).
    """
    if method not in ("GET", "HEAD"):
        return False
    mode = first(fields, b"sec-fetch-mode")
    if mode not in (None, b"navigate"):
        return False
    if any(first(fields, name) is not None for name in _OF_SCRIPTS):
        return False
    return any(
        _REFUSED.search(match[1] or b"") is None
        for value in values(fields, b"accept")
        for match in _HTML.finditer(value)
    )
