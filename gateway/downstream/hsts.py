"""PURE. Strict-Transport-Security: one policy for all replies over one address.

With a policy of the gateway, a service's own is removed: of two fields, browsers read
only the first (RFC 6797 §8.1).
"""

from __future__ import annotations

import re

from gateway.config import HstsConfig

_OWN = re.compile(rb"(?im)^strict-transport-security:[^\n]*\n")


def line(policy: HstsConfig) -> bytes:
    """Return the field of *policy*, with CRLF.

    Source: RFC 6797 §6.1.
    """
    more = b"; includeSubDomains" if policy.include_subdomains else b""
    return b"Strict-Transport-Security: max-age=%d%b\r\n" % (policy.max_age, more)


def without(head: bytes) -> bytes:
    """Return *head*, lines with CRLF, without the field in it."""
    return _OWN.sub(b"", head)
