"""edge. Listening sockets, signals, and how serving ends, in one process.

`workers` uses the parts; `run` and `serve_until_cancelled` serve without a supervisor.
There SIGTERM, SIGINT and SIGHUP stop accepting, let requests in flight finish within
`gateway.drain_timeout`, and exit; a second SIGTERM or SIGINT exits at once.
"""

from __future__ import annotations

from gateway.server.serve import (
    LAST_REQUESTS_S,
    Entrance,
    hosting,
    run,
    serve_until_cancelled,
    serving,
    settle_garbage,
)
from gateway.server.signals import has_nohup, stop_signal
from gateway.server.sockets import (
    ListenError,
    bind,
    raise_descriptor_limit,
    share,
    url_of,
)

__all__ = [
    "LAST_REQUESTS_S",
    "Entrance",
    "ListenError",
    "bind",
    "has_nohup",
    "hosting",
    "raise_descriptor_limit",
    "run",
    "serve_until_cancelled",
    "serving",
    "settle_garbage",
    "share",
    "stop_signal",
    "url_of",
]
