"""edge. The upstream leg: HTTP/1.1 connections to the services, byte for byte.

The request head leaves exactly as it was given, and the reply's fields come back
exactly as they arrived. Everything else is strict: a reply that two parsers could
read differently is `BadReply`, and its connection is never used again.

How it is used::

    upstreams = Upstreams()                                    # one per worker
    pool = upstreams.pool(UpstreamTarget.parse("http://10.0.0.7:8080"))   # at load
    reply = await pool.exchange(head, method="GET", timeouts=timeouts)
    try:
        body = reply.read_now()             # what came with the head
        while not reply.complete:
            body = await reply.read()
    finally:
        reply.close()                       # gives up what wasn't read
    await upstreams.close()

What is sent twice, and what never is
    - Connecting: every address of a name is tried once, in turn, within
      `timeouts.connect`. Nothing of the request was sent, so the caller may try
      another target (`error.unsent`).
    - GET, HEAD and OPTIONS without a body, on a connection that had served before
      and that was closed or reset before the first byte of the reply: sent once
      more, on a fresh connection. That is the race with an upstream that closes
      its idle connections. `replay=False` turns it off.
    - Nothing else. PUT and DELETE are idempotent by the letter, but a service may
      have acted on the first one: whoever wants them again must say so. For these
      and for POST, that a used connection is looked at first (below) leaves the race
      as narrow as it can be made.

Whose turn it is
    A deadline runs only while the upstream has to act: `connect` (waiting for a
    place in the pool, DNS, TCP and TLS together), `response` (from the end of the
    request to the reply's head), `idle` (between two pieces, of the reply's body
    or of the request's while the upstream doesn't take it). `total` bounds all of
    it. While the client is slow, nothing runs but `total`.

When a connection is used again
    Only if the reply is complete, the request was sent to its end, both sides
    allow it, and not one byte more has arrived. Before each reuse the socket is
    asked once more: bytes that lie unread there would be taken for the reply to
    another user's request. Idle connections are closed after `keepalive_s`, or a
    second before the upstream said that it would close (`Keep-Alive: timeout=`).
"""

from gateway.upstream.address import UpstreamTarget
from gateway.upstream.events import Events
from gateway.upstream.pool import UpstreamPool, Upstreams
from gateway.upstream.reply import Reply
from gateway.upstream.tunnel import UpstreamTunnel

__all__ = [
    "Events",
    "Reply",
    "UpstreamPool",
    "UpstreamTarget",
    "UpstreamTunnel",
    "Upstreams",
]
