"""PURE. SuperTokens' own refusals, byte for byte: its frontend SDKs act on them.

`try refresh token` makes a client refresh its session and try again; `unauthorised`
makes it forget the session; `invalid claim` names what the session lacks.

Source: supertokens_python 0.31.4, recipe/session/utils.py, the `default_…_callback`s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.http.fields import Field
from gateway.identity import Denied
from gateway.session import requirements
from gateway.session.rules import SessionRules

_JSON: Field = (b"Content-Type", b"application/json; charset=utf-8")


class Refusals:
    """The refusals, with the statuses that the SDK is set up to use."""

    def __init__(self, rules: SessionRules) -> None:
        self._expired_status = rules.session_expired_status
        self._claim_status = rules.invalid_claim_status
        self.unauthorised = self._message("unauthorised", "unauthorised")
        """No session where one is required."""
        self.session_ended = self._message("unauthorised", "session_ended")
        """The session is on the deny-list. Its tokens stay (see `authenticator`)."""

    def try_refresh(self, reason: str) -> Denied:
        """Return the refusal that sends a client to refresh its session."""
        return self._message("try refresh token", reason)

    def invalid_claims(self, failed: Sequence[Mapping[str, Any]]) -> Denied:
        """Return the refusal of a session that *failed* some of a route's checks."""
        return Denied(
            status=self._claim_status,
            body=requirements.refusal_body(failed),
            fields=(_JSON,),
            reason="invalid_claim",
        )

    def _message(self, message: str, reason: str) -> Denied:
        return Denied(
            status=self._expired_status,
            body=b'{"message":"%b"}' % message.encode(),
            fields=(_JSON,),
            reason=reason,
        )
