"""The core of a test: an embedded one, or the one at SUPERTOKENS_CONNECTION_URI.

Tests marked `any_core` need only the core's protocol, and leave only users with unique
names behind. If SUPERTOKENS_CONNECTION_URI is set, they use the core at that address
(`make test-core`). All other tests use an embedded core.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.dev.core import serve_in_thread

URI = os.environ.get("SUPERTOKENS_CONNECTION_URI", "").rstrip("/") or None

_run = uuid.uuid4().hex[:8]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class ExternalCore:
    """The core at SUPERTOKENS_CONNECTION_URI. Faults can't be set on it."""

    url: str


@contextmanager
def core_url() -> Iterator[str]:
    """Return the address of the external core, or of an embedded one for the block."""
    if URI is not None:
        yield URI
        return
    # It runs in a thread, because the SDK's key fetch blocks the loop of its caller.
    with serve_in_thread() as running:
        yield running.url


def new_email(name: str) -> str:
    """Return an address that no user has had before, in any core."""
    return f"{name}-{_run}-{next(_numbers)}@example.com"
