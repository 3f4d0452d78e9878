"""edge. Password hashes with scrypt, computed in a thread.

The cost is low by default, because this core has only test accounts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Final

COST: Final = 12
"""The binary logarithm of scrypt's n: 4 MiB and about 10 ms. Source: RFC 7914 §2."""
REAL_COST: Final = 15
"""32 MiB and about 0.1 s, as much time as the real core's hash takes."""

_BLOCK: Final = 8
_PARALLEL: Final = 1
"""scrypt's r and p."""

_MOST_MEMORY: Final = 64 * 1024**2

SALT_BYTES: Final = 16


async def hash_password(password: str, *, salt: bytes, cost: int = COST) -> str:
    """Return the salt and the hash as text; `salt` is `SALT_BYTES` random bytes.

    A cost other than `COST` stands before them.
    """
    digest = await asyncio.to_thread(_scrypt, password, salt, cost)
    text = f"{_text(salt)}${_text(digest)}"
    return text if cost == COST else f"{cost}${text}"


async def is_password(password: str, *, stored: str) -> bool:
    """Return whether *stored*, from `hash_password`, is of this password."""
    *costs, salt_text, digest_text = stored.split("$")
    cost = int(costs[0]) if costs else COST
    salt, digest = base64.b64decode(salt_text), base64.b64decode(digest_text)
    computed = await asyncio.to_thread(_scrypt, password, salt, cost)
    return hmac.compare_digest(computed, digest)


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8"),
        salt=salt,
        n=2**cost,
        r=_BLOCK,
        p=_PARALLEL,
        maxmem=_MOST_MEMORY,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
