"""PURE. How sessions are judged, as the SDK is set up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.session import tokens


class AntiCsrf(StrEnum):
    """How a request with a cookie shows that no other site made it."""

    NONE = "NONE"
    VIA_CUSTOM_HEADER = "VIA_CUSTOM_HEADER"
    VIA_TOKEN = "VIA_TOKEN"  # noqa: S105 - a mode, no secret


class Transfer(StrEnum):
    """Where the access token is looked for."""

    ANY = "any"
    HEADER = "header"
    COOKIE = "cookie"


class GlobalClaims(StrEnum):
    """What the SDK's recipes demand of the claims of every session."""

    NONE = "none"
    EMAIL_VERIFIED = "email_verified"
    OTHER = "other"
    """Something that only the SDK can judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """How sessions are judged, as the SDK is set up."""

    tokens: tokens.TokenRules
    anti_csrf: AntiCsrf = AntiCsrf.NONE
    transfer: Transfer = Transfer.ANY
    global_claims: GlobalClaims = GlobalClaims.NONE
    is_sdk_only: bool = False
    """The SDK must decide: its behaviour is overridden, or depends on the request."""
    session_expired_status: int = 401
    invalid_claim_status: int = 403
