"""P12: the cost of a WebSocket message."""

from __future__ import annotations

import base64
import select
import time
from dataclasses import asdict, dataclass

from bench.rig import client, frames, goals
from bench.rig.processes import cpu
from bench.rig.report import Part, Table, percentile, ratios, spread
from bench.rig.rivals import BY_NAME, NGINX_SOCKETS, PORTS, Rival, Stage
from bench.rig.stage import forwarding_to, in_turn

_CONNECTIONS = 64
_PAYLOAD = 32
_RIVALS = (
    NGINX_SOCKETS,
    BY_NAME["haproxy"],
    BY_NAME["envoy"],
    BY_NAME["caddy"],
    BY_NAME["gateway"],
)


class WrongEcho(client.Failed):
    """An echo differs from its message, or a connection was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run. Each connection sends its next message when the echo has arrived."""

    messages: int
    per_s: float
    cpu_us: float
    """For each message and its echo."""
    user_us: float
    system_us: float
    busy: float
    p99_ms: float


def measure(stage: Stage, *, rounds: int, seconds: float) -> Part:
    """Send small messages to an echo service through each rival in turn."""
    with forwarding_to("echo_upstream", stage) as onto:

        def one(rival: Rival, pids: tuple[int, ...]) -> Sample:
            _sample(rival.port, stage, pids, 0.5)  # warm
            return _sample(rival.port, stage, pids, seconds)

        turns = in_turn(_RIVALS, onto, rounds=rounds, measure=one)
        bare = _sample(PORTS["echo_upstream"], stage, (), seconds)
    ours, theirs = (
        [s.cpu_us for s in turns.taken.get(name, [])]
        for name in ("gateway", NGINX_SOCKETS.name)
    )
    return Part(
        title="WebSocket messages",
        how=f"{_CONNECTIONS} connections, text messages of {_PAYLOAD} bytes; each"
        " connection sends the next message when the echo has arrived."
        f" {rounds} rounds of {seconds:g} s. Every echo was compared. Without a proxy,"
        f" the client and the echo service do {bare.per_s:,.0f} a second.",
        tables=[_table(turns.taken)],
        targets=goals.judged("P12", ratios(ours, theirs)),
        notes=turns.missing,
        samples={name: [asdict(s) for s in f] for name, f in turns.taken.items()},
    )


def _table(taken: dict[str, list[Sample]]) -> Table:
    return Table(
        columns=(
            "who",
            "CPU µs/message",
            "user",
            "system",
            "busy",
            "messages/s",
            "p99 ms",
        ),
        rows=[
            (
                name,
                spread([s.cpu_us for s in found]).text(),
                f"{spread([s.user_us for s in found]).median:.1f}",
                f"{spread([s.system_us for s in found]).median:.1f}",
                f"{spread([s.busy for s in found]).median:.0%}",
                f"{spread([s.per_s for s in found]).median:,.0f}",
                f"{spread([s.p99_ms for s in found]).median:.2f}",
            )
            for name, found in taken.items()
        ],
    )


# --- the load ---------------------------------------------------------------


class Peer:
    """One WebSocket, and the message whose echo it waits for."""

    def __init__(self, port: int, token: str, number: int) -> None:
        key = base64.b64encode(number.to_bytes(16, "big")).decode()
        more = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        self.sock = client.dial(port)
        self.sock.sendall(client.head(port, token=token, more=more))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (data := self.sock.recv(4096)):
                break
            head += data
        if not head.startswith(b"HTTP/1.1 101 "):
            raise WrongEcho(f"no handshake: {head[:200]!r}")
        self._mask = (0x1BADB002 + number).to_bytes(4, "big")
        self._number = number
        self._count = 0
        self._expected = b""
        self._received = b""
        self.sent_at = 0.0

    def send(self) -> None:
        """Send the next message; no two messages are equal."""
        self._count += 1
        payload = b"%04d:%010d" % (self._number, self._count)
        payload = payload.ljust(_PAYLOAD, b".")
        self._expected = frames.unmasked(payload)
        self.sent_at = time.perf_counter()
        self.sock.send(frames.masked(payload, self._mask))

    def receive(self) -> bool:
        """Read from the socket; return whether the echo is complete.

        Raises:
            WrongEcho: it differs from the message, or the connection was closed.
        """
        data = self.sock.recv(4096)
        self._received += data
        if not data or not self._expected.startswith(self._received):
            raise WrongEcho(f"{self._received!r} instead of {self._expected!r}")
        if self._received != self._expected:
            return False
        self._received = b""
        return True


def _sample(port: int, stage: Stage, pids: tuple[int, ...], seconds: float) -> Sample:
    peers = [Peer(port, stage.token, number) for number in range(_CONNECTIONS)]
    try:
        return _talk(peers, pids, seconds)
    finally:
        for peer in peers:
            peer.sock.close()


def _talk(peers: list[Peer], pids: tuple[int, ...], seconds: float) -> Sample:
    took: list[float] = []
    by_number = {peer.sock.fileno(): peer for peer in peers}
    before, begun = cpu(pids), time.perf_counter()
    with select.epoll() as epoll:
        for number, peer in by_number.items():
            epoll.register(number, select.EPOLLIN)
            peer.send()
        while (now := time.perf_counter()) < begun + seconds:
            for number, _ in epoll.poll(1):
                peer = by_number[number]
                if peer.receive():
                    took.append(time.perf_counter() - peer.sent_at)
                    peer.send()
    used = cpu(pids).since(before)
    if not took:
        raise WrongEcho("no echo arrived")
    return Sample(
        messages=len(took),
        per_s=len(took) / (now - begun),
        cpu_us=used.total_s / len(took) * 1e6,
        user_us=used.user_s / len(took) * 1e6,
        system_us=used.system_s / len(took) * 1e6,
        busy=used.total_s / (now - begun),
        p99_ms=percentile(took, 0.99) * 1000,
    )
