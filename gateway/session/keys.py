"""edge. The core's signing keys: fetched in the background, kept during its outages.

Requests don't wait for a fetch, except those whose key id is unknown. All of these
together cause one fetch per `keys.cooldown`.

Facts: a core shows a new dynamic key 60 s before it signs with it, and an old one
until the last token signed with it has expired. The JWKS needs no API key. Several
core hosts share one database, so any one's answer is everyone's.
"""

from __future__ import annotations

import asyncio
import json
import time
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPublicKey,
    RSAPublicNumbers,
)
from yarl import URL

from gateway import config
from gateway.errors import CoreUnavailable
from gateway.pace import PACE, Pace, backoff_s
from gateway.session.key_reports import KeyReports, KeyTrouble

JWKS_PATH = "/.well-known/jwks.json"
MAX_JWKS_BYTES = 1024**2
MAX_KEYS = 64
"""A core has a handful: one static key, and two or three dynamic ones."""
MIN_KEY_BITS = 2048
MAX_KEY_BITS = 8192
"""Above, one signature costs a millisecond or more."""
_MAX_WAITING = 256
"""Requests that may wait for the fetch of an unknown key; more are refused at once."""


class Missing(StrEnum):
    """Why there is no key for a key id."""

    UNKNOWN = "unknown"
    """The core's present keys are here, and this isn't one of them."""
    UNAVAILABLE = "unavailable"
    """Unknown: the core's present keys couldn't be fetched."""


class BadKeySet(Exception):
    """An answer that isn't a usable JWKS. The text holds nothing of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The keys of one answer of the core."""

    keys: Mapping[str, RSAPublicKey] = field(default_factory=dict)
    jwks: Mapping[str, Any] = field(default_factory=lambda: {"keys": []})
    """The same keys as a JWKS document, for the SDK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """How the store is, for readiness and metrics."""

    keys: int
    age_s: float | None
    """Since the core last answered well; None: never yet."""
    is_usable: bool
    """There are keys, and they aren't older than `max_stale`."""
    is_fresh: bool
    """The last fetch went well."""
    fetches: int
    """Those that have ended."""
    failures: int
    error: str | None
    """What was wrong with the last fetch, in a few words without any address."""


Listener = Callable[[KeySet, bool], None]
"""Called after every good fetch, and with keys that were handed over: the keys, and
whether a key left or changed."""


class KeyStore:
    """The keys of one core, which may have several hosts."""

    def __init__(
        self,
        hosts: Sequence[str | URL],
        settings: config.KeysConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        pace: Pace = PACE,
        reports: KeyReports | None = None,
    ) -> None:
        """*hosts* are URLs of the core, which may have a path.

        *clock* is in seconds and never goes back. *reports* logs outages.
        """
        self._urls = tuple(
            host.with_path(host.path.rstrip("/") + JWKS_PATH)
            for host in map(URL, hosts)
        )
        self._settings = settings
        self._clock = clock
        self._pace = pace
        self._set = KeySet()
        self._keys: Mapping[str, RSAPublicKey] = self._set.keys
        self._good_at: float | None = None
        self._tried_at: float | None = None
        self._error: str | None = None
        self._reports = reports or KeyReports(self.usable_for_s)
        self._fetches = 0
        self._failures = 0
        self._waiting = 0
        self._first = 0
        self._listeners: list[Listener] = []
        self._flight: asyncio.Task[None] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._client: aiohttp.ClientSession | None = None

    def subscribe(self, listener: Listener) -> None:
        """Have *listener* called after every good fetch, and now if keys are here."""
        self._listeners.append(listener)
        if self._set.keys:
            listener(self._set, False)

    async def start(self) -> None:
        """Begin to fetch in the background. Returns at once, core or no core."""
        self._client = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
        self._loop_task = asyncio.create_task(self._refresh_for_ever(), name="keys")

    async def close(self) -> None:
        """Stop fetching and close the connections. The keys stay readable."""
        tasks = [task for task in (self._loop_task, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop_task = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    def usable_for_s(self) -> float:
        """Return for how long the present keys may be used, 0 or less: no more."""
        if self._good_at is None:
            return 0.0
        return self._good_at + self._settings.max_stale - self._clock()

    def ids(self) -> list[str]:
        """Return the names of the present keys."""
        return sorted(self._keys)

    def get(self, kid: str) -> RSAPublicKey | None:
        """Return the key called *kid*, or None: ask `seek` then."""
        if self.usable_for_s() <= 0:
            return None
        return self._keys.get(kid)

    async def seek(self, kid: str) -> RSAPublicKey | Missing:
        """Return the key called *kid*, fetching once if it may help.

        The wait is bounded by `keys.timeout`. Within `keys.cooldown` of the last
        fetch nothing is fetched, and the answer follows from how that one went.
        """
        key = self.get(kid)
        if key is not None:
            return key
        if self._flight is None and self._is_cooling():
            return self._verdict()
        if self._waiting >= _MAX_WAITING:
            return Missing.UNAVAILABLE
        self._waiting += 1
        try:
            await self.refresh()
        finally:
            self._waiting -= 1
        return self.get(kid) or self._verdict()

    async def want(self, kid: str) -> None:
        """Return once *kid* is stored, or is known not to exist (`Sdk.want_key`).

        Raises:
            CoreUnavailable: the core's present keys couldn't be fetched.
        """
        if await self.seek(kid) is Missing.UNAVAILABLE:
            raise CoreUnavailable("the core's signing keys can't be had")

    def adopt(self, document: bytes, fetched_at: float) -> None:
        """Take a JWKS *document* that another process fetched of this core.

        *fetched_at* is the time of that fetch on this store's clock: `max_stale` counts
        from it. Nothing happens if the document isn't usable any more, or not newer
        than what is here.
        """
        now = self._clock()
        fetched_at = min(fetched_at, now)
        known_at = self._good_at
        if fetched_at + self._settings.max_stale <= now or (
            known_at is not None and known_at >= fetched_at
        ):
            return
        try:
            adopted = key_set(document, known=self._set)
        except BadKeySet:
            return
        self._take(adopted, fetched_at)

    async def refresh(self) -> None:
        """Fetch now, or wait for the fetch that is under way. Never raises."""
        await asyncio.shield(self._flight or self._begin())

    def state(self) -> KeyState:
        """Return the state of the store, for health and tests."""
        age_s = None if self._good_at is None else self._clock() - self._good_at
        return KeyState(
            keys=len(self._keys),
            age_s=age_s,
            is_usable=self.usable_for_s() > 0,
            is_fresh=self._tried_at is not None and self._error is None,
            fetches=self._fetches,
            failures=self._failures,
            error=self._error,
        )

    def _is_cooling(self) -> bool:
        return (
            self._tried_at is not None
            and self._clock() - self._tried_at < self._settings.cooldown
        )

    def _verdict(self) -> Missing:
        """Return what the last fetch means for a key that isn't in the store."""
        is_known = self._error is None and self.usable_for_s() > 0
        return Missing.UNKNOWN if is_known else Missing.UNAVAILABLE

    def _begin(self) -> asyncio.Task[None]:
        """Start the one fetch that may be under way."""
        self._flight = asyncio.create_task(self._fetch(), name="keys-fetch")
        return self._flight

    async def _refresh_for_ever(self) -> None:
        pace = self._pace
        failures = 0
        while True:
            await self.refresh()
            failures = 0 if self._error is None else failures + 1
            wait_s = self._settings.refresh_interval
            if failures:
                wait_s = min(
                    wait_s,
                    backoff_s(pace.keys_retry_s, failures, pace.keys_max_retry_s),
                )
            await asyncio.sleep(wait_s)

    async def _fetch(self) -> None:
        """Ask the hosts in turn, the one that answered last time first."""
        trouble: KeyTrouble | None
        trouble = KeyTrouble("no core host is configured", is_core_lost=False)
        is_core_lost = True
        troubles: list[str] = []
        deadline_s = self._settings.timeout / max(1, len(self._urls))
        try:
            for turn in range(len(self._urls)):
                index = (self._first + turn) % len(self._urls)
                url = self._urls[index]
                trouble = await self._ask(url, deadline_s)
                if trouble is None:
                    self._first = index
                    break
                troubles.append(f"{url.origin()}: {trouble.text}")
                is_core_lost = is_core_lost and trouble.is_core_lost
            self._fetches += 1
            self._error = None if trouble is None else trouble.text
            if trouble is None:
                self._reports.succeeded()
            else:
                self._failures += 1
                self._reports.failed(
                    "; ".join(troubles) or trouble.text,
                    is_core_lost=is_core_lost and trouble.is_core_lost,
                    now=self._clock(),
                )
        finally:
            self._tried_at = self._clock()
            self._flight = None

    async def _ask(self, url: URL, deadline_s: float) -> KeyTrouble | None:
        """Take the keys that *url* answers with, or return what is wrong there."""
        try:
            async with asyncio.timeout(deadline_s):
                document = await self._read(url)
            self._take(key_set(document, known=self._set), self._clock())
        except TimeoutError:
            return KeyTrouble("the core didn't answer in time", is_core_lost=True)
        except BadKeySet as bad:
            return KeyTrouble(str(bad), is_core_lost=False)
        except (aiohttp.ClientError, OSError) as failed:
            text = f"the core can't be asked ({type(failed).__name__})"
            return KeyTrouble(text, is_core_lost=True)
        except Exception as failed:  # noqa: BLE001 - the keys there are stay
            text = f"the fetch failed ({type(failed).__name__})"
            return KeyTrouble(text, is_core_lost=False)
        return None

    def _take(self, fetched: KeySet, fetched_at: float) -> None:
        """Replace the keys by *fetched*, and notify the listeners."""
        before = self._set.keys
        has_left = any(fetched.keys.get(kid) is not key for kid, key in before.items())
        self._set = fetched
        self._keys = fetched.keys
        self._good_at = fetched_at
        for listener in self._listeners:
            listener(fetched, has_left)

    async def _read(self, url: URL) -> bytes:
        """Return the body that *url* answers with.

        Raises:
            BadKeySet: not status 200, or more than MAX_JWKS_BYTES.
        """
        if self._client is None:
            raise BadKeySet("the key store isn't started")
        async with self._client.get(
            url,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            allow_redirects=False,
        ) as reply:
            if reply.status != 200:
                raise BadKeySet(f"the core answered with status {reply.status}")
            body = bytearray()
            async for piece in reply.content.iter_any():
                body += piece
                if len(body) > MAX_JWKS_BYTES:
                    raise BadKeySet("the core's key set is too large")
            return bytes(body)


def key_set(document: bytes, *, known: KeySet) -> KeySet:
    """Return the keys in a JWKS *document*; those of *known* keep their objects.

    Entries that aren't RSA signing keys of a sane size are left out.

    Raises:
        BadKeySet: it isn't a JWKS, or has no usable key.
    Source: RFC 7517 §4, §5; RFC 7518 §6.3.1.
    """
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        raise BadKeySet("the core's key set isn't JSON") from None
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise BadKeySet("the core's key set has no list of keys")
    keys: dict[str, RSAPublicKey] = {}
    jwks: list[dict[str, Any]] = []
    for entry in entries[:MAX_KEYS]:
        numbers = _numbers(entry)
        if numbers is None or entry["kid"] in keys:
            continue
        kid = entry["kid"]
        old = known.keys.get(kid)
        if old is not None and old.public_numbers() == numbers:
            keys[kid] = old
        else:
            keys[kid] = numbers.public_key()
        jwks.append(
            {
                "kty": "RSA",
                "kid": kid,
                "alg": "RS256",
                "use": "sig",
                "n": entry["n"],
                "e": entry["e"],
            }
        )
    if not keys:
        raise BadKeySet("the core's key set has no usable key")
    return KeySet(keys=MappingProxyType(keys), jwks={"keys": jwks})


def _numbers(entry: object) -> RSAPublicNumbers | None:
    """Return the numbers of the RSA signing key that *entry* describes, or None."""
    if not isinstance(entry, dict):
        return None
    kid = entry.get("kid")
    if (
        entry.get("kty") != "RSA"
        or entry.get("use", "sig") != "sig"
        or entry.get("alg", "RS256") != "RS256"
        or not isinstance(kid, str)
        or not kid
    ):
        return None
    modulus, exponent = _integer(entry.get("n")), _integer(entry.get("e"))
    if (
        not MIN_KEY_BITS <= modulus.bit_length() <= MAX_KEY_BITS
        or modulus % 2 == 0
        or not 3 <= exponent < 2**32
        or exponent % 2 == 0
    ):
        return None
    return RSAPublicNumbers(exponent, modulus)


def _integer(value: object) -> int:
    """Return the number that *value* spells in base64url, or 0."""
    if not isinstance(value, str):
        return 0
    try:
        octets = a2b_base64(value.replace("-", "+").replace("_", "/") + "==")
    except ValueError:
        return 0
    return int.from_bytes(octets, "big")
