"""PURE. What the gateway answers itself: the keys `respond`, `redirect` and
`on_unauthenticated`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import AnswerStatus, FieldValue, RedirectTarget
from gateway.config.models.base import Model

_BODILESS = (204, 205)


class RespondConfig(Model):
    """An answer of the gateway's own. A protected route verifies the session first.

    With a status of 400 or more, services don't get other spellings of the path either
    (`gateway.near_misses`).
    """

    status: AnswerStatus
    """200 to 299, or 400 to 599 except 401, which asks for a refresh."""
    body: str = ""
    """The body, as UTF-8."""
    content_type: FieldValue = "text/plain; charset=utf-8"
    """Content-Type of the body."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if the status allows no body."""
        if self.body and self.status in _BODILESS:
            yield Finding(
                loc=("body",), message=f"a {self.status} has no body", hint="Remove it"
            )


class RedirectConfig(Model):
    """A redirect. A protected route verifies the session first."""

    to: RedirectTarget
    """`https://host/path` or `/path`, with `{path}` and `{query}` of the request.

    `{query}` has its question mark. Behind a `?`, `{path}` is percent-encoded, and
    `{url}` is both. With a rewrite, `{path}` is the rewritten path.
    """
    status: Literal[301, 302, 303, 307, 308] = 307
    """308 and 301 are kept by browsers for good; 302 and 303 may change POST to GET."""


class OnUnauthenticatedConfig(Model):
    """What a browser gets in place of a 401 when it opens a page without a session.

    That is a GET or HEAD that asks for `text/html` and isn't sent by a script. All
    other requests get the 401.
    """

    redirect: RedirectTarget
    """The page to sign in, as in `redirect.to`: `/login?next={url}`. `{url}` is the
    path and query to return to, percent-encoded.
    """
    for_kind: Annotated[Literal["html"], Field(alias="for")] = "html"
    """Who is redirected: `html`, browsers that open a page."""
