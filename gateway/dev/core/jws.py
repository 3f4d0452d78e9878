"""PURE. JSON Web Signatures, in compact form and with RS256 only.

Facts
- Header, payload and signature are base64url without padding (RFC 7515 §2).
- RS256 is RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

JsonObject = dict[str, object]


class BadToken(Exception):
    """The token is malformed, from another issuer, or expired. The text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The parts of a token whose signature hasn't been checked."""

    header: JsonObject
    payload: JsonObject
    signed: bytes
    signature: bytes


def sign(
    payload: JsonObject, *, key: RSAPrivateKey, kid: str, version: str | None = None
) -> str:
    """Return the compact token for a payload.

    `version` is a header parameter that only SuperTokens' session tokens have.
    """
    header: JsonObject = {"alg": "RS256", "typ": "JWT", "kid": kid}
    if version is not None:
        header["version"] = version
    signed = b".".join(_encode(_json(part)) for part in (header, payload))
    signature = key.sign(signed, PKCS1v15(), SHA256())
    return b".".join((signed, _encode(signature))).decode("ascii")


def parse(token: str) -> Parsed:
    """Return the parts of a compact token. The signature isn't checked.

    Raises:
        BadToken: not three parts, not base64url, or not JSON objects.
    """
    try:
        raw = token.encode("ascii")
        head, body, signature = raw.split(b".")
        header = json.loads(_decode(head))
        payload = json.loads(_decode(body))
        signature_bytes = _decode(signature)
    except (ValueError, RecursionError) as exc:
        raise BadToken("token is not a compact JWS") from exc
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise BadToken("header and payload must be JSON objects")
    return Parsed(
        header=header,
        payload=payload,
        signed=head + b"." + body,
        signature=signature_bytes,
    )


def is_signed_by(parsed: Parsed, key: RSAPublicKey) -> bool:
    """Return whether the signature is an RS256 signature of this key."""
    try:
        key.verify(parsed.signature, parsed.signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def base64url(data: bytes) -> str:
    """Return base64url text without padding."""
    return _encode(data).decode("ascii")


def _json(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(data: bytes) -> bytes:
    padded = data + b"=" * (-len(data) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise ValueError("not base64url") from exc
