"""PURE. The part of a request that decides which target it goes to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, assert_never

from gateway.http.fields import Field, first, values
from gateway.identity import Principal, SessionIdentity


@dataclass(frozen=True, slots=True)
class HashBy:
    """A part of a request that stays the same from one request to the next."""

    kind: str
    """`session`, `user`, `tenant`, `client`, `cookie` or `header`."""
    name: bytes = b""
    """Of the cookie, or of the field in lower case."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return it from its form in the file, which the schema has checked."""
        kind, _, name = text.partition(":")
        return cls(kind, (name.lower() if kind == "header" else name).encode())

    def key(
        self, fields: Iterable[Field], principal: Principal | None, client: str
    ) -> bytes | None:
        """Return the value of that part; None: the request has none.

        *client* is its address, as the access log has it.
        """
        if self.kind == "client":
            return client.encode()
        if self.kind == "cookie":
            return _cookie(fields, self.name)
        if self.kind == "header":
            return first(fields, self.name) or None
        return None if principal is None else self._of(principal).encode()

    def _of(self, principal: Principal) -> str:
        match principal:
            case SessionIdentity() if self.kind == "session":
                return principal.session_handle
            case SessionIdentity() if self.kind == "tenant":
                return principal.tenant_id
            case SessionIdentity():
                return principal.user_id
            case never:
                assert_never(never)


def _cookie(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return the value of the first cookie called *name*, if it has one.

    Source: RFC 6265 §4.2.1.
    """
    for field in values(fields, b"cookie"):
        for pair in field.split(b";"):
            found, _, value = pair.partition(b"=")
            if found.strip() == name and value.strip():
                return value.strip()
    return None
