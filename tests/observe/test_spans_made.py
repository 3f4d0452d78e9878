"""The spans that are made of a record: their kinds, parents, attributes, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Side, Stage
from gateway.observe.record import Record
from gateway.observe.recording import Recording, Try
from gateway.observe.spans import SpanObserver, Spans

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="no extra otel")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
SERVER, TRY, REMOTE = "b7ad6b7169203331", "00f067aa0ba902b7", "53995c3f42cd8ad8"
BEGUN = 100.0


class Nothing:
    """Takes records."""

    def __init__(self) -> None:
        self.seen: list[Record] = []

    def observe(self, record: Record) -> None:
        self.seen.append(record)


def record(**facts: Any) -> Record:
    """Return the record of a GET that took a second."""
    made = Record.begin(BEGUN, "192.0.2.1", "GET")
    made.trace = f"traceparent: 00-{TRACE}-{SERVER}-01\r\n".encode()
    made.status, made.duration_ms, made.protocol = 200, 1000.0, "HTTP/1.1"
    made.host, made.path, made.route = "app.test", "/x", "x"
    for name, value in facts.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def a_try(**facts: Any) -> Try:
    made = Try(TRY, "http://up:8080", "/y", BEGUN + 0.2)
    made.status, made.ended = 200, BEGUN + 0.5
    for name, value in facts.items():
        setattr(made, name, value)
    return made


async def made_of(
    of: Record, *tries: Try, parent: str = "", has_user_id: bool = False
) -> dict[str, ReadableSpan]:
    """Return the spans that are exported, by their kinds; each kind but once."""
    exporter = InMemorySpanExporter()
    spans = Spans(has_user_id=has_user_id, exporter=exporter)
    recording = of.recording = of.recording or Recording(SERVER, parent)
    recording.tries += tries
    recording.parent_id = parent
    observer = Nothing()
    SpanObserver(observer, spans).observe(of)
    await spans.close()
    assert observer.seen == [of]
    found = exporter.get_finished_spans()
    by_kind = {span.kind.name: span for span in found}
    assert len(by_kind) == len(found), found
    return by_kind


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_request_without_recording_has_no_span() -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter=exporter)
    SpanObserver(Nothing(), spans).observe(record())
    await spans.close()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("parent", ["", REMOTE])
async def test_a_request_that_was_forwarded(parent: str) -> None:
    """The try is a child of the gateway's span, and that is the client's, if any."""
    found = await made_of(record(), a_try(), parent=parent)
    whole, client = found["SERVER"], found["CLIENT"]
    assert whole.name == "GET x"
    assert (whole.end_time or 0) - (whole.start_time or 0) == pytest.approx(
        1e9, abs=1e3
    )
    assert whole.context is not None
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.context.span_id:016x}" == SERVER
    assert (whole.parent is not None) is bool(parent)
    if whole.parent is not None:
        assert f"{whole.parent.span_id:016x}" == parent
        assert whole.parent.is_remote
    assert client.parent == whole.context
    assert client.context is not None
    assert f"{client.context.span_id:016x}" == TRY
    # The last try lasts until the body has been sent.
    assert client.end_time == whole.end_time
    assert client.status.is_unset
    assert whole.status.is_unset


@pytest.mark.parametrize(
    ("host", "is_secure", "name", "port"),
    [
        ("app.test", False, "app.test", 80),
        ("app.test", True, "app.test", 443),
        ("app.test:81", False, "app.test", 81),
        ("[::1]:81", False, "[::1]", 81),
        ("", False, None, None),
    ],
)
async def test_the_address_that_the_client_used(
    host: str, is_secure: bool, name: str | None, port: int | None
) -> None:
    found = await made_of(record(host=host, is_secure=is_secure))
    said = attributes(found["SERVER"])
    assert (said.get("server.address"), said.get("server.port")) == (name, port)
    assert said["url.scheme"] == ("https" if is_secure else "http")


@pytest.mark.parametrize(
    ("target", "address", "port", "url"),
    [
        ("http://up:8080", "up", 8080, "http://up:8080/y"),
        ("https://up", "up", 443, "https://up/y"),
        ("unix:/run/up.sock", "unix:/run/up.sock", None, None),
    ],
)
async def test_the_address_of_a_target(
    target: str, address: str, port: int | None, url: str | None
) -> None:
    said = attributes((await made_of(record(), a_try(target=target)))["CLIENT"])
    assert (said["server.address"], said.get("server.port")) == (address, port)
    assert said.get("url.full") == url


@pytest.mark.parametrize(
    ("facts", "a_status", "error", "whole_error", "is_failure"),
    [
        ({"status": 404}, 404, "404", None, False),
        ({"status": 500}, 500, "500", "500", True),
        (
            {"status": 502, "side": Side.UPSTREAM, "reason": "upstream_bad_reply"},
            None,
            "upstream_bad_reply",
            "upstream_bad_reply",
            True,
        ),
        (
            {"status": 499, "side": Side.CLIENT, "reason": "client_gone"},
            200,
            None,
            "client_gone",
            False,
        ),
    ],
)
async def test_errors(
    facts: dict[str, Any],
    a_status: int | None,
    error: str | None,
    whole_error: str | None,
    is_failure: bool,
) -> None:
    """A client that goes away is no failure; a 404 is one of the try alone."""
    failed = error if a_status is None else ""
    found = await made_of(record(**facts), a_try(status=a_status, error=failed))
    whole, client = found["SERVER"], found["CLIENT"]
    assert attributes(client).get("error.type") == error
    assert attributes(whole).get("error.type") == whole_error
    assert client.status.is_unset is (error is None)
    assert whole.status.is_unset is not is_failure


async def test_a_reply_that_breaks_off() -> None:
    """The span has the status that the client got before."""
    facts = {"side": Side.UPSTREAM, "stage": Stage.COPY, "reason": "upstream_cut"}
    found = await made_of(record(status=502, upstream_status=206, **facts))
    said = attributes(found["SERVER"])
    assert said["http.response.status_code"] == 206
    assert said["error.type"] == "upstream_cut"


async def test_the_check_of_a_session() -> None:
    """The call to the core lies within it, and its status is an attribute."""
    of = record(verify_at=BEGUN + 0.1, verified_at=BEGUN + 0.4, decision="allowed")
    of.recording = Recording(SERVER, "")
    of.recording.core_called("/recipe/session/verify", "200", 0.1, BEGUN + 0.3)
    found = await made_of(of)
    verify, call = found["INTERNAL"], found["CLIENT"]
    assert verify.parent == found["SERVER"].context
    assert call.parent == verify.context
    assert attributes(call)["http.response.status_code"] == 200
    assert verify.status.is_unset


@pytest.mark.parametrize("outcome", ["500", "timeout"])
async def test_a_call_to_the_core_that_fails(outcome: str) -> None:
    """Outside of a check, it is a child of the request."""
    of = record(status=503, reason="core_unavailable")
    of.recording = Recording(SERVER, "")
    of.recording.core_called("/recipe/signin", outcome, 0.1, BEGUN + 0.3)
    found = await made_of(of)
    assert found["CLIENT"].parent == found["SERVER"].context
    assert attributes(found["CLIENT"])["error.type"] == outcome
    assert not found["CLIENT"].status.is_unset


@pytest.mark.parametrize("has_user_id", [False, True])
async def test_the_user_is_named_only_if_asked(has_user_id: bool) -> None:
    found = await made_of(record(user_id="user-1"), has_user_id=has_user_id)
    assert ("enduser.id" in attributes(found["SERVER"])) is has_user_id
