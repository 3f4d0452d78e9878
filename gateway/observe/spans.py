"""edge. The spans of requests whose trace is recorded, exported with OpenTelemetry.

They are made from the record when a request has ended, so other requests pay nothing.
The SDK exports them from a thread of its own, with a bounded queue: a collector that is
away delays no request.

Needs the extra `otel`. OpenTelemetry's variables OTEL_* say what is exported, and where
to. The SDK reads them, but for the sampler (`headers.trace_context`).

Source: OpenTelemetry, semantic conventions for HTTP spans 1.27 and later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway import __version__
from gateway.config import Finding
from gateway.errors import Side, Stage
from gateway.events import RuntimeEvent, about
from gateway.headers import Sampler, trace_context
from gateway.observe.record import Observer, Record
from gateway.observe.recording import NotedCall, Recording, Try

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

CLOSE_S: Final = 2.0
"""The longest time for the last spans when a process ends."""
SERVICE_NAME: Final = "supertokens-gateway"
_SCOPE: Final = "gateway"
_LIBRARY: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_PROTOCOL: Final = "http/protobuf"
_PORTS: Final = {"http": 80, "https": 443}
_CLIENT_GONE: Final = 499
_FAILED: Final = 500
_UPSTREAM_FAILED: Final = 400
"""The lowest status of a reply that makes the span of a try an error."""

_log = logging.getLogger("gateway.tracing")


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for an export."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter == "otlp"
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def doubts(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield why nothing is exported although the environment asks for it."""
    if is_wanted(environ):
        for message, hint in _obstacles(environ):
            yield Finding(
                loc=(), message=f"no spans are exported: {message}", hint=hint
            )


def _obstacles(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not _is_installed():
        yield (
            "OpenTelemetry isn't installed",
            "Install supertokens-gateway[otel], or set OTEL_TRACES_EXPORTER=none",
        )
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(name):
            if protocol != _PROTOCOL:
                yield (
                    f"{name}: expected {_PROTOCOL}",
                    "Set it, and the endpoint of the collector for HTTP (port 4318)",
                )
            break
    try:
        sampler(environ)
    except ValueError as error:
        yield str(error), "Correct it, or unset it: 1 % of traces are recorded then"


def _is_installed() -> bool:
    try:
        return find_spec(_LIBRARY) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def sampler(environ: Mapping[str, str]) -> Sampler:
    """Return the sampler that the environment names.

    Raises:
        ValueError: it names none.
    """
    return trace_context.sampler(
        environ.get("OTEL_TRACES_SAMPLER") or None,
        environ.get("OTEL_TRACES_SAMPLER_ARG") or None,
    )


def exporting(environ: Mapping[str, str]) -> Sampler | None:
    """Return what decides which spans are exported; None: nothing is exported."""
    if not is_wanted(environ) or any(_obstacles(environ)):
        return None
    return sampler(environ)


class Spans:
    """Exports the spans of one process, which has forked before."""

    def __init__(
        self, *, has_user_id: bool = False, exporter: SpanExporter | None = None
    ) -> None:
        """*has_user_id*: spans have the user's id. *exporter* replaces that of OTLP."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )
        from opentelemetry.sdk import resources
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        # It would report each batch that is lost, at length.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._api, self._sdk = trace, sdk
        self._has_user_id = has_user_id
        resource = resources.Resource.create(
            {"service.version": __version__, "process.pid": os.getpid()}
        )
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            own = resources.Resource({"service.name": SERVICE_NAME})
            resource = resource.merge(own)
        self._resource = resource
        self._scope = InstrumentationScope(_SCOPE, __version__)
        self._processor = BatchSpanProcessor(_reporting(exporter or OTLPSpanExporter()))

    def end(self, record: Record, recording: Recording) -> None:
        """Queue the spans of a request that has ended."""
        # `perf_counter` is for durations: the end is now.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        made = _Request(self, record, recording, offset_ns)
        for span in made.spans():
            self._processor.on_end(span)

    async def close(self) -> None:
        """Export what is queued, for at most CLOSE_S, and stop."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        # The SDK's own bound is half a minute.
        thread = threading.Thread(target=self._processor.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_S)

    def context(self, trace_id: str, span_id: str, *, is_remote: bool = False) -> Any:
        api = self._api
        flags = api.TraceFlags(api.TraceFlags.SAMPLED)
        return api.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, flags)

    def span(
        self,
        name: str,
        kind: str,
        context: Any,
        parent: Any,
        attributes: Mapping[str, Any],
        times: tuple[int, int],
        *,
        error: str = "",
        is_failure: bool = True,
    ) -> ReadableSpan:
        """Return a span. *error* is its `error.type`; it fails if *is_failure*."""
        api = self._api
        known = {key: value for key, value in attributes.items() if value is not None}
        status = api.Status(api.StatusCode.UNSET)
        if error:
            known["error.type"] = error
            if is_failure:
                status = api.Status(api.StatusCode.ERROR)
        return self._sdk.ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=known,
            kind=api.SpanKind[kind],
            status=status,
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=self._scope,
        )

    @property
    def has_user_id(self) -> bool:
        """Whether spans have the user's id."""
        return self._has_user_id


class _Request:
    """The spans of one request."""

    def __init__(
        self, spans: Spans, record: Record, recording: Recording, offset_ns: int
    ) -> None:
        self._spans = spans
        self._record = record
        self._recording = recording
        self._offset_ns = offset_ns
        self._trace_id = record.trace_id or ""
        self._ended = record.started + record.duration_ms / 1000
        self._server = spans.context(self._trace_id, recording.server_id)

    def spans(self) -> Iterator[ReadableSpan]:
        """Yield the spans, the children first."""
        record = self._record
        parent = self._server
        began, ended = record.verify_at, record.verified_at
        calls = self._recording.core_calls
        asked = any(began <= call.begun <= ended for call in calls)
        if ended and (asked or record.reason.startswith("core")):
            parent = self._spans.context(self._trace_id, secrets.token_hex(8))
            yield self._verify(parent)
        for call in calls:
            is_check = began <= call.begun <= ended
            yield self._core(call, parent if is_check else self._server)
        for number, a_try in enumerate(self._recording.tries):
            yield self._try(a_try, number)
        yield self._whole()

    def _times(self, begun: float, ended: float) -> tuple[int, int]:
        offset = self._offset_ns
        return int(begun * 1e9) + offset, int(ended * 1e9) + offset

    def _verify(self, context: Any) -> ReadableSpan:
        record = self._record
        return self._spans.span(
            "verify",
            "INTERNAL",
            context,
            self._server,
            {"gateway.decision": record.decision, "gateway.reason": record.reason},
            self._times(record.verify_at, record.verified_at),
            error=record.reason if record.decision == "undecided" else "",
        )

    def _core(self, call: NotedCall, parent: Any) -> ReadableSpan:
        status = int(call.outcome) if call.outcome.isdigit() else None
        is_error = status is None or status >= _UPSTREAM_FAILED
        return self._spans.span(
            f"core {call.path}",
            "CLIENT",
            self._spans.context(self._trace_id, secrets.token_hex(8)),
            parent,
            {"url.template": call.path, "http.response.status_code": status},
            self._times(call.begun, call.ended),
            error=call.outcome if is_error else "",
        )

    def _try(self, a_try: Try, number: int) -> ReadableSpan:
        record, status = self._record, a_try.status
        is_last = number == len(self._recording.tries) - 1
        error, ended = a_try.error, a_try.ended
        if status is not None and is_last:
            ended = self._ended  # the body follows the head
            if record.side is Side.UPSTREAM:
                error = record.reason
        if not error and status is not None and status >= _UPSTREAM_FAILED:
            error = str(status)
        url = urlsplit(a_try.target)
        is_url = bool(url.hostname)
        attributes = {
            "http.request.method": record.method,
            "url.full": f"{a_try.target}{a_try.path}" if is_url else None,
            "server.address": url.hostname or a_try.target,
            "server.port": (url.port or _PORTS.get(url.scheme)) if is_url else None,
            "http.response.status_code": status,
            "http.request.resend_count": number or None,
            "gateway.service": record.upstream,
        }
        return self._spans.span(
            record.method,
            "CLIENT",
            self._spans.context(self._trace_id, a_try.span_id),
            self._server,
            attributes,
            self._times(a_try.begun, ended),
            error=error,
        )

    def _whole(self) -> ReadableSpan:
        record = self._record
        host, port = _address(record.host, record.is_secure)
        status: int | None = record.status or None
        if record.side is not None and record.stage is Stage.COPY:
            status = record.upstream_status  # the reply broke off after its head
        elif status == _CLIENT_GONE:
            status = None
        attributes = {
            "http.request.method": record.method,
            "url.scheme": "https" if record.is_secure else "http",
            "url.path": record.path,
            "server.address": host,
            "server.port": port,
            "http.route": record.route,
            "http.response.status_code": status,
            "client.address": record.client,
            "network.protocol.version": record.protocol.removeprefix("HTTP/"),
            "user_agent.original": record.user_agent,
            "gateway.request_id": record.request_id,
            "gateway.decision": record.decision,
            "gateway.reason": record.reason or None,
        }
        if self._spans.has_user_id:
            attributes["enduser.id"] = record.user_id
        error = ""
        if record.side is not None or record.status >= _FAILED:
            error = record.reason or str(record.status)
        parent = None
        if self._recording.parent_id:
            parent = self._spans.context(
                self._trace_id, self._recording.parent_id, is_remote=True
            )
        name = record.method
        return self._spans.span(
            name if record.route is None else f"{name} {record.route}",
            "SERVER",
            self._server,
            parent,
            attributes,
            self._times(record.started, self._ended),
            error=error,
            is_failure=record.side is not Side.CLIENT,
        )


class SpanObserver:
    """Exports the spans of recorded requests, and passes each record on."""

    def __init__(self, observer: Observer, spans: Spans) -> None:
        self._observer = observer
        self._spans = spans

    def observe(self, record: Record) -> None:
        self._observer.observe(record)
        if record.recording is not None:
            self._spans.end(record, record.recording)


def _address(host: str, is_secure: bool) -> tuple[str | None, int | None]:
    """Return host and port of `host[:port]`."""
    if not host:
        return None, None
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and not name.endswith(":"):
        return name, int(port)
    return host, _PORTS["https" if is_secure else "http"]


def _reporting(exporter: SpanExporter) -> SpanExporter:
    """Return *exporter*, with a message when it begins to fail, and when it works."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Reporting(SpanExporter):
        is_failing = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            is_failing = result is not SpanExportResult.SUCCESS
            if is_failing and not self.is_failing:
                _log.warning(
                    "spans can't be exported and are lost: the collector can't be"
                    " reached, or refuses them",
                    extra=about(RuntimeEvent.SPANS_LOST),
                )
            elif self.is_failing and not is_failing:
                _log.warning(
                    "spans can be exported again",
                    extra=about(RuntimeEvent.SPANS_EXPORTED),
                )
            self.is_failing = is_failing
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Reporting()
