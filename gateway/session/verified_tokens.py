"""PURE. The tokens that were verified, for as long as that holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from gateway.http.lines import Line
from gateway.identity import Allowed
from gateway.session import tokens
from gateway.session.tokens import Token

KEY_CHARS = 32
"""A token is looked up by this many of its last characters: 192 bits of the signature.
The rest is compared, which costs a tenth of what it costs to hash a thousand
characters."""


class VerifiedToken:
    """A token that was verified. Nothing in it depends on a route or a request."""

    __slots__ = (
        "allowed",
        "anti_csrf",
        "core_at",
        "identity",
        "line",
        "needs_core",
        "text",
        "until",
    )

    def __init__(self, text: str, token: Token, until: float) -> None:
        self.text = text
        self.identity = tokens.identity(token)
        self.allowed = Allowed(principal=self.identity, reason="cached")
        self.anti_csrf = tokens.anti_csrf(token)
        self.needs_core = tokens.needs_core(token)
        self.until = min(until, self.identity.expires_at)
        """When it must be verified again, in seconds since the epoch."""
        self.core_at = float("-inf")
        """When the core last confirmed that the session exists."""
        self.line: Line | None = None
        """The line that showed the token last. The reader of heads finds it again
        without judging its bytes, for as long as it is held here."""


class VerifiedTokens:
    """A bounded cache of verified tokens."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._by_end: OrderedDict[str, VerifiedToken] = OrderedDict()
        self.by_end: Mapping[str, VerifiedToken] = self._by_end
        """The last `KEY_CHARS` characters → the token, for look-ups without a call.
        The caller compares its `text` and checks its `until`."""

    def add(self, token: VerifiedToken, now: float) -> None:
        """Keep *token*; up to two of the oldest go if they are over.

        Beyond the greatest number, the oldest goes.
        """
        by_end = self._by_end
        by_end[token.text[-KEY_CHARS:]] = token
        for _ in range(2):
            oldest = next(iter(by_end), None)
            if oldest is None or by_end[oldest].until > now:
                break
            del by_end[oldest]
        if len(by_end) > self._max_tokens:
            by_end.popitem(last=False)

    def remove(self, token: VerifiedToken) -> None:
        """Forget *token*, which is here."""
        del self._by_end[token.text[-KEY_CHARS:]]

    def clear(self) -> None:
        """Forget all of them."""
        self._by_end.clear()


def line_of(text: str, credential_lines: Sequence[Line]) -> Line:
    """Return the line among *shown* that has the token *text*."""
    return next(
        line
        for line in credential_lines
        if line.parsed.bearer is text or text in line.parsed.access_cookies
    )
