"""What stays open with a session: a WebSocket and a stream, and how each is closed."""

from __future__ import annotations

from faults import CHUNKED_HEAD, OK, Peer

HANDSHAKE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", "http://localhost:8000"),
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
SESSION_ENDED = b"\x88\x0f" + (4401).to_bytes(2, "big") + b"session ended"


async def serve_upstream(peer: Peer) -> None:
    """Upgrade, stream, or answer 200."""
    while True:
        received = await peer.request()
        if received.field(b"upgrade"):
            await peer.send(SWITCH)
            await peer.gone()
            return
        if b"/events" in received.line:
            await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
            await peer.gone()
            return
        await peer.send(OK)
