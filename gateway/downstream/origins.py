"""PURE. The origins that a CORS policy allows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

ANY: Final = "*"
_LABELS: Final = r"(?:[a-z0-9_-]+\.)+"


class AllowedOrigins:
    """Origins given in full, `https://*.example.com` for one label or more, or `*`."""

    __slots__ = ("_exact", "_patterns", "is_any", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """*texts* are the origins as the configuration has them."""
        self.texts = tuple(texts)
        self.is_any = ANY in self.texts
        """Every origin is allowed, without credentials."""
        self._exact = frozenset(text for text in self.texts if ANY not in text)
        self._patterns = tuple(
            re.compile(re.escape(text).replace(r"\*\.", _LABELS)).fullmatch
            for text in self.texts
            if ANY in text and text != ANY
        )

    def __contains__(self, origin: object) -> bool:
        """Return whether the policy names *origin*, in full or by a pattern."""
        return isinstance(origin, str) and (
            origin in self._exact or any(fits(origin) for fits in self._patterns)
        )


class ByOrigin(dict[str, Any]):
    """The options of each allowed origin, for aiohttp-cors, which looks them up."""

    def __init__(self, origins: AllowedOrigins, options: Any) -> None:
        super().__init__(dict.fromkeys(origins.texts, options))
        self._origins = origins
        self._options = options

    def get(self, origin: str, default: Any = None) -> Any:
        """Return the options of *origin*, or *default* if it isn't allowed."""
        if origin in self._origins or self._origins.is_any:
            return self._options
        return default
