"""Every case of the corpus, sent in four ways, has the result that its file states.

`corpus.play` checks the rules for all of them: nothing is smuggled (the upstream's
requests are counted and a canary follows), a refused request doesn't reach the
upstream, five parsers read a forwarded one alike, and no reply has internal details.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvloop
from corpus import cases as corpus
from corpus.cases import Case
from corpus.play import exchange, play
from corpus.rig import Rig, running
from corpus.table import render
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.headers import IDENTITY_NAMES, fold

CASES = corpus.load()

_SHORT = 400
"""Longer cases, in bytes, aren't sent byte by byte."""


@dataclass
class Stage:
    """The rig, and the loop that it runs on."""

    runner: asyncio.Runner
    rig: Rig

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(work)


@contextmanager
def staged(broad: bool | str | None = None) -> Iterator[Stage]:
    """Run the gateway, on the event loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = running(
            limits={"max_head_size": 32768}, trusted=("127.0.0.2",), broad=broad
        )
        yield Stage(runner, runner.run(opened.__aenter__()))
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Run one gateway for all cases; its table has no route for all other paths."""
    with staged() as opened:
        yield opened


each_case = pytest.mark.parametrize("case", CASES, ids=corpus.ids(CASES))


@each_case
def test_whole(stage: Stage, case: Case) -> None:
    """The case is sent in one piece, and the canary after the last reply."""
    stage.run(play(stage.rig, case))


@each_case
def test_pipelined(stage: Stage, case: Case) -> None:
    """A valid request, the case and the canary are sent in one segment (C21, C33)."""
    stage.run(play(stage.rig, case, pipelined=True))


@pytest.mark.parametrize(
    "case",
    (short := [case for case in CASES if len(case.sent) <= _SHORT]),
    ids=corpus.ids(short),
)
def test_byte_by_byte(stage: Stage, case: Case) -> None:
    """Each byte in a segment of its own, read before the next is sent (C33)."""
    stage.run(play(stage.rig, case, cuts=range(1, len(case.sent))))


@each_case
def test_cut_in_two(stage: Stage, case: Case) -> None:
    """It is cut where parsers are weak: in line ends, after the head, near the end."""

    async def all_cuts() -> None:
        for cut in _weak_places(case.sent):
            await play(stage.rig, case, cuts=(cut,))

    stage.run(all_cuts())


@pytest.fixture(scope="module", params=[False, "optional", True], ids=str)
def broad(request: pytest.FixtureRequest) -> Iterator[tuple[Stage, bool | str]]:
    """Run a gateway with a route for all other paths; also give its protection."""
    with staged(request.param) as opened:
        yield opened, request.param


@pytest.mark.parametrize(
    "case",
    (targets := [case for case in CASES if case.id.startswith("B")]),
    ids=corpus.ids(targets),
)
@pytest.mark.parametrize("pipelined", [False, True], ids=["whole", "pipelined"])
def test_beside_a_broad_route(
    broad: tuple[Stage, bool | str], case: Case, pipelined: bool
) -> None:
    """A route for all other paths doesn't forward one that may be a protected path."""
    stage, protected = broad
    stage.run(play(stage.rig, corpus.beside(case, protected), pipelined=pipelined))


def _weak_places(data: bytes) -> list[int]:
    end = data.find(b"\r\n\r\n")
    first_line = data.find(b"\r\n")
    places = {first_line + 1, end + 1, end + 2, end + 4, len(data) - 1, len(data) // 2}
    return sorted(place for place in places if 0 < place < len(data))


# --- properties ---------------------------------------------------------------

_CORE_NAMES = st.sampled_from([name.encode() for name in IDENTITY_NAMES])


@st.composite
def _spellings(draw: st.DrawFn) -> bytes:
    """Draw the name of an identity field in a spelling meant to bypass its removal."""
    name = draw(_CORE_NAMES)
    joiner = draw(st.sampled_from([b"-", b"_", b".", b"~", b"!", b"--", b"-_"]))
    name = name.replace(b"-", joiner)
    flips = draw(st.integers(0, 2 ** len(name) - 1))
    spelled = bytes(
        byte ^ 0x20 if (flips >> i) & 1 and chr(byte).isalpha() else byte
        for i, byte in enumerate(name)
    )
    prefix = draw(st.sampled_from([b"", b"", b"", b" ", b"HTTP_", b"\t"]))
    suffix = draw(st.sampled_from([b"", b"", b"", b" ", b"\x00", b"_", b"\r"]))
    return prefix + spelled + suffix


_VALUES = st.one_of(
    st.sampled_from([b"evil", b"evil\r\n evil", b"\xffevil", b"evil, evil", b""]),
    st.binary(max_size=12).map(lambda b: b"evil" + b.replace(b"\n", b"")),
)
_OTHERS = st.sampled_from(
    [
        b"Connection: X-User-Id, X-Auth-Status",
        b"Connection: close, X-Request-Id",
        b"Connection: keep-alive",
        b"Cookie: sAccessToken=evil; a=1",
        b"X-Forwarded-For: 6.6.6.6",
        b"Accept: */*",
    ]
)


@st.composite
def _heads(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Draw a request with spoofed identity fields, and whether it has a session."""
    path = draw(st.sampled_from([b"/public/a", b"/optional", b"/admin", b"/claims"]))
    session = draw(st.booleans())
    lines = [name + b": " + value for name, value in draw(_SPOOFED)]
    lines += draw(st.lists(_OTHERS, max_size=3))
    if session:
        lines.append(b"X-Corpus-Session: alice")
    lines = draw(st.permutations(lines))
    head = b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: gw", *lines])
    return head + b"\r\n\r\n", session


_SPOOFED = st.lists(st.tuples(_spellings(), _VALUES), max_size=6)

_FORWARDED = [
    (
        b"GET %b HTTP/1.1\r\nHost: gw\r\nX-Corpus-Session: alice\r\n"
        b"X-User-Id: evil\r\nX-Auth-Status: evil\r\n\r\n" % path,
        True,
    )
    for path in (b"/public/a", b"/admin")
]
"""Requests with forged fields that are forwarded without them."""


@given(_heads())
@example(_FORWARDED[0])
@example(_FORWARDED[1])
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_byte_of_a_client_becomes_an_identity(
    stage: Stage, sent: tuple[bytes, bool]
) -> None:
    """P-c: the identity fields that the upstream gets are the session's, or none."""
    head, session = sent
    rig = stage.rig
    stage.run(exchange(rig, head))
    assert rig.upstream.requests or sent not in _FORWARDED
    for request in rig.upstream.requests:
        identity = [
            (fold(name), value)
            for name, value in request.fields
            if fold(name) in RESERVED and fold(name) != b"x-auth-status"
        ]
        protected = not request.target.startswith(b"/public")
        if session and protected:
            assert len(dict(identity)) == len(identity)
            assert dict(identity)[b"x-user-id"] == b"alice"
        else:
            assert identity == []
        status = b"authenticated" if session and protected else b"anonymous"
        assert [v for n, v in request.fields if fold(n) == b"x-auth-status"] == [status]
        assert all(b"evil" not in value for _, value in identity)
        assert b"sAccessToken" not in request.head


RESERVED = frozenset(fold(name.encode()) for name in (*IDENTITY_NAMES, "X-Plan"))

_SEGMENTS = st.sampled_from(
    b"public|admin|api|users|a|..|.||%2e%2e|%2E|%2f|%5c|..;|;x|%61dmin|%zz|%00|%25"
    b"|%C3%AD|%252e|\\|#|\xff|a b|\x01|*|http:|gw|~".split(b"|")
)
_TARGETS = st.builds(
    lambda lead, segments, query: lead + b"/".join(segments) + query,
    st.sampled_from([b"/", b"/public/", b"//", b"http://gw/", b"", b"/admin/"]),
    st.lists(_SEGMENTS, max_size=6),
    st.sampled_from([b"", b"?", b"?/../admin", b"?a=%zz", b"?#", b"??"]),
)

_ODD = b"/admin/%2e%2e/public//%61/?/../admin"
"""A target that isn't in canonical form, and is forwarded."""


@given(_TARGETS)
@example(_ODD)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_matched_path_is_the_forwarded_path(stage: Stage, target: bytes) -> None:
    """P-b: three URL parsers find the matched path in the forwarded target."""
    rig = stage.rig
    stage.run(exchange(rig, b"GET " + target + b" HTTP/1.1\r\nHost: gw\r\n\r\n"))
    record = rig.records[-1]
    assert len(rig.upstream.requests) <= 1
    assert rig.upstream.requests or target != _ODD
    for request in rig.upstream.requests:
        path, mark, query = request.target.partition(b"?")
        matched = record.path
        if record.route == "stripped":
            matched = matched.removeprefix("/api") or "/"
        assert path == matched.encode()
        assert (mark + query) == (target[target.find(b"?") :] if mark else b"")
        assert httptools.parse_url(request.target).path == path
        assert urllib.parse.urlsplit(request.target).path == path
        assert URL(request.target.decode(), encoded=True).raw_path == path.decode()
        # Normalizing it again changes nothing.
        assert URL(f"http://gw{path.decode()}").raw_path == path.decode()


# --- the table ------------------------------------------------------------------


def test_the_table_is_up_to_date() -> None:
    """docs/security-cases.md has the output of `python -m corpus`."""
    committed = Path(__file__).parent.parent / "docs" / "security-cases.md"
    assert committed.read_text() == render(CASES), (
        "run: PYTHONPATH=tests python -m corpus"
    )


def test_there_are_enough_cases() -> None:
    """There are at least 250 cases, and some for each of these tables of attacks."""
    assert len(CASES) >= 250
    assert {case.id[0] for case in CASES} == set("ABCDFGI")
