"""edge. The gateway as an aiohttp application, for services and tests that embed it.

    web.run_app(gateway_app("routes.yaml"))
    outer.add_subapp("/api", gateway_app("routes.yaml"))

`proxy` has the ten steps, here as behind the listener; only the client's side is
aiohttp's. docs/embedding.md has examples.

Limits
- One gateway runs in a process at a time, because the SDK is one: a second `init` is
  ignored. A gateway with other `supertokens` settings can't follow in the same process,
  but for tests, after `reset`.
- aiohttp's server reads requests and answers malformed ones itself: its 400 has another
  form, and no record. Chunks that break off in their framing are a 408 after
  `body_idle_timeout`. There is no `head_timeout`, `max_head_size` is judged when the
  head is whole, and `max_connections`, `listen` and `drain_timeout` aren't used.
- aiohttp writes header fields as UTF-8: a reply with other bytes in one is a 502. Its
  replies begin with the version of the request, `HTTP/1.0` say.
- An application around it must be made with `handler_args=HANDLER_ARGS`.
"""

from __future__ import annotations

from gateway.aiohttp_app.application import (
    GATEWAY,
    HANDLER_ARGS,
    NoStrictParser,
    OneGateway,
    application,
    check_parser,
    gateway_app,
    reset,
)

__all__ = [
    "GATEWAY",
    "HANDLER_ARGS",
    "NoStrictParser",
    "OneGateway",
    "application",
    "check_parser",
    "gateway_app",
    "reset",
]
