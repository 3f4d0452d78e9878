"""P8: the memory of connections that stay open after one request."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bench.rig import client, goals
from bench.rig.processes import family, share_of_memory
from bench.rig.report import Part, Table
from bench.rig.rivals import BY_NAME, Rival, Stage
from bench.rig.stage import in_turn

_MB = 1_000_000
_WANTED = 10_000
_SPARE = 600
"""File descriptors for everything but the idle connections."""
_NAMES = ("nginx", "haproxy", "envoy", "caddy", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resident memory of a process tree."""

    before_bytes: int
    """After one request."""
    after_bytes: int
    """With all connections open, each after its request."""


def measure(stage: Stage, *, connections: int) -> Part:
    """Open *connections* to each rival in turn, and measure its memory."""
    count = affordable(connections)
    rivals = [BY_NAME[name] for name in _NAMES]

    def one(rival: Rival, pids: tuple[int, ...]) -> Sample:
        def memory() -> int:
            # Memory that several processes share is counted once.
            return sum(share_of_memory(pid).proportional for pid in family(pids))

        before = memory()
        opened = hold(rival.port, count, token=stage.token)
        after = memory()
        close(opened)
        return Sample(before_bytes=before, after_bytes=after)

    turns = in_turn(rivals, stage, rounds=1, measure=one)
    notes = list(turns.missing)
    if count < connections:
        notes.append(f"Only {count:,} connections: the limit of open files")
    ours = [s.after_bytes / _MB for s in turns.taken.get("gateway", [])]
    return Part(
        title="Idle connections",
        how=f"{count:,} keep-alive connections, all open at once, each after one"
        " request with a token. Resident memory of the process tree, with shared pages"
        " counted once. The kernel's memory for the sockets isn't included; it is the"
        " same for all.",
        tables=[
            Table(
                columns=("who", "before, MB", "with all open, MB", "KiB a connection"),
                rows=[
                    (
                        name,
                        f"{found.before_bytes / _MB:.1f}",
                        f"{found.after_bytes / _MB:.1f}",
                        f"{_each(found, count):.2f}",
                    )
                    for name, (found,) in turns.taken.items()
                ],
            )
        ],
        # With fewer connections the goal can't be judged.
        targets=goals.judged("P8", ours if count >= _WANTED else []),
        notes=notes,
        samples={name: [asdict(s) for s in f] for name, f in turns.taken.items()},
    )


def _each(sample: Sample, count: int) -> float:
    return (sample.after_bytes - sample.before_bytes) / count / 1024


def affordable(connections: int) -> int:
    """Return *connections*, or fewer if the limit of open files requires it."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return connections
    return min(connections, most - _SPARE)


def hold(port: int, count: int, *, token: str | None = None) -> list[socket.socket]:
    """Return *count* open connections, each after one reply of 200.

    Raises:
        NotAnswered: a reply wasn't 200.
        OSError: as `client.ask`.
    """
    request = client.head(port, token=token)
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(client.dial(port))
            answer = client.ask(opened[-1], request)
            if answer.status != 200:
                raise client.NotAnswered(f"status {answer.status}")
    except BaseException:
        close(opened)
        raise
    return opened


def close(opened: Iterable[socket.socket]) -> None:
    """Close all connections."""
    for sock in opened:
        sock.close()
