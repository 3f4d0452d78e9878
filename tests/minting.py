"""Access tokens for tests: valid ones, and any other header and payload, signed."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm

ISSUER = "http://localhost:8000/auth"
NOW = 1_800_000_000.0
"""The time of tests with a clock of their own."""


@cache
def private_key(name: str = "core") -> rsa.RSAPrivateKey:
    """Return the same key for the same *name*."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def segment(value: object) -> str:
    """Return *value* (bytes as they are, all else as JSON) in base64url."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Mint:
    """Issues tokens like a core with one key at the time *now*."""

    now: float = NOW
    kid: str = "d-1"
    key: rsa.RSAPrivateKey = field(default_factory=private_key)

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.kid, "version": "5"}
        return _without_ellipsis(header | changes)

    def payload(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a version 5 token; the value `...` removes a claim."""
        payload = {
            "sub": "user-1",
            "iat": int(self.now) - 10,
            "exp": int(self.now) + 3590,
            "sessionHandle": "handle-1",
            "refreshTokenHash1": "a" * 64,
            "parentRefreshTokenHash1": None,
            "antiCsrfToken": None,
            "tId": "public",
            "rsub": "recipe-user-1",
            "iss": ISSUER,
        }
        return _without_ellipsis(payload | changes)

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        return self.sign(self.header(**(header or {})), self.payload(**claims))

    def sign(
        self,
        header: object,
        payload: object,
        *,
        pad: padding.AsymmetricPadding | None = None,
        digest: HashAlgorithm | None = None,
    ) -> str:
        signed = f"{segment(header)}.{segment(payload)}"
        signature = self.key.sign(
            signed.encode(), pad or padding.PKCS1v15(), digest or SHA256()
        )
        return f"{signed}.{segment(signature)}"

    def jwk(self) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "kid": self.kid,
            "alg": "RS256",
            "use": "sig",
            "n": segment(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
            "e": segment(numbers.e.to_bytes(3, "big")),
        }


def _without_ellipsis(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if value is not ...}
