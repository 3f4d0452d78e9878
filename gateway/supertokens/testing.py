"""edge. Forgetting the SDK of this process, so that a test can start another.

The SDK is a set of singletons that only reset when SUPERTOKENS_ENV is "testing"; that
is so for the moment of the reset and at no other time.
"""

from __future__ import annotations

import os

import gateway.supertokens
from gateway.seams import supertokens as seams


def reset() -> None:
    """Forget the SDK, its recipes, its keys and its connection to a core.

    For tests only. An `Sdk` that was started before must have been closed.
    """
    before = os.environ.get("SUPERTOKENS_ENV")
    os.environ["SUPERTOKENS_ENV"] = "testing"
    try:
        for singleton in seams.singletons():
            singleton.reset()
    finally:
        if before is None:
            del os.environ["SUPERTOKENS_ENV"]
        else:
            os.environ["SUPERTOKENS_ENV"] = before
    gateway.supertokens.forget()
