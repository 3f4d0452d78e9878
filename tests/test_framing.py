"""A request that two readers could take for different ones is refused."""

from __future__ import annotations

import pytest

from gateway import framing
from gateway.errors import BadRequest, GatewayError
from gateway.fields import Field, Fields

HOST: Field = (b"Host", b"gw")


def check(
    *fields: Field, method: str = "POST", version: tuple[int, int] = (1, 1)
) -> bytes | None:
    return framing.check(method, version, fields, max_head_size=1000).host


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ((HOST,), (1, 1)),
        ((HOST, (b"content-LENGTH", b"0")), (1, 1)),
        ((HOST, (b"Content-Length", b"5")), (1, 0)),
        ((HOST, (b"Transfer-Encoding", b"Chunked")), (1, 1)),
        ((HOST, (b"Expect", b"100-Continue")), (1, 1)),
        ((HOST, (b"Transfer_Encoding", b"x")), (1, 1)),
    ],
    ids=["bare", "length-0", "http10", "chunked", "expect", "alias-is-no-coding"],
)
def test_sound_requests_give_their_host(
    fields: Fields, version: tuple[int, int]
) -> None:
    """What means one thing only passes."""
    assert check(*fields, version=version) == b"gw"


def test_http10_needs_no_host() -> None:
    """RFC 9112 §3.2 demands Host of HTTP/1.1 only; two are too many for both."""
    assert check(version=(1, 0)) is None
    assert check(HOST, version=(1, 0)) == b"gw"
    with pytest.raises(BadRequest):
        check(HOST, (b"Host", b"other"), version=(1, 0))


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ((b"Accept", b"*/*"), {}),
        ((b"content-LENGTH", b"007"), {"content_length": 7}),
        ((b"Upgrade", b""), {"has_upgrade": True}),
        ((b"ORIGIN", b"null"), {"has_origin": True}),
        ((b"x-Request-ID", b"a"), {"has_request_id": True}),
        ((b"X_Request_Id", b"a"), {}),
    ],
    ids=["nothing", "length", "upgrade", "origin", "id", "alias"],
)
def test_what_a_request_says_is_told_once(
    field: Field, told: dict[str, object]
) -> None:
    """However a name is written; what isn't told is taken for absent later on."""
    silent = {
        "host": b"gw",
        "content_length": None,
        "has_upgrade": False,
        "has_origin": False,
        "has_request_id": False,
    }
    found = framing.check("GET", (1, 1), (HOST, field), max_head_size=1000)
    assert found._asdict() == silent | told


LENGTH: Field = (b"Content-Length", b"5")
CHUNKED: Field = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ((), BadRequest),
        ((HOST, HOST), BadRequest),
        ((HOST, (b"hOST", b"other")), BadRequest),
        ((HOST, LENGTH, LENGTH), BadRequest),
        ((HOST, LENGTH, (b"content-length", b"6")), BadRequest),
        ((HOST, (b"Content-Length", b"")), BadRequest),
        ((HOST, (b"Content-Length", b"+5")), BadRequest),
        ((HOST, (b"Content-Length", b"-1")), BadRequest),
        ((HOST, (b"Content-Length", b"0x5")), BadRequest),
        ((HOST, (b"Content-Length", b"5, 5")), BadRequest),
        ((HOST, (b"Content-Length", b"1_0")), BadRequest),
        ((HOST, (b"Content-Length", b"9" * 19)), BadRequest),
        ((HOST, (b"Content-Length", "\u0665".encode())), BadRequest),
        ((HOST, CHUNKED, LENGTH), BadRequest),
        ((HOST, LENGTH, CHUNKED), BadRequest),
        ((HOST, CHUNKED, CHUNKED), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b""), LENGTH), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"xchunked")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"gzip, chunked")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"chunked, identity")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b'"chunked"')), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"\x0bchunked")), BadRequest),
        ((HOST, (b"Expect", b"100-continue, x")), framing.ExpectationFailed),
        ((HOST, (b"Expect", b"")), framing.ExpectationFailed),
        ((HOST, (b"X", b"x" * 1000)), framing.HeadTooLarge),
    ],
)
def test_ambiguous_framing_is_refused(
    fields: Fields, error: type[GatewayError]
) -> None:
    """Each of these is read differently by some server (RFC 9112 §6.3, §11.2)."""
    with pytest.raises(error) as refused:
        check(*fields)
    assert refused.value.close, "nothing more may be read from this connection"


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (1, 10), (2, 0), (3, 0)])
def test_other_versions_are_refused(version: tuple[int, int]) -> None:
    """aiohttp would answer `HTTP/2.0 200 OK`."""
    with pytest.raises(framing.VersionNotSupported):
        check(HOST, version=version)


def test_chunks_need_http11() -> None:
    """An HTTP/1.0 reader wouldn't see where the body ends (RFC 9112 §6.1)."""
    with pytest.raises(BadRequest):
        check(HOST, CHUNKED, version=(1, 0))


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_echo_and_tunnel_are_not_offered(method: str) -> None:
    """TRACE gives cookies back to scripts; CONNECT reaches any host."""
    with pytest.raises(framing.MethodNotImplemented) as refused:
        check(HOST, method=method)
    assert refused.value.close
