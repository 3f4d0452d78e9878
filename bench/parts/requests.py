"""P1 to P6 and P13 to P15: the CPU cost of each kind of request, and the rivals'.

`loads` defines the requests, which `scripts.instructions` uses as well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.rig import client, goals, loads, plot
from bench.rig.load import Sample, run
from bench.rig.loads import Asked, Session
from bench.rig.report import Part, Table, Target, ratios, spread
from bench.rig.rivals import RIVALS, Rival, Stage
from bench.rig.stage import in_turn

CONNECTIONS = 64
_LOG_S = 5.0
"""How long to wait for the last lines of an access log."""

TITLES = {
    "same": "token seen before",
    "new_token": "every token new",
    "public": "public route",
    "browser": "a browser's 14 lines, the session in a cookie",
    "fwd": "behind a trusted terminator, access log in JSON",
    "post": "POST with a body of 40 bytes",
}
"""The loads of this part, in the order of the report, with their titles."""

_TARGETS = (
    ("P1", "gateway", "haproxy"),
    ("P2", "gateway", "envoy"),
    ("P3", "gateway", "caddy"),
    ("P4", "gateway", "nginx"),
    ("P5", "gateway_no_cache", "haproxy"),
    ("P6", "gateway", "gateway_public"),
    ("P13", "gateway, browser", "haproxy, browser"),
    ("P14", "gateway, fwd", "haproxy, fwd"),
    ("P15", "gateway, post", "haproxy, post"),
)


class NotLogged(client.Failed):
    """The access log lacks requests, so the measured cost would be too low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One rival under one load: a row of the report."""

    key: str
    """The name of its samples."""
    load: str
    who: str
    does: str


def shown(rivals: Sequence[Rival] = RIVALS) -> Iterator[Shown]:
    """Yield the rivals to measure, load by load."""
    for load in TITLES:
        for rival in rivals:
            if load in rival.loads:
                does = "a route without a session" if load == "public" else rival.does
                yield Shown(key=key(rival, load), load=load, who=rival.who, does=does)


def key(rival: Rival, load: str) -> str:
    """Return the name of a rival's samples under a load.

    Three loads have the names of earlier reports, with which `report.compare` compares.
    """
    if load in ("same", "new_token"):
        return rival.name
    if load == "public":
        return f"{rival.name}_public"
    return f"{rival.who}, {load}"


def asked(load: str, session: Session) -> Asked:
    """Return the request of a load.

    `new_token` repeats one token, because the cache of its gateway is off. The public
    route gets a token, too, so that the two routes differ only in the verification.
    """
    name = "same" if load in ("new_token", "public") else load
    ask = loads.BY_NAME[name].ask
    assert ask is not None, "WebSockets are another part"
    request = ask(session, 0)
    if load == "public":
        return dataclasses.replace(request, target="/open", is_public=True)
    return request


def expected(load: str, request: Asked, user: str) -> str:
    """Return the text that the upstream's answer must contain.

    It ends after the client's address, since proxies append theirs with or without a
    space.
    """
    length = str(len(request.body) or "")
    text = f'"user":"{"" if request.is_public else user}","got":"{length}"'
    if loads.BY_NAME[load].is_terminated:
        text += f',"for":"{request.sender.partition(" ")[0]}'
    return text


def measure(
    stage: Stage,
    *,
    rounds: int,
    seconds: float,
    only: Sequence[str] = (),
    only_loads: Sequence[str] = (),
) -> Part:
    """Send the same requests through each rival in turn."""
    wanted = tuple(only_loads) or tuple(TITLES)
    rivals = [
        dataclasses.replace(
            rival, loads=tuple(load for load in rival.loads if load in wanted)
        )
        for rival in RIVALS
        if (not only or rival.name in only) and set(rival.loads) & set(wanted)
    ]

    def one(rival: Rival, pids: tuple[int, ...]) -> dict[str, Sample]:
        return _samples(rival, pids, stage, seconds)

    turns = in_turn(rivals, stage, rounds=rounds, measure=one)
    taken: dict[str, list[Sample]] = {}
    for every in (found for turn in turns.taken.values() for found in turn):
        for name, sample in every.items():
            taken.setdefault(name, []).append(sample)
    return Part(
        title="Requests",
        how=f"{CONNECTIONS} keep-alive connections, a token of {len(stage.token)}"
        f" bytes, a reply of about 150, {rounds} rounds of {seconds:g} s each, all"
        " rivals and loads in each round. The proxy has one core; the load generator"
        " and the upstream share the other. Every answer was checked: status, the user"
        " that the upstream received, the length of the request's body, and behind a"
        " terminator the client's address. Before each round, rivals that verify"
        " refused a forged and an expired token. Access logs were checked for a line"
        " per request. Busy is the proxy's CPU as a share of its core; if it is well"
        " below 100 %, the load generator or the upstream was the bottleneck.",
        tables=_tables(taken, rivals),
        targets=targets({name: _cpu(found) for name, found in taken.items()}),
        notes=turns.missing,
        samples={name: [asdict(s) for s in found] for name, found in taken.items()},
    )


def targets(taken: Mapping[str, Sequence[float]]) -> list[Target]:
    """Return the verdicts on this part's goals; *taken* is CPU in µs by key."""
    return [
        target
        for number, ours, theirs in _TARGETS
        for target in goals.judged(
            number, ratios(taken.get(ours, ()), taken.get(theirs, ()))
        )
    ]


_DRAWN = {
    "gateway": "verifies the session as SuperTokens does; nothing on a public route",
    "haproxy": "verifies signature and expiry each time (jwt_verify)",
    "envoy": "verifies signature and expiry each time (jwt_authn)",
    "nginx": "verifies nothing (proxy_pass)",
    "caddy": "verifies nothing (reverse_proxy)",
}
_AS_BEFORE = {"new_token": ("haproxy", "envoy"), "public": ("nginx", "caddy")}
"""Rivals that do the same work for these loads as for `same`; the plot repeats their
bars."""
_REPEATED = (
    "HAProxy and Envoy verify every token anew, nginx and Caddy none: their first bars"
    " are repeated."
)
_NAMES = {"haproxy": "HAProxy", "envoy": "Envoy", "caddy": "Caddy"}


Samples = Mapping[str, Sequence[Mapping[str, float]]]


def chart(samples: Samples, messages: Samples) -> plot.Chart | None:
    """Return the plot of this part's samples; None when there is nothing to draw.

    *messages* are the samples of the part `sockets`, which are one more group.
    """
    groups = []
    for load, title in TITLES.items():
        keys = {one.who: one.key for one in shown() if one.load == load}
        keys |= {who: who for who in _AS_BEFORE.get(load, ())}
        bars = {
            _NAMES.get(who, who): _drawn(samples[keys[who]])
            for who in _DRAWN
            if who in keys and keys[who] in samples
        }
        if bars:
            groups.append(plot.Group(title=title, bars=bars))
    echoes = {
        _NAMES.get(who, who): _drawn(found)
        for who in _DRAWN
        for name, found in messages.items()
        if name.removesuffix("_sockets") == who
    }
    if echoes:
        title = "a WebSocket message of 32 bytes, and its echo"
        groups.append(plot.Group(title=title, bars=echoes))
    if not groups:
        return None
    return plot.Chart(
        title="CPU of one request, by proxy and load",
        axis="microseconds of CPU a request, user and system time",
        series={_NAMES.get(who, who): does for who, does in _DRAWN.items()},
        groups=groups,
        notes=(
            "Median of all rounds; the thin line is their range.",
            _REPEATED,
        ),
    )


def _drawn(samples: Sequence[Mapping[str, float]]) -> plot.Bar:
    found = spread([sample["cpu_us"] for sample in samples])
    return plot.Bar(value=found.median, low=found.low, high=found.high)


def _cpu(samples: Sequence[Sample]) -> list[float]:
    return [sample.cpu_us for sample in samples]


def _samples(
    rival: Rival, pids: tuple[int, ...], stage: Stage, seconds: float
) -> dict[str, Sample]:
    session = Session(user=stage.user, token=stage.token)
    user = stage.user if rival.verifies else "bench"
    sent = 0

    def once(load: str, seconds: float) -> Sample:
        request = asked(load, session)
        found = run(
            rival.port,
            request.message(rival.port),
            pids=pids,
            has=expected(load, request, user),
            seconds=seconds,
            connections=CONNECTIONS,
            folder=stage.folder,
        )
        nonlocal sent
        sent += found.requests
        return found

    once(rival.loads[0], 1)  # warm
    taken = {key(rival, load): once(load, seconds) for load in rival.loads}
    if rival.access_log:
        _must_be_logged(rival, stage, sent)
    return taken


def _must_be_logged(rival: Rival, stage: Stage, requests: int) -> None:
    """Wait until the access log has a line for each answered request.

    Raises:
        NotLogged: it lacks some after 5 s.
    """
    path = stage.folder / rival.access_log
    deadline = time.monotonic() + _LOG_S
    while (lines := path.read_bytes().count(b'"status":200')) < requests:
        if time.monotonic() > deadline:
            raise NotLogged(
                f"{rival.name}: the access log has {lines:,} of {requests:,} requests"
            )
        time.sleep(0.5)


def _tables(taken: Mapping[str, list[Sample]], rivals: Sequence[Rival]) -> list[Table]:
    return [
        Table(
            title=title,
            columns=(
                "who",
                "CPU µs/request",
                "user",
                "system",
                "busy",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "wrong",
                "does",
            ),
            rows=rows,
        )
        for load, title in TITLES.items()
        if (
            rows := [
                _row(one, taken[one.key])
                for one in shown(rivals)
                if one.load == load and one.key in taken
            ]
        )
    ]


def _row(one: Shown, samples: list[Sample]) -> tuple[str, ...]:
    def middle(values: list[float]) -> float:
        return spread(values).median

    return (
        one.who,
        spread(_cpu(samples)).text(),
        f"{middle([s.user_us for s in samples]):.1f}",
        f"{middle([s.system_us for s in samples]):.1f}",
        f"{middle([s.busy for s in samples]):.0%}",
        f"{middle([s.per_s for s in samples]):,.0f}",
        f"{middle([s.p50_us for s in samples]) / 1000:.2f}",
        f"{middle([s.p99_us for s in samples]) / 1000:.2f}",
        str(sum(s.wrong + s.errors for s in samples)),
        one.does,
    )
