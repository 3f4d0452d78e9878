"""PURE. What a core means by an answer other than 200."""

from __future__ import annotations

import re

_MISSING = "AppId or tenantId not found"
_TENANT = re.compile(
    r"tenantId: ([a-z0-9-]+)\s*$|\([^()]*, [^(),]+, ([a-z0-9-]+)\)\s*$"
)


def missing_tenant(text: str) -> str | None:
    """Return the tenant that a core misses, according to the *text* of its 400.

    "public": there is no such app. "": it doesn't say which. None: another answer.

    Source: core 11.4, WebserverAPI (app and tenant in brackets, after a domain);
    "appId: …, tenantId: …" in older ones.
    """
    if not text.startswith(_MISSING):
        return None
    named = _TENANT.search(text)
    return (named[1] or named[2]) if named else ""
