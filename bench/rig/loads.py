"""The kinds of requests whose instructions are counted, and the checks of the answers.

The upstream is `mirror_upstream`: an answer is right if its body describes exactly
this request, with the user of the session. WebSocket messages go to `echo_upstream`,
and each echo is compared with its message.
"""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.parts import sockets
from bench.rig import client, mirror_upstream

_TIMEOUT_S = 60.0
"""How long to wait for a byte on any connection."""
ORIGIN = "http://localhost:8000"
"""The website's origin in the gateway's configuration."""


class WrongAnswer(client.Failed):
    """An answer has another status or body than expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The user of the requests, with tokens."""

    user: str
    token: str
    """The token that most loads send with every request."""
    new: Sequence[str] = ()
    """Tokens that haven't been sent before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and its expected answer."""

    lines: tuple[str, ...]
    """The header lines after Host."""
    method: str = "GET"
    target: str = "/orders"
    body: bytes = b""
    is_public: bool = False
    sender: str = "127.0.0.1"
    """The X-Forwarded-For that the upstream must receive."""
    replies: bytes = b""
    """A line, in lower case, that the reply's head must have."""

    def message(self, port: int) -> bytes:
        more = "".join(f"{line}\r\n" for line in self.lines)
        head = client.head(port, self.target, method=self.method, more=more)
        return head + self.body

    def answer(self, user: str) -> bytes:
        """Return the expected body."""
        return mirror_upstream.body(
            user="" if self.is_public else user,
            sender=self.sender,
            target=self.target,
            size=len(self.body),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of request."""

    name: str
    does: str
    ask: Callable[[Session, int], Asked] | None
    """Returns a request for its number, from 0. None for WebSocket messages."""
    is_terminated: bool = False
    """The gateway trusts its peer's X-Forwarded-*, and writes an access log in JSON."""
    takes_tokens: bool = False
    """Each request has a new token."""


def _bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def _same(session: Session, _: int) -> Asked:
    return Asked(lines=(_bearer(session.token),))


def _path(session: Session, number: int) -> Asked:
    return Asked(target=f"/orders/{number:08d}", lines=(_bearer(session.token),))


def _field(session: Session, number: int) -> Asked:
    # All digits vary, as in a random identifier.
    trace = f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"
    return Asked(
        lines=(
            _bearer(session.token),
            "User-Agent: orders/1.4",
            "Accept: application/json",
            f"traceparent: 00-{trace}-{trace[8:24]}-01",
        )
    )


def _browser(session: Session, _: int) -> Asked:
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0"
    cookies = f"theme=dark; _ga=GA1.1.12345.1750000; sAccessToken={session.token}"
    return Asked(
        lines=(
            "Connection: keep-alive",
            'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"',
            "sec-ch-ua-mobile: ?0",
            'sec-ch-ua-platform: "Linux"',
            f"User-Agent: {agent}",
            "Accept: application/json",
            "Sec-Fetch-Site: same-origin",
            "Sec-Fetch-Mode: cors",
            "Sec-Fetch-Dest: empty",
            f"Referer: {ORIGIN}/orders",
            "Accept-Encoding: gzip, deflate, br, zstd",
            "Accept-Language: de-DE,de;q=0.9,en;q=0.8",
            f"Cookie: {cookies}",
        )
    )


def _fwd(session: Session, _: int) -> Asked:
    return Asked(
        lines=(
            _bearer(session.token),
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: api.example.com",
        ),
        sender="203.0.113.7, 127.0.0.1",
    )


def _post(session: Session, _: int) -> Asked:
    body = b'{"item":"0123456789","count":1,"x":true}'
    return Asked(
        method="POST",
        lines=(
            _bearer(session.token),
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ),
        body=body,
    )


def _origin(session: Session, _: int) -> Asked:
    return Asked(
        lines=(_bearer(session.token), f"Origin: {ORIGIN}"),
        replies=f"access-control-allow-origin: {ORIGIN}".encode(),
    )


def _new_token(session: Session, number: int) -> Asked:
    return Asked(lines=(_bearer(session.new[number]),))


def _public(_: Session, __: int) -> Asked:
    return Asked(target="/open", lines=(), is_public=True)


LOADS = (
    Load(name="same", does="one protected head, verbatim", ask=_same),
    Load(name="path", does="every target new", ask=_path),
    Load(name="field", does="5 lines, traceparent new each time", ask=_field),
    Load(name="browser", does="14 lines, the session in cookies", ask=_browser),
    Load(
        name="fwd",
        does="behind a trusted terminator, access log in JSON",
        ask=_fwd,
        is_terminated=True,
    ),
    Load(name="post", does="a body of 40 bytes", ask=_post),
    Load(name="origin", does="from a page of an allowed origin (CORS)", ask=_origin),
    Load(
        name="new_token",
        does="every token new, its signature verified",
        ask=_new_token,
        takes_tokens=True,
    ),
    Load(name="public", does="no session, a public route", ask=_public),
    Load(name="websocket", does="a message of 32 bytes and its echo", ask=None),
)
BY_NAME = {load.name: load for load in LOADS}


# --- the clients ------------------------------------------------------------


class _Peer(Protocol):
    """One connection with a request in flight."""

    sock: socket.socket

    def send(self) -> None: ...

    def receive(self) -> bool:
        """Read from the socket; return whether the answer is complete.

        Raises:
            client.Failed: the answer is wrong, or the connection ended.
        """
        ...


class _Client:
    """A keep-alive connection that sends the load's next request each time."""

    def __init__(
        self,
        port: int,
        ask: Callable[[Session, int], Asked],
        session: Session,
        numbers: Iterator[int],
    ) -> None:
        self.sock = client.dial(port)
        self._port, self._ask, self._session = port, ask, session
        self._numbers = numbers
        self._request: Asked
        self._received = b""

    def send(self) -> None:
        self._request = self._ask(self._session, next(self._numbers))
        self.sock.sendall(self._request.message(self._port))

    def receive(self) -> bool:
        data = self.sock.recv(65536)
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if data and len(body) < mirror_upstream.SIZE and _is_200(head):
            return False
        request = self._request
        lines = head.lower().split(b"\r\n")
        if (
            not end
            or not _is_200(head)
            or body != request.answer(self._session.user)
            or (request.replies and request.replies not in lines)
        ):
            line = f"{request.method} {request.target}"
            raise WrongAnswer(
                f"{line} was answered with {self._received[:600]!r}"
                if self._received
                else f"the connection ended before an answer to {line}"
            )
        self._received = b""
        return True


def _is_200(head: bytes) -> bool:
    return b"HTTP/1.1 200 ".startswith(head[:13])


class Crowd:
    """Connections that send one load. Each sends its next request after its answer.

    The caller closes it after use.
    """

    def __init__(
        self, load: Load, session: Session, *, port: int, connections: int
    ) -> None:
        numbers = itertools.count()
        ask = load.ask
        self._peers: list[_Peer] = []
        for number in range(connections):
            self._peers.append(
                sockets.Peer(port, session.token, number)
                if ask is None
                else _Client(port, ask, session, numbers)
            )

    def send(self, count: int) -> None:
        """Send *count* requests and wait for all answers.

        Raises:
            client.Failed: an answer is wrong, or nothing was received for a minute.
        """
        by_number = {peer.sock.fileno(): peer for peer in self._peers}
        with select.epoll() as epoll:
            for number in by_number:
                epoll.register(number, select.EPOLLIN)
            sent = min(count, len(self._peers))
            for peer in self._peers[:sent]:
                peer.send()
            answered = 0
            while answered < count:
                ready = epoll.poll(_TIMEOUT_S)
                if not ready:
                    raise client.NotAnswered(
                        f"nothing received for {_TIMEOUT_S:g} s, {answered} answers in"
                    )
                for number, _ in ready:
                    if not by_number[number].receive():
                        continue
                    answered += 1
                    if sent < count:
                        sent += 1
                        by_number[number].send()

    def close(self) -> None:
        for peer in self._peers:
            peer.sock.close()
