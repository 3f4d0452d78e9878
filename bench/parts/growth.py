"""P17: how the cost of a request grows with its fields, body and connections."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.parts.requests import CONNECTIONS
from bench.rig import big_upstream, client, goals, load
from bench.rig.report import Part, Table, ratios, spread
from bench.rig.rivals import BY_NAME, PORTS, SIZES, Rival, Stage
from bench.rig.stage import forwarding_to, in_turn

_NAMES = ("nginx", "gateway")
_FIELDS = (5, 20, 60)
_OWN_FIELDS = 2
"""Host and Authorization, which every request here has."""
_BODIES = dict(zip(("0", "1 KiB", "64 KiB", "1 MiB"), SIZES, strict=True))
_PORT = PORTS["gateway"]
"""The port in the Host field. Every rival gets the same field."""
_CONNECTIONS = (1, CONNECTIONS, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One load."""

    what: str
    message: bytes
    """The whole request."""
    connections: int = CONNECTIONS
    has: str | None = None
    length: int | None = None
    names_user: bool = False
    """The upstream returns the user that it received."""


def measure(stage: Stage, *, rounds: int, seconds: float) -> Part:
    """Measure the gateway and nginx with rising fields, bytes and connections."""
    plain, token = client.head(_PORT, token=stage.token), stage.token
    small = [
        _Case(
            what=f"{count} header fields",
            message=client.head(_PORT, token=token, more=_fields(count)),
            names_user=True,
        )
        for count in _FIELDS
    ]
    small += [
        _Case(
            what=f"{count:,} connection{'s' if count > 1 else ''}",
            message=plain,
            connections=count,
            names_user=True,
        )
        for count in _CONNECTIONS
    ]
    small += [
        _Case(
            what=f"reply body of {name}",
            message=client.head(_PORT, f"/bytes/{size}", token=token),
            length=size,
        )
        for name, size in _BODIES.items()
    ]
    large = [
        _Case(
            what=f"request body of {name}",
            message=client.head(
                _PORT, method="POST", token=token, more=f"Content-Length: {size}\r\n"
            )
            + _body(size),
            has=f'"bytes":{size},"wrong":0',
        )
        for name, size in _BODIES.items()
    ]
    taken: dict[str, dict[str, list[load.Sample]]] = {}
    notes = _in_turn(stage, small, taken, rounds, seconds)
    with forwarding_to("big_upstream", stage) as onto:
        notes += _in_turn(onto, large, taken, rounds, seconds)
    return Part(
        title="How the cost grows",
        how=f"`GET` or `POST`, {CONNECTIONS} connections unless a row says otherwise,"
        f" {rounds} rounds of {seconds:g} s. The gateway verifies the session; nginx"
        " verifies nothing, and buffers as by default. The client sends the header"
        " fields, 40 bytes each. Request bodies go to another upstream, which compares"
        " each byte. The length of reply bodies is checked.",
        tables=[_table(taken)],
        targets=[
            target
            for name in ("64 KiB", "1 MiB")
            for target in goals.judged(
                f"P17 {name}", _ratios(taken.get(f"reply body of {name}", {}))
            )
        ],
        notes=notes,
        samples={
            f"{name}, {what}": [asdict(s) for s in found]
            for what, both in taken.items()
            for name, found in both.items()
        },
    )


def _ratios(both: dict[str, list[load.Sample]]) -> list[float]:
    plain, ours = ([s.cpu_us for s in both.get(name, [])] for name in _NAMES)
    return ratios(ours, plain)


def _fields(count: int) -> str:
    return "".join(
        f"X-Field-{number:03}: {number:026}\r\n"
        for number in range(count - _OWN_FIELDS)
    )


def _body(size: int) -> bytes:
    body = bytearray()
    while len(body) < size:
        body += big_upstream.piece(len(body), size - len(body))
    return bytes(body)


def _in_turn(
    stage: Stage,
    cases: list[_Case],
    taken: dict[str, dict[str, list[load.Sample]]],
    rounds: int,
    seconds: float,
) -> list[str]:
    """Load both with each case, and add the samples to *taken*; return the notes."""

    def one(rival: Rival, pids: tuple[int, ...]) -> dict[str, load.Sample]:
        return {case.what: _sample(rival, pids, stage, case, seconds) for case in cases}

    turns = in_turn([BY_NAME[n] for n in _NAMES], stage, rounds=rounds, measure=one)
    for name, found in turns.taken.items():
        for every in found:
            for what, sample in every.items():
                taken.setdefault(what, {}).setdefault(name, []).append(sample)
    return turns.missing


def _sample(
    rival: Rival, pids: tuple[int, ...], stage: Stage, case: _Case, seconds: float
) -> load.Sample:
    user = stage.user if rival.verifies else "bench"
    return load.run(
        rival.port,
        case.message,
        pids=pids,
        has=f'"user":"{user}"' if case.names_user else case.has,
        length=case.length,
        seconds=seconds,
        connections=case.connections,
        folder=stage.folder,
    )


def _table(taken: dict[str, dict[str, list[load.Sample]]]) -> Table:
    return Table(
        columns=(
            "with",
            *(f"{name}: CPU µs/request" for name in _NAMES),
            *(f"{name}: user + system" for name in _NAMES),
            "ratio",
            "wrong",
        ),
        rows=[_line(what, both) for what, both in taken.items()],
    )


def _line(what: str, both: dict[str, list[load.Sample]]) -> tuple[str, ...]:
    costs = {name: spread([s.cpu_us for s in found]) for name, found in both.items()}
    parts = {
        name: f"{spread([s.user_us for s in found]).median:,.1f} +"
        f" {spread([s.system_us for s in found]).median:,.1f}"
        for name, found in both.items()
    }
    plain, ours = (costs.get(name) for name in _NAMES)
    return (
        what,
        *(costs[name].text() if name in costs else "-" for name in _NAMES),
        *(parts.get(name, "-") for name in _NAMES),
        f"{ours.median / plain.median:.2f}" if ours and plain else "-",
        str(sum(s.wrong + s.errors for found in both.values() for s in found)),
    )
