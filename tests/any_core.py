"""The core of a test: an embedded one, or the one at SUPERTOKENS_CONNECTION_URI.

Tests marked `any_core` need only what the SDK relies on in a core, and leave only users
with unique names behind. If SUPERTOKENS_CONNECTION_URI is set, they use the core at
that address (`make test-core`). All other tests use an embedded core.

A real core is more lenient than the embedded one: it accepts `0` as a boolean and `//`
in a path, and answers 500 to some malformed tokens. Tests that hold the embedded core's
strictness are marked `embedded` and are skipped if there is an external core. A test
is skipped, too, if the external core answers 402: it has no licence for the feature.
"""

from __future__ import annotations

import itertools
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

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


_PAID: re.Pattern[str] = re.compile(r"status code: 402 and message: (.*)", re.DOTALL)
"""The SDK's exception for a core that answers 402."""


def skip_if_paid(status: int, text: str) -> None:
    """Skip the test if a core has answered 402: it needs a licence for this."""
    if status == 402:
        pytest.skip(f"the core has no licence for this: {text.strip()}")


def skip_if_sdk_met_paid(error: BaseException) -> None:
    """Skip the test if *error* is the SDK's for a core that has answered 402."""
    if (found := _PAID.search(str(error))) is not None:
        skip_if_paid(402, found[1])
