"""What TLS costs each proxy: `make bench-tls`, about two minutes.

nginx, HAProxy, Caddy and the gateway accept with the same key, one core each. For each
of them, three loads are measured in one process: requests on kept connections without
TLS and with it, and requests of which each has a connection and a handshake of its own.
The difference between the first two is what TLS costs a request; the third is the cost
of a handshake with one request. Rounds go through all proxies in turn.
"""

from __future__ import annotations

import sys

from bench.rig import client
from bench.rig.load import Sample, run
from bench.rig.report import Table, spread
from bench.rig.rivals import Rival, Stage
from bench.rig.script import measured, parsed
from bench.rig.tls_rivals import RIVALS, tls_port

CONNECTIONS = 64
_LOADS = ("kept, plain", "kept, TLS", "a handshake each")


def _samples(
    rival: Rival, pids: tuple[int, ...], stage: Stage, seconds: float
) -> dict[str, Sample]:
    """Return the samples of a running *rival*, by load."""
    user = stage.user if rival.verifies else "bench"

    def once(load: str, seconds: float) -> Sample:
        is_tls = load != "kept, plain"
        port = tls_port(rival) if is_tls else rival.port
        close = "Connection: close\r\n" if load == "a handshake each" else ""
        return run(
            port,
            client.head(port, "/orders", token=stage.token, more=close),
            pids=pids,
            has=f'"user":"{user}"',
            seconds=seconds,
            connections=CONNECTIONS,
            folder=stage.folder,
            is_tls=is_tls,
        )

    once("kept, TLS", 1)  # warm
    return {load: once(load, seconds) for load in _LOADS}


def table(taken: dict[str, list[dict[str, Sample]]]) -> Table:
    """Return the medians; a rival whose answers were wrong shows it."""
    rows: list[tuple[str, ...]] = []
    for rival in RIVALS:
        if rival.name not in taken:
            continue
        rounds = taken[rival.name]
        plain, tls, each = (
            spread([found[load].cpu_us for found in rounds]) for load in _LOADS
        )
        more = spread(
            [found[_LOADS[1]].cpu_us - found[_LOADS[0]].cpu_us for found in rounds]
        )
        wrong = sum(
            one.wrong + one.errors for found in rounds for one in found.values()
        )
        cells = (plain.text(), tls.text(), more.text(), each.text())
        rows.append((rival.name, *cells, str(wrong), rival.does))
    return Table(
        columns=(
            "who",
            "CPU µs/request, plain",
            "with TLS",
            "difference",
            "with a handshake each",
            "wrong",
            "does",
        ),
        rows=rows,
    )


def main() -> int:
    """Measure, and print the table."""
    options = parsed("bench.scripts.tls", __doc__, seconds=3)
    turns = measured(
        RIVALS,
        lambda stage, rival, pids: _samples(rival, pids, stage, options.seconds),
        rounds=options.rounds,
    )
    print(*table(turns.taken).markdown(), *turns.missing, sep="\n")
    return 1 if turns.missing else 0


if __name__ == "__main__":
    sys.exit(main())
