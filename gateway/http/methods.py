"""PURE. Request methods: which are passed on, and which of them change nothing."""

from __future__ import annotations

from typing import Final

METHODS: Final = frozenset(
    (
        *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"),
        *("QUERY", "SOURCE", "PURGE", "LINK", "UNLINK"),
        # WebDAV and its family
        *("COPY", "LOCK", "UNLOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH"),
        *("BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT"),
        *("MERGE", "MKCALENDAR"),
        # UPnP
        *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
    )
)
"""The methods that are passed on: llhttp's, but for CONNECT and TRACE."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Those that change nothing at a service.

Source: RFC 9110 §9.2.1; TRACE is never forwarded.
"""
