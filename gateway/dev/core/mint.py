"""edge. The tokens of one app's sessions: `Mint` issues them and reads them.

Access tokens are signed with the app's keys. Refresh tokens are encrypted with a
master key, which is in the database.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Final

from gateway.dev.core.jws import BadToken, is_signed_by, parse, sign
from gateway.dev.core.keys import SigningKeys
from gateway.dev.core.outcomes import Issued, Session, Token
from gateway.dev.core.settings import CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tokens import (
    ACCESS_TOKEN_VERSION,
    AccessToken,
    RefreshToken,
    h,
    seal,
    unseal,
)

_MASTER_KEY: Final = "refresh"
_MASTER_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_NONCE_BYTES: Final = 32


class Mint:
    """Issues and reads the tokens of one app."""

    def __init__(
        self,
        store: Store,
        keys: SigningKeys,
        settings: CoreSettings,
        *,
        now_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Use *keys* to sign, and read the master key from *store*, or generate it."""
        self._store = store
        self._keys = keys
        self._now_ms = now_ms
        self._rng = rng
        self._access_ms = settings.access_token_validity_s * 1000
        self._refresh_ms = settings.refresh_token_validity_s * 1000
        self._jitter = settings.access_token_jitter
        self._master_key = self._load_master_key()

    def issue(
        self,
        session: Session,
        *,
        parent: str | None,
        anti_csrf: bool,
        static_key: bool,
    ) -> Issued:
        """Return the session with a new pair of tokens.

        *parent* is H of the refresh token that the pair replaces, None at sign-in.
        """
        now = self._now_ms()
        secret = self.uuid() if anti_csrf else None
        refresh = seal(
            RefreshToken(
                session_handle=session.handle,
                user_id=session.user_id,
                tenant_id=session.tenant_id,
                parent_refresh_hash1=parent,
                anti_csrf=secret,
            ),
            key=self._master_key,
            iv=self._rng.randbytes(_IV_BYTES),
            nonce=self._rng.randbytes(_NONCE_BYTES).hex(),
        )
        # Jitter prevents sessions created together from refreshing together.
        jitter_ms = int(self._access_ms * self._jitter * self._rng.random())
        return Issued(
            session=session,
            access=self.access(
                session,
                refresh_hash1=h(refresh),
                parent=parent,
                anti_csrf=secret,
                expires_ms=now + self._access_ms - jitter_ms,
                static_key=static_key,
            ),
            refresh=Token(
                text=refresh, created_ms=now, expires_ms=now + self._refresh_ms
            ),
            anti_csrf=secret,
        )

    def access(
        self,
        session: Session,
        *,
        refresh_hash1: str,
        parent: str | None,
        anti_csrf: str | None,
        expires_ms: int,
        static_key: bool,
    ) -> Token:
        """Return a signed access token; `iat` and `exp` are rounded down to seconds."""
        issued_s, expires_s = self._now_ms() // 1000, expires_ms // 1000
        key = self._keys.signer(static=static_key)
        claims = AccessToken(
            session_handle=session.handle,
            user_id=session.user_id,
            recipe_user_id=session.user_id,
            tenant_id=session.tenant_id,
            refresh_hash1=refresh_hash1,
            parent_refresh_hash1=parent,
            anti_csrf=anti_csrf,
            issued_s=issued_s,
            expires_s=expires_s,
            payload=session.payload,
        ).to_claims()
        return Token(
            text=sign(
                claims, key=key.private, kid=key.kid, version=ACCESS_TOKEN_VERSION
            ),
            created_ms=issued_s * 1000,
            expires_ms=expires_s * 1000,
        )

    def open_access(self, token: str) -> AccessToken:
        """Return the claims of a valid access token of this app.

        Raises:
            BadToken: malformed, not RS256, an unknown key, a wrong signature, or
                expired.
        """
        parsed = parse(token)
        if parsed.header.get("alg") != "RS256":
            raise BadToken("algorithm is not RS256")
        key = self._keys.find(parsed.header.get("kid"))
        if key is None:
            raise BadToken("signing key not found")
        if not is_signed_by(parsed, key.public):
            raise BadToken("signature does not match")
        access = AccessToken.from_claims(parsed.payload)
        if access.expires_s * 1000 < self._now_ms():
            raise BadToken("Access token expired")
        return access

    def open_refresh(self, token: str) -> RefreshToken:
        """Return the contents of a refresh token of this app.

        Raises:
            BadToken: another core issued it, or it was changed.
        """
        return unseal(token, key=self._master_key)

    def _load_master_key(self) -> bytes:
        """Return the key that encrypts refresh tokens; generate it if there is none."""
        self._store.run(
            "INSERT OR IGNORE INTO secrets VALUES (?, ?)",
            _MASTER_KEY,
            self._rng.randbytes(_MASTER_KEY_BYTES),
        )
        return bytes(
            self._store.scalar("SELECT value FROM secrets WHERE name = ?", _MASTER_KEY)
        )

    def uuid(self) -> str:
        """Return a random UUIDv4."""
        return str(uuid.UUID(bytes=self._rng.randbytes(16), version=4))
