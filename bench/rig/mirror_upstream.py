"""An upstream whose reply describes the request: `… mirror_upstream PORT`.

Every reply has the five header fields that nginx sends, and a body of 150 bytes. The
function `body` returns the expected body, for those who check it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

SIZE = 150
"""Bytes in each body."""
_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n" % SIZE
)
"""The date is constant: a proxy at full speed also sees the same date for a second."""


def body(*, user: str, sender: str, target: str, size: int) -> bytes:
    """Return the body that answers a request.

    *user* is its X-User-Id, *sender* its X-Forwarded-For, *size* its body's length.
    """
    text = (
        f'{{"user":"{user}","for":"{sender}","got":{size},"target":"{target}","pad":"'
    )
    return (text.ljust(SIZE - 2, "x") + '"}').encode("latin-1")


def answer(received: bytes) -> tuple[bytes, bytes]:
    """Return the replies to complete requests, and the start of the next request.

    A request without Content-Length has no body.
    """
    answers = []
    while True:
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            break
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        size = int(fields.get("content-length", "0"))
        if len(rest) < size:
            break
        reply_body = body(
            user=fields.get("x-user-id", ""),
            sender=fields.get("x-forwarded-for", ""),
            target=first.split(" ")[1],
            size=size,
        )
        answers.append(_HEAD + reply_body)
        received = rest[size:]
    return b"".join(answers), received


class _Mirror(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        answers, self._got = answer(self._got + data)
        if answers:
            self._transport.write(answers)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Mirror, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
