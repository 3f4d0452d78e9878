"""edge. The embedded development core: CDI 5.4 for the unmodified SDK, over real HTTP.

For development and tests only. Production uses the real SuperTokens core.
"""

from __future__ import annotations

from gateway.dev.core.core import Core
from gateway.dev.core.faults import Fault, Faults
from gateway.dev.core.serving import (
    NOTICE,
    RunningCore,
    ThreadedCore,
    UnsafeBind,
    check_bind,
    run,
    serve,
    serve_in_thread,
)
from gateway.dev.core.settings import BadSettings, CoreSettings
from gateway.dev.core.store import StoreError

__all__ = [
    "NOTICE",
    "BadSettings",
    "Core",
    "CoreSettings",
    "Fault",
    "Faults",
    "RunningCore",
    "StoreError",
    "ThreadedCore",
    "UnsafeBind",
    "check_bind",
    "run",
    "serve",
    "serve_in_thread",
]
