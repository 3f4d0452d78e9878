"""A front that asks over gRPC, with grpcio's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from wire import DEADLINE_S

from gateway.fronts.grpc_messages import METHOD, CheckRequest, CheckResponse

Ask = Any
"""Sends an encoded question; returns a call, which returns the answer."""


def question(
    target: str,
    *fields: tuple[str, str],
    method: str = "GET",
    client: str = "192.0.2.7",
    raw: bool = False,
    scheme: str = "https",
    host: str = "a.test",
) -> Any:
    """Return what Envoy asks about a request; *raw*: as with `encode_raw_headers`."""
    asked = CheckRequest()
    asked.attributes.source.address.socket_address.address = client
    http = asked.attributes.request.http
    http.method, http.path, http.host, http.scheme = method, target, host, scheme
    named = [(":path", target), (":method", method), (":authority", host), *fields]
    for name, value in named:
        if raw:
            http.header_map.headers.add(key=name.lower(), raw=value.encode("latin-1"))
        else:
            http.headers.add(key=name.lower(), value=value)
    return asked


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Ask]:
    """Yield what asks over one connection."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            METHOD.decode(),
            request_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
            response_deserializer=CheckResponse.FromString,
        )

        def ask(message: Any, timeout_s: float = DEADLINE_S) -> Any:
            return call(message, timeout=timeout_s)

        yield ask


def fields(options: Iterable[Any]) -> dict[str, list[str]]:
    """Return fields by name."""
    found: dict[str, list[str]] = {}
    for option in options:
        found.setdefault(option.header.key, []).append(option.header.value)
    return found
