"""PURE. How the embedded core is told from a real one, without importing it."""

from __future__ import annotations

from typing import Final

EMBEDDED_CORE: Final = "supertokens-gateway-embedded-core"
"""The `Server` field of every answer of the embedded core."""
