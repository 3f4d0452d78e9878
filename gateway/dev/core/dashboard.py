"""edge. The people who may use the dashboard: their accounts and their sessions.

Facts
- They aren't users of the app: they have tables of their own, and no tenant.
- A session is a random id that the dashboard sends with each call. It ends after 30
  days, at sign-out, or when the account is changed or removed. Only H(id) is stored.
"""

from __future__ import annotations

import random
import re
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.dev.core.jws import JsonObject
from gateway.dev.core.store import Store
from gateway.dev.core.tokens import h

_SESSION_MS: Final = 30 * 86_400 * 1000
"""How long a session lasts. Source: the real core's Dashboard."""

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]{2,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An account for the dashboard."""

    user_id: str
    email: str
    password_hash: str
    joined_ms: int

    def view(self) -> JsonObject:
        """Return the fields that the protocol defines, without the hash."""
        return {
            "userId": self.user_id,
            "email": self.email,
            "timeJoined": self.joined_ms,
        }


class EmailTaken(Exception):
    """Another account has this address."""


def is_email(text: str) -> bool:
    """Return whether a text looks like an e-mail address."""
    return _EMAIL.fullmatch(text) is not None


def weakness(password: str) -> str | None:
    """Return why a password is too weak, or None. Source: the real core's Dashboard."""
    if len(password) < 8:
        return "Password must contain at least 8 characters, including a number"
    if len(password) >= 100:
        return "Password's length must be lesser than 100 characters"
    if not re.search("[A-Za-z]", password):
        return "Password must contain at least one alphabet"
    if not re.search("[0-9]", password):
        return "Password must contain at least one number"
    return None


class Dashboard:
    """The accounts for the dashboard of one app."""

    def __init__(
        self, store: Store, *, now_ms: Callable[[], int], rng: random.Random
    ) -> None:
        """Use *store* for the accounts and sessions."""
        self._store = store
        self._now_ms = now_ms
        self._rng = rng

    def add(self, email: str, password_hash: str) -> Person:
        """Create an account.

        Raises:
            EmailTaken: another account has the address.
        """
        person = Person(
            user_id=self._uuid(),
            email=email,
            password_hash=password_hash,
            joined_ms=self._now_ms(),
        )
        try:
            self._store.run(
                "INSERT INTO dashboard_users VALUES (?, ?, ?, ?)",
                person.user_id,
                email,
                password_hash,
                person.joined_ms,
            )
        except sqlite3.IntegrityError as exc:
            raise EmailTaken from exc
        return person

    def all(self) -> list[Person]:
        """Return every account, the oldest first."""
        rows = self._store.all("SELECT * FROM dashboard_users ORDER BY joined_ms")
        return [_person(row) for row in rows]

    def find(self, *, user_id: str | None, email: str | None) -> Person | None:
        """Return the account with this id or, without an id, with this address."""
        rows = (
            self._store.all("SELECT * FROM dashboard_users WHERE email = ?", email)
            if user_id is None
            else self._store.all(
                "SELECT * FROM dashboard_users WHERE user_id = ?", user_id
            )
        )
        return _person(rows[0]) if rows else None

    def change(
        self, person: Person, *, email: str | None, password_hash: str | None
    ) -> Person:
        """Change what isn't None, and end the sessions; return the account.

        Raises:
            EmailTaken: another account has the address.
        """
        changed = Person(
            user_id=person.user_id,
            email=person.email if email is None else email,
            password_hash=password_hash or person.password_hash,
            joined_ms=person.joined_ms,
        )
        try:
            with self._store.transaction():
                self._store.run(
                    "UPDATE dashboard_users SET email = ?, password_hash = ?"
                    " WHERE user_id = ?",
                    changed.email,
                    changed.password_hash,
                    changed.user_id,
                )
                self._store.delete("dashboard_sessions", user_id=changed.user_id)
        except sqlite3.IntegrityError as exc:
            raise EmailTaken from exc
        return changed

    def remove(self, person: Person) -> None:
        """Delete an account and its sessions."""
        with self._store.transaction():
            for table in ("dashboard_users", "dashboard_sessions"):
                self._store.delete(table, user_id=person.user_id)

    def sign_in(self, person: Person) -> str:
        """Begin a session; return its id. Sessions that have ended are deleted."""
        now = self._now_ms()
        self._store.run("DELETE FROM dashboard_sessions WHERE expires_ms <= ?", now)
        session_id = self._uuid()
        self._store.run(
            "INSERT INTO dashboard_sessions VALUES (?, ?, ?)",
            h(session_id),
            person.user_id,
            now + _SESSION_MS,
        )
        return session_id

    def whose(self, session_id: str) -> Person | None:
        """Return the account of a live session, or None."""
        row = self._store.one(
            "SELECT dashboard_users.* FROM dashboard_sessions"
            " JOIN dashboard_users USING (user_id)"
            " WHERE session_hash = ? AND expires_ms > ?",
            h(session_id),
            self._now_ms(),
        )
        return None if row is None else _person(row)

    def sign_out(self, session_id: str) -> None:
        """End a session; an unknown id isn't an error."""
        self._store.delete("dashboard_sessions", session_hash=h(session_id))

    def _uuid(self) -> str:
        return str(uuid.UUID(bytes=self._rng.randbytes(16), version=4))


def _person(row: sqlite3.Row) -> Person:
    return Person(
        user_id=row["user_id"],
        email=row["email"],
        password_hash=row["password_hash"],
        joined_ms=row["joined_ms"],
    )
