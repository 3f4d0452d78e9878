"""PURE. The contents of access tokens and refresh tokens.

Facts
- H is SHA-256 of the UTF-8 text as lower-case hex.
- `parentRefreshTokenHash1` and `antiCsrfToken` are always present, null when unused.
- `iat` and `exp` are whole seconds, both rounded down, so `iat` isn't in the future.
- Only the core that issued a refresh token can read it. Its form is the real core's:
  base64(iv ‖ AES-256-GCM(json) ‖ tag) "." nonce "." "V2".
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.dev.core.jws import BadToken, JsonObject

ACCESS_TOKEN_VERSION: Final = "5"  # noqa: S105 - a version, no secret
"""Header `version` of the session tokens of CDI 4.0 and later: a string."""

PROTECTED_CLAIMS: Final = frozenset(
    {
        "sub",
        "iat",
        "exp",
        "sessionHandle",
        "refreshTokenHash1",
        "parentRefreshTokenHash1",
        "antiCsrfToken",
        "tId",
        "rsub",
    }
)
"""Names that a caller's payload may not use. Source: access token v5."""

REFRESH_TOKEN_VERSION: Final = "V2"  # noqa: S105 - a version, no secret
_REFRESH_TOKEN_VERSIONS: Final = frozenset({"V0", "V1", REFRESH_TOKEN_VERSION})
"""Those that the real core reads. It issues only the last one."""

_IV_BYTES: Final = 12


def h(text: str) -> str:
    """Return H(text)."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """The claims of a session's access token, v5; times in whole seconds."""

    session_handle: str
    user_id: str
    recipe_user_id: str
    tenant_id: str
    refresh_hash1: str
    parent_refresh_hash1: str | None
    anti_csrf: str | None
    issued_s: int
    expires_s: int
    payload: JsonObject
    """The caller's own claims, at the top level of the token."""

    def to_claims(self) -> JsonObject:
        """Return the JSON payload of the token."""
        return {
            **self.payload,
            "iat": self.issued_s,
            "exp": self.expires_s,
            "sub": self.user_id,
            "rsub": self.recipe_user_id,
            "tId": self.tenant_id,
            "sessionHandle": self.session_handle,
            "refreshTokenHash1": self.refresh_hash1,
            "parentRefreshTokenHash1": self.parent_refresh_hash1,
            "antiCsrfToken": self.anti_csrf,
        }

    @classmethod
    def from_claims(cls, claims: JsonObject) -> Self:
        """Return the token for its JSON payload.

        Raises:
            BadToken: a protected claim is missing or of the wrong type.
        """
        return cls(
            session_handle=_text(claims, "sessionHandle"),
            user_id=_text(claims, "sub"),
            recipe_user_id=_text(claims, "rsub"),
            tenant_id=_text(claims, "tId"),
            refresh_hash1=_text(claims, "refreshTokenHash1"),
            parent_refresh_hash1=_text_or_null(claims, "parentRefreshTokenHash1"),
            anti_csrf=_text_or_null(claims, "antiCsrfToken"),
            issued_s=_seconds(claims, "iat"),
            expires_s=_seconds(claims, "exp"),
            payload={k: v for k, v in claims.items() if k not in PROTECTED_CLAIMS},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """The contents of a refresh token, which are encrypted."""

    session_handle: str
    user_id: str
    """The recipe user id."""
    tenant_id: str
    parent_refresh_hash1: str | None
    anti_csrf: str | None
    has_issued_version: bool = True
    """False: its version was changed, which the encryption doesn't cover."""


def seal(token: RefreshToken, *, key: bytes, iv: bytes, nonce: str) -> str:
    """Encrypt a refresh token; return its text.

    `key` has 32 bytes, `nonce` 64 hex digits. `iv` has 12 bytes and is used only once.
    """
    fields = {
        "sessionHandle": token.session_handle,
        "userId": token.user_id,
        "nonce": nonce,
        "parentRefreshTokenHash1": token.parent_refresh_hash1,
        "antiCsrfToken": token.anti_csrf,
        "tenantId": token.tenant_id,
    }
    # Unused fields are omitted, since the token must fit into a cookie.
    used = {name: value for name, value in fields.items() if value is not None}
    plain = json.dumps(used, separators=(",", ":")).encode("ascii")
    encrypted = iv + AESGCM(key).encrypt(iv, plain, None)
    return (
        f"{base64.b64encode(encrypted).decode('ascii')}.{nonce}.{REFRESH_TOKEN_VERSION}"
    )


def unseal(text: str, *, key: bytes) -> RefreshToken:
    """Decrypt a refresh token; return its contents.

    Raises:
        BadToken: malformed, encrypted with another key, or its nonce was changed.
    """
    try:
        body, nonce, version = text.split(".")
        raw = base64.b64decode(body.encode("ascii"), validate=True)
        fields = json.loads(AESGCM(key).decrypt(raw[:_IV_BYTES], raw[_IV_BYTES:], None))
    except (ValueError, InvalidTag) as exc:
        raise BadToken("refresh token can't be opened") from exc
    if version.upper() not in _REFRESH_TOKEN_VERSIONS or fields["nonce"] != nonce:
        raise BadToken("refresh token has a wrong version or nonce")
    return RefreshToken(
        session_handle=_text(fields, "sessionHandle"),
        user_id=_text(fields, "userId"),
        tenant_id=_text(fields, "tenantId"),
        parent_refresh_hash1=fields.get("parentRefreshTokenHash1"),
        anti_csrf=fields.get("antiCsrfToken"),
        has_issued_version=version == REFRESH_TOKEN_VERSION,
    )


def _text(claims: JsonObject, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise BadToken(f"claim {name} is missing or not text")
    return value


def _text_or_null(claims: JsonObject, name: str) -> str | None:
    if name not in claims:
        raise BadToken(f"claim {name} is missing")
    return None if claims[name] is None else _text(claims, name)


def _seconds(claims: JsonObject, name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadToken(f"claim {name} is missing or not whole seconds")
    return value
