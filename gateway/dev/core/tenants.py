"""edge. The tenants of an app. The tenant `public` always exists."""

from __future__ import annotations

import json
import re
from typing import Final

from gateway.dev.core.jws import JsonObject
from gateway.dev.core.settings import PUBLIC
from gateway.dev.core.store import Store

STOP_WORDS: Final = frozenset({"recipe", "config", "users", "hello"})
"""First path segments that can't be a tenant. Source: the real core's PathRouter."""

_TENANT_ID: Final = re.compile(r"[a-z0-9-]+")


def is_tenant_id(text: str) -> bool:
    """Return whether a path segment can be a tenant's name."""
    return (
        _TENANT_ID.fullmatch(text) is not None
        and text not in STOP_WORDS
        and not text.startswith("appid-")
    )


class NoTenant(Exception):
    """There is no tenant of this name: it was removed, or never there."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(tenant_id)
        self.tenant_id = tenant_id


class Tenants:
    """The tenants of one app."""

    def __init__(self, store: Store) -> None:
        """Use *store* for the tenants, and create the default one."""
        self._store = store
        self._store.run("INSERT OR IGNORE INTO tenants VALUES (?, '{}')", PUBLIC)

    def exists(self, tenant_id: str) -> bool:
        """Return whether the tenant exists."""
        return self._config(tenant_id) is not None

    def check(self, tenant_id: str) -> None:
        """Return when the tenant exists.

        Raises:
            NoTenant: it doesn't.
        """
        if not self.exists(tenant_id):
            raise NoTenant(tenant_id)

    def put(self, tenant_id: str, update: JsonObject) -> bool:
        """Create a tenant or change its settings; return whether the tenant is new.

        Null resets a setting to its default.
        """
        with self._store.transaction():
            old = self._config(tenant_id)
            merged = {**(old or {}), **update}
            self._store.run(
                "INSERT INTO tenants VALUES (?, ?)"
                " ON CONFLICT (tenant_id) DO UPDATE SET config = excluded.config",
                tenant_id,
                json.dumps({k: v for k, v in merged.items() if v is not None}),
            )
        return old is None

    def view(self, tenant_id: str) -> JsonObject | None:
        """Return a tenant as the protocol defines it, or None if it doesn't exist.

        `firstFactors` is present only if it was set; absent means "no limit".
        """
        config = self._config(tenant_id)
        if config is None:
            return None
        return {
            "tenantId": tenant_id,
            "thirdParty": {"providers": []},
            "coreConfig": {},
            **config,
        }

    def all(self) -> list[JsonObject]:
        """Return every tenant as the protocol defines it."""
        ids = self._store.column("SELECT tenant_id FROM tenants ORDER BY tenant_id")
        return [view for tenant_id in ids if (view := self.view(tenant_id)) is not None]

    def remove(self, tenant_id: str) -> bool:
        """Delete a tenant and its sessions, roles and logins; return if it existed."""
        with self._store.transaction():
            existed = self._store.delete("tenants", tenant_id=tenant_id)
            for table in (
                "identities",
                "sessions",
                "user_roles",
                "email_tokens",
                "devices",
            ):
                self._store.delete(table, tenant_id=tenant_id)
        return existed > 0

    def _config(self, tenant_id: str) -> JsonObject | None:
        config = self._store.scalar(
            "SELECT config FROM tenants WHERE tenant_id = ?", tenant_id
        )
        return None if config is None else dict(json.loads(config))
