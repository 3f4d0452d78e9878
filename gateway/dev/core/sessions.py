"""edge. Sessions: rotation of refresh tokens, theft detection and revocation.

Facts (core protocol CDI 5.4, session recipe, as the SDK 0.31 uses it)
- A row has `refresh_hash2` = H(H(parent)). The parent is the newest refresh token that
  is known to have reached the client.
- A refresh with the parent issues a child and keeps `refresh_hash2`, so the client can
  retry if the answer is lost. The child becomes the parent at its first use: its access
  token in `verify`, or its refresh token in `refresh`.
- Any other refresh token of the session has been superseded. Its use is theft.
- The comparison and the change are in one transaction (`BEGIN IMMEDIATE`).
- A session whose tenant was removed isn't an ended one: every call about it is refused
  (`NoTenant`), after the checks that need no database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from gateway.dev.core.jws import BadToken, JsonObject, parse
from gateway.dev.core.mint import Mint
from gateway.dev.core.outcomes import (
    Issued,
    Session,
    Stored,
    Theft,
    TryRefresh,
    Unauthorised,
    Verified,
)
from gateway.dev.core.settings import PUBLIC, CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tenants import Tenants
from gateway.dev.core.tokens import PROTECTED_CLAIMS, AccessToken, h

_PURGE_AFTER_MS: Final = 12 * 3600 * 1000
"""How long an expired row is kept. The real core deletes them every 12 hours."""


class ProtectedClaim(Exception):
    """The caller's payload contains a claim that only the core may set."""


def check_payload(payload: JsonObject) -> None:
    """Check that a caller's payload contains no protected claim.

    Raises:
        ProtectedClaim: it contains one.
    """
    if not PROTECTED_CLAIMS.isdisjoint(payload):
        raise ProtectedClaim("The user payload contains protected field")


def tenant_of(handle: str) -> str:
    """Return the tenant in a handle: the text after the first `_`, or public."""
    _, _, tenant_id = handle.partition("_")
    return tenant_id or PUBLIC


class Sessions:
    """The sessions of one app."""

    def __init__(
        self,
        store: Store,
        mint: Mint,
        tenants: Tenants,
        settings: CoreSettings,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        """Use *store* for the sessions, and *mint* for their tokens."""
        self._store = store
        self._mint = mint
        self._tenants = tenants
        self._now_ms = now_ms
        self._access_ms = settings.access_token_validity_s * 1000
        self._refresh_ms = settings.refresh_token_validity_s * 1000

    def create(
        self,
        tenant_id: str,
        user_id: str,
        *,
        payload: JsonObject,
        data: JsonObject,
        anti_csrf: bool,
        static_key: bool,
    ) -> Issued:
        """Start a session. It isn't checked that the user exists.

        Raises:
            ProtectedClaim: the payload uses a protected name.
        """
        check_payload(payload)
        handle = self._mint.uuid()
        if tenant_id != PUBLIC:
            handle = f"{handle}_{tenant_id}"
        session = Session(
            handle=handle, user_id=user_id, payload=payload, tenant_id=tenant_id
        )
        issued = self._mint.issue(
            session, parent=None, anti_csrf=anti_csrf, static_key=static_key
        )
        self._store.run(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            handle,
            tenant_id,
            user_id,
            h(h(issued.refresh.text)),
            json.dumps(data),
            json.dumps(payload),
            issued.refresh.expires_ms,
            issued.refresh.created_ms,
            static_key,
        )
        self._purge()
        return issued

    def refresh(
        self,
        token: str,
        *,
        anti_csrf: str | None,
        enable_anti_csrf: bool,
        static_key: bool,
    ) -> Issued | Unauthorised | Theft:
        """Return new tokens for a refresh token.

        The numbers are those of the protocol's table.

        Raises:
            NoTenant: the session's tenant was removed.
        Source: core protocol CDI 5.4, session refresh.
        """
        # 1 not a refresh token of this app
        try:
            contents = self._mint.open_refresh(token)
        except BadToken as exc:
            return Unauthorised(message=str(exc))
        # 2 anti-csrf
        if enable_anti_csrf and contents.anti_csrf not in (None, anti_csrf):
            return Unauthorised(message="Anti CSRF token missing, or not matching")
        self._tenants.check(contents.tenant_id)
        with self._store.transaction():
            row = self._row(contents.tenant_id, contents.session_handle)
            # 3 the session doesn't exist
            if row is None or row["expires_ms"] < self._now_ms():
                return Unauthorised(message="Session missing in db or has expired")
            current = row["refresh_hash2"]
            if current == h(h(token)):
                # 4 the parent; a retry is handled like the first call
                self._store.run(
                    "UPDATE sessions SET static_key = ? WHERE handle = ?",
                    static_key,
                    contents.session_handle,
                )
            elif (
                contents.has_issued_version
                and contents.parent_refresh_hash1 is not None
                and h(contents.parent_refresh_hash1) == current
            ):
                # 5 an unused child: it becomes the parent
                self._promote(
                    contents.session_handle, h(h(token)), static_key=static_key
                )
            else:
                # 6 a superseded token, or one whose version was changed
                return Theft(handle=contents.session_handle, user_id=row["user_id"])
        return self._mint.issue(
            _stored(row).session,
            parent=h(token),
            anti_csrf=enable_anti_csrf,
            static_key=static_key,
        )

    def verify(
        self,
        token: str,
        *,
        anti_csrf: str | None,
        check_anti_csrf: bool,
        check_database: bool,
    ) -> Verified | Unauthorised | TryRefresh:
        """Verify an access token.

        The numbers are those of the protocol's table.

        Raises:
            NoTenant: the session's tenant was removed.
        Source: core protocol CDI 5.4, session verify.
        """
        # 1 the token is invalid
        try:
            access = self._mint.open_access(token)
        except BadToken as exc:
            return TryRefresh(message=str(exc))
        if check_anti_csrf and (
            access.anti_csrf is None or access.anti_csrf != anti_csrf
        ):
            return TryRefresh(message="anti-csrf check failed")
        self._tenants.check(access.tenant_id)
        with self._store.transaction():
            row = self._row(access.tenant_id, access.session_handle)
            # 2 the session was revoked; the row's expiry isn't checked
            if check_database and row is None:
                return Unauthorised(
                    message="Either the session has ended or has been blacklisted"
                )
            stale = (
                check_database
                and row is not None
                and not _is_same(access.payload, json.loads(row["payload"]))
            )
            session = Session(
                handle=access.session_handle,
                user_id=access.user_id,
                payload=access.payload,
                tenant_id=access.tenant_id,
            )
            # 3 the client needs no new token
            if access.parent_refresh_hash1 is None and not stale:
                return Verified(session=session, access=None)
            # 4 the session was revoked
            if row is None:
                return Unauthorised(message="Session missing in db")
            current, own = row["refresh_hash2"], h(access.refresh_hash1)
            parent = access.parent_refresh_hash1
            promote = parent is not None and current == h(parent)
            # 6 another child of the same parent has become the parent
            if not (promote or current == own or stale):
                return Verified(session=session, access=None)
            # 5 the refresh token of this pair has reached the client
            if promote:
                self._promote(
                    access.session_handle, own, static_key=bool(row["static_key"])
                )
        renewed = Session(
            handle=access.session_handle,
            user_id=access.user_id,
            payload=json.loads(row["payload"]),
            tenant_id=access.tenant_id,
        )
        return Verified(
            session=renewed,
            access=self._mint.access(
                renewed,
                refresh_hash1=access.refresh_hash1,
                parent=None,
                anti_csrf=access.anti_csrf,
                expires_ms=self._now_ms() + self._access_ms,
                static_key=bool(row["static_key"]),
            ),
        )

    def regenerate(
        self, token: str, payload: JsonObject | None
    ) -> Verified | Unauthorised:
        """Store a payload, and return an access token with it and the same expiry.

        None stands for the stored payload. The signature of *token* isn't checked,
        since the caller has verified the session. If *token* has expired, there is no
        new one: the client gets the payload with its next refresh.

        Raises:
            ProtectedClaim: the payload uses a protected name.
            NoTenant: the session's tenant was removed.
        """
        if payload is not None:
            check_payload(payload)
        try:
            access = AccessToken.from_claims(parse(token).payload)
        except BadToken as exc:
            return Unauthorised(message=str(exc))
        self._tenants.check(access.tenant_id)
        with self._store.transaction():
            row = self._row(access.tenant_id, access.session_handle)
            if row is None or row["expires_ms"] <= self._now_ms():
                return Unauthorised(message="Session does not exist.")
            if payload is None:
                payload = json.loads(row["payload"])
            self._store.run(
                "UPDATE sessions SET payload = ? WHERE handle = ?",
                json.dumps(payload),
                access.session_handle,
            )
        session = Session(
            handle=access.session_handle,
            user_id=access.user_id,
            payload=payload,
            tenant_id=access.tenant_id,
        )
        expires_ms = access.expires_s * 1000
        if expires_ms < self._now_ms():
            return Verified(session=session, access=None)
        return Verified(
            session=session,
            access=self._mint.access(
                session,
                refresh_hash1=access.refresh_hash1,
                parent=access.parent_refresh_hash1,
                anti_csrf=access.anti_csrf,
                expires_ms=expires_ms,
                static_key=bool(row["static_key"]),
            ),
        )

    def get(self, handle: str) -> Stored | None:
        """Return a session that hasn't expired, or None.

        Raises:
            NoTenant: there is no tenant of the name in *handle*.
        """
        row = self._row(self._tenant_of(handle), handle)
        if row is None or row["expires_ms"] <= self._now_ms():
            return None
        return _stored(row)

    def handles_of(self, user_id: str, tenant_id: str | None) -> list[str]:
        """Return the handles of a user's live sessions; None means in all tenants."""
        sql = "SELECT handle FROM sessions WHERE user_id = ? AND expires_ms >= ?"
        if tenant_id is None:
            return self._store.column(sql, user_id, self._now_ms())
        return self._store.column(
            f"{sql} AND tenant_id = ?", user_id, self._now_ms(), tenant_id
        )

    def revoke(self, handles: Sequence[str]) -> list[str]:
        """End sessions; return the handles of those that existed.

        Raises:
            NoTenant: there is no tenant of the name in one of *handles*. None is ended.
        """
        with self._store.transaction():
            return [
                handle
                for handle in handles
                if self._store.delete(
                    "sessions", handle=handle, tenant_id=self._tenant_of(handle)
                )
            ]

    def set_data(self, handle: str, data: JsonObject) -> bool:
        """Replace a session's stored data; return whether the session exists.

        Raises:
            NoTenant: there is no tenant of the name in *handle*.
        """
        return self._set("data", handle, data)

    def set_payload(self, handle: str, payload: JsonObject) -> bool:
        """Replace the access-token payload; return whether the session exists.

        Raises:
            ProtectedClaim: the payload uses a protected name.
            NoTenant: there is no tenant of the name in *handle*.
        """
        check_payload(payload)
        return self._set("payload", handle, payload)

    def _set(self, column: str, handle: str, value: JsonObject) -> bool:
        return bool(
            self._store.run(
                # `column` is one of two constants in this file; values are bound.
                f"UPDATE sessions SET {column} = ?"  # noqa: S608
                " WHERE handle = ? AND tenant_id = ? AND expires_ms > ?",
                json.dumps(value),
                handle,
                self._tenant_of(handle),
                self._now_ms(),
            )
        )

    def _tenant_of(self, handle: str) -> str:
        tenant_id = tenant_of(handle)
        self._tenants.check(tenant_id)
        return tenant_id

    def _row(self, tenant_id: str, handle: str) -> sqlite3.Row | None:
        return self._store.one(
            "SELECT * FROM sessions WHERE handle = ? AND tenant_id = ?",
            handle,
            tenant_id,
        )

    def _promote(self, handle: str, refresh_hash2: str, *, static_key: bool) -> None:
        self._store.run(
            "UPDATE sessions SET refresh_hash2 = ?, expires_ms = ?, static_key = ?"
            " WHERE handle = ?",
            refresh_hash2,
            self._now_ms() + self._refresh_ms,
            static_key,
            handle,
        )

    def _purge(self) -> None:
        """Delete rows that expired long ago.

        Callers can notice it only with `checkDatabase`, for an access token that
        expires after its session.
        """
        self._store.run(
            "DELETE FROM sessions WHERE expires_ms < ?",
            self._now_ms() - _PURGE_AFTER_MS,
        )


def _stored(row: sqlite3.Row) -> Stored:
    return Stored(
        session=Session(
            handle=row["handle"],
            user_id=row["user_id"],
            payload=json.loads(row["payload"]),
            tenant_id=row["tenant_id"],
        ),
        data=json.loads(row["data"]),
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
    )


def _is_same(one: JsonObject, other: JsonObject) -> bool:
    """Compare as JSON values: key order is ignored, and 1 isn't equal to true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
