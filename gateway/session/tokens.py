"""PURE. Access tokens: parsed, and judged by key and clock.

`parse` recognises a session's token; `flaw` and `is_signed` judge it. What the SDK
accepts is accepted, except in the stricter cases listed here.

Facts (supertokens-python 0.31.4, PyJWT 2.15):
- A token that doesn't parse counts as absent: 401 `unauthorised`, or anonymous where
  the session is optional. One that parses and is flawed is 401 `try refresh token`.
- The SDK decodes header and payload leniently (bytes outside the base64url alphabet
  are skipped) to distinguish the two, and strictly when it verifies; so does this file.

Stricter than the SDK, each because nothing legitimate needs it:
- `alg` must be RS256. The SDK takes the algorithm from the token (RFC 8725 §3.1).
- `crit` and `b64` in the header are refused, also where PyJWT understands them.
- `iss` must be the configured one, so that another application's token, or a JWT made
  by `POST /recipe/jwt`, is no session here (RFC 8725 §3.8).
- Version 2 tokens (before 2023) always need a refresh; the SDK asks the core.
- A blank user id or session handle is refused.
- A padded segment is refused, so that a token has one spelling.
- A text longer than `MAX_TOKEN_SIZE` is no token.
More lenient in one point: `iat` may be `IAT_LEEWAY_S` ahead of the clock.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.identity import SessionIdentity

MAX_TOKEN_SIZE = 16 * 1024
"""In characters. One with 20 permissions has 1200; browsers' cookies end at 4096."""

IAT_LEEWAY_S = 5.0
"""How far the core's clock may be ahead. The SDK allows none, and so turns a second
of skew into a refresh after every sign-in."""

_FOREVER = 2.0**53
"""Ends of life above this many seconds are all the same, and stay exact as floats."""

_V2_HEADER = b64encode(b'{"alg":"RS256","typ":"JWT","version":"2"}')
_URL_TO_STD = bytes.maketrans(b"-_", b"+/")
_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""Source: RFC 4648 §5."""
_EXTENSIONS = ("crit", "b64")
"""Header fields that change what a signature covers, or ask for more than we know."""
_PADDING = PKCS1v15()
_SHA256 = SHA256()
_HEADER_MAX_BYTES = 1024
"""Longer headers aren't remembered. A usual one has 80 bytes."""
_VALUE_BYTES = 72
"""A key or value takes this much besides its characters, and its place in a list."""
_OBJECT_BYTES = 128
_PAIR_BYTES = 48
"""The place of a key and its value in an object, which has places to spare."""
_NUMBER = (int, float)
_DEFAULT_TENANT = "public"
_has_refresh_token = re.compile(
    rb"[0-9A-Za-z+/=_-]\.[0-9a-f]{64}\.V2(?![0-9A-Za-z])"
).search
"""A refresh token: its sealed facts, a nonce, and `V2`, which `_V2_HEADER` isn't."""
_PAYLOAD_MIN_CHARS = 91
"""The payload with the fewest and shortest values takes so many in base64url."""
_FRONT_TOKEN_KEYS = frozenset({"uid", "ate", "up"})
_FRONT_TOKEN_MIN_CHARS = 36
"""`{"ate":0,"uid":"","up":{}}` in base64."""
_from_json = json.JSONDecoder().decode
"""What `json.loads` ends in, without its looks at the kind of text."""


class Flaw(StrEnum):
    """Why a token that parses is refused, for the log."""

    VERSION = "token_version"
    ALGORITHM = "token_algorithm"
    KEY_KIND = "token_key_kind"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    AUDIENCE = "token_audience"
    ISSUER = "token_issuer"
    CLAIM = "token_claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What counts in a token's JOSE header."""

    version: int
    kid: str
    """Empty when the token has none that could be a key's."""
    is_rs256: bool
    """The algorithm is RS256 and no extension changes what is signed."""


class Token(NamedTuple):
    """An access token by its looks; nothing in it is proven yet."""

    header: Header
    payload: dict[str, Any]
    signed: bytes
    """What the signature covers: header and payload as they were sent."""
    signature: bytes
    """Still in base64url."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What the configuration asks of every token."""

    issuers: frozenset[str] = frozenset()
    """Values of `iss` that are ours. Empty: not checked."""
    use_dynamic_key: bool = True
    """Tokens come from the core's dynamic keys (`d-…`), else from the static one."""


def parse(text: str) -> Token | None:
    """Return the token that *text* spells, or None when the SDK would ignore it.

    Source: SDK `parse_jwt_without_signature_verification` and
    `validate_access_token_structure`; RFC 7515 §3.1.
    """
    if len(text) > MAX_TOKEN_SIZE or text.count(".") != 2:
        return None
    signed, _, signature = text.encode().rpartition(b".")
    first, _, second = signed.partition(b".")
    header = (_known_header if len(first) <= _HEADER_MAX_BYTES else _header)(first)
    if header is None:
        return None
    payload = _payload(second)
    if not isinstance(payload, dict) or not _is_session(payload, header.version):
        return None
    return Token(header, payload, signed, signature)


def holds_token(value: bytes) -> bool:
    """Return whether a session's access or refresh token is anywhere in *value*.

    An access token is recognised by its payload, between two dots: a header could be
    hidden behind other text. Other issuers' JWTs have no session in theirs. Takes time
    in proportion to *value*: what can't be a payload isn't parsed as JSON, which costs
    more for many short parts than for one long one.
    """
    if b".eyJ" in value:  # base64url of `{"`
        for part in value.split(b".")[1:-1]:
            if (
                len(part) >= _PAYLOAD_MIN_CHARS
                and part.startswith(b"eyJ")
                and _is_payload(part)
            ):
                return True
    return b".V2" in value and _has_refresh_token(value) is not None


def is_session_text(text: bytes) -> bool:
    """Return whether *text* is a session's access token or front token.

    An access token counts in every spelling that `parse` reads, whatever its key, its
    age and its signature. A front token proves nothing, but has the user's claims.

    Source: SDK `build_front_token`.
    """
    if parse(text.decode("latin-1")) is not None:
        return True
    claims = _json(text) if len(text) >= _FRONT_TOKEN_MIN_CHARS else None
    return isinstance(claims, dict) and claims.keys() >= _FRONT_TOKEN_KEYS


def flaw(token: Token, rules: TokenRules, now: float) -> Flaw | None:
    """Return the first thing wrong with *token* that no key is needed to see.

    *now* is in seconds since the epoch.

    Source: PyJWT `_validate_claims` without options; SDK `session_functions`.
    """
    header, payload = token.header, token.payload
    if header.version < 3:
        return Flaw.VERSION
    if not header.is_rs256:
        return Flaw.ALGORITHM
    if header.kid.startswith("d-") is not rules.use_dynamic_key:
        return Flaw.KEY_KIND
    try:
        if int(payload["exp"]) <= now:
            return Flaw.EXPIRED
        if int(payload["iat"]) > now + IAT_LEEWAY_S:
            return Flaw.NOT_YET_VALID
        if "nbf" in payload and int(payload["nbf"]) > now:
            return Flaw.NOT_YET_VALID
    except (ValueError, TypeError, OverflowError):
        return Flaw.CLAIM
    if payload.get("aud"):
        return Flaw.AUDIENCE
    if rules.issuers and not _is_one_of(payload.get("iss"), rules.issuers):
        return Flaw.ISSUER
    if "jti" in payload and not isinstance(payload["jti"], str):
        return Flaw.CLAIM
    if not payload["sub"].strip() or not payload["sessionHandle"].strip():
        return Flaw.CLAIM
    return None


def is_signed(token: Token, key: RSAPublicKey) -> bool:
    """Tell whether *key* signed *token* with RS256.

    Source: RFC 7518 §3.3, RFC 7515 §2 (base64url without padding).
    """
    header, _, payload = token.signed.partition(b".")
    if not (_is_strict(token.signature) and _is_strict(header) and _is_strict(payload)):
        return False
    signature = _decode(token.signature)
    try:
        key.verify(signature or b"", token.signed, _PADDING, _SHA256)
    except InvalidSignature:
        return False
    return True


def needs_core(token: Token) -> bool:
    """Tell whether the core must see *token*: it is new from a refresh.

    The core then makes the refresh final and gives a token that needs it no more.
    """
    return isinstance(token.payload.get("parentRefreshTokenHash1"), str)


def anti_csrf(token: Token) -> str | None:
    """Return what the `anti-csrf` field must say, or None when the token has none."""
    value = token.payload.get("antiCsrfToken")
    return value.strip() if isinstance(value, str) else None


def identity(token: Token) -> SessionIdentity:
    """Return who a verified *token* stands for. It must be without flaw, and signed."""
    return identity_of(token.payload, token.header.version)


def identity_of(payload: Mapping[str, Any], version: int) -> SessionIdentity:
    """Return who the *payload* of a verified token of *version* stands for."""
    user_id = payload["sub"].strip()
    recipe_user_id = payload.get("rsub")
    tenant_id = payload["tId"].strip() if version >= 4 else _DEFAULT_TENANT
    return SessionIdentity(
        user_id=user_id,
        recipe_user_id=(
            recipe_user_id.strip() if isinstance(recipe_user_id, str) else user_id
        ),
        session_handle=payload["sessionHandle"].strip(),
        tenant_id=tenant_id,
        claims=payload,
        expires_at=float(min(int(payload["exp"]), _FOREVER)),
    )


def claims_size(token: Token) -> int:
    """Return how many bytes the claims of *token* take in memory, at most.

    It is an estimate from the marks in their JSON. To ask every object for its size
    would take as long as to parse the token.
    """
    text = _decode(token.signed.partition(b".")[2]) or b""
    objects, pairs = text.count(b"{"), text.count(b":")
    values = objects + text.count(b"[") + text.count(b",") + pairs
    return (
        _VALUE_BYTES * (values + 1)
        + _OBJECT_BYTES * objects
        + _PAIR_BYTES * pairs
        # One character that needs it makes all of its string take four bytes each.
        + (1 if text.isascii() and rb"\u" not in text else 4) * len(text)
    )


def _decode(segment: bytes) -> bytes | None:
    """Return what *segment* encodes, as leniently as the SDK reads it."""
    try:
        return a2b_base64(segment.translate(_URL_TO_STD) + b"==")
    except ValueError:
        return None


def _is_strict(segment: bytes) -> bool:
    """Return whether *segment* is spelled as base64url spells what it encodes.

    Only the last characters can differ in more than their alphabet: their unused bits
    are zero. (Encoding all of it again takes ten times as long.)
    """
    if segment.translate(None, _BASE64URL):
        return False
    last = segment[len(segment) // 4 * 4 :]
    if not last:
        return True
    standard = last.translate(_URL_TO_STD)
    try:
        decoded = a2b_base64(standard + b"==")
    except ValueError:
        return False
    return b2a_base64(decoded, newline=False).rstrip(b"=") == standard


def _json(segment: bytes) -> Any:
    """Return the JSON value in *segment*, or None. Depth and size can't harm."""
    decoded = _decode(segment)
    if decoded is None:
        return None
    try:
        return _from_json(decoded.decode())
    except (ValueError, RecursionError):
        return None


_last_json = lru_cache(maxsize=1)(_json)
"""A new token is read twice at once: by the rules for its field, and by `parse`."""


def _payload(segment: bytes) -> Any:
    """Return the same as `_json`, which nobody may change."""
    return (_last_json if len(segment) <= MAX_TOKEN_SIZE else _json)(segment)


def _header(segment: bytes) -> Header | None:
    """Return the header in *segment*, or None when it's no access token's."""
    if segment == _V2_HEADER:
        return Header(version=2, kid="", is_rs256=True)
    header = _json(segment)
    if not isinstance(header, dict):
        return None
    try:
        version = int(header.get("version", "3"))
    except (ValueError, TypeError, OverflowError):
        return None
    kid = header.get("kid")
    if header.get("typ") != "JWT" or version < 3 or kid is None:
        return None
    return Header(
        version=version,
        kid=kid if isinstance(kid, str) else "",
        is_rs256=(
            header.get("alg") == "RS256"
            and not any(name in header for name in _EXTENSIONS)
        ),
    )


_known_header = lru_cache(maxsize=256)(_header)
"""Remembers headers, because all tokens of one key have the same."""


def _is_payload(segment: bytes) -> bool:
    """Return whether *segment* is the payload of a session's access token."""
    decoded = _decode(segment)
    if decoded is None or b'"sessionHandle"' not in decoded:
        return False
    payload = _payload(segment)
    return isinstance(payload, dict) and (
        _is_session(payload, 3) or _is_session(payload, 2)
    )


def _is_session(payload: Mapping[str, Any], version: int) -> bool:
    """Tell whether *payload* has what a session's access token of *version* has.

    `stt` marks OAuth 2.0 tokens of the same core: absent or the number 0 is ours.
    """
    get = payload.get
    token_type = get("stt", 0)
    if isinstance(token_type, bool) or token_type != 0:
        return False
    if version < 3:
        return (
            isinstance(get("sessionHandle"), str)
            and isinstance(get("userId"), str)
            and isinstance(get("refreshTokenHash1"), str)
            and get("userData") is not None
            and isinstance(get("expiryTime"), _NUMBER)
            and isinstance(get("timeCreated"), _NUMBER)
        )
    return (
        isinstance(get("sub"), str)
        and isinstance(get("exp"), _NUMBER)
        and isinstance(get("iat"), _NUMBER)
        and isinstance(get("sessionHandle"), str)
        and isinstance(get("refreshTokenHash1"), str)
        and (version < 4 or isinstance(get("tId"), str))
        and (version < 5 or isinstance(get("rsub"), str))
    )


def _is_one_of(value: object, allowed: frozenset[str]) -> bool:
    return isinstance(value, str) and value in allowed
