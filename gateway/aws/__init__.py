"""edge. The gateway behind an event of AWS Lambda: whole, or as an authorizer.

`events` reads which request an event is about, and `answers` writes the reply; both
are pure. `serving` serves requests, `authorizing` decides about them only, with the
answers of `policies`. `kept` is the gateway between two events.

A function names `gateway.aws.handler` or `gateway.aws.authorizer` as its handler. It is
made when it is looked up, which AWS does while it initializes the function. So each has
only its own imports.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_MADE_BY: Final = {"handler": "serving", "authorizer": "authorizing"}
"""Handler → the module whose `ready` makes it."""


def __getattr__(name: str) -> Any:
    if name not in _MADE_BY:
        raise AttributeError(name)
    made = importlib.import_module(f"gateway.aws.{_MADE_BY[name]}").ready()
    globals()[name] = made  # once for the process
    return made
