"""edge. Password hashes with scrypt, computed in a thread.

The cost is low on purpose, because this core has only test accounts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Final

_COST: Final = 2**12
_BLOCK: Final = 8
_PARALLEL: Final = 1
"""scrypt's n, r, p: 4 MiB and about 10 ms. Source: RFC 7914 §2."""

SALT_BYTES: Final = 16


async def hash_password(password: str, *, salt: bytes) -> str:
    """Return the salt and the hash as text; `salt` is `SALT_BYTES` random bytes."""
    digest = await asyncio.to_thread(_scrypt, password, salt)
    return f"{_text(salt)}${_text(digest)}"


async def is_password(password: str, *, stored: str) -> bool:
    """Return whether *stored*, from `hash_password`, is of this password."""
    salt, digest = (base64.b64decode(part) for part in stored.split("$"))
    return hmac.compare_digest(await asyncio.to_thread(_scrypt, password, salt), digest)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8"), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
