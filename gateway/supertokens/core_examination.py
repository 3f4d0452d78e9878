"""edge. What `gateway doctor` asks the core: its clock and its keys.

`core_check` asks it whether it accepts the gateway.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from gateway.session.keys import (
    JWKS_PATH,
    MAX_JWKS_BYTES,
    BadKeySet,
    KeySet,
    key_set,
)
from gateway.supertokens.core_check import authorities, client


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysAnswer:
    """What one host of the core says when it is asked for its signing keys."""

    host: str
    """Its origin."""
    count: int = 0
    """Of usable keys."""
    trouble: str = ""
    """Why there are none; empty: there are."""
    skew_s: float | None = None
    """How far its clock is ahead of this machine's; None: it doesn't say."""


async def ask_for_keys(hosts: Sequence[str], *, timeout_s: float) -> list[KeysAnswer]:
    """Ask each of *hosts* once, all at the same time."""
    urls = [URL(host) for host in hosts]
    async with await client(urls) as http:
        return await asyncio.gather(*(_ask(http, url, timeout_s) for url in urls))


async def trusted_by_core_calls(hosts: Sequence[str]) -> ssl.SSLContext | None:
    """Return the authorities for certificates of the core; None: no host has one."""
    return await authorities([URL(host) for host in hosts])


async def _ask(http: aiohttp.ClientSession, host: URL, timeout_s: float) -> KeysAnswer:
    origin, skew_s = str(host.origin()), None
    url = host.with_path(host.path.rstrip("/") + JWKS_PATH)
    try:
        async with asyncio.timeout(timeout_s):
            sent = time.time()
            async with http.get(url, allow_redirects=False) as reply:
                skew_s = _skew_s(reply.headers.get("Date"), (sent + time.time()) / 2)
                if reply.status != 200:
                    raise BadKeySet(f"it answered with status {reply.status}")
                body = bytearray()
                async for piece in reply.content.iter_any():
                    body += piece
                    if len(body) > MAX_JWKS_BYTES:
                        raise BadKeySet("its key set is too large")
        count = len(key_set(bytes(body), known=KeySet()).keys)
    except BadKeySet as error:
        return KeysAnswer(host=origin, trouble=str(error), skew_s=skew_s)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        why = f"its signing keys can't be fetched ({type(error).__name__})"
        return KeysAnswer(host=origin, trouble=why, skew_s=skew_s)
    return KeysAnswer(host=origin, count=count, skew_s=skew_s)


def _skew_s(date: str | None, now: float) -> float | None:
    """Return how far a reply's Date is ahead of *now*; None: it can't be read.

    Source: RFC 9110 §6.6.1. It is cut to whole seconds, so half of one is added.
    """
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now
    except (ValueError, OverflowError):
        return None
