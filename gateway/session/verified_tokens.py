"""PURE. The tokens that were verified, for as long as that holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.http.lines import HELD_MAX_BYTES, Line
from gateway.identity import Allowed
from gateway.session import tokens
from gateway.session.tokens import Token

KEY_CHARS = 32
"""A token is looked up by this many of its last characters: 192 bits of the signature.
The rest is compared, which costs a tenth of what it costs to hash a thousand
characters."""


MEAN_MAX_BYTES: Final = 12 * 1024
"""A cache takes at most this many bytes for each token that it may hold
(`supertokens.cache.size`). A usual token takes 7 to 11 KB, so only larger ones make it
hold fewer."""
_ENTRY_BYTES = 1500
"""The size of an entry besides its text, its claims and its line."""
_LINE_ROOM_BYTES = 256


class VerifiedToken:
    """A token that was verified. Nothing in it depends on a route or a request."""

    __slots__ = (
        "allowed",
        "anti_csrf",
        "core_at",
        "identity",
        "is_confirmed",
        "line",
        "line_max",
        "needs_core",
        "size",
        "text",
        "until",
    )

    def __init__(
        self, text: str, token: Token, until: float, lines: Sequence[Line] = ()
    ) -> None:
        """*lines* are those of the request that showed the token."""
        self.text = text
        self.identity = tokens.identity(token)
        self.allowed = Allowed(principal=self.identity, reason="cached")
        self.anti_csrf = tokens.anti_csrf(token)
        self.needs_core = tokens.needs_core(token)
        self.until = min(until, self.identity.expires_at)
        """When it must be verified again, in seconds since the epoch."""
        self.core_at = float("-inf")
        """When the core last confirmed that the session exists."""
        self.is_confirmed = False
        """The core has accepted it, though it `needs_core`, and the new token was
        withheld."""
        self.line_max = max(
            (
                len(line.raw) + _LINE_ROOM_BYTES
                for line in lines
                if len(line.raw) <= HELD_MAX_BYTES
            ),
            default=0,
        )
        """The longest line that may be held, in bytes: `size` includes it."""
        # The identity fields are written from the claims: as long as the text at most.
        # A line is stored as received, as judged, and as forwarded or parsed.
        self.size = (
            _ENTRY_BYTES + 2 * len(text) + tokens.claims_size(token) + 3 * self.line_max
        )
        """An estimate of the bytes that it takes in the cache."""
        self.line: Line | None = None
        """The line that showed the token last. The reader of heads finds it again
        without judging its bytes, for as long as it is held here."""


class VerifiedTokens:
    """A cache of verified tokens, bounded in number and in bytes."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._max_bytes = max_tokens * MEAN_MAX_BYTES
        self.size = 0
        """An estimate of the bytes that all of them take."""
        self._by_end: OrderedDict[str, VerifiedToken] = OrderedDict()
        self.by_end: Mapping[str, VerifiedToken] = self._by_end
        """The last `KEY_CHARS` characters → the token, for look-ups without a call.
        The caller compares its `text` and checks its `until`."""

    def add(self, token: VerifiedToken, now: float) -> None:
        """Keep *token*; up to two of the oldest go if they are over.

        Beyond the greatest number or size, the oldest go.
        """
        by_end = self._by_end
        key = token.text[-KEY_CHARS:]
        before = by_end.get(key)
        if before is not None:
            self.size -= before.size
        by_end[key] = token
        self.size += token.size
        for _ in range(2):
            oldest = next(iter(by_end.values()), None)
            if oldest is None or oldest.until > now:
                break
            self.remove(oldest)
        while len(by_end) > self._max_tokens or self.size > self._max_bytes:
            self.size -= by_end.popitem(last=False)[1].size

    def remove(self, token: VerifiedToken) -> None:
        """Forget *token*, which is here."""
        self.size -= self._by_end.pop(token.text[-KEY_CHARS:]).size

    def clear(self) -> None:
        """Forget all of them."""
        self._by_end.clear()
        self.size = 0


def line_of(text: str, credential_lines: Sequence[Line]) -> Line:
    """Return the line among *shown* that has the token *text*."""
    return next(
        line
        for line in credential_lines
        if line.parsed.bearer is text or text in line.parsed.access_cookies
    )
