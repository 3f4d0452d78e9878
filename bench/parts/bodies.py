"""P7: the CPU time and memory of a large body in each direction."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Literal

from bench.rig import big_upstream, client, goals
from bench.rig.processes import cpu, family, forget_peak, peak_bytes
from bench.rig.processes import resident_bytes as resident
from bench.rig.report import Part, Table, Target, ratios, spread
from bench.rig.rivals import BY_NAME, NGINX_64K, NGINX_UNBUFFERED, PORTS, Rival, Stage
from bench.rig.stage import forwarding_to, in_turn

_MIB = 1024 * 1024
_RIVALS = (
    NGINX_UNBUFFERED,
    NGINX_64K,
    BY_NAME["haproxy"],
    BY_NAME["envoy"],
    BY_NAME["caddy"],
    BY_NAME["gateway"],
)
Direction = Literal["upload", "download"]
_BOTH: tuple[Direction, ...] = ("upload", "download")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One body through one proxy; the receiver checks each byte."""

    direction: Direction
    seconds: float
    user_s: float
    system_s: float
    grown_bytes: int
    """Peak resident memory of the process tree, minus that before the body."""

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


class WrongBody(client.Failed):
    """The received body differs from the sent one."""


def measure(stage: Stage, *, rounds: int, mib: int) -> Part:
    """Send a body of *mib* MiB up and down through each rival in turn."""
    size = mib * _MIB
    with forwarding_to("big_upstream", stage) as onto:

        def one(rival: Rival, pids: tuple[int, ...]) -> list[Sample]:
            for direction in _BOTH:  # warm-up: allocates buffers, opens connections
                _sample(rival.port, direction, 16 * _MIB, stage.token, pids)
            return [
                _sample(rival.port, direction, size, stage.token, pids)
                for direction in _BOTH
            ]

        turns = in_turn(_RIVALS, onto, rounds=rounds, measure=one)
        bare = [
            _sample(PORTS["big_upstream"], direction, size, None, ())
            for direction in _BOTH
        ]
    taken = {
        (name, direction): [
            sample for both in found for sample in both if sample.direction == direction
        ]
        for name, found in turns.taken.items()
        for direction in _BOTH
    }
    gib = size / 1024 / _MIB
    does = {rival.name: rival.does for rival in _RIVALS}
    without = ", ".join(f"{s.direction} {gib / s.seconds:.1f} GiB/s" for s in bare)
    return Part(
        title="Large bodies",
        how=f"{gib:g} GiB in one request over one connection, {rounds} rounds. The"
        " receiver compares each byte with a pattern. nginx is configured not to"
        " buffer, once with its default buffer sizes and once with 64 KiB. Busy is the"
        " CPU of the proxy as a share of its core; if it is well below 100 %, the load"
        f" generator or the upstream was the bottleneck. Without a proxy: {without}.",
        tables=[_table(taken, does, gib)],
        targets=_targets(taken),
        notes=turns.missing,
        samples={
            f"{name}, {direction}": [asdict(s) for s in found]
            for (name, direction), found in taken.items()
        },
    )


def _targets(taken: dict[tuple[str, Direction], list[Sample]]) -> list[Target]:
    targets: list[Target] = []
    for direction in _BOTH:
        ours, plain = (
            [s.cpu_s for s in taken.get((name, direction), [])]
            for name in ("gateway", NGINX_64K.name)
        )
        grown = [s.grown_bytes / _MIB for s in taken.get(("gateway", direction), [])]
        targets += goals.judged(f"P7 {direction}", ratios(ours, plain))
        targets += goals.judged(f"P7 memory, {direction}", grown)
    return targets


def _table(
    taken: dict[tuple[str, Direction], list[Sample]], does: dict[str, str], gib: float
) -> Table:
    return Table(
        columns=(
            "who",
            "direction",
            "CPU s/GiB",
            "user",
            "system",
            "busy",
            "GiB/s",
            "memory grew by, MiB",
            "does",
        ),
        rows=[
            (
                name,
                direction,
                spread([s.cpu_s / gib for s in found]).text(2),
                f"{spread([s.user_s / gib for s in found]).median:.2f}",
                f"{spread([s.system_s / gib for s in found]).median:.2f}",
                f"{spread([s.cpu_s / s.seconds for s in found]).median:.0%}",
                f"{spread([gib / s.seconds for s in found]).median:.2f}",
                spread([s.grown_bytes / _MIB for s in found]).text(),
                does[name],
            )
            for (name, direction), found in taken.items()
        ],
    )


def _sample(
    port: int,
    direction: Direction,
    size: int,
    token: str | None,
    pids: tuple[int, ...],
) -> Sample:
    """Send one body, and return its cost to *pids*.

    Raises:
        WrongBody: the received body differs from the sent one.
        NotAnswered, OSError: as `client.ask`.
    """
    members = family(pids)
    for member in members:
        forget_peak(member)
    before, memory = cpu(pids), sum(map(resident, members))
    begun = time.monotonic()
    (_upload if direction == "upload" else _download)(port, size, token)
    took = time.monotonic() - begun
    used = cpu(pids).since(before)
    return Sample(
        direction=direction,
        seconds=took,
        user_s=used.user_s,
        system_s=used.system_s,
        grown_bytes=sum(map(peak_bytes, members)) - memory,
    )


def _upload(port: int, size: int, token: str | None) -> None:
    more = f"Content-Length: {size}\r\n"
    pattern = big_upstream.pattern_file()
    try:
        with client.connected(port) as sock:
            head = client.head(port, "/", method="POST", token=token, more=more)
            sock.sendall(head)
            sent = 0
            while sent < size:
                count = min(big_upstream.PIECE, size - sent)
                at = sent % big_upstream.PERIOD
                sent += os.sendfile(sock.fileno(), pattern, at, count)
            reply = client.answer(sock)
    finally:
        os.close(pattern)
    if reply.body != b'{"bytes":%d,"wrong":0}' % size:
        raise WrongBody(f"the upstream's reply is {reply}")


def _download(port: int, size: int, token: str | None) -> None:
    view = memoryview(bytearray(big_upstream.PIECE))
    with client.connected(port) as sock:
        sock.sendall(client.head(port, f"/bytes/{size}", token=token))
        status, length, data = client.begun(sock)
        if status != 200 or length != size:
            raise WrongBody(f"status {status}, {length} bytes instead of {size}")
        if not big_upstream.is_pattern(memoryview(data), 0):
            raise WrongBody("it differs at its start")
        received = len(data)
        while received < size:
            count = sock.recv_into(view)
            if not count:
                raise WrongBody(f"{received} bytes instead of {size}")
            if not big_upstream.is_pattern(view[:count], received):
                raise WrongBody(f"it differs after {received} bytes")
            received += count
