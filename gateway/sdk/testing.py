"""edge. Forgetting the SDK of this process, so that a test can start another.

The SDK is a set of singletons that only reset when SUPERTOKENS_ENV is "testing"; that
is so for the moment of the reset and at no other time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import gateway.sdk

_RECIPES = "supertokens_python.recipe."


def reset() -> None:
    """Forget the SDK, its recipes, its keys and its connection to a core.

    For tests only: whoever uses an `Sdk` that was started before has closed it.
    """
    before = os.environ.get("SUPERTOKENS_ENV")
    os.environ["SUPERTOKENS_ENV"] = "testing"
    try:
        for singleton in _singletons():
            singleton.reset()
    finally:
        if before is None:
            del os.environ["SUPERTOKENS_ENV"]
        else:
            os.environ["SUPERTOKENS_ENV"] = before
    gateway.sdk.forget()


def _singletons() -> Iterator[Any]:
    """Yield all that is to be reset; what isn't loaded has no instance."""
    loaded = sys.modules.get
    if module := loaded("supertokens_python.supertokens"):
        yield module.Supertokens
    if module := loaded("supertokens_python.querier"):
        yield module.Querier
    for name, module in tuple(sys.modules.items()):
        if name.startswith(_RECIPES) and name.endswith(".recipe"):
            for one in tuple(vars(module).values()):
                is_own = isinstance(one, type) and one.__module__ == name
                if is_own and hasattr(one, "reset"):
                    yield one
    if module := loaded("supertokens_python.process_state"):
        yield module.ProcessState.get_instance()
    if module := loaded("supertokens_python.post_init_callbacks"):
        yield module.PostSTInitCallbacks
