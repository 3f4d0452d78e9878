"""Which request a front asks about."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError
from gateway.fronts.original import BadQuestion, Endpoint, endpoint_of, original
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader

READER = RequestReader(HeadLimits(8192, 16384, 32768, 100))
ALL = ("auth-request", "forward-auth", "ext-authz")
FOR = "X-Forwarded-For: 192.0.2.7"
AUTH = ("X-Original-Method: POST", "X-Original-URL: https://a.test/x?y=1", FOR)
FORWARD = (
    "X-Forwarded-Method: POST",
    "X-Forwarded-Uri: /x?y=1",
    "X-Forwarded-Host: a.test",
    "X-Forwarded-Proto: https",
    FOR,
)
EXT = ("X-Forwarded-Proto: https", FOR)


def question(*fields: str, line: str = "GET /q", host: str = "a.test") -> RequestHead:
    lines = [f"{line} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return READER.read("\r\n".join(lines).encode("latin-1"))


KINDS = {
    Endpoint.AUTH_REQUEST: question(*AUTH, host="decision"),
    Endpoint.REFUSAL: question(*AUTH, host="decision"),
    Endpoint.FORWARD_AUTH: question(*FORWARD, host="decision"),
    Endpoint.EXT_AUTHZ: question(*EXT, line="POST /ext-authz/x?y=1"),
}


@pytest.mark.parametrize(("endpoint", "head"), KINDS.items(), ids=KINDS)
def test_the_same_request_from_each_front(
    endpoint: Endpoint, head: RequestHead
) -> None:
    """Method, raw target, host, scheme and client come from the front's own fields."""
    asked = original(head, endpoint)
    assert (asked.method, asked.target) == ("POST", b"/x?y=1")
    assert (asked.client, asked.is_secure) == ("192.0.2.7", True)
    assert asked.head == b"POST /x?y=1 HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize("number", range(len(FORWARD)))
def test_each_field_of_forward_auth_comes_once(number: int) -> None:
    """A field that is missing or comes twice isn't the front's word."""
    missing = FORWARD[:number] + FORWARD[number + 1 :]
    for fields in (missing, (*FORWARD, FORWARD[number])):
        with pytest.raises(BadQuestion):
            original(question(*fields), Endpoint.FORWARD_AUTH)


@pytest.mark.parametrize("number", range(len(AUTH)))
def test_each_field_of_auth_request_comes_once(number: int) -> None:
    """The same for nginx."""
    missing = AUTH[:number] + AUTH[number + 1 :]
    for fields in (missing, (*AUTH, AUTH[number])):
        with pytest.raises(BadQuestion):
            original(question(*fields), Endpoint.AUTH_REQUEST)


@pytest.mark.parametrize("number", range(len(EXT)))
def test_each_field_of_ext_authz_comes_once(number: int) -> None:
    """The same for Envoy."""
    missing = EXT[:number] + EXT[number + 1 :]
    for fields in (missing, (*EXT, EXT[number])):
        with pytest.raises(BadQuestion):
            original(question(*fields, line="GET /ext-authz/x"), Endpoint.EXT_AUTHZ)


def test_no_endpoint_reads_the_fields_of_another() -> None:
    """A client may send those."""
    both = question(*AUTH, "X-Forwarded-Uri: /public", "X-Forwarded-Method: GET")
    assert b"public" not in original(both, Endpoint.AUTH_REQUEST).head
    both = question(*FORWARD, "X-Original-URL: http://a.test/public")
    assert b"public" not in original(both, Endpoint.FORWARD_AUTH).head


@pytest.mark.parametrize(
    "url",
    [
        "http://a?x=/private",  # Host: a?x=
        "http://a#b/private",
        "http://u@a/private",
        "http:///private",
        "http://a.test",
        "http://a.test?x",
        "/private",
        "ftp://a.test/x",
        "HTTP://a.test/x",
    ],
)
def test_urls_that_name_no_path(url: str) -> None:
    """The host is the client's text: what it could move out of the path is refused."""
    with pytest.raises(GatewayError):
        original(
            question(AUTH[0], f"X-Original-URL: {url}", FOR), Endpoint.AUTH_REQUEST
        )


@pytest.mark.parametrize(
    "field",
    [
        "X-Forwarded-Method: GET /public",
        "X-Forwarded-Method: get",
        "X-Forwarded-Method: CONNECT",
        "X-Forwarded-Uri: x",
        "X-Forwarded-Uri: *",
        "X-Forwarded-Uri: http://a.test/x",
        "X-Forwarded-Host: a/b",
        "X-Forwarded-Host: a,b",
        "X-Forwarded-Proto: https,http",
        "X-Forwarded-Proto: wss",
        "X-Forwarded-For: unix:",
        "X-Forwarded-For: 192.0.2.7, unknown",
        "X-Forwarded-For: fe80::1%1",
    ],
)
def test_values_without_a_meaning(field: str) -> None:
    """Each of them is refused, whatever the others say."""
    name = field.partition(":")[0]
    rest = [each for each in FORWARD if not each.startswith(name + ":")]
    with pytest.raises(GatewayError):
        original(question(*rest, field), Endpoint.FORWARD_AUTH)


def test_a_target_cannot_become_another_request_line() -> None:
    """A space in it makes a head that no reader takes."""
    fields = [each.replace("/x?y=1", "/x HTTP/1.1 /y") for each in FORWARD]
    asked = original(question(*fields), Endpoint.FORWARD_AUTH)
    with pytest.raises(GatewayError):
        READER.read(asked.head)


def test_a_question_has_no_body() -> None:
    """Its framing would be the front's."""
    for field in ("Content-Length: 3", "Transfer-Encoding: chunked"):
        with pytest.raises(BadQuestion):
            original(question(*FORWARD, field), Endpoint.FORWARD_AUTH)
    original(question(*FORWARD, "Content-Length: 0"), Endpoint.FORWARD_AUTH)


def test_the_fields_of_the_client_stay() -> None:
    """Byte for byte; those of the front's own connection don't."""
    kept = ("Cookie: a=b", "Authorization: Bearer t", "Origin: https://b.test")
    own = ("Connection: X-User-Id", "TE: trailers", "Forwarded: for=1.2.3.4")
    asked = original(question(*FORWARD, *kept, *own), Endpoint.FORWARD_AUTH)
    assert asked.head.decode().split("\r\n")[2:-2] == [*kept]


def test_what_proxies_before_the_front_said() -> None:
    """The last entry is the front's word, the others count as on the own listener."""
    fields = [*FORWARD[:-1], "X-Forwarded-For: 10.9.9.9, 192.0.2.1, 2001:db8::1"]
    asked = original(question(*fields), Endpoint.FORWARD_AUTH)
    assert asked.client == "2001:db8::1"
    assert b"X-Forwarded-For: 10.9.9.9, 192.0.2.1\r\n" in asked.head


@pytest.mark.parametrize("field", ["Sec-WebSocket-Key: k", "Upgrade: WebSocket"])
def test_a_websocket_is_told_by_either_field(field: str) -> None:
    """Fronts remove Upgrade and leave the key, or the other way round."""
    asked = original(question(*FORWARD, field), Endpoint.FORWARD_AUTH)
    assert READER.read(asked.head).has_upgrade


@pytest.mark.parametrize(
    ("raw", "endpoint"),
    [
        (b"/auth-request", Endpoint.AUTH_REQUEST),
        (b"/refusal", Endpoint.REFUSAL),
        (b"/forward-auth?client=query", Endpoint.FORWARD_AUTH),
        (b"/ext-authz/", Endpoint.EXT_AUTHZ),
        (b"/ext-authz/private/../../../x", Endpoint.EXT_AUTHZ),
        (b"/ext-authz", None),
        (b"/ext-authzx/a", None),
        (b"/auth-request/", None),
        (b"/x/../auth-request", None),
        (b"//auth-request", None),
        (b"/%61uth-request", None),
        (b"/", None),
        (b"/user", None),
        (b"*", None),
        (b"http://a.test/auth-request", None),
    ],
)
def test_endpoints_are_compared_as_bytes(raw: bytes, endpoint: Endpoint | None) -> None:
    """Nothing in the path is resolved before it is compared."""
    assert endpoint_of(raw, ALL) is endpoint
    assert endpoint_of(raw, ()) is None


def test_refusal_comes_with_auth_request() -> None:
    """It isn't listed by itself."""
    assert endpoint_of(b"/refusal", ("auth-request",)) is Endpoint.REFUSAL
    assert endpoint_of(b"/refusal", ("forward-auth",)) is None
