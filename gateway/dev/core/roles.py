"""edge. Roles and permissions of an app, and the users' roles in each tenant."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.dev.core.store import Store


class UnknownRole(Exception):
    """The role doesn't exist."""


class Roles:
    """The roles of one app."""

    def __init__(self, store: Store) -> None:
        """Use *store* for the roles."""
        self._store = store

    def put(self, role: str, permissions: Sequence[str]) -> bool:
        """Create a role or add permissions to it; return whether the role is new."""
        with self._store.transaction():
            created = self._store.run("INSERT OR IGNORE INTO roles VALUES (?)", role)
            for permission in permissions:
                self._store.run(
                    "INSERT OR IGNORE INTO role_permissions VALUES (?, ?)",
                    role,
                    permission,
                )
        return created > 0

    def remove(self, role: str) -> bool:
        """Delete a role and take it from all users; return whether it existed."""
        with self._store.transaction():
            existed = self._store.delete("roles", role=role)
            for table in ("role_permissions", "user_roles"):
                self._store.delete(table, role=role)
        return existed > 0

    def all(self) -> list[str]:
        """Return every role."""
        return self._store.column("SELECT role FROM roles ORDER BY role")

    def permissions(self, role: str) -> list[str]:
        """Return the permissions of a role.

        Raises:
            UnknownRole: there's no such role.
        """
        self._check(role)
        return self._store.column(
            "SELECT permission FROM role_permissions WHERE role = ?"
            " ORDER BY permission",
            role,
        )

    def take_permissions(self, role: str, permissions: Sequence[str] | None) -> None:
        """Remove permissions from a role; None removes all.

        Raises:
            UnknownRole: there's no such role.
        """
        self._check(role)
        removed = self.permissions(role) if permissions is None else permissions
        with self._store.transaction():
            for permission in removed:
                self._store.delete("role_permissions", role=role, permission=permission)

    def with_permission(self, permission: str) -> list[str]:
        """Return the roles that have a permission."""
        return self._store.column(
            "SELECT role FROM role_permissions WHERE permission = ? ORDER BY role",
            permission,
        )

    def give(self, tenant_id: str, user_id: str, role: str) -> bool:
        """Give a user a role in a tenant; return False if the user had it already.

        Raises:
            UnknownRole: there's no such role.
        """
        self._check(role)
        return bool(
            self._store.run(
                "INSERT OR IGNORE INTO user_roles VALUES (?, ?, ?)",
                tenant_id,
                user_id,
                role,
            )
        )

    def take(self, tenant_id: str, user_id: str, role: str) -> bool:
        """Remove a role from a user in a tenant; return whether the user had it.

        Raises:
            UnknownRole: there's no such role.
        """
        self._check(role)
        return bool(
            self._store.delete(
                "user_roles", tenant_id=tenant_id, user_id=user_id, role=role
            )
        )

    def of_user(self, tenant_id: str, user_id: str) -> list[str]:
        """Return a user's roles in a tenant; none for unknown users."""
        return self._store.column(
            "SELECT role FROM user_roles WHERE tenant_id = ? AND user_id = ?"
            " ORDER BY role",
            tenant_id,
            user_id,
        )

    def holders(self, tenant_id: str, role: str) -> list[str]:
        """Return the ids of a tenant's users with a role.

        Raises:
            UnknownRole: there's no such role.
        """
        self._check(role)
        return self._store.column(
            "SELECT user_id FROM user_roles WHERE tenant_id = ? AND role = ?"
            " ORDER BY user_id",
            tenant_id,
            role,
        )

    def _check(self, role: str) -> None:
        if self._store.one("SELECT 1 FROM roles WHERE role = ?", role) is None:
            raise UnknownRole(role)
