"""P1 to P6: what a request costs, beside everyone else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from bench.load import Sample, run
from bench.report import Part, Table, at_most, ratios, spread
from bench.rivals import RIVALS, Rival, Stage
from bench.stage import in_turn

CONNECTIONS = 64

_TARGETS = (
    ("P1", "gateway", "haproxy", 1.0, "token seen before, vs HAProxy `jwt_verify`"),
    ("P2", "gateway", "envoy", 0.5, "token seen before, vs Envoy `jwt_authn`"),
    ("P3", "gateway", "caddy", 0.5, "token seen before, vs Caddy without verification"),
    ("P4", "gateway", "nginx", 3.0, "token seen before, vs nginx without verification"),
    ("P5", "gateway_no_cache", "haproxy", 1.5, "every token new, vs HAProxy"),
    ("P6", "gateway", "gateway_public", 1.15, "protected vs public route"),
)


def measure(
    stage: Stage, *, rounds: int, seconds: float, only: Sequence[str] = ()
) -> Part:
    """Load everyone in turn with the same requests."""
    rivals = [rival for rival in RIVALS if not only or rival.name in only]

    def one(rival: Rival, pids: tuple[int, ...]) -> dict[str, Sample]:
        return _samples(rival, pids, stage, seconds)

    turns = in_turn(rivals, stage, rounds=rounds, measure=one)
    taken: dict[str, list[Sample]] = {}
    for both in (found for turn in turns.taken.values() for found in turn):
        for name, sample in both.items():
            taken.setdefault(name, []).append(sample)
    does = {rival.name: rival.does for rival in rivals}
    return Part(
        title="Requests",
        how=f"`GET` over {CONNECTIONS} keep-alive connections, a token of"
        f" {len(stage.token)} bytes, a reply of 150, {rounds} rounds of {seconds:g} s"
        " each. The proxy has one core, load generator and upstream the other. Every"
        " answer was checked: status, and the user that the upstream saw. Whoever"
        " verifies refused a forged and an expired token before each round.",
        tables=[_table(taken, does)],
        targets=[
            target
            for number, ours, theirs, goal, what in _TARGETS
            for target in at_most(
                number, what, ratios(_cpu(taken, ours), _cpu(taken, theirs)), goal
            )
        ],
        notes=turns.missing,
        samples={name: [asdict(s) for s in found] for name, found in taken.items()},
    )


def _cpu(taken: dict[str, list[Sample]], name: str) -> list[float]:
    return [sample.cpu_us for sample in taken.get(name, [])]


def _samples(
    rival: Rival, pids: tuple[int, ...], stage: Stage, seconds: float
) -> dict[str, Sample]:
    seen = stage.user if rival.verifies else "bench"

    def once(path: str, user: str, seconds: float) -> Sample:
        return run(
            f"http://127.0.0.1:{rival.port}{path}",
            pids=pids,
            token=stage.token,
            user=user,
            seconds=seconds,
            connections=CONNECTIONS,
            folder=stage.folder,
        )

    once("/", seen, 1)  # warm
    taken = {rival.name: once("/", seen, seconds)}
    if rival.name == "gateway":
        once("/open", "", 1)
        taken["gateway_public"] = once("/open", "", seconds)
    return taken


def _table(taken: dict[str, list[Sample]], does: dict[str, str]) -> Table:
    does = {**does, "gateway_public": "a public route of the gateway"}
    return Table(
        columns=(
            "who",
            "CPU µs/request",
            "user",
            "system",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "wrong",
            "does",
        ),
        rows=[
            (
                name,
                spread([s.cpu_us for s in found]).text(),
                f"{spread([s.user_us for s in found]).median:.1f}",
                f"{spread([s.system_us for s in found]).median:.1f}",
                f"{spread([s.per_s for s in found]).median:,.0f}",
                f"{spread([s.p50_us for s in found]).median / 1000:.2f}",
                f"{spread([s.p99_us for s in found]).median / 1000:.2f}",
                str(sum(s.wrong + s.errors for s in found)),
                does[name],
            )
            for name, found in taken.items()
        ],
    )
