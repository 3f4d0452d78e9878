"""Lines in the Elastic Common Schema: they say what the lines in JSON say."""

from __future__ import annotations

import io
import ipaddress
import json
import re
import select
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import RECORD, TRACE

from gateway import __version__
from gateway.config import LogConfig
from gateway.errors import Side, Stage
from gateway.events import RuntimeEvent
from gateway.observe import (
    AccessLog,
    Origin,
    Record,
    Selection,
    ecs_line,
    fitting_line,
    json_line,
    runtime_line,
)
from gateway.observe.access_log import common_fields
from gateway.observe.ecs import ECS_NAMES, OWN, ecs_common, ecs_names

NOON = 1_700_000_000.5
ORIGIN = Origin(form="ecs", pid=7, worker=2, generation=3)


def read(line: str) -> dict[str, Any]:
    """Return the object in *line*, in which no key may occur twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    value: dict[str, Any] = json.loads(line, object_pairs_hook=once)
    return value


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields of *value* by their dotted names, as Elasticsearch has them."""
    fields: dict[str, Any] = {}
    for name, member in value.items():
        if isinstance(member, dict):
            fields |= flat(member, f"{prefix}{name}.")
        else:
            assert f"{prefix}{name}" not in fields
            fields[f"{prefix}{name}"] = member
    return fields


def test_the_line_of_a_request() -> None:
    """Log collectors rely on these fields. Four of them come first."""
    line = ecs_line(RECORD, NOON, ecs_common(7, 2, 3))
    fields = read(line)
    first = ["@timestamp", "log.level", "message", "ecs.version"]
    assert [*fields][:4] == first
    assert fields == {
        "@timestamp": "2023-11-14T22:13:20.500Z",
        "log.level": "info",
        "message": "GET /orders/7 200",
        "ecs.version": "8.11.0",
        "event": {
            "kind": "event",
            "category": ["web"],
            "type": ["access"],
            "dataset": "gateway.access",
            "action": "request",
            "outcome": "success",
            "duration": 1_234_560,
            "reason": "cached",
        },
        "http": {
            "version": "1.1",
            "request": {"id": "abc", "method": "GET", "body": {"bytes": 3}},
            "response": {"status_code": 200, "bytes": 140},
        },
        "url": {
            "path": "/orders/7",
            "scheme": "https",
            "domain": "api.example.com",
            "port": 8443,
        },
        "client": {"address": "203.0.113.7", "ip": "203.0.113.7"},
        "user": {"id": "u-1"},
        "user_agent": {"original": "curl/8"},
        "trace": {"id": "4bf92f3577b34da6a3ce929d0e0e4736"},
        "process": {"pid": 7},
        "service": {"name": "supertokens-gateway", "version": __version__},
        "gateway": {
            "worker": 2,
            "generation": 3,
            "attempts": 2,
            "tenant_id": "public",
            "upstream_status": 201,
            "verify_ms": 0.25,
            "upstream_ms": 0.5,
            "stage": "copy",
            "route": "orders",
            "decision": "allowed",
            "upstream": "orders",
            "target": "http://10.0.0.7:8080",
        },
    }


@pytest.mark.parametrize(
    ("status", "side", "outcome", "level"),
    [
        (200, None, "success", "info"),
        (304, None, "success", "info"),
        (200, Side.UPSTREAM, "failure", "info"),
        (404, None, "failure", "info"),
        (499, Side.CLIENT, "failure", "info"),
        (502, Side.UPSTREAM, "failure", "error"),
        (0, None, "unknown", "info"),
    ],
)
def test_outcomes(status: int, side: Side | None, outcome: str, level: str) -> None:
    """As the pipelines of Elastic judge access logs; a broken reply is a failure."""
    line = ecs_line(Record(started=0.0, status=status, side=side), NOON)
    fields = flat(read(line))
    assert (fields["event.outcome"], fields["log.level"]) == (outcome, level)


@pytest.mark.parametrize(
    ("client", "ip"),
    [
        ("203.0.113.7", True),
        ("2001:db8::1", True),
        ("fe80::1%eth0", False),
        ("unix", False),
        ("-", False),
        ("1", False),
    ],
)
def test_only_an_address_of_ip_is_an_ip(client: str, ip: bool) -> None:
    """Elasticsearch refuses a document whose field of type `ip` has another text."""
    fields = read(ecs_line(Record(started=0.0, client=client), NOON))["client"]
    assert fields == {"address": client, **({"ip": client} if ip else {})}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.example", {"domain": "a.example"}),
        ("a.example:8443", {"domain": "a.example", "port": 8443}),
        ("[::1]", {"domain": "[::1]"}),
        ("[::1]:80", {"domain": "[::1]", "port": 80}),
        ("a:99999", {"domain": "a:99999"}),
        ("", {}),
    ],
)
def test_host_and_port(host: str, expected: dict[str, object]) -> None:
    """Source: ECS, `url.domain`: the brackets of an IPv6 address belong to it."""
    url = read(ecs_line(Record(started=0.0, host=host), NOON))["url"]
    assert url == {"path": "-", "scheme": "http", **expected}


# --- the same as in JSON ------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=20)
long_texts = texts | st.builds(str.__mul__, texts, st.integers(1, 2000))
sizes = st.integers(0, 600) | st.integers(0, 2**60)
hosts = st.sampled_from(["a:80", "a", "[::1]", "[::1]:8443", "", "a:", "a:99999"])
addresses = st.ip_addresses().map(str) | st.sampled_from(["unix", "-"])
records = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("method", "path", "request_id", "decision", "reason", "note"), long_texts
        ),
        **dict.fromkeys(
            ("route", "user_id", "upstream", "tenant_id", "target", "user_agent"),
            st.none() | long_texts,
        ),
        "client": addresses | long_texts,
        "host": hosts | long_texts,
        "trace": st.just(b"") | st.just(TRACE),
        "is_secure": st.booleans(),
        "retries": st.integers(0, 5),
        "upstream_status": st.none() | st.integers(100, 599),
        "protocol": st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
        **dict.fromkeys(("status", "bytes_in", "bytes_out"), sizes),
        "duration_ms": st.sampled_from([0.005, 1e-7, 1.005, 2.675, 99.995])
        | st.floats(0, 1e9),
        **dict.fromkeys(("verify_at", "verified_at", "replied_at"), st.floats(0, 1e9)),
        "connect_ms": st.none() | st.floats(0, 1e6),
        "stage": st.sampled_from(Stage),
        "side": st.none() | st.sampled_from(Side),
    },
)


def in_ecs(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a line in ECS says if the line in JSON has these *fields*.

    By the table of names; what the schema wants in another form is converted here.
    """
    expected: dict[str, Any] = {}
    for name, value in fields.items():
        first, *more = ecs_names(name)
        match name:
            case "protocol":
                expected[first] = value.removeprefix("HTTP/")
            case "duration_ms":
                expected[first] = pytest.approx(value * 1e6, abs=5001, rel=1e-9)
            case "host":
                found = re.fullmatch(r"(?s)(.*):([0-9]{1,9})", value)
                if found and int(found[2]) <= 65535:
                    expected[first] = found[1] or None
                    expected[more[0]] = int(found[2])
                else:
                    expected[first] = value
            case "client":
                expected[first] = value
                if is_plain_ip(value):
                    expected[more[0]] = value
            case "status":
                expected[first] = value or None
            case _:
                expected[first] = value
    return {name: value for name, value in expected.items() if value not in (None, "")}


def is_plain_ip(text: str) -> bool:
    try:
        return str(ipaddress.ip_address(text)) == text and "%" not in text
    except ValueError:
        return False


ADDED = {"message", "ecs.version"} | {
    *("event.kind", "event.category", "event.type", "event.dataset", "event.outcome"),
    *("service.name", "service.version"),
}
"""What only a line in ECS has."""


@given(records)
def test_a_line_says_what_the_line_in_json_says(values: dict[str, object]) -> None:
    """Each field of the mapping, for any record. No line is longer than 4096 bytes.

    It is one line of printable ASCII, and no key occurs twice.
    """
    record = Record.begin(0.0, "192.0.2.1", "GET")
    for name, value in values.items():
        setattr(record, name, value)
    common = ecs_common(ORIGIN.pid, ORIGIN.worker, ORIGIN.generation)
    line = ecs_line(record, NOON, common)
    assert line.isascii()
    assert line.isprintable()
    fields = flat(read(line))
    expected = in_ecs(json.loads(json_line(record, NOON, common_fields(ORIGIN))))
    found = {n: v for n, v in fields.items() if n not in ADDED and v != ""}
    assert found == expected
    assert fields.keys() >= ADDED
    fitting = fitting_line("ecs", record, NOON, common)
    assert len(fitting.encode()) < select.PIPE_BUF
    assert flat(read(fitting))["event.duration"] == fields["event.duration"]
    if len(line) < select.PIPE_BUF:
        assert fitting == line


def test_the_rate_of_a_sample_is_below_gateway() -> None:
    """A share of the requests is kept, as in JSON."""
    config = LogConfig(sample=0.5)
    said: dict[str, list[dict[str, Any]]] = {}
    for form in ("json", "ecs"):
        stream = io.StringIO()
        log = AccessLog(form, stream, selection=Selection(config), origin=ORIGIN)
        for number in range(50):
            log.observe(Record(started=0.0, status=200, request_id=f"id-{number}"))
        log.close()
        said[form] = [*map(read, stream.getvalue().splitlines())]
    assert 0 < len(said["ecs"]) < 50
    assert [line["http"]["request"]["id"] for line in said["ecs"]] == [
        line["request_id"] for line in said["json"]
    ]
    for line in said["ecs"]:
        assert line["gateway"]["sample_rate"] == 0.5
        assert (line["gateway"]["worker"], line["process"]) == (2, {"pid": 7})


# --- messages -----------------------------------------------------------------------


def test_the_line_of_an_event() -> None:
    """The facts are below `gateway`, unless the schema has a field for them."""
    line = runtime_line(
        *(ORIGIN, NOON, RuntimeEvent.REQUEST_FAILED, "it failed"),
        {"request_id": "abc", "reason": "r", "client": "::1", "hint": "", "n": ["1"]},
        "Traceback",
    )
    fields = read(line)
    assert [*fields][:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert fields == {
        "@timestamp": "2023-11-14T22:13:20.500Z",
        "log.level": "error",
        "message": "it failed",
        "ecs.version": "8.11.0",
        "event": {
            "kind": "event",
            "dataset": "gateway.runtime",
            "action": "request_failed",
            "reason": "r",
        },
        "service": {"name": "supertokens-gateway", "version": __version__},
        "process": {"pid": 7},
        "http": {"request": {"id": "abc"}},
        "client": {"address": "::1", "ip": "::1"},
        "error": {"stack_trace": "Traceback"},
        "gateway": {"worker": 2, "generation": 3, "n": ["1"]},
    }


@given(long_texts, long_texts)
def test_no_text_breaks_out_of_a_message(text: str, trace: str) -> None:
    """A line has less than 4096 bytes, and its end is kept of a traceback."""
    facts = dict.fromkeys(("reason", "hint", "client", "logger"), text)
    line = runtime_line(
        *(ORIGIN, NOON, RuntimeEvent.OTHER, text, {**facts, "key": [text] * 99}),
        f"{trace}the end",
    )
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < select.PIPE_BUF
    assert read(line)["error"]["stack_trace"].endswith("the end")


# --- the table ----------------------------------------------------------------------


def test_docs_have_the_table() -> None:
    """docs/operations.md has the same names, in the same order."""
    text = Path("docs/operations.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| ((?:`[a-z_@.]+`(?:, )?)+) \|$", text, re.MULTILINE
    )
    found = {name: tuple(re.findall(r"`([^`]+)`", fields)) for name, fields in rows}
    assert {name: found.get(name) for name in ECS_NAMES} == ECS_NAMES


def test_no_two_names_have_one_field() -> None:
    """Nor is a field the object of another one, but for the four at the top."""
    fields = [field for names in ECS_NAMES.values() for field in names]
    assert len({*fields}) == len(fields)
    assert OWN not in {field.partition(".")[0] for field in fields}
    for field in fields:
        assert not any(other.startswith(f"{field}.") for other in fields)
