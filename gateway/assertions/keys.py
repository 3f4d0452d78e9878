"""PURE. The keys of assertions: read from PEM, named, and published."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_COORDINATE_BYTES: Final = 32
HOW_TO_MAKE: Final = "Make one with: gateway keygen FILE"


class BadAssertionKey(ValueError):
    """A key can't be used. The text is the reason, *hint* the remedy."""

    def __init__(self, reason: str, hint: str = HOW_TO_MAKE) -> None:
        self.hint = hint
        super().__init__(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionKey:
    """A private key on the curve P-256."""

    private: EllipticCurvePrivateKey = field(repr=False)
    kid: str
    """The thumbprint of the public key (RFC 7638)."""
    x: str
    """A coordinate of the public key, 32 bytes in base64url; `y` is the other."""
    y: str

    @property
    def jwk(self) -> dict[str, str]:
        """The public key.

        Source: RFC 7517 §4, RFC 7518 §6.2.1.
        """
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": self.x,
            "y": self.y,
            "use": "sig",
            "alg": "ES256",
            "kid": self.kid,
        }


def parse(pem: bytes) -> AssertionKey:
    """Return the key in *pem*, a file's content.

    Raises:
        BadAssertionKey: it isn't one unencrypted private key on P-256.
    """
    if b"ENCRYPTED" in pem:
        raise BadAssertionKey(
            "the key has a passphrase", "Decrypt it: openssl pkey -in KEY -out NEW"
        )
    if pem.count(b"PRIVATE KEY-----") > len(("BEGIN", "END")):
        raise BadAssertionKey(
            "there is more than one private key in it",
            "Write each key in a file of its own, and list the files",
        )
    try:
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if b"BEGIN PUBLIC KEY" in pem or b"BEGIN CERTIFICATE" in pem:
            raise BadAssertionKey(
                "this is a public key; the gateway signs with the private one"
            ) from None
        raise BadAssertionKey("there is no private key in PEM form in it") from None
    if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(
        private.curve, SECP256R1
    ):
        raise BadAssertionKey("the key isn't on the curve P-256, which ES256 needs")
    numbers = private.public_key().public_numbers()
    x, y = _coordinate(numbers.x), _coordinate(numbers.y)
    return AssertionKey(private=private, kid=_thumbprint(x, y), x=x, y=y)


def key_set(keys: Iterable[AssertionKey]) -> bytes:
    """Return the public keys as a JWK Set, in their order.

    Source: RFC 7517 §5.
    """
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


def base64url(data: bytes) -> bytes:
    """Return *data* as base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def _coordinate(number: int) -> str:
    return base64url(number.to_bytes(_COORDINATE_BYTES)).decode()


def _thumbprint(x: str, y: str) -> str:
    """Return the thumbprint of a public key on P-256.

    Source: RFC 7638 §3: the required members, by name, without blanks.
    """
    members = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return base64url(hashlib.sha256(members.encode()).digest()).decode()
