"""edge. The embedded core's SQLite database: schema, transactions, file modes.

Facts
- Queries are short and run in the event loop's thread. A transaction never awaits, so
  two transactions of one process can't interleave. `BEGIN IMMEDIATE` ensures the same
  for two processes on one file.
- Times are integers, milliseconds since the epoch.
- A session row holds `refresh_hash2` = H(H(current refresh token)), never a token.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.dev.core.settings import MEMORY

_LOCK_TIMEOUT_S: Final = 2.0
"""How long a query waits for another process's lock before it fails."""

_SCHEMA: Final = """
CREATE TABLE keys (
    kid TEXT PRIMARY KEY, kind TEXT NOT NULL, created_ms INTEGER NOT NULL,
    signs_from_ms INTEGER NOT NULL, pem BLOB NOT NULL
);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE tenants (tenant_id TEXT PRIMARY KEY, config TEXT NOT NULL);
CREATE TABLE users (
    user_id TEXT PRIMARY KEY, recipe_id TEXT NOT NULL, joined_ms INTEGER NOT NULL,
    email TEXT, phone TEXT, third_party_id TEXT, third_party_user_id TEXT,
    password_hash TEXT
);
CREATE TABLE identities (
    tenant_id TEXT NOT NULL, recipe_id TEXT NOT NULL, kind TEXT NOT NULL,
    value TEXT NOT NULL, user_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, recipe_id, kind, value)
);
CREATE INDEX identities_by_user ON identities (user_id);
CREATE TABLE active (user_id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL);
CREATE TABLE sessions (
    handle TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, user_id TEXT NOT NULL,
    refresh_hash2 TEXT NOT NULL, data TEXT NOT NULL, payload TEXT NOT NULL,
    expires_ms INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    static_key INTEGER NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE TABLE email_tokens (
    token_hash TEXT PRIMARY KEY, purpose TEXT NOT NULL, tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL, email TEXT NOT NULL, expires_ms INTEGER NOT NULL
);
CREATE INDEX email_tokens_by_user ON email_tokens (user_id);
CREATE TABLE verified_emails (
    user_id TEXT NOT NULL, email TEXT NOT NULL, PRIMARY KEY (user_id, email)
);
CREATE TABLE roles (role TEXT PRIMARY KEY);
CREATE TABLE role_permissions (
    role TEXT NOT NULL, permission TEXT NOT NULL, PRIMARY KEY (role, permission)
);
CREATE TABLE user_roles (
    tenant_id TEXT NOT NULL, user_id TEXT NOT NULL, role TEXT NOT NULL,
    PRIMARY KEY (tenant_id, user_id, role)
);
CREATE TABLE metadata (user_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE devices (
    device_hash TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, email TEXT, phone TEXT,
    failed_attempts INTEGER NOT NULL
);
CREATE TABLE codes (
    code_id TEXT PRIMARY KEY, device_hash TEXT NOT NULL, link_hash TEXT NOT NULL,
    input_hash TEXT NOT NULL, created_ms INTEGER NOT NULL,
    UNIQUE (device_hash, input_hash)
);
"""

_DASHBOARD: Final = """
CREATE TABLE dashboard_users (
    user_id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL,
    joined_ms INTEGER NOT NULL
);
CREATE TABLE dashboard_sessions (
    session_hash TEXT PRIMARY KEY, user_id TEXT NOT NULL, expires_ms INTEGER NOT NULL
);
"""

_STEPS: Final = (_SCHEMA, _DASHBOARD)
"""What each schema version adds to the one before."""
_SCHEMA_VERSION: Final = len(_STEPS)

Value = str | int | bytes | None
"""The types of a column's values."""


class StoreError(Exception):
    """The database file can't be used. The text gives the reason."""


class Store:
    """One open SQLite database.

    Raises:
        StoreError: the file can't be opened, or another schema version made it.
    """

    def __init__(self, database: str | Path) -> None:
        """Open the database; create the file and the schema if they are missing."""
        if database != MEMORY:
            _make_private_file(Path(database))
        try:
            # No thread check: a core may be made in one thread and served in another,
            # but two threads never use it at the same time.
            self._db = sqlite3.connect(
                database,
                timeout=_LOCK_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(database)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as exc:
            raise StoreError(f"can't open the core's database {database}: {exc}") from (
                exc
            )

    def _prepare(self, database: str | Path) -> None:
        self._db.row_factory = sqlite3.Row
        if database != MEMORY:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        with self.transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if 0 <= version < _SCHEMA_VERSION:
                for step in _STEPS[version:]:
                    for statement in step.split(";"):
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        if not 0 <= version <= _SCHEMA_VERSION:
            raise StoreError(
                f"{database} has schema version {version}, this core writes "
                f"{_SCHEMA_VERSION}: move the file away and start again"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock while the block runs; roll back on an exception.

        The block must not await: queries of other requests would join the transaction.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def all(self, sql: str, *values: Value) -> Sequence[sqlite3.Row]:
        """Return every row of a query."""
        return self._db.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Value) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        row: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
        return row

    def scalar(self, sql: str, *values: Value) -> Any:
        """Return the first column of the first row, or None."""
        row = self.one(sql, *values)
        return None if row is None else row[0]

    def column(self, sql: str, *values: Value) -> list[str]:
        """Return the first column of every row; it must be text."""
        return [row[0] for row in self.all(sql, *values)]

    def run(self, sql: str, *values: Value) -> int:
        """Run a statement and return how many rows it changed."""
        return self._db.execute(sql, values).rowcount

    def delete(self, table: str, **equals: Value) -> int:
        """Delete the rows in which all columns have these values; return how many."""
        where = " AND ".join(f"{column} = ?" for column in equals)
        # Table and column names are constants of this package; values are bound.
        return self.run(f"DELETE FROM {table} WHERE {where}", *equals.values())  # noqa: S608

    def close(self) -> None:
        """Close the database; closing twice does nothing."""
        self._db.close()


def _make_private_file(path: Path) -> None:
    """Create the file with mode 0600, since it contains keys.

    A missing parent folder is created with mode 0700. An existing one keeps its mode.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as exc:
        raise StoreError(f"can't create the core's database {path}: {exc}") from exc
