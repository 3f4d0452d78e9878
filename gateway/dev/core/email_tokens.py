"""edge. One-time tokens that prove an e-mail address: password reset and verification.

Facts
- Only H(token) is stored. A token has only letters and digits, which need no escaping
  in a link.
- A reset token is for one user and one address. Consuming a valid one deletes all
  reset tokens of the user.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.dev.core.settings import CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tokens import h
from gateway.dev.core.users import Users

_ALPHABET: Final = string.ascii_letters + string.digits
_LENGTH: Final = 64
"""Characters of a token: 62^64 values can't be guessed, and the link fits on a line."""


class Purpose(StrEnum):
    """The purpose of a token."""

    RESET = "reset"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The user and the address of a valid token."""

    user_id: str
    email: str


class EmailTokens:
    """The one-time tokens of one app."""

    def __init__(
        self,
        store: Store,
        users: Users,
        settings: CoreSettings,
        *,
        now_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Use *store* for the tokens, and *users* to verify addresses."""
        self._store = store
        self._users = users
        self._now_ms = now_ms
        self._rng = rng
        self._life_ms = {
            Purpose.RESET: settings.password_reset_token_lifetime_ms,
            Purpose.VERIFY: settings.email_verification_token_lifetime_ms,
        }

    def issue(self, purpose: Purpose, tenant_id: str, user_id: str, email: str) -> str:
        """Return a new token. Earlier tokens stay valid; expired ones are deleted."""
        now = self._now_ms()
        self._store.run("DELETE FROM email_tokens WHERE expires_ms < ?", now)
        token = "".join(self._rng.choice(_ALPHABET) for _ in range(_LENGTH))
        self._store.run(
            "INSERT INTO email_tokens VALUES (?, ?, ?, ?, ?, ?)",
            h(token),
            purpose,
            tenant_id,
            user_id,
            email,
            now + self._life_ms[purpose],
        )
        return token

    def reset(self, tenant_id: str, token: str) -> Proof | None:
        """Consume a reset token; return None if it is unknown, used or expired."""
        with self._store.transaction():
            proof = self._take(Purpose.RESET, tenant_id, token)
            if proof is not None:
                self._store.delete(
                    "email_tokens", purpose=Purpose.RESET, user_id=proof.user_id
                )
        return proof

    def verify(self, tenant_id: str, token: str) -> Proof | None:
        """Consume a verification token and mark its address as verified.

        Return None if the token is unknown, used or expired.
        """
        with self._store.transaction():
            proof = self._take(Purpose.VERIFY, tenant_id, token)
            if proof is not None:
                self.revoke(tenant_id, proof.user_id, proof.email)
                self._users.mark_verified(proof.user_id, proof.email)
        return proof

    def revoke(self, tenant_id: str, user_id: str, email: str) -> None:
        """Delete a user's verification tokens for an address."""
        self._store.delete(
            "email_tokens",
            purpose=Purpose.VERIFY,
            tenant_id=tenant_id,
            user_id=user_id,
            email=email,
        )

    def unverify(self, user_id: str, email: str) -> None:
        """Mark the address as unverified."""
        self._store.delete("verified_emails", user_id=user_id, email=email)

    def _take(self, purpose: Purpose, tenant_id: str, token: str) -> Proof | None:
        """Delete the token's row; return its user and address, or None if expired."""
        row = self._store.one(
            "SELECT * FROM email_tokens"
            " WHERE token_hash = ? AND purpose = ? AND tenant_id = ?",
            h(token),
            purpose,
            tenant_id,
        )
        if row is None:
            return None
        self._store.delete("email_tokens", token_hash=h(token))
        if row["expires_ms"] < self._now_ms():
            return None
        return Proof(user_id=row["user_id"], email=row["email"])
