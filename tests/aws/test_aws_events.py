"""Which request an event of AWS Lambda is about."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lambda_events import DECODED, KINDS, event

from gateway.aws.events import (
    BadEvent,
    EventKind,
    SingleValueHeaders,
    kind_of,
    request_of,
    without_prefix,
)
from gateway.errors import BadRequest, GatewayError
from gateway.http.fields import Fields, first
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.http.target import parse

READER = RequestReader(HeadLimits(8192, 16384, 32768, 100))


def head_of(sent: Any, base_path: str = "") -> RequestHead:
    return READER.read(request_of(sent, kind_of(sent), base_path).head)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_request_from_each_kind(kind: EventKind) -> None:
    """Method, target, fields, cookies, peer and body, whatever the format."""
    sent = event(
        kind,
        "POST",
        "/orders/7?x=1&y=%20z",
        [("Content-Type", "text/plain"), ("Cookie", "a=1"), ("Cookie", "b=2")],
        body=b"hi",
    )
    assert kind_of(sent) is kind
    request = request_of(sent, kind)
    head = READER.read(request.head)
    assert (head.method, head.target) == ("POST", b"/orders/7?x=1&y=%20z")
    assert head.host == b"api.example.com"
    fields = tuple((name.lower(), value) for name, value in head.fields)
    assert first(fields, b"content-type") == b"text/plain"
    assert b"; ".join(v for n, v in fields if n == b"cookie") == b"a=1; b=2"
    assert head.content_length == 2
    assert request.body == b"hi"
    assert (request.peer, request.is_secure) == ("192.0.2.7", True)
    assert first(fields, b"x-forwarded-for") is None


PATHS = {
    # as sent: (events with the path as sent, events whose path was decoded once)
    "/a/b": ("/a/b", "/a/b"),
    "/%61dmin": ("/admin", "/admin"),
    "/%2561dmin": ("/%2561dmin", "/%2561dmin"),
    "/public/../admin": ("/admin", "/admin"),
    "/public/%2e%2e/admin": ("/admin", "/admin"),
    "/public/%252e%252e/admin": (
        "/public/%252e%252e/admin",
        "/public/%252e%252e/admin",
    ),
    "/public/..%2f..%2fadmin": (None, None),
    "/public%2fadmin": (None, "/public/admin"),
    "/a%3fb": ("/a%3Fb", "/a"),  # HTTP APIs cut there
    "/a%23b": ("/a%23b", "/a%23b"),
    "/a%0d%0aX-User-Id:%20eve": (None, None),
    "/a%00": (None, None),
    "/caf%C3%A9": ("/caf%C3%A9", "/caf%C3%A9"),
    "/a%20b": ("/a%20b", "/a%20b"),
    "/a%5c..%5cb": (None, None),
    "/a;x=1/b": ("/a;x=1/b", "/a;x=1/b"),
    "/..;/admin": (None, None),
    "/a//b": ("/a/b", "/a/b"),
    "/../../etc": (None, None),
    "/a\r\nX-User-Id: eve": (None, None),
    "/a b": (None, "/a%20b"),
    "/a#b": (None, "/a%23b"),
    "/\ud800": (None, None),
    "": (None, None),
    "a": (None, None),
    "http://evil/admin": (None, None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", PATHS)
def test_a_path_means_one_thing(sent: str, kind: EventKind) -> None:
    """No path is decoded twice, and none ends the request line."""
    expected = PATHS[sent][kind in DECODED]
    try:
        head = head_of(event(kind, "GET", sent, as_written=True))
        path = parse(head.target, head.method, head.host).path
    except GatewayError:
        path = None
    assert path == expected


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_aws_has_decoded_is_encoded_once(kind: EventKind, text: str) -> None:
    """A decoded path is the decoded target; none has a byte that ends the line."""
    sent = event(kind, "GET", "/")
    sent["path" if "path" in sent else "rawPath"] = f"/{text}"
    try:
        head = request_of(sent, kind).head
    except BadRequest:
        assert kind not in DECODED
        return
    target = head.split(b"\r\n")[0].removeprefix(b"GET ").removesuffix(b" HTTP/1.1")
    if kind in DECODED:
        assert unquote_to_bytes(target) == f"/{text}".encode()
    else:
        assert target == f"/{text}".encode()
    assert not set(target) & {*range(33), 127}


FIELD_TEXT = st.text(st.characters(max_codepoint=0x2FF))


@pytest.mark.parametrize("kind", KINDS)
@given(name=FIELD_TEXT, value=FIELD_TEXT, method=FIELD_TEXT, cookie=FIELD_TEXT)
def test_no_text_of_an_event_makes_a_line(
    kind: EventKind, name: str, value: str, method: str, cookie: str
) -> None:
    """Each text is part of one line, or the request is refused."""
    plain = event(kind, "GET", "/", [("X-A", "b"), ("Cookie", "c=d")])
    lines = request_of(plain, kind).head.count(b"\r\n")
    for text, other in (("GET", "X-A"), (method, name)):
        sent = event(kind, text, "/", [(other, value), ("Cookie", cookie)])
        try:
            head = request_of(sent, kind).head
        except GatewayError:
            continue
        assert head.count(b"\r\n") <= lines + 2
        assert head.replace(b"\r\n", b"").translate(None, b"\r\n\0") == head.replace(
            b"\r\n", b""
        )


QUERIES = ["x=1", "a=1&a=2", "x=%20%26%3d", "x=%2525", "x=%C3%A9"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_arrives_as_it_was_sent(kind: EventKind, query: str) -> None:
    """Nothing is decoded twice, and values of one name stay in order."""
    raw = head_of(event(kind, "GET", f"/a?{query}")).target
    assert raw.partition(b"?")[2].lower() == query.encode().lower()


@pytest.mark.parametrize("kind", DECODED)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/prod/a", b"/a"),
        ("/prod", b"/"),
        ("/prod/", b"/"),
        ("/product", b"/product"),
        ("/prod/prod/a", b"/prod/a"),
        ("/a/prod", b"/a/prod"),
        ("/Prod/a", b"/Prod/a"),
    ],
)
def test_the_stage_is_removed_once(kind: EventKind, path: str, expected: bytes) -> None:
    """Only the first segment, and only if it is the stage."""
    assert head_of(event(kind, "GET", path, stage="prod")).target == expected


@pytest.mark.parametrize("kind", KINDS)
def test_other_stages_stay(kind: EventKind) -> None:
    """`$default` is in no path, and a REST API's path has no stage."""
    stage = "$default" if kind in DECODED else "prod"
    path = f"/{stage}/a"
    sent = head_of(event(kind, "GET", path, stage=stage)).target
    assert sent == path.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_path_is_removed_once(kind: EventKind) -> None:
    """The one of the configuration, after the stage."""
    for path, expected in (
        ("/shop/a", b"/a"),
        ("/shop/shop/a", b"/shop/a"),
        ("/shopping", b"/shopping"),
        ("/shop", b"/"),
        ("/a", b"/a"),
    ):
        assert head_of(event(kind, "GET", path), "/shop").target == expected


@given(st.text(), st.text(min_size=1))
def test_a_prefix_ends_at_a_segment(path: str, prefix: str) -> None:
    """What is left begins with a slash, unless nothing was removed."""
    left = without_prefix(path, f"/{prefix}")
    assert left == path or (
        left.startswith("/") and f"/{prefix}{left}" in (path, f"{path}/")
    )


def test_a_load_balancer_must_send_all_values() -> None:
    """Without the attribute of its target group, cookies get lost."""
    sent = event(EventKind.ALB, "GET", "/")
    sent["headers"] = {n: v[-1] for n, v in sent.pop("multiValueHeaders").items()}
    with pytest.raises(SingleValueHeaders) as raised:
        request_of(sent, EventKind.ALB)
    assert "lambda.multi_value_headers.enabled" in raised.value.title


def test_a_health_check_of_a_load_balancer() -> None:
    """It has neither Host nor X-Forwarded-For."""
    sent = event(EventKind.ALB, "GET", "/health")
    sent["multiValueHeaders"] = {"user-agent": ["ELB-HealthChecker/2.0"]}
    request = request_of(sent, EventKind.ALB)
    assert (request.peer, request.is_secure) == ("", False)
    head = READER.read(request.head)
    assert (head.http10, head.host, head.target) == (True, None, b"/health")


@pytest.mark.parametrize(
    ("stated", "peer", "left"),
    [
        ("192.0.2.7", "192.0.2.7", None),
        ("10.0.0.1, 192.0.2.7", "192.0.2.7", b"10.0.0.1"),
        ("10.0.0.1, 192.0.2.7:4711", "192.0.2.7", b"10.0.0.1"),
        ("evil, 2001:db8::1", "2001:db8::1", b"evil"),
        ("evil", "", None),
    ],
)
def test_the_peer_of_a_load_balancer(
    stated: str, peer: str, left: bytes | None
) -> None:
    """The entry that the load balancer has added is the peer, the others its claim."""
    sent = event(EventKind.ALB, "GET", "/")
    sent["multiValueHeaders"]["x-forwarded-for"] = [stated]
    request = request_of(sent, EventKind.ALB)
    fields: Fields = READER.read(request.head).fields
    assert request.peer == peer
    assert first(fields, b"x-forwarded-for") == left


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_the_connection_to_aws_stay_there(kind: EventKind) -> None:
    """A client can't frame a body, or name the scheme, of the request behind AWS."""
    fields = [
        *(("Transfer-Encoding", "chunked"), ("Content-Length", "99")),
        *(("Connection", "X-A"), ("Expect", "100-continue"), ("Upgrade", "h2c")),
        *(("TE", "trailers"), ("X-A", "b"), ("X-Forwarded-Port", "1")),
    ]
    head = head_of(event(kind, "GET", "/", fields))
    names = sorted(name.lower() for name, _ in head.fields)
    assert names == [b"content-length", b"host", b"x-a"]
    assert head.content_length == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "field", [("Upgrade", "WebSocket"), ("Sec-WebSocket-Key", "x")]
)
def test_a_websocket_is_noticed(kind: EventKind, field: tuple[str, str]) -> None:
    """AWS may remove Upgrade."""
    assert request_of(event(kind, "GET", "/", [field]), kind).opens_websocket
    assert not request_of(event(kind, "GET", "/"), kind).opens_websocket


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_alone(kind: EventKind) -> None:
    """An authorizer's event has no body, but its declared length counts."""
    sent = event(kind, "POST", "/", [("Content-Length", "99")])
    request = request_of(sent, kind, has_body=False)
    assert READER.read(request.head).content_length == 99
    assert request.body == b""


def test_two_hosts_are_refused() -> None:
    """As on the gateway's own listener."""
    for kind in (EventKind.REST, EventKind.ALB):
        sent = event(kind, "GET", "/", [("Host", "a"), ("Host", "b")])
        with pytest.raises(BadRequest):
            head_of(sent)


def test_a_body_in_base64() -> None:
    """Bytes that aren't text."""
    sent = event(EventKind.REST, "PUT", "/", body=b"\xff\x00")
    assert sent["isBase64Encoded"]
    assert request_of(sent, EventKind.REST).body == b"\xff\x00"
    sent["body"] = base64.b64encode(b"abc").decode()[:-1] + "!"
    with pytest.raises(BadRequest):
        request_of(sent, EventKind.REST)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        {},
        {"Records": []},
        {"requestContext": {}},
        {"requestContext": {"http": {}}, "version": "3.0"},
        {"requestContext": {"eventType": "CONNECT", "connectionId": "x"}},
        {"version": "2.0", "requestContext": {}},
    ],
)
def test_other_events_are_no_requests(sent: object) -> None:
    """Whoever invokes the function with one gets an error, not a reply."""
    with pytest.raises(BadEvent):
        kind_of(sent)
