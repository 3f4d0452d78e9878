"""Events as AWS makes them of a request, one for each kind of front."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from gateway.aws.events import EventKind

KINDS = tuple(EventKind)
DECODED = (EventKind.HTTP_1, EventKind.HTTP_2)
"""Kinds that decode the path once, as HTTP APIs do."""
HOST = "api.example.com"
PEER = "192.0.2.7"
NAMES = {
    EventKind.URL: "abc.lambda-url.eu-west-1.on.aws",
    EventKind.HTTP_2: HOST,
    EventKind.HTTP_1: HOST,
    EventKind.REST: HOST,
}


def event(
    kind: EventKind,
    method: str,
    target: str,
    fields: Sequence[tuple[str, str]] = (),
    *,
    body: bytes | None = None,
    stage: str | None = None,
    as_written: bool = False,
) -> dict[str, Any]:
    """Return the event of a request, as the AWS documentation describes it.

    With *as_written*, all of *target* is the path.
    """
    path, _, query = (target, "", "") if as_written else target.partition("?")
    sent = [*fields, ("X-Forwarded-For", PEER), ("X-Forwarded-Proto", "https")]
    if not any(name.lower() == "host" for name, _ in fields):
        sent.append(("Host", HOST))
    text, is_base64 = _body(body)
    made: dict[str, Any] = {"body": text, "isBase64Encoded": is_base64}
    if kind in DECODED:
        # HTTP APIs decode the path, and cut it at a decoded question mark.
        path = unquote(path, errors="surrogatepass").partition("?")[0]
        stage = stage or "$default"
    context: dict[str, Any] = {"stage": stage or "$default", "requestId": "r1"}
    if kind is EventKind.ALB:
        context = {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x"}}
    else:
        context["domainName"] = NAMES[kind]
    made["requestContext"] = context
    if kind in (EventKind.HTTP_2, EventKind.URL):
        context["http"] = {"method": method, "path": path, "sourceIp": PEER}
        made |= {"version": "2.0", "rawPath": path, "rawQueryString": query}
        cookies = [value for name, value in sent if name.lower() == "cookie"]
        if cookies:
            made["cookies"] = [one for each in cookies for one in each.split("; ")]
        made["headers"] = _one_value(sent, with_cookie=kind is EventKind.URL)
        return made
    made |= {"httpMethod": method, "path": path}
    if kind is not EventKind.ALB:
        context["identity"] = {"sourceIp": PEER}
        query_pairs = parse_qsl(query, keep_blank_values=True)
    else:
        parts = (each.partition("=") for each in query.split("&") if each)
        query_pairs = [(name, value) for name, _, value in parts]
    if kind is EventKind.HTTP_1:
        made["version"] = "1.0"
    made["multiValueQueryStringParameters"] = _several(query_pairs) or None
    made["multiValueHeaders"] = _several(
        (name.lower() if kind is EventKind.ALB else name, value) for name, value in sent
    )
    if kind is EventKind.HTTP_1:
        made["headers"] = _one_value(sent, with_cookie=True)
    return made


def _several(pairs: Any) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for name, value in pairs:
        made.setdefault(name, []).append(value)
    return made


def _one_value(
    fields: Sequence[tuple[str, str]], *, with_cookie: bool
) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        if key == "cookie" and not with_cookie:
            continue
        joint = "; " if key == "cookie" else ","
        made[key] = f"{made[key]}{joint}{value}" if key in made else value
    return made


def _body(body: bytes | None) -> tuple[str | None, bool]:
    if body is None:
        return None, False
    try:
        return body.decode("ascii"), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
