"""PURE. Request methods: which are forwarded, and which of them change nothing."""

from __future__ import annotations

from typing import Final

METHODS: Final = frozenset(
    (
        *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"),
        *("QUERY", "SOURCE", "PURGE", "LINK", "UNLINK"),
        # WebDAV and its extensions
        *("COPY", "LOCK", "UNLOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH"),
        *("BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT"),
        *("MERGE", "MKCALENDAR"),
        # UPnP
        *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
    )
)
"""The methods that are forwarded: those of llhttp without CONNECT and TRACE."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that change nothing at a service.

Source: RFC 9110 §9.2.1; TRACE is never forwarded.
"""
