"""Requests at a constant rate, with each latency measured from its due time.

A load generator that waits for an answer before it sends the next request doesn't
measure how a stall delays the requests that are due meanwhile ("coordinated omission").
Here every request has a due time. If no connection is free then, the request waits, and
the wait is part of its latency.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.rig import client

_END_S = 10.0
"""How long to wait for answers after the last request was due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """The result of one run."""

    latencies_ms: list[float]
    late_ms: list[float]
    """How late the generator sent each request, without waits for a free connection."""
    wrong: int
    seconds: float


class Unanswered(client.Failed):
    """Requests weren't answered in time, or a connection was closed."""


class _Connection:
    __slots__ = ("due", "free_at", "got", "sock")

    def __init__(self, port: int) -> None:
        self.sock = client.dial(port)
        self.sock.setblocking(False)
        self.due = self.free_at = 0.0
        self.got = b""


def run(
    port: int,
    request: bytes,
    *,
    is_right: Callable[[bytes], bool],
    rate: float,
    seconds: float,
    connections: int,
) -> Paced:
    """Send *request* at *rate* a second over *connections*; check each answer.

    Raises:
        Unanswered: requests weren't answered in time, or a connection was closed.
    """
    opened = [_Connection(port) for _ in range(connections)]
    gc.collect()
    gc.disable()
    try:
        return _run(opened, request, is_right, rate, seconds)
    finally:
        gc.enable()
        for one in opened:
            one.sock.close()


def _run(
    connections: list[_Connection],
    request: bytes,
    is_right: Callable[[bytes], bool],
    rate: float,
    seconds: float,
) -> Paced:
    free = deque(connections)
    by_number = {one.sock.fileno(): one for one in connections}
    latencies: list[float] = []
    late: list[float] = []
    wrong = 0
    now = time.perf_counter
    with select.epoll() as epoll:
        for number in by_number:
            epoll.register(number, select.EPOLLIN)
        # epoll waits whole milliseconds; select on the epoll file waits microseconds.
        watched = (epoll.fileno(),)
        total = int(rate * seconds)
        sent = 0
        begin = now() + 0.01
        while len(latencies) < total:
            at = now()
            while sent < total and free and (due := begin + sent / rate) <= at:
                one = free.popleft()
                one.due = due
                late.append((now() - max(due, one.free_at)) * 1000)
                one.sock.send(request)
                sent += 1
            if at > begin + seconds + _END_S:
                raise Unanswered(f"{total - len(latencies)} of {total} requests")
            wait = begin + sent / rate - now() if free and sent < total else 0.1
            if wait > 0:
                select.select(watched, (), (), wait)
            for number, _ in epoll.poll(0):
                one = by_number[number]
                body = _answer(one)
                if body is None:
                    continue
                one.free_at = now()
                latencies.append((one.free_at - one.due) * 1000)
                wrong += not is_right(body)
                free.append(one)
        return Paced(
            latencies_ms=latencies, late_ms=late, wrong=wrong, seconds=now() - begin
        )


def _answer(one: _Connection) -> bytes | None:
    """Read from the connection; return the answer when it is complete, else None."""
    data = _received(one.sock)
    if not data:
        raise Unanswered("a connection was closed")
    one.got += data
    head, end, body = one.got.partition(b"\r\n\r\n")
    if not end:
        return None
    length = head.lower().partition(b"\r\ncontent-length:")[2]
    if len(body) < int(length.partition(b"\r\n")[0] or 0):
        return None
    whole, one.got = one.got, b""
    return whole


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError as exc:
        raise Unanswered(str(exc)) from exc
