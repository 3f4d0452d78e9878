"""P11: the cost of a request with two workers, compared with one."""

from __future__ import annotations

from dataclasses import asdict

from bench.parts.requests import CONNECTIONS
from bench.rig import client, goals, load
from bench.rig.processes import CORES
from bench.rig.report import Part, Table, ratios, spread
from bench.rig.rivals import Rival, Stage, gateway_with
from bench.rig.stage import in_turn


def measure(stage: Stage, *, rounds: int, seconds: float) -> Part:
    """Load a gateway with one worker and one with two, both on the same two cores."""
    cores = CORES[:2]
    load_cores = CORES[2:4] if len(CORES) >= 4 else cores
    how = (
        f"`GET` over {CONNECTIONS} connections, {rounds} rounds of {seconds:g} s. Both"
        " gateways may use the same two cores"
        + (
            ", and so may the load generator and the upstream, because there are no"
            " others. Two workers can't be twice as fast here; compare the CPU per"
            " request."
            if load_cores == cores
            else "; the load generator and the upstream have two others."
        )
    )
    rivals = [gateway_with(1), gateway_with(2)]

    def sample(rival: Rival, pids: tuple[int, ...]) -> load.Sample:
        def once(seconds: float) -> load.Sample:
            return load.run(
                rival.port,
                client.head(rival.port, token=stage.token),
                pids=pids,
                has=f'"user":"{stage.user}"',
                seconds=seconds,
                connections=CONNECTIONS,
                folder=stage.folder,
                cores=load_cores,
            )

        once(1)  # warm
        return once(seconds)

    turns = in_turn(rivals, stage, rounds=rounds, measure=sample, cores=cores)
    single, double = (
        [s.cpu_us for s in turns.taken.get(rival.name, [])] for rival in rivals
    )
    return Part(
        title="Workers",
        how=how,
        tables=[_table(turns.taken)],
        targets=goals.judged("P11", ratios(double, single)),
        notes=turns.missing,
        samples={name: [asdict(s) for s in f] for name, f in turns.taken.items()},
    )


def _table(taken: dict[str, list[load.Sample]]) -> Table:
    return Table(
        columns=(
            "who",
            "CPU µs/request",
            "user",
            "system",
            "cores busy",
            "requests/s",
            "p99 ms",
            "wrong",
        ),
        rows=[
            (
                name,
                spread([s.cpu_us for s in found]).text(),
                f"{spread([s.user_us for s in found]).median:.1f}",
                f"{spread([s.system_us for s in found]).median:.1f}",
                f"{spread([s.busy for s in found]).median:.2f}",
                f"{spread([s.per_s for s in found]).median:,.0f}",
                f"{spread([s.p99_us for s in found]).median / 1000:.2f}",
                str(sum(s.wrong + s.errors for s in found)),
            )
            for name, found in taken.items()
        ],
    )
