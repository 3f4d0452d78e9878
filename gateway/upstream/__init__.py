"""edge. The upstream leg: HTTP/1.1 connections to the services, byte for byte.

The caller's request head is sent unchanged, and the reply's fields are returned
unchanged. Everything else is strict: a reply that two parsers could read differently
raises `BadReply`, and its connection is never used again.

Usage::

    upstreams = Upstreams()                                    # one per worker
    pool = upstreams.pool(UpstreamTarget.parse("http://10.0.0.7:8080"))   # at load
    reply = await pool.exchange(head, method="GET", timeouts=timeouts)
    try:
        body = reply.read_now()             # the part that arrived with the head
        while not reply.complete:
            body = await reply.read()
    finally:
        reply.close()                       # discards the unread part
    await upstreams.close()

Retries
    - Connecting: every address of a name is tried once, in turn, within
      `timeouts.connect`. No byte of the request has been sent, so the caller may try
      another target (`error.unsent`).
    - GET, HEAD and OPTIONS without a body are sent a second time, on a new
      connection, if a reused connection was closed or reset before the first byte of
      the reply. This happens when the upstream closes an idle connection at the same
      moment. `replay=False` turns it off.
    - No other request is sent twice. PUT and DELETE are idempotent by the RFC, but a
      service may have acted on the first one, so only the client may repeat them. For
      these and for POST, the check before each reuse (below) makes the race as
      unlikely as possible.

Deadlines
    A deadline runs only while the gateway waits for the upstream: `connect` (waiting
    for a place in the pool, DNS, TCP and TLS together), `response` (from the end of
    the request to the reply's head), `idle` (between two pieces of the reply's body,
    or while the upstream accepts no more of the request's body). `total` bounds the
    whole exchange. While the gateway waits for the client, only `total` runs.

Reuse of connections
    A connection is reused only if the reply is complete, the whole request was sent,
    both sides allow it, and no surplus byte has arrived. Before each reuse, the socket
    is polled: unread bytes would be taken for the reply to another user's request.
    Idle connections are closed after `keepalive_s`, or one second before the time that
    the upstream announced (`Keep-Alive: timeout=`).
"""

from gateway.upstream.address import UpstreamTarget
from gateway.upstream.events import Events
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.reply import Reply
from gateway.upstream.targets import ServiceTargets
from gateway.upstream.tunnel import UpstreamTunnel
from gateway.upstream.upstreams import Upstreams

__all__ = [
    "Events",
    "Reply",
    "ServiceTargets",
    "UpstreamPool",
    "UpstreamTarget",
    "UpstreamTunnel",
    "Upstreams",
]
