"""The canonical target: rows B1 to B20 and D1, D2 of docs/attacks.md."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes, urlsplit

import httptools
import pytest
import yarl
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadTarget
from gateway.http.target import (
    Form,
    Host,
    Slashes,
    Target,
    canonical_path,
    host,
    parse,
)

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


def path_of(raw: bytes) -> str:
    return parse(raw, method="GET", authority=b"gw").path


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        pytest.param(b"/", "/", id="root"),
        pytest.param(b"/orders/42/items", "/orders/42/items", id="usual"),
        pytest.param(b"/.well-known/x", "/.well-known/x", id="a dot begins a name"),
        pytest.param(b"/a...b/...", "/a...b/...", id="three dots are a name"),
        pytest.param(b"/!$&'()*+,=:@~", "/!$&'()*+,=:@~", id="sub-delims"),
        pytest.param(b"/public/../admin", "/admin", id="B1 dot segments"),
        pytest.param(b"/public/./../admin", "/admin", id="B1 both dots"),
        pytest.param(b"/admin/.", "/admin/", id="B1 dot at the end"),
        pytest.param(b"/a/b/..", "/a/", id="B1 two dots at the end"),
        pytest.param(b"/a/..", "/", id="B1 back at the root"),
        pytest.param(b"/a/../", "/", id="B1 back at the root, with a slash"),
        pytest.param(b"/.", "/", id="B1 a dot alone"),
        pytest.param(b"/public/%2e%2e/admin", "/admin", id="B2 lower case"),
        pytest.param(b"/public/%2E%2e/admin", "/admin", id="B2 mixed case"),
        pytest.param(b"/public/.%2e/admin", "/admin", id="B2 one of two"),
        pytest.param(
            b"/api%2e%2e/admin", "/api../admin", id="B2 no segment of its own"
        ),
        pytest.param(b"//admin", "/admin", id="B5 in front"),
        pytest.param(b"/public//admin", "/public/admin", id="B5 inside"),
        pytest.param(b"//evil.example/admin", "/evil.example/admin", id="B5 authority"),
        pytest.param(b"///", "/", id="B5 nothing but slashes"),
        pytest.param(b"/a//../b", "/b", id="B5 slashes come before dots"),
        pytest.param(b"/admin;x=1", "/admin;x=1", id="B6 part of the segment"),
        pytest.param(b"/public;/../admin", "/admin", id="B6 a segment like others"),
        pytest.param(b"/a/..b;x", "/a/..b;x", id="B6 not only dots"),
        pytest.param(b"/%61dmin", "/admin", id="B7 unreserved is decoded"),
        pytest.param(b"/%41%7e%2D", "/A~-", id="B7 unreserved, all kinds"),
        pytest.param(b"/ADMIN", "/ADMIN", id="B7 case counts"),
        pytest.param(b"/admin.", "/admin.", id="B7 final dot"),
        pytest.param(b"/admin%20", "/admin%20", id="B7 space"),
        pytest.param(b"/admin/", "/admin/", id="B7 final slash"),
        pytest.param(b"/a%3a%3Fb", "/a%3A%3Fb", id="reserved stays, in upper case"),
        pytest.param(b"/public/%252e%252e/a", "/public/%252e%252e/a", id="B8 twice"),
        pytest.param(b"/%25%32%65", "/%252e", id="B8 not decoded again"),
        pytest.param(b"/caf%c3%a9", "/caf%C3%A9", id="B10 UTF-8"),
        pytest.param(b"/secret%23/x", "/secret%23/x", id="B11 escaped hash"),
        pytest.param(
            b'/a|b^c[d]{e}"<>`',
            "/a%7Cb%5Ec%5Bd%5D%7Be%7D%22%3C%3E%60",
            id="what browsers don't escape",
        ),
    ],
)
def test_path_has_one_canonical_form(raw: bytes, path: str) -> None:
    """All spellings of one resource become one string; other resources differ."""
    assert path_of(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"/..", id="B1 above the root"),
        pytest.param(b"/a/../../b", id="B1 above the root, later"),
        pytest.param(b"/%2e%2e/b", id="B2 above the root"),
        pytest.param(b"//../b", id="B5 above the root"),
        pytest.param(b"/public%2f..%2fadmin", id="B3 lower case"),
        pytest.param(b"/admin%2Fx", id="B3 upper case"),
        pytest.param(b"/a\\..\\admin", id="B4 raw"),
        pytest.param(b"/a%5c..%5Cadmin", id="B4 escaped"),
        pytest.param(b"/public/..;/admin", id="B6 two dots"),
        pytest.param(b"/public/..;x=1/admin", id="B6 two dots with a parameter"),
        pytest.param(b"/public/.;/admin", id="B6 one dot"),
        pytest.param(b"/;x/admin", id="B6 empty but for the parameter"),
        pytest.param(b"/public/%2e%2e%3b/admin", id="B6 all of it escaped"),
        pytest.param(b"/admin%00", id="B9 NUL"),
        pytest.param(b"/admin%0d%0aX:1", id="B9 line end"),
        pytest.param(b"/admin%09", id="B9 tab"),
        pytest.param(b"/admin%7F", id="B9 DEL"),
        pytest.param(b"/a\x01", id="B9 raw control"),
        pytest.param(b"/a\x7f", id="B9 raw DEL"),
        pytest.param(b"/%c0%ae%c0%ae/admin", id="B10 overlong dot"),
        pytest.param(b"/%c0%af", id="B10 overlong slash"),
        pytest.param(b"/%ff", id="B10 no UTF-8"),
        pytest.param(b"/%ed%a0%80", id="B10 surrogate"),
        pytest.param(b"/\xc3\xad", id="B10 raw byte above 0x7e"),
        pytest.param(b"/public#/../admin", id="B11 fragment"),
        pytest.param(b"/a?b#c", id="B11 fragment after a query"),
        pytest.param(b"/%zz", id="B13 no hex"),
        pytest.param(b"/%4", id="B13 half an escape"),
        pytest.param(b"/%", id="B13 lone percent"),
        pytest.param(b"ftp://gw/", id="B14 ftp"),
        pytest.param(b"http:/gw/", id="B14 one slash"),
        pytest.param(b"http:///admin", id="B14 no authority"),
        pytest.param(b"http://u@gw/", id="B14 userinfo"),
        pytest.param(b"http://gw\\@evil/", id="B14 backslash"),
        pytest.param(b"http://evil.example/admin", id="B14 another host"),
        pytest.param(b"http://gw:81/admin", id="B14 another port"),
        pytest.param(b"http://gw:0/admin", id="B14 port 0 is no default"),
        pytest.param(b"http://gw#x", id="B14 fragment"),
        pytest.param(b"admin", id="B15 no slash"),
        pytest.param(b"gw:443", id="B15 authority-form"),
        pytest.param(b"*", id="B15 asterisk, but GET"),
        pytest.param(b"", id="B15 empty"),
        pytest.param(b" /x", id="B15 space before"),
        pytest.param(b"/a b", id="B15 space inside"),
        pytest.param(b"/a?b c", id="B15 space in the query"),
        pytest.param(b"/a?\x00", id="B13 NUL in the query"),
    ],
)
def test_ambiguous_target_is_refused(raw: bytes) -> None:
    """A target that two readers may read as different resources gets a 400."""
    with pytest.raises(BadTarget):
        parse(raw, method="GET", authority=b"gw")


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"?",
        b"??",
        b"?a=1;b=2",
        b"?a=%zz",
        b"?a=1&a=2",
        b"?q=%7E+%20",
        b"?x=/public/../status",
        b'?[]{}|"<>^`\\',
        b"?\xff\xc3",
    ],
)
@pytest.mark.parametrize("front", [b"/private", b"http://gw/private"])
def test_query_goes_through_byte_for_byte(front: bytes, query: bytes) -> None:
    """B12, B13: the query isn't part of the path and never changes."""
    got = parse(front + query, method="GET", authority=b"gw")
    assert (got.path, got.query) == ("/private", query)


@pytest.mark.parametrize(
    ("raw", "authority", "expected"),
    [
        pytest.param(
            b"http://gw/admin",
            b"gw",
            Target("/admin", b"", "gw", "gw", Form.ORIGIN),
            id="own host",
        ),
        pytest.param(
            b"HTTP://GW:80/../%61",
            b"gw",
            None,
            id="judged like any path",
        ),
        pytest.param(
            b"https://gw:443/a?b",
            b"gw.",
            Target("/a", b"?b", "gw", "gw.", Form.ORIGIN),
            id="default port, final dot",
        ),
        pytest.param(
            b"http://gw?b",
            b"GW:80",
            Target("/", b"?b", "gw", "GW:80", Form.ORIGIN),
            id="empty path",
        ),
        pytest.param(
            b"http://gw:8000",
            None,
            Target("/", b"", "gw", "gw:8000", Form.ORIGIN),
            id="HTTP/1.0 without Host",
        ),
    ],
)
def test_absolute_form_becomes_origin_form(
    raw: bytes, authority: bytes | None, expected: Target | None
) -> None:
    """B14: an absolute URL's authority must equal Host; then only its path counts."""
    if expected is None:
        with pytest.raises(BadTarget):
            parse(raw, method="GET", authority=authority)
    else:
        assert parse(raw, method="GET", authority=authority) == expected


def test_asterisk_is_for_options() -> None:
    """B15: `OPTIONS *` concerns the server and has no path."""
    got = parse(b"*", method="OPTIONS", authority=b"GW:1")
    assert got == Target("*", b"", "gw", "GW:1", Form.ASTERISK)
    assert parse(b"*", method="OPTIONS", authority=None).host == ""


def test_connect_is_refused() -> None:
    """CONNECT is refused for every target, also for a path."""
    for raw in (b"gw:443", b"/x"):
        with pytest.raises(BadTarget):
            parse(raw, method="CONNECT", authority=b"gw")


def test_http_1_0_may_have_no_host() -> None:
    """Without Host, which HTTP/1.0 permits, no route with a host matches."""
    got = parse(b"/a", method="GET", authority=None)
    assert (got.path, got.host, got.authority) == ("/a", "", "")


def test_long_target_is_parsed_alike() -> None:
    """Targets that are too long for the cache are parsed in the same way."""
    tail = b"x" * 600
    assert path_of(b"/a/../" + tail) == f"/{tail.decode()}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"gw", Host("gw", "gw", None)),
        (b"GW", Host("gw", "GW", None)),
        (b"gw.", Host("gw", "gw.", None)),
        (b"gw:80", Host("gw", "gw:80", 80)),
        (b"gw:0", Host("gw", "gw:0", 0)),
        (b"gw:", Host("gw", "gw", None)),
        (b"[::1]:", Host("[::1]", "[::1]", None)),
        (
            b"a.B.example.com:65535",
            Host("a.b.example.com", "a.B.example.com:65535", 65535),
        ),
        (b"my_service-1", Host("my_service-1", "my_service-1", None)),
        (b"127.0.0.1:8000", Host("127.0.0.1", "127.0.0.1:8000", 8000)),
        (b"[::1]", Host("[::1]", "[::1]", None)),
        (b"[2001:DB8:0::1]:443", Host("[2001:db8::1]", "[2001:DB8:0::1]:443", 443)),
    ],
    ids=lambda v: v.decode() if isinstance(v, bytes) else "",
)
def test_host_is_canonical(value: bytes, expected: Host) -> None:
    """B19: host routes get lower case, without final dot and port."""
    assert host(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a b",
        b" gw",
        b"u@gw",
        b"gw/x",
        b"a, b",
        b"a,b",
        b"gw:99999",
        b"gw:65536",
        b":",
        b"gw::",
        b"[::1]::",
        b"gw:+80",
        b"gw:8 0",
        b":80",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[::1%25eth0]",
        b"[1.2.3.4]",
        b"[:::]",
        b"gw\x00",
        b"gw\n",
        b"\xff",
        b"%67w",
        b"gw..",
        b".gw",
        b"a..b",
        b"-gw",
        b"1.2.3",
        b"256.1.1.1",
        b"2130706433",
        b"0x7f.1",
        b"0x7f000001",
        b"a" * 64,
        b"a." * 127 + b"a",
        b"a" * 300,
    ],
    ids=lambda v: ascii(v[:20]),
)
def test_malformed_host_is_refused(value: bytes) -> None:
    """D2: a host that isn't one name or address with an optional port gets a 400."""
    with pytest.raises(BadTarget):
        host(value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/orders", "/orders"),
        ("/a//b/./c/", "/a/b/c/"),
        ("/straße", "/stra%C3%9Fe"),
        ("/%61{id}", "/a%7Bid%7D"),
    ],
)
def test_configured_path_is_canonical(text: str, path: str) -> None:
    """Route paths are brought into the canonical form of requests."""
    assert canonical_path(text) == path


@pytest.mark.parametrize(
    "text", ["orders", "", "/a?b", "/a#b", "/a b", "/..", "/\ud800"]
)
def test_bad_configured_path_is_refused(text: str) -> None:
    """A route path that no request can have is an error in the file."""
    with pytest.raises(BadTarget):
        canonical_path(text)


# --- properties -------------------------------------------------------------

TRICKS = [
    b"/",
    b"//",
    b".",
    b"..",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5c",
    b"%25",
    b"%61",
    b"%c3%a9",
    b"%7C",
    b"%3b",
    b";",
    b"a",
    b"admin",
    b"|",
    b"[",
    b"~",
    b":",
    b"@",
    b"%",
    b"\\",
    b"\xff",
]
paths = st.one_of(
    st.lists(st.sampled_from(TRICKS), max_size=12).map(b"".join), st.binary(max_size=40)
).map(lambda tail: b"/" + tail)


def canonical_or_none(raw: bytes) -> str | None:
    try:
        return path_of(raw)
    except BadTarget:
        return None


@many
@given(raw=paths)
def test_property_canonical_form_is_canonical(raw: bytes) -> None:
    """B20: the canonical form is idempotent; a second reader has nothing to resolve."""
    path = canonical_or_none(raw.replace(b"?", b""))
    if path is None:
        return
    assert path_of(path.encode()) == path
    assert re.fullmatch(r"/[!-~]*", path)
    assert "//" not in path
    assert "\\" not in unquote_to_bytes(path).decode()
    assert "%2f" not in path.lower()
    for segment in path.split("/"):
        assert unquote_to_bytes(segment).partition(b";")[0] not in (b".", b"..")


@many
@given(raw=paths, query=st.sampled_from([b"", b"?", b"?a=/../b", b"??x"]))
def test_property_three_parsers_read_the_matched_path(raw: bytes, query: bytes) -> None:
    """B20: yarl, urllib and httptools read the forwarded path as the matched one."""
    path = canonical_or_none(raw.replace(b"?", b""))
    if path is None:
        return
    sent = path.encode() + query
    assert httptools.parse_url(sent).path == path.encode()
    assert urlsplit(b"http://up" + sent).path == path.encode()
    assert yarl.URL(f"http://up{sent.decode()}", encoded=True).raw_path == path
    # A reader that normalises it again changes nothing.
    assert yarl.URL(f"http://up{sent.decode()}").raw_path.count("/") == path.count("/")


@many
@given(
    raw=st.binary(max_size=60) | paths,
    method=st.sampled_from(["GET", "OPTIONS", "CONNECT"]),
)
def test_property_any_bytes_are_parsed_or_refused(raw: bytes, method: str) -> None:
    """Any input gives a Target or a BadTarget, and a query is never cut."""
    try:
        got = parse(raw, method=method, authority=b"gw")
    except BadTarget:
        return
    assert raw.endswith(got.query)
    assert got.path.startswith("/") or got == parse(
        b"*", method=method, authority=b"gw"
    )


# --- slashes that a route keeps -------------------------------------------------

BOTH = Slashes(encoded=True, repeated=True)


@pytest.mark.parametrize(
    ("raw", "kept", "path"),
    [
        (b"/a%2Fb", BOTH, "/a%2Fb"),
        (b"/a%2fb", BOTH, "/a%2fb"),
        (b"/%61%2f%2d", BOTH, "/a%2f-"),
        (b"/@scope%2fname", Slashes(encoded=True), "/@scope%2fname"),
        (b"/a%2F", BOTH, "/a%2F"),
        (b"/a//b", BOTH, "/a//b"),
        (b"/a//b//", BOTH, "/a//b//"),
        (b"//a//b", BOTH, "/a//b"),
        (b"///", BOTH, "/"),
        (b"/a//b", Slashes(encoded=True), "/a/b"),
        (b"/a/./b", BOTH, "/a/b"),
        (b"/a/../b%2Fc", BOTH, "/b%2Fc"),
        (b"/a%252Fb", BOTH, "/a%252Fb"),
        (b"/a?b=%2F//", BOTH, "/a"),
        (b"http://gw/a%2Fb", BOTH, "/a%2Fb"),
    ],
)
def test_slashes_that_are_kept(raw: bytes, kept: Slashes, path: str) -> None:
    """B3, B5: they stay byte for byte; at the beginning there is always one."""
    assert parse(raw, "GET", b"gw", kept).path == path


@pytest.mark.parametrize(
    "raw",
    [
        b"/a%2F..%2Fb",
        b"/a%2f%2e%2e/b",
        b"/..%2Fb",
        b"/a/..%2Fb",
        b"/.%2Fb",
        b"/a%2F.",
        b"/a%2F..;x%2Fb",
        b"/a%2F;x",
        b"/%2Fa",
        b"/%2F%2Fa",
        b"/a%2F/b",
        b"/a/%2Fb",
        b"/a%2F%2fb",
        b"/a%5Cb",
        b"/a%2Fb%5c..",
        b"/a//../b",
        b"/a/.//b",
        b"/a%2Fb%00",
        b"/a%2Fb%c0%af",
        b"/a%2",
    ],
)
def test_slashes_that_are_read_in_several_ways(raw: bytes) -> None:
    """B3, B5: kept ones stand beside no dot segment and no other kept slash."""
    with pytest.raises(BadTarget):
        parse(raw, "GET", b"gw", BOTH)


@given(st.text("/.%2fFa;", max_size=12))
def test_kept_slashes_change_nothing_else(text: str) -> None:
    """A path without them is the same; one with them has the same segments."""
    raw = b"/" + text.encode()
    try:
        kept = parse(raw, "GET", b"gw", BOTH).path
    except BadTarget:
        return
    decoded = re.sub("%2f", "/", kept, flags=re.IGNORECASE)
    assert not kept.startswith("//")
    assert {".", ".."}.isdisjoint(decoded.split("/"))
    if "%2" not in kept:
        assert parse(raw, "GET", b"gw").path == re.sub("/+", "/", kept)
