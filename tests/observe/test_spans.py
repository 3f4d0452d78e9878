"""The spans of a real gateway, as an OTLP receiver on loopback decodes them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from faults import OK, FaultUpstream, Peer, Received
from processes import DEADLINE_S, Process, command, serving
from stack import Gateway, Records

from gateway.app import App
from gateway.dev.core import ThreadedCore
from gateway.headers import Sampler
from gateway.observe import spans

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="no extra otel")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2
ROUTES = """\
version: 1
gateway: {listen: 127.0.0.1:0, trusted_proxies: PROXIES}
tracing: {user_id: USER_ID}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"], retry: {on: [503], attempts: 1}}}
routes:
  - {name: open, path: /open, service: up, protected: false,
     rewrite: {strip_prefix: /open}}
  - {name: private, path: /private, service: up, session: {check_database: never}}
  - {name: asks, path: /asks, service: up, session: {check_database: always}}
"""


class Receiver(HTTPServer):
    """Takes spans with OTLP over HTTP, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(values(group.resource.attributes))
            for scope in group.scope_spans:
                self.spans += [Span(one) for one in scope.spans]

    async def trace(self, trace_id: str, count: int) -> list[Span]:
        """Return the spans of a trace, once there are *count*."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = [span for span in self.spans if span.trace_id == trace_id]
                if len(found) >= count:
                    assert len(found) == count, found
                    return found
                await asyncio.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    """Answers exports."""

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert isinstance(self.server, Receiver)
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


def values(attributes: Any) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes
    }


class Span:
    """A span as it was received."""

    def __init__(self, raw: Any) -> None:
        self.name: str = raw.name
        self.kind: int = raw.kind
        self.trace_id: str = raw.trace_id.hex()
        self.id: str = raw.span_id.hex()
        self.parent: str = raw.parent_span_id.hex()
        self.is_error = raw.status.code == ERROR
        self.attributes = values(raw.attributes)
        self.begun, self.ended = raw.start_time_unix_nano, raw.end_time_unix_nano

    def __repr__(self) -> str:
        return f"{self.name}({self.attributes})"


def one(found: list[Span], kind: int, name: str = "") -> Span:
    (span,) = (s for s in found if s.kind == kind and s.name.startswith(name))
    return span


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Traced:
    """A running gateway with an upstream that records what it gets."""

    def __init__(self, process: Process, port: int, core: ThreadedCore) -> None:
        self.process = process
        self.gateway = Gateway(
            app=cast("App", None),
            url=f"http://127.0.0.1:{port}",
            records=Records(),
            any_core=core,
        )

    async def ask(self, target: str, *fields: tuple[str, str]) -> str:
        """Send a GET; return the trace id that the access log says."""
        reply = await self.gateway.ask("GET", target, *fields)
        return await self.logged(reply.one("X-Request-Id"))

    async def logged(self, request_id: str | None) -> str:
        assert request_id is not None
        pattern = rb'"request_id":"%b","trace_id":"(\w{32})"' % request_id.encode()
        return (await self.process.until_said(pattern))[1].decode()


Start = Callable[..., Awaitable[Traced]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream, receiver: Receiver
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway that exports to *receiver*."""
    async with AsyncExitStack() as opened:

        async def run(
            environ: Mapping[str, str] | None = None,
            proxies: str = "[]",
            user_id: str = "false",
        ) -> Traced:
            path = tmp_path / "routes.yaml"
            text = ROUTES.replace("PROXIES", proxies).replace("USER_ID", user_id)
            path.write_text(text, encoding="utf-8")
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--log-format", "json"),
                    cwd=tmp_path,
                    environ={
                        "CORE": st_core.url,
                        "UPSTREAM": upstream.url,
                        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                        "OTEL_TRACES_SAMPLER": "always_on",
                        "OTEL_BSP_SCHEDULE_DELAY": "20",
                        **(environ or {}),
                    },
                )
            )
            return Traced(process, await serving(process), st_core)

        yield run


def parent(received: Received) -> list[str]:
    """Return trace id, span id and flags that the service got."""
    found = re.fullmatch(
        rb"00-(\w{32})-(\w{16})-(\w\w)", received.field(b"traceparent") or b""
    )
    assert found is not None
    return [part.decode() for part in found.groups()]


async def test_a_forwarded_request(
    start: Start, receiver: Receiver, upstream: FaultUpstream
) -> None:
    """A server span, and a client span whose id the service got as parent id.

    No query, token or cookie is in any attribute.
    """
    traced = await start({"OTEL_SERVICE_NAME": "edge"})
    secrets = (("Cookie", "a=geheim1"), ("Authorization", "Bearer geheim2"))
    trace_id = await traced.ask("/open/x?key=geheim3", *secrets)
    found = await receiver.trace(trace_id, 2)
    server, client = one(found, SERVER), one(found, CLIENT)
    assert parent(upstream.requests[0]) == [trace_id, client.id, "01"]
    assert (server.name, server.parent, server.is_error) == ("GET open", "", False)
    assert client.parent == server.id
    assert server.begun <= client.begun <= client.ended <= server.ended
    assert server.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/open/x",
        "server.address": "localhost",
        "server.port": 80,
        "http.route": "open",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "gateway.request_id": server.attributes["gateway.request_id"],
        "gateway.decision": "anonymous",
        "gateway.reason": "public",
    }
    port = int(upstream.url.rpartition(":")[2])
    assert client.attributes == {
        "http.request.method": "GET",
        "url.full": f"{upstream.url}/x",
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.response.status_code": 200,
        "gateway.service": "up",
    }
    assert receiver.resources[0]["service.name"] == "edge"
    assert b"geheim" not in b"".join(receiver.bodies)


async def test_calls_to_the_core(start: Start, receiver: Receiver) -> None:
    """They are children of `verify` on routes, and of the server span for /auth/*.

    A verdict that needs no call has no span of its own.
    """
    traced = await start(user_id="true")
    user = await traced.gateway.sign_up()
    signed_up = [s for s in receiver.spans if s.name == "POST /auth"] or None
    async with asyncio.timeout(DEADLINE_S):
        while signed_up is None:
            await asyncio.sleep(0.01)
            signed_up = [s for s in receiver.spans if s.name == "POST /auth"] or None
    (server,) = signed_up
    calls = [s for s in receiver.spans if s.trace_id == server.trace_id]
    calls.remove(server)
    assert {call.kind for call in calls} == {CLIENT}
    assert {call.parent for call in calls} == {server.id}
    assert "core /recipe/signup" in {call.name for call in calls}

    found = await receiver.trace(await traced.ask("/private", user.bearer), 2)
    assert {span.kind for span in found} == {SERVER, CLIENT}
    assert one(found, SERVER).attributes["enduser.id"] == user.id

    found = await receiver.trace(await traced.ask("/asks", user.bearer), 4)
    server, verify = one(found, SERVER), one(found, INTERNAL, "verify")
    call = one(found, CLIENT, "core ")
    assert (verify.parent, call.parent) == (server.id, verify.id)
    assert verify.attributes["gateway.reason"] == "core"
    assert call.attributes["http.response.status_code"] == 200

    found = await receiver.trace(await traced.ask("/user", user.bearer), 1)
    assert one(found, SERVER).name == "GET /user"


async def test_refused_requests(
    start: Start, receiver: Receiver, upstream: FaultUpstream
) -> None:
    """They have a server span, which isn't an error for a client's fault."""
    traced = await start()
    for target, status, is_error in (
        ("/private", 401, False),
        ("/nowhere", 404, False),
        ("/a%00b", 400, False),
    ):
        (span,) = await receiver.trace(await traced.ask(target), 1)
        assert span.attributes["http.response.status_code"] == status
        assert (span.is_error, "enduser.id" in span.attributes) == (is_error, False)
    assert not upstream.requests


async def test_each_try_has_a_span(
    start: Start, receiver: Receiver, upstream: FaultUpstream
) -> None:
    """A reply that is retried is an error; the next try counts as resent."""
    traced = await start()

    async def busy_once(peer: Peer) -> None:
        while True:
            await peer.request()
            is_first = len(upstream.requests) == 1
            await peer.send(OK.replace(b"200 OK", b"503 Busy") if is_first else OK)

    upstream.behaviour = busy_once
    found = await receiver.trace(await traced.ask("/open"), 3)
    tries = sorted((s for s in found if s.kind == CLIENT), key=lambda s: s.begun)
    assert [parent(r)[1] for r in upstream.requests] == [s.id for s in tries]
    assert [s.is_error for s in tries] == [True, False]
    assert [s.attributes["http.response.status_code"] for s in tries] == [503, 200]
    assert [s.attributes.get("http.request.resend_count") for s in tries] == [None, 1]
    assert not one(found, SERVER).is_error


async def test_a_reply_that_breaks_off(
    start: Start, receiver: Receiver, upstream: FaultUpstream
) -> None:
    """Both spans are errors; their status is the one that was sent."""
    traced = await start()

    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    upstream.behaviour = cut
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with pytest.raises(asyncio.IncompleteReadError):
        await traced.ask("/open", ("X-Request-Id", trace))
    found = await receiver.trace(await traced.logged(trace), 2)
    for span in found:
        assert span.is_error
        assert span.attributes["http.response.status_code"] == 200
        assert span.attributes["error.type"].startswith("upstream_")


async def test_a_service_that_is_away(
    start: Start, receiver: Receiver, closed_port: int
) -> None:
    """Both spans are errors with the failure's code."""
    traced = await start({"UPSTREAM": f"http://127.0.0.1:{closed_port}"})
    found = await receiver.trace(await traced.ask("/open"), 2)
    assert all(span.is_error for span in found)
    assert one(found, SERVER).attributes["http.response.status_code"] == 502
    for span in found:
        assert span.attributes["error.type"] == "upstream_unreachable"


@pytest.mark.parametrize(
    ("proxies", "flags", "is_recorded"),
    [("[127.0.0.1]", "01", True), ("[127.0.0.1]", "00", False), ("[]", "01", False)],
)
async def test_who_decides_what_is_recorded(
    start: Start,
    receiver: Receiver,
    upstream: FaultUpstream,
    proxies: str,
    flags: str,
    is_recorded: bool,
) -> None:
    """A trusted proxy's flag; no client's."""
    traced = await start({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, proxies)
    sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-" + flags
    trace_id = await traced.ask("/open", ("traceparent", sent))
    assert parent(upstream.requests[0])[2] == f"0{int(is_recorded)}"
    traced.process.signal(signal.SIGTERM)
    assert await traced.process.ended() == 0
    if is_recorded:
        server = one(await receiver.trace(trace_id, 2), SERVER)
        assert server.parent == "00f067aa0ba902b7"
    assert bool(receiver.spans) == is_recorded


async def test_the_last_spans_are_exported_at_the_end(
    start: Start, receiver: Receiver
) -> None:
    """A gateway that stops doesn't wait for the next batch."""
    traced = await start({"OTEL_BSP_SCHEDULE_DELAY": "3600000"})
    trace_id = await traced.ask("/open")
    assert not receiver.spans
    traced.process.signal(signal.SIGTERM)
    assert await traced.process.ended() == 0
    assert len([s for s in receiver.spans if s.trace_id == trace_id]) == 2


async def test_a_collector_that_is_away(
    start: Start, upstream: FaultUpstream, closed_port: int
) -> None:
    """It costs a line, and neither a request nor the end waits for it."""
    traced = await start(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{closed_port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
    )
    await traced.ask("/open")
    said = await traced.process.until_said(rb'(?m)^(.*"event": "spans_lost".*)$')
    assert json.loads(said[1])["level"] == "warning"
    await traced.ask("/open")
    assert len(upstream.requests) == 2
    traced.process.signal(signal.SIGTERM)
    assert await traced.process.ended() == 0


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "sampler", "doubt"),
    [
        ({}, None, ""),
        (ENDPOINT, Sampler(0.01, True), ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Sampler(0.01, True), ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "x"}, Sampler(0.01, True), ""),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(1.0, False), ""),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None, ""),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, None, ""),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, "http/protobuf"),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "some"}, None, "OTEL_TRACES_SAMPLER"),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER_ARG": "2"}, None, "from 0 to 1"),
    ],
)
def test_what_the_environment_asks_for(
    environ: dict[str, str], sampler: Sampler | None, doubt: str
) -> None:
    """`gateway check` and `serve` warn of what can't be done; nothing is exported."""
    assert spans.exporting(environ) == sampler
    found = [finding.message for finding in spans.doubts(environ)]
    assert len(found) == bool(doubt)
    assert all(doubt in message for message in found)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning has the remedy, and nothing is exported."""
    monkeypatch.setattr(spans, "_LIBRARY", "no_such_library.exporter")
    assert spans.exporting(ENDPOINT) is None
    (finding,) = spans.doubts(ENDPOINT)
    assert "supertokens-gateway[otel]" in (finding.hint or "")
    assert not [*spans.doubts({})]
