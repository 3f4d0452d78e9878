"""edge. User metadata: a JSON object for each user, merged by its top-level keys."""

from __future__ import annotations

import json

from gateway.dev.core.jws import JsonObject
from gateway.dev.core.store import Store


class Metadata:
    """The user metadata of one app."""

    def __init__(self, store: Store) -> None:
        """Use *store* for the metadata."""
        self._store = store

    def get(self, user_id: str) -> JsonObject:
        """Return a user's metadata, or an empty object for an unknown user."""
        body = self._store.scalar(
            "SELECT body FROM metadata WHERE user_id = ?", user_id
        )
        return {} if body is None else dict(json.loads(body))

    def merge(self, user_id: str, update: JsonObject) -> JsonObject:
        """Set the keys of *update*, delete those that are null; return the result."""
        with self._store.transaction():
            merged = {**self.get(user_id), **update}
            merged = {key: value for key, value in merged.items() if value is not None}
            self._store.run(
                "INSERT INTO metadata VALUES (?, ?)"
                " ON CONFLICT (user_id) DO UPDATE SET body = excluded.body",
                user_id,
                json.dumps(merged),
            )
        return merged

    def remove(self, user_id: str) -> None:
        """Delete the metadata of a user."""
        self._store.delete("metadata", user_id=user_id)
