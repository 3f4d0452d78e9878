"""P10: latency at half of the gateway's maximum rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.parts.requests import CONNECTIONS
from bench.rig import client, goals, load, pace
from bench.rig.report import Part, Table, percentile, ratios, spread
from bench.rig.rivals import BY_NAME, PORTS, Rival, Stage
from bench.rig.stage import in_turn, say, started

_NAMES = ("haproxy", "nginx", "gateway")
_NOBODY = "no proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The latencies of one run, in ms."""

    p50: float
    p99: float
    p999: float
    most: float
    late_p99: float
    """The 99th percentile of the generator's own delays."""
    wrong: int


def measure(stage: Stage, *, rounds: int, seconds: float) -> Part:
    """Find the gateway's maximum rate, then load each rival with half of it."""
    with started(BY_NAME["gateway"], stage) as pids:
        say("  the gateway's maximum rate")
        most = _most(stage, pids, 2 * seconds)
    rate = most / 2

    def one(rival: Rival, _: tuple[int, ...]) -> Sample:
        user = stage.user if rival.verifies else "bench"
        _paced(stage, rival.port, user, rate=rate, seconds=1)  # warm
        return _paced(stage, rival.port, user, rate=rate, seconds=seconds)

    turns = in_turn([BY_NAME[n] for n in _NAMES], stage, rounds=rounds, measure=one)
    bare = [
        _paced(stage, PORTS["upstream"], "", rate=rate, seconds=seconds)
        for _ in range(rounds)
    ]
    taken = {_NOBODY: bare, **turns.taken}
    ours, theirs = (
        [s.p99 for s in turns.taken.get(name, [])] for name in ("gateway", "haproxy")
    )
    return Part(
        title="Latency at half load",
        how=f"{rate:,.0f} requests a second, half of the {most:,.0f} that the gateway"
        f" can do on its core; {CONNECTIONS} connections, {rounds} rounds of"
        f" {seconds:g} s. Requests are due at even intervals, and don't wait for the"
        " replies to others; latency is measured from the due time. `no proxy` is the"
        " generator and the upstream alone, on the core that they share: their part of"
        " the other rows. Late is the delay of the generator itself.",
        tables=[_table(taken)],
        targets=goals.judged("P10", ratios(ours, theirs)),
        notes=turns.missing,
        samples={name: [asdict(s) for s in found] for name, found in taken.items()},
    )


def _most(stage: Stage, pids: tuple[int, ...], seconds: float) -> float:
    return load.run(
        PORTS["gateway"],
        client.head(PORTS["gateway"], token=stage.token),
        pids=pids,
        has=f'"user":"{stage.user}"',
        seconds=seconds,
        connections=CONNECTIONS,
        folder=stage.folder,
    ).per_s


def _paced(
    stage: Stage, port: int, user: str, *, rate: float, seconds: float
) -> Sample:
    expected = f'"user":"{user}"'.encode()

    def is_right(answer: bytes) -> bool:
        return answer.startswith(b"HTTP/1.1 200 ") and expected in answer

    result = pace.run(
        port,
        client.head(port, token=stage.token),
        is_right=is_right,
        rate=rate,
        seconds=seconds,
        connections=CONNECTIONS,
    )
    latencies = result.latencies_ms
    return Sample(
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        p999=percentile(latencies, 0.999),
        most=max(latencies),
        late_p99=percentile(result.late_ms, 0.99),
        wrong=result.wrong,
    )


def _table(taken: dict[str, list[Sample]]) -> Table:
    return Table(
        columns=("who", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "late p99", "wrong"),
        rows=[
            (
                name,
                spread([s.p50 for s in found]).text(2),
                spread([s.p99 for s in found]).text(2),
                spread([s.p999 for s in found]).text(2),
                f"{spread([s.most for s in found]).median:.1f}",
                f"{spread([s.late_p99 for s in found]).median:.2f}",
                str(sum(s.wrong for s in found)),
            )
            for name, found in taken.items()
        ],
    )
