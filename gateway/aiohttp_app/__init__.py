"""edge. The gateway as an aiohttp application, for services and tests that embed it.

    web.run_app(gateway_app("routes.yaml"))
    outer.add_subapp("/api", gateway_app("routes.yaml"))

`proxy` performs the ten steps, as it does for the listener; only the client's side is
aiohttp's. docs/embedding.md has examples.

Limits
- Only one gateway runs in a process at a time, because the SDK is global: it ignores a
  second `init`. A later gateway in the same process can't have other `supertokens`
  settings, except in tests, after `reset`.
- aiohttp's server reads requests and answers malformed ones itself. Its 400 has another
  format, and is not recorded. A chunked body that stops within its framing is answered
  with 408 after `body_idle_timeout`. There is no `head_timeout`, `max_head_size` is
  checked when the head is complete, and `max_connections`, `listen`, `drain_timeout`,
  `shutdown_delay` and `probes`
  aren't used.
- aiohttp writes header fields as UTF-8: a reply with other bytes in a field becomes a
  502. The status line of a reply has the version of the request, such as `HTTP/1.0`.
- An outer application must be made with `handler_args=HANDLER_ARGS`.
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
