"""A record of a request with most of what a record has."""

from __future__ import annotations

from gateway.errors import Stage
from gateway.observe import Record

TRACE = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n"

RECORD = Record(
    started=0.0,
    client="203.0.113.7",
    method="GET",
    path="/orders/7",
    request_id="abc",
    trace=TRACE,
    stage=Stage.COPY,
    status=200,
    route="orders",
    decision="allowed",
    reason="cached",
    user_id="u-1",
    tenant_id="public",
    user_agent="curl/8",
    host="api.example.com:8443",
    is_secure=True,
    upstream="orders",
    target="http://10.0.0.7:8080",
    retries=1,
    upstream_status=201,
    duration_ms=1.23456,
    verify_at=5.0,
    verified_at=5.00025,
    replied_at=5.00075,
    bytes_in=3,
    bytes_out=140,
)
