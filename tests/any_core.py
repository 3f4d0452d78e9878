"""Which core a test talks to: an embedded one, or the one that is named from outside.

Tests marked `any_core` need nothing but the core's protocol, and leave nothing behind
but users with names of their own. With SUPERTOKENS_CONNECTION_URI set they take the
core at that address (`make test-core`); no other test does, whatever is set.
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
class GivenCore:
    """A core that was there before. There are no switches to turn on it."""

    url: str


@contextmanager
def core_url() -> Iterator[str]:
    """Return the address of the given core, or of an embedded one for the block."""
    if URI is not None:
        yield URI
        return
    # In a thread, because the SDK's key fetch blocks the loop of its caller.
    with serve_in_thread() as running:
        yield running.url


def new_email(name: str) -> str:
    """Return an address that no user of any core has had."""
    return f"{name}-{_run}-{next(_numbers)}@example.com"
