"""edge. Log lines in the Elastic Common Schema, for `log.format: ecs`.

`@timestamp`, `log.level`, `message` and `ecs.version` come first, as keys with dots at
the top. All other fields are nested objects. That is what ECS loggers write: lines are
readable to people, and Elasticsearch takes both spellings for the same field. What the
schema lacks is below one object of ours, `gateway`. A field without a value is left
out, as ECS loggers do.

Source: the specification of ECS loggers (elastic/ecs-logging, spec), ECS 8.11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final

from gateway import __version__
from gateway.observe.meters import METHODS
from gateway.observe.record import Record
from gateway.observe.times import stamp

ECS_VERSION: Final = "8.11.0"
SERVICE_NAME: Final = "supertokens-gateway"
OWN: Final = "gateway"
"""The object with the fields that ECS lacks."""

ECS_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("@timestamp",),
    "level": ("log.level",),
    "message": ("message",),
    "event": ("event.action",),
    "reason": ("event.reason",),
    "duration_ms": ("event.duration",),
    "request_id": ("http.request.id",),
    "method": ("http.request.method",),
    "bytes_in": ("http.request.body.bytes",),
    "status": ("http.response.status_code",),
    "bytes_out": ("http.response.bytes",),
    "protocol": ("http.version",),
    "path": ("url.path",),
    "scheme": ("url.scheme",),
    "host": ("url.domain", "url.port"),
    "client": ("client.address", "client.ip"),
    "user_id": ("user.id",),
    "user_agent": ("user_agent.original",),
    "trace_id": ("trace.id",),
    "pid": ("process.pid",),
    "logger": ("log.logger",),
    "traceback": ("error.stack_trace",),
}
"""A key in JSON → its fields in ECS. All others are below `gateway`."""

_MAX_PORT: Final = 65535
_DOTTED: Final = frozenset(("@timestamp", "log.level", "message", "ecs.version"))
"""They come first, and aren't nested."""

_NO_SUCCESS: Final = 400
"""The lowest status of a request without success, as in Elastic's own pipelines for
access logs."""
_ERROR: Final = 500
"""The lowest status that counts as an error of the service's side."""
_VERSION: Final = f'"ecs.version":"{ECS_VERSION}"'
_SERVICE: Final = f'{{"name":"{SERVICE_NAME}","version":"{__version__}"}}'
_ACCESS: Final = (
    '"kind":"event","category":["web"],"type":["access"]'
    ',"dataset":"gateway.access","action":"request"'
)


def ecs_names(name: str) -> tuple[str, ...]:
    """Return the ECS fields that say what the key *name* says in JSON."""
    return ECS_NAMES.get(name, (f"{OWN}.{name}",))


# --- the access log -----------------------------------------------------------------


def ecs_line(record: Record, now: float, more: str = "") -> str:
    """Return the record as one line of ECS.

    *more* is what all lines of a process have in common, as `ecs_common` returns it.
    """
    status, method = record.status, record.method
    level = "error" if status >= _ERROR else "info"
    outcome = "success" if status else "unknown"
    if status >= _NO_SUCCESS or record.side is not None:
        outcome = "failure"
    shown = str(status) if status else "-"
    code = f'"status_code":{status},' if status else ""
    attempts = 0 if record.target is None else 1 + record.retries
    remember = _decided if method in METHODS else _decided.__wrapped__
    decided = remember(
        *(method, record.route, record.decision, record.upstream, record.target)
    )
    return (
        f'{{"@timestamp":"{stamp(now)}","log.level":"{level}"'
        f',"message":{_quoted(f"{method} {record.path} {shown}")}'
        f',{_VERSION},"event":{{{_ACCESS},"outcome":"{outcome}"'
        f',"duration":{round(record.duration_ms * 1e6)}'
        f"{_text('reason', record.reason)}}}"
        f',"http":{{"version":"{record.protocol.removeprefix("HTTP/")}"'
        f',"request":{{"id":{_quoted(record.request_id)},"method":{_quoted(method)}'
        f',"body":{{"bytes":{record.bytes_in}}}}}'
        f',"response":{{{code}"bytes":{record.bytes_out}}}}}'
        f',"url":{{"path":{_quoted(record.path)}'
        f"{_site(record.host, record.is_secure)}}}"
        f"{_client(record.client)}"
        f"{_object('user', 'id', record.user_id)}"
        f"{_object('user_agent', 'original', record.user_agent)}"
        f"{_object('trace', 'id', record.trace_id)}"
        f'{more or _NOBODY}"attempts":{attempts}'
        f"{_text('tenant_id', record.tenant_id)}"
        f"{_number('upstream_status', record.upstream_status)}"
        f"{_number('verify_ms', record.verify_ms)}"
        f"{_number('connect_ms', record.connect_ms)}"
        f"{_number('upstream_ms', record.upstream_ms)}"
        f"{_text('stage', record.stage)}{_text('side', record.side)}"
        f"{_text('note', record.note)}{decided}}}}}"
    )


@lru_cache(maxsize=1024)
def _decided(
    _method: str,
    route: str | None,
    decision: str,
    upstream: str | None,
    target: str | None,
) -> str:
    """Return fields with few values; remembered for known methods, as in JSON."""
    return (
        f"{_text('route', route)}{_text('decision', decision)}"
        f"{_text('upstream', upstream)}{_text('target', target)}"
    )


@lru_cache(maxsize=256)
def _site(host: str, is_secure: bool) -> str:
    """Return the fields of `url` that say what was asked for, but the path."""
    scheme = "https" if is_secure else "http"
    return f',"scheme":"{scheme}"{_members(_host_fields(host))}'


@lru_cache(maxsize=1024)
def _client(client: str) -> str:
    return f',"client":{{{_members(_client_fields(client))[1:]}}}' if client else ""


def _members(fields: Mapping[str, object]) -> str:
    return "".join(
        f',"{name.partition(".")[2]}":{json.dumps(value)}'
        for name, value in fields.items()
    )


def _text(name: str, value: str | None) -> str:
    return f',"{name}":{_quoted(value)}' if value else ""


def _object(name: str, member: str, value: str | None) -> str:
    return f',"{name}":{{"{member}":{_quoted(value)}}}' if value else ""


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f',"{name}":{value}' if isinstance(value, int) else f',"{name}":{value:.2f}'


def ecs_common(pid: int, worker: int | None, generation: int | None) -> str:
    """Return the part of `ecs_line` that all lines of a process have in common.

    It ends within the object `gateway`, which is a line's last. `ECS_RATE` may follow.
    """
    members = {"worker": worker, "generation": generation}
    own = "".join(f'"{name}":{n},' for name, n in members.items() if n is not None)
    return f',"process":{{"pid":{pid}}},"service":{_SERVICE},"{OWN}":{{{own}'


ECS_RATE: Final = '"sample_rate":{},'
_NOBODY: Final = f',"service":{_SERVICE},"{OWN}":{{'


# --- both logs ----------------------------------------------------------------------


def _host_fields(host: str) -> dict[str, object]:
    """Return domain and port of `host[:port]`; IPv6 addresses keep their brackets."""
    domain, mark, port = host.rpartition(":")
    if mark and port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT:
        return {**({"url.domain": domain} if domain else {}), "url.port": int(port)}
    return {"url.domain": host} if host else {}


def _client_fields(client: str) -> dict[str, object]:
    """Return the address of a client, and whether it is one of IP.

    `unix` isn't, nor is an address with a zone in the type that the field has.
    """
    fields: dict[str, object] = {"client.address": client} if client else {}
    try:
        if client == str(ip_address(client)) and "%" not in client:
            fields["client.ip"] = client
    except ValueError:
        pass
    return fields


# --- messages -----------------------------------------------------------------------


def ecs_message(fields: Mapping[str, object]) -> str:
    """Return the line about an event with these *fields*, which are those of JSON."""
    dotted: dict[str, object] = {
        **{ECS_NAMES[name][0]: fields[name] for name in ("time", "level", "message")},
        "ecs.version": ECS_VERSION,
        "event.kind": "event",
        "event.dataset": "gateway.runtime",
        "service": {"name": SERVICE_NAME, "version": __version__},
    }
    for name, value in fields.items():
        if value is None or value == "":
            continue
        if name == "client":
            dotted |= _client_fields(str(value))
        else:
            dotted[ecs_names(name)[0]] = value
    return json.dumps(_nested(dotted), separators=(",", ":"))


def _nested(dotted: Mapping[str, object]) -> dict[str, object]:
    """Return *dotted* with an object for each part of a name."""
    nested: dict[str, object] = {}
    for name, value in dotted.items():
        if name in _DOTTED:
            nested[name] = value
            continue
        *path, last = name.split(".")
        within: dict[str, Any] = nested
        for part in path:
            within = within.setdefault(part, {})
        within[last] = value
    return nested
