"""edge. The users of every recipe: identities, tenants and searches.

Facts
- Each user has one login method. This core doesn't link accounts, so the recipe user
  id is the user id.
- The table `identities` says what a user signs in with. A value is unique for one
  tenant and recipe. A user is in a tenant if it has a row for the tenant.
- E-mail addresses are stored in lower case and without white space around them.
"""

from __future__ import annotations

import random
import re
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.dev.core.accounts import AccountInfo, Kind, Recipe, Taken, identities
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.store import Store

_FAKE_EMAIL_SUFFIXES: Final = ("@stfakeemail.supertokens.com", ".fakeemail.com")
"""Domains that receive no mail. Their addresses are verified from the start."""

_IN_TENANT: Final = "user_id IN (SELECT user_id FROM identities WHERE tenant_id = ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a listing is limited to; an empty tuple is no limit.

    One value of each tuple that isn't empty must match. Values are in lower case.
    """

    emails: tuple[str, ...] = ()
    """Beginnings of addresses, or of their domains."""
    phones: tuple[str, ...] = ()
    """Beginnings of phone numbers."""
    providers: tuple[str, ...] = ()
    """Beginnings of third-party ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of users in order, and where the next page starts."""

    users: list[JsonObject]
    next_start: tuple[str, int] | None
    """(user id, time joined in ms), or None at the end."""


_EVERYBODY: Final = Search()


class Users:
    """The users of one app."""

    def __init__(
        self, store: Store, *, now_ms: Callable[[], int], rng: random.Random
    ) -> None:
        """Use *store* for the users."""
        self._store = store
        self._now_ms = now_ms
        self._rng = rng

    def add(
        self,
        tenant_id: str,
        recipe: Recipe,
        info: AccountInfo,
        *,
        password_hash: str | None = None,
    ) -> str:
        """Create a user and return its id.

        Raises:
            Taken: the tenant has a user of this recipe with the same identity.
        """
        user_id = str(uuid.UUID(bytes=self._rng.randbytes(16), version=4))
        with self._store.transaction():
            self._store.run(
                "INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                user_id,
                recipe,
                self._now_ms(),
                info.email,
                info.phone,
                info.third_party_id,
                info.third_party_user_id,
                password_hash,
            )
            self._join(tenant_id, user_id, recipe, info)
            if info.email is not None and info.email.endswith(_FAKE_EMAIL_SUFFIXES):
                self.mark_verified(user_id, info.email)
        return user_id

    def exists(self, user_id: str) -> bool:
        """Return whether the user exists."""
        return self.recipe_of(user_id) is not None

    def recipe_of(self, user_id: str) -> Recipe | None:
        """Return the recipe of a user, or None when there's no such user."""
        recipe = self._store.scalar(
            "SELECT recipe_id FROM users WHERE user_id = ?", user_id
        )
        return None if recipe is None else Recipe(recipe)

    def find(
        self, tenant_id: str, recipe: Recipe, kind: Kind, value: str
    ) -> str | None:
        """Return the id of the user who signs in with *value*, or None."""
        user_id: str | None = self._store.scalar(
            "SELECT user_id FROM identities"
            " WHERE tenant_id = ? AND recipe_id = ? AND kind = ? AND value = ?",
            tenant_id,
            recipe,
            kind,
            value,
        )
        return user_id

    def password_hash(self, user_id: str) -> str | None:
        """Return the stored password hash, or None."""
        stored: str | None = self._store.scalar(
            "SELECT password_hash FROM users WHERE user_id = ?", user_id
        )
        return stored

    def set_password_hash(self, user_id: str, password_hash: str) -> None:
        """Replace a user's password hash."""
        self._store.run(
            "UPDATE users SET password_hash = ? WHERE user_id = ?",
            password_hash,
            user_id,
        )

    def set_contact(
        self, user_id: str, *, email: str | None, phone: str | None
    ) -> None:
        """Replace a user's e-mail and phone number, in every tenant of the user.

        Raises:
            Taken: another user of the recipe has one of them in one of the tenants.
        """
        with self._store.transaction():
            tenants = self.tenants_of(user_id)
            self._store.run(
                "UPDATE users SET email = ?, phone = ? WHERE user_id = ?",
                email,
                phone,
                user_id,
            )
            recipe, info = self._info(user_id)
            self._store.delete("identities", user_id=user_id)
            for tenant_id in tenants:
                self._join(tenant_id, user_id, recipe, info)

    def contact_of(self, user_id: str) -> tuple[str | None, str | None]:
        """Return e-mail and phone number of an existing user."""
        _, info = self._info(user_id)
        return info.email, info.phone

    def tenants_of(self, user_id: str) -> list[str]:
        """Return the tenants a user is in."""
        return self._store.column(
            "SELECT DISTINCT tenant_id FROM identities WHERE user_id = ?"
            " ORDER BY tenant_id",
            user_id,
        )

    def join_tenant(self, tenant_id: str, user_id: str) -> bool:
        """Add an existing user to a tenant; return whether it was there already.

        Raises:
            Taken: another user of the tenant has the same identity.
        """
        if tenant_id in self.tenants_of(user_id):
            return True
        with self._store.transaction():
            self._join(tenant_id, user_id, *self._info(user_id))
        return False

    def leave_tenant(self, tenant_id: str, user_id: str) -> bool:
        """Remove a user from a tenant; return whether it was there.

        It deletes the user's sessions and roles in that tenant, but not the user.
        """
        with self._store.transaction():
            left = self._store.delete(
                "identities", tenant_id=tenant_id, user_id=user_id
            )
            for table in ("sessions", "user_roles"):
                self._store.delete(table, tenant_id=tenant_id, user_id=user_id)
        return left > 0

    def remove(self, user_id: str) -> None:
        """Delete a user and its data; do nothing for an unknown id."""
        with self._store.transaction():
            for table in (
                "users",
                "identities",
                "active",
                "sessions",
                "email_tokens",
                "verified_emails",
                "user_roles",
                "metadata",
            ):
                self._store.delete(table, user_id=user_id)

    def view(self, user_id: str) -> JsonObject | None:
        """Return a user as the protocol defines it, or None if it doesn't exist.

        Source: core protocol CDI 5.4, `USER` with the webauthn fields of 5.3.
        """
        row = self._store.one("SELECT * FROM users WHERE user_id = ?", user_id)
        return None if row is None else self._view(row)

    def by_account_info(
        self, tenant_id: str, info: AccountInfo, *, union: bool
    ) -> list[JsonObject]:
        """Return the users of a tenant that have these values.

        With *union* one value must match, else all that aren't None.
        """
        conditions: list[tuple[str, tuple[str, ...]]] = []
        if info.email is not None:
            conditions.append(("email = ?", (info.email,)))
        if info.phone is not None:
            conditions.append(("phone = ?", (info.phone,)))
        if info.third_party_id is not None and info.third_party_user_id is not None:
            conditions.append(
                (
                    "(third_party_id = ? AND third_party_user_id = ?)",
                    (info.third_party_id, info.third_party_user_id),
                )
            )
        if not conditions:
            return []
        where = (" OR " if union else " AND ").join(sql for sql, _ in conditions)
        rows = self._store.all(
            # `where` joins constants; values are bound.
            f"SELECT * FROM users WHERE {_IN_TENANT} AND ({where})"  # noqa: S608
            " ORDER BY joined_ms, user_id",
            tenant_id,
            *(value for _, values in conditions for value in values),
        )
        return [self._view(row) for row in rows]

    def page(
        self,
        tenant_id: str,
        *,
        recipes: Sequence[Recipe],
        oldest_first: bool,
        limit: int,
        start: tuple[str, int] | None,
        search: Search = _EVERYBODY,
    ) -> Page:
        """Return a page of a tenant's users, in the order in which they joined.

        An empty `recipes` means all recipes. `start` is `next_start` of the page
        before, or None for the first page.
        """
        order, comparison = ("ASC", ">=") if oldest_first else ("DESC", "<=")
        where, values = _in_recipes(recipes)
        found, patterns = _found_by(search)
        where += found
        values += patterns
        if start is not None:
            where += f" AND (joined_ms, user_id) {comparison} (?, ?)"
            values += [start[1], start[0]]
        rows = self._store.all(
            # `where` joins constants; values are bound.
            f"SELECT * FROM users WHERE {_IN_TENANT} {where}"  # noqa: S608
            f" ORDER BY joined_ms {order}, user_id {order} LIMIT ?",
            tenant_id,
            *values,
            limit + 1,
        )
        more = rows[limit] if len(rows) > limit else None
        return Page(
            users=[self._view(row) for row in rows[:limit]],
            next_start=None if more is None else (more["user_id"], more["joined_ms"]),
        )

    def count(self, tenant_id: str | None, *, recipes: Sequence[Recipe]) -> int:
        """Return how many users a tenant has, or the whole app for None."""
        where, values = _in_recipes(recipes)
        if tenant_id is not None:
            where += f" AND {_IN_TENANT}"
            values.append(tenant_id)
        counted: int = self._store.scalar(
            # `where` joins constants; values are bound.
            f"SELECT count(*) FROM users WHERE true {where}",  # noqa: S608
            *values,
        )
        return counted

    def seen(self, user_id: str) -> None:
        """Record that the user is active now."""
        self._store.run(
            "INSERT INTO active VALUES (?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET at_ms = excluded.at_ms",
            user_id,
            self._now_ms(),
        )

    def count_active(self, since_ms: int) -> int:
        """Return how many users have been active since a time, in ms."""
        counted: int = self._store.scalar(
            "SELECT count(*) FROM active WHERE at_ms >= ?", since_ms
        )
        return counted

    def mark_verified(self, user_id: str, email: str) -> None:
        """Record that the address belongs to the user."""
        self._store.run(
            "INSERT OR IGNORE INTO verified_emails VALUES (?, ?)", user_id, email
        )

    def is_verified(self, user_id: str, email: str) -> bool:
        """Return whether the address was verified, compared without normalisation."""
        return (
            self._store.one(
                "SELECT 1 FROM verified_emails WHERE user_id = ? AND email = ?",
                user_id,
                email,
            )
            is not None
        )

    def _join(
        self, tenant_id: str, user_id: str, recipe: Recipe, info: AccountInfo
    ) -> None:
        for kind, value in identities(info):
            if self.find(tenant_id, recipe, kind, value) is not None:
                raise Taken(kind)
            self._store.run(
                "INSERT INTO identities VALUES (?, ?, ?, ?, ?)",
                tenant_id,
                recipe,
                kind,
                value,
                user_id,
            )

    def _info(self, user_id: str) -> tuple[Recipe, AccountInfo]:
        (row,) = self._store.all("SELECT * FROM users WHERE user_id = ?", user_id)
        return Recipe(row["recipe_id"]), AccountInfo(
            email=row["email"],
            phone=row["phone"],
            third_party_id=row["third_party_id"],
            third_party_user_id=row["third_party_user_id"],
        )

    def _view(self, row: sqlite3.Row) -> JsonObject:
        user_id, email, phone = row["user_id"], row["email"], row["phone"]
        tenants = self.tenants_of(user_id)
        third_party = (
            {"id": row["third_party_id"], "userId": row["third_party_user_id"]}
            if row["third_party_id"] is not None
            else None
        )
        # A phone number is verified by the code that was sent to it.
        verified = (
            row["recipe_id"] == Recipe.PASSWORDLESS
            if email is None
            else self.is_verified(user_id, email)
        )
        method: JsonObject = {
            "recipeId": row["recipe_id"],
            "recipeUserId": user_id,
            "tenantIds": tenants,
            "timeJoined": row["joined_ms"],
            "verified": verified,
        }
        if email is not None:
            method["email"] = email
        if phone is not None:
            method["phoneNumber"] = phone
        if third_party is not None:
            method["thirdParty"] = third_party
        return {
            "id": user_id,
            "isPrimaryUser": False,
            "tenantIds": tenants,
            "timeJoined": row["joined_ms"],
            "emails": [] if email is None else [email],
            "phoneNumbers": [] if phone is None else [phone],
            "thirdParty": [] if third_party is None else [third_party],
            "webauthn": {"credentialIds": []},
            "loginMethods": [method],
        }


def _in_recipes(recipes: Sequence[Recipe]) -> tuple[str, list[str | int]]:
    if not recipes:
        return "", []
    marks = ", ".join("?" * len(recipes))
    return f" AND recipe_id IN ({marks})", list(recipes)


def _found_by(search: Search) -> tuple[str, list[str | int]]:
    """Return the condition of a search, and the values to bind."""
    columns = {
        "email": [p for tag in search.emails for p in (_like(tag), "%@" + _like(tag))],
        "phone": [_like(tag) for tag in search.phones],
        "third_party_id": [_like(tag) for tag in search.providers],
    }
    where = ""
    values: list[str | int] = []
    for column, patterns in columns.items():
        if patterns:
            each = " OR ".join([f"{column} LIKE ? ESCAPE '!'"] * len(patterns))
            where += f" AND ({each})"
            values += patterns
    return where, values


def _like(tag: str) -> str:
    """Return the pattern for texts that begin with *tag*."""
    return re.sub(r"([%_!])", r"!\1", tag) + "%"
