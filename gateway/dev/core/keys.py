"""edge. Signing keys: how they are generated, stored, published, rotated and deleted.

Facts (real core's SigningKeys)
- The kid of a dynamic key is `d-<created ms>`, that of the one static key `s-<uuid>`.
- After the update interval, a new dynamic key signs. It is in the JWKS 60 s earlier.
- A dynamic key verifies for the interval plus two access-token validities.
- Generating an RSA key takes tens of milliseconds, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.dev.core.jws import JsonObject, base64url
from gateway.dev.core.settings import KEY_OVERLAP_S, CoreSettings
from gateway.dev.core.store import Store

_KEY_BITS: Final = 2048
_PUBLIC_EXPONENT: Final = 65_537
_OVERLAP_MS: Final = KEY_OVERLAP_S * 1000


class Kind(StrEnum):
    """The two key types. The SDK refuses tokens of the type it isn't configured for."""

    DYNAMIC = "dynamic"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One RS256 key pair; times in ms since the epoch."""

    kid: str
    kind: Kind
    created_ms: int
    signs_from_ms: int
    private: rsa.RSAPrivateKey

    @property
    def public(self) -> rsa.RSAPublicKey:
        """The public key."""
        return self.private.public_key()

    def to_jwk(self) -> JsonObject:
        """Return the public key as a JWK. Source: RFC 7517 §4, RFC 7518 §6.3.1."""
        numbers = self.public.public_numbers()
        return {
            "kty": "RSA",
            "kid": self.kid,
            "n": base64url(_big_endian(numbers.n)),
            "e": base64url(_big_endian(numbers.e)),
            "alg": "RS256",
            "use": "sig",
        }


class SigningKeys:
    """The keys of one app. Call `ensure` before any other method."""

    def __init__(
        self,
        store: Store,
        settings: CoreSettings,
        *,
        now_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Use *store* for the keys; `ensure` reads or generates them."""
        self._store = store
        self._now_ms = now_ms
        self._rng = rng
        self._interval_ms = settings.signing_key_update_interval_s * 1000
        self._verifies_ms = (
            self._interval_ms + 2 * settings.access_token_validity_s * 1000
        )
        self._cache: tuple[SigningKey, ...] = ()
        self._making = asyncio.Lock()

    async def ensure(self) -> None:
        """Generate the keys that are due, and then delete the expired ones.

        While no key is due, which is nearly always, it only compares times.
        """
        if not self._is_due():
            return
        async with self._making:
            # Another process or another request may have generated them meanwhile.
            self._reload()
            kinds = self._missing()
            pems = await asyncio.gather(*(asyncio.to_thread(_make_pem) for _ in kinds))
            for kind, pem in zip(kinds, pems, strict=True):
                self._add(kind, pem, at_once=False)
            self._retire()
            self._reload()

    async def rotate(self, *, drop_old: bool = False) -> str:
        """Generate a dynamic key that signs from now on; return its kid.

        Older dynamic keys verify until they expire; `drop_old` deletes them at once.
        """
        pem = await asyncio.to_thread(_make_pem)
        kid = self._add(Kind.DYNAMIC, pem, at_once=True)
        if drop_old:
            self._store.run(
                "DELETE FROM keys WHERE kind = ? AND kid <> ?", Kind.DYNAMIC, kid
            )
        self._reload()
        return kid

    def signer(self, *, static: bool) -> SigningKey:
        """Return the key that signs now.

        Before the newest dynamic key's time to sign, that is the one before it, but
        for no longer than the update interval.
        """
        if static:
            return next(key for key in self._cache if key.kind is Kind.STATIC)
        newest, *older = self._live_dynamic()
        now = self._now_ms()
        if (
            older
            and now < newest.signs_from_ms
            and now < older[0].created_ms + self._interval_ms
        ):
            return older[0]
        return newest

    def find(self, kid: object) -> SigningKey | None:
        """Return the unexpired key with this kid, or None.

        For an unknown kid it reads the database again, since another process may have
        added the key.
        """
        for reread in (False, True):
            if reread:
                self._reload()
            for key in self._published():
                if key.kid == kid:
                    return key
        return None

    def jwks(self) -> list[JsonObject]:
        """Return the public keys: dynamic ones newest first, then the static one."""
        return [key.to_jwk() for key in self._published()]

    def max_age_s(self) -> int:
        """Return the seconds until the JWKS gets its next key, at least 1."""
        newest = self._live_dynamic()[0]
        left = newest.created_ms + self._interval_ms - _OVERLAP_MS - self._now_ms()
        return max(left // 1000, 1)

    def _published(self) -> list[SigningKey]:
        static = [key for key in self._cache if key.kind is Kind.STATIC]
        return self._live_dynamic() + static

    def _live_dynamic(self) -> list[SigningKey]:
        now = self._now_ms()
        return [
            key
            for key in self._cache
            if key.kind is Kind.DYNAMIC and key.created_ms + self._verifies_ms >= now
        ]

    def _is_due(self) -> bool:
        return bool(self._missing())

    def _missing(self) -> list[Kind]:
        missing = []
        live = self._live_dynamic()
        due = not live or (
            self._now_ms() + _OVERLAP_MS > live[0].created_ms + self._interval_ms
        )
        if due:
            missing.append(Kind.DYNAMIC)
        if all(key.kind is not Kind.STATIC for key in self._cache):
            missing.append(Kind.STATIC)
        return missing

    def _add(self, kind: Kind, pem: bytes, *, at_once: bool) -> str:
        with self._store.transaction():
            now = self._now_ms()
            if kind is Kind.STATIC:
                kid = f"s-{uuid.UUID(bytes=self._rng.randbytes(16), version=4)}"
                created = now
            else:
                newest = self._store.scalar(
                    "SELECT max(created_ms) FROM keys WHERE kind = ?", kind
                )
                # The kid is this time, so two keys can't have the same millisecond.
                created = now if newest is None else max(now, newest + 1)
                kid = f"d-{created}"
            self._store.run(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?)",
                kid,
                kind,
                created,
                now if at_once else created + _OVERLAP_MS,
                pem,
            )
        return kid

    def _retire(self) -> None:
        self._store.run(
            "DELETE FROM keys WHERE kind = ? AND created_ms + ? < ?",
            Kind.DYNAMIC,
            self._verifies_ms,
            self._now_ms(),
        )

    def _reload(self) -> None:
        known = {key.kid: key for key in self._cache}
        self._cache = tuple(
            known.get(row["kid"])
            or SigningKey(
                kid=row["kid"],
                kind=Kind(row["kind"]),
                created_ms=row["created_ms"],
                signs_from_ms=row["signs_from_ms"],
                private=_load_pem(row["pem"]),
            )
            for row in self._store.all("SELECT * FROM keys ORDER BY created_ms DESC")
        )


def _make_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=_PUBLIC_EXPONENT, key_size=_KEY_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_pem(pem: bytes) -> rsa.RSAPrivateKey:
    # The checks take as long as generating a key, and only this core writes keys here.
    key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
