"""PURE. Which of a route's two services gets a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from gateway.headers import HashBy
from gateway.http.fields import Fields
from gateway.identity import Principal

if TYPE_CHECKING:
    from gateway.routes.route import Route

_HASH_BYTES: Final = 8
_HASHES: Final = 256**_HASH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The part of a route's requests that goes to another service."""

    route: Route
    """The route with the other service in place of its own."""
    weight: float
    """The other service's share, from 0 to 1."""
    sticky: HashBy | None
    """What decides; None: chance."""
    override: HashBy | None
    """Where a client may say `always` or `never`."""

    def takes(
        self,
        fields: Fields,
        principal: Principal | None,
        client: str,
        draw: Callable[[], float],
    ) -> bool:
        """Return whether a request goes to the other service.

        *client* is its address, as the access log has it. *draw* returns a number from
        0 up to 1. What `sticky` names decides in the same way for all routes to the
        other service, in all workers and gateways; with a greater `weight`, those who
        were sent to the other service stay there.
        """
        if self.override is not None:
            word = self.override.key(fields, principal, client)
            if word == b"always":
                return True
            if word == b"never":
                return False
        if self.sticky is None:
            return draw() < self.weight
        key = self.sticky.key(fields, principal, client)
        return key is not None and self._place(key) < self.weight

    def _place(self, key: bytes) -> float:
        """Return where *key* is, from 0 up to 1: evenly, and always the same."""
        salt = self.route.service.name.encode()[:64]
        digest = blake2b(key, key=salt, digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest) / _HASHES
