"""Session cookies are removed in every form that a reader accepts: rows F1 to F3."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote

import pytest
from cost import grows_linearly
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.headers import without_session_cookies
from gateway.headers.cookies import sets_session_cookie
from gateway.session.credentials import CREDENTIAL_FIELDS

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


NAMES = {
    "saccesstoken",
    "srefreshtoken",
    "sfronttoken",
    "santicsrf",
    "sidrefreshtoken",
    "sirtfrontend",
    "st-access-token",
    "st-refresh-token",
    "st-last-access-token-update",
}


@pytest.mark.parametrize(
    ("value", "left"),
    [
        pytest.param(b"a=b; c=d", b"a=b; c=d", id="realistic: none"),
        pytest.param(b"csrftoken=x; a=b", b"csrftoken=x; a=b", id="realistic: Django"),
        pytest.param(
            b"a=b; sAccessToken=x.y.z; c=d", b"a=b; c=d", id="realistic: in the middle"
        ),
        pytest.param(b"sAccessToken=x; c=d", b"c=d", id="realistic: first"),
        pytest.param(b"a=b; sAccessToken=x", b"a=b", id="realistic: last"),
        pytest.param(
            b"sFrontToken=x; sAccessToken=y; st-last-access-token-update=1; "
            b"sRefreshToken=z; sAntiCsrf=a; sIdRefreshToken=b; sIRTFrontend=c; "
            b"st-access-token=d; st-refresh-token=e",
            None,
            id="F1 all of them",
        ),
        pytest.param(
            b"__Host-sAccessToken=x; __Secure-sRefreshToken=y; a=b",
            b"a=b",
            id="with a prefix",
        ),
        pytest.param(b"a=b;sAccessToken=x;c=d", b"a=b;c=d", id="F2 no spaces"),
        pytest.param(b"a=b;sAccessToken =x", b"a=b", id="F2 space before ="),
        pytest.param(b";sAccessToken=x; a=b", b"; a=b", id="F2 empty piece"),
        pytest.param(b'"sAccessToken"=x; a=b', b"a=b", id="F2 quoted name"),
        pytest.param(b"SACCESSTOKEN=x; a=b", b"a=b", id="F2 upper case"),
        pytest.param(b"a=b sAccessToken=x", None, id="F2 space between cookies"),
        pytest.param(b"a=b, sAccessToken=x; c=d", b"c=d", id="F2 comma between"),
        pytest.param(b'a="b; sAccessToken=x"; c=d', b'a="b; c=d', id="F2 ; in quotes"),
        pytest.param(b'a="b"sAccessToken=x; c=d', b"c=d", id="F2 after a quote"),
        pytest.param(b'sAccessToken="x; a=b', b"a=b", id="F2 a quote before"),
        pytest.param(b'sAccessToken=x"; a=b', b"a=b", id="F2 a quote after"),
        pytest.param(b'a="b; sAccessToken=x; c=d', b'a="b; c=d', id="F2 an open quote"),
        pytest.param(
            b"$Version=1; sAccessToken=x; $Path=/",
            b"$Version=1; $Path=/",
            id="F2 RFC 2965",
        ),
        pytest.param(b"$sAccessToken=x; a=b", b"a=b", id="F2 dollar"),
        pytest.param(b"=sAccessToken=x; a=b", b"a=b", id="F2 nameless"),
        pytest.param(b"sAccessToken; a=b", b"a=b", id="F2 no value"),
        pytest.param(b"\tsAccessToken=x; a=b", b"a=b", id="F2 tab"),
        pytest.param(b"\xc2\xa0sAccessToken=x; a=b", b"a=b", id="F2 no-break space"),
        pytest.param(b"sAccess\xffToken=x; a=b", b"a=b", id="A10 lossy reader"),
        pytest.param(
            b"a=b s\xffAccess\xffToken=x", None, id="A10 lossy, after a space"
        ),
        pytest.param(b"sAccessTo\xffken=x; a=b", b"a=b", id="A10 no part is whole"),
        pytest.param(b"s%41ccess%54oken=x; a=b", b"a=b", id="escaped name"),
        pytest.param(b"sAccessToken[x]=y; a=b", b"a=b", id="PHP array"),
        pytest.param(b"", b"", id="empty"),
        pytest.param(b"; ;", b"; ;", id="nothing in it, and nothing to strip"),
    ],
)
def test_session_cookies_are_taken_out(value: bytes, left: bytes | None) -> None:
    """F1, F2: every cookie that some parser reads as a session cookie is removed."""
    assert without_session_cookies(value) == left


@pytest.mark.parametrize("byte", [*range(0x21), *b'",', *range(0x7F, 0x100)])
def test_a_cookie_may_begin_after_a_byte_that_ends_one(byte: int) -> None:
    """F2: after each control, blank, quote, comma and each byte beyond ASCII."""
    assert without_session_cookies(b"a=b%csAccessToken=x; c=d" % byte) == b"c=d"


@pytest.mark.parametrize(
    "value",
    [
        b"xsAccessToken=1",
        b"sAccessToken2=1",
        b"my-sAccessToken=1",
        b"sAccessToken-x=1",
        b"next=/a?sAccessToken=1",
        b"a=sAccessToken",
        b"token=%20sAccessToken; csrf=%zz",
        b"theme=dark; x=\xff\xfe token",
        b'prefs="a; b"; token=1',
        b" a=b ; token=c;",
        b"csrftoken; =; ==",
    ],
    ids=ascii,
)
def test_other_cookies_stay_byte_for_byte(value: bytes) -> None:
    """Cookies whose name or value is merely similar pass byte for byte."""
    assert without_session_cookies(value) is value


def test_cookies_cost_little() -> None:
    """A19, G14: the worst Cookie field of the largest size takes linear time."""
    worst: tuple[Callable[[int], bytes], ...] = (
        lambda size: b"a=" + b" " * size + b"token",
        lambda size: b"xsaccesstoken " * (size // 14),
        lambda size: b"token=b;" * (size // 8),
        lambda size: b"%41token=b;" * (size // 11),
        lambda size: b"$" * size + b"token",
    )
    for field in worst:

        def reading(size: int, field: Callable[[int], bytes] = field) -> Any:
            value = field(size)
            return lambda: without_session_cookies(value)

        assert grows_linearly(reading, 16_000), field(1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"sAccessToken=evil; Path=/", "saccesstoken"),
        (b"sAccessToken=; Domain=.example.com; Max-Age=0", "saccesstoken"),
        (b"SREFRESHTOKEN=x", "srefreshtoken"),
        (b"__Host-sAccessToken=x; Secure", "saccesstoken"),
        (b"__Secure-st-access-token=x", "st-access-token"),
        (b" sFrontToken\t=x", "sfronttoken"),
        (b"=sAccessToken=x", "saccesstoken"),
        (b"sAntiCsrf", "santicsrf"),
        (b"sAccess\xffToken=x", "saccesstoken"),
        (b"s%41ccessToken=x", "saccesstoken"),
        (b"theme=dark; Path=/", None),
        (b"csrftoken=x; Path=/", None),
        (b"xsAccessToken=x", None),
        (b"a=sAccessToken=x", None),
        (b"a=b; sAccessToken=x", None),
        (b"", None),
    ],
    ids=ascii,
)
def test_set_cookie_of_a_session_is_recognised(value: bytes, name: str | None) -> None:
    """F3: a session's Set-Cookie is recognised by its name: any case, any prefix."""
    assert sets_session_cookie(value) == name


# --- three independent readers ----------------------------------------------


def read_by_simple_cookie(text: str) -> set[str]:
    """Read like the standard library, which continues after a space."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(text)
    except CookieError:
        return set()
    return {name.lower() for name in jar}


def read_like_tough_cookie(text: str) -> set[str]:
    """Read like tough-cookie, loose mode: a leading = is skipped; = may be missing."""
    pieces = (piece.strip().removeprefix("=") for piece in text.split(";"))
    return {piece.partition("=")[0].strip().lower() for piece in pieces}


def read_like_werkzeug(text: str) -> set[str]:
    """Read like werkzeug: pairs by a pattern.

    Quoted values hold anything but a quote.
    """
    pattern = re.compile(r'\s*([^=;]*)(?:\s*=\s*("(?:[^\\"]|\\.)*"|[^;]*))?\s*(?:;|$)')
    found = set()
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None or match.end() == position:
            position += 1
            continue
        found.add(match[1].strip().strip('"').lower())
        position = match.end()
    return found


def read_as_php(text: str) -> set[str]:
    """Read like PHP: names are percent-decoded and end at a bracket."""
    pairs = (piece.partition("=")[0] for piece in text.split(";"))
    return {unquote(name).strip().partition("[")[0].lower() for name in pairs}


def read_as_rfc_2965(text: str) -> set[str]:
    """Read like RFC 2965: a comma separates cookies, too."""
    return {
        piece.partition("=")[0].strip().strip('"').lower()
        for piece in re.split("[;,]", text)
    }


READERS = (
    read_by_simple_cookie,
    read_like_tough_cookie,
    read_like_werkzeug,
    read_as_php,
    read_as_rfc_2965,
)

pieces = st.sampled_from(
    [
        b"sAccessToken",
        b"sRefreshToken=x",
        b"SFRONTTOKEN",
        b"sAntiCsrf",
        b"st-last-access-token-update",
        b"__Host-",
        b"sAccess",
        b"Token",
        b"s%41ccessToken",
        b"=",
        b"=",
        b";",
        b";",
        b" ",
        b"; ",
        b",",
        b'"',
        b"\\",
        b"\t",
        b"$",
        b"$Version=1",
        b"[",
        b"%",
        b"%3d",
        b"\xff",
        b"\xc2\xa0",
        b"a",
        b"path",
        b"csrftoken=1",
    ]
)
cookie_fields = st.one_of(
    st.lists(pieces, max_size=14).map(b"".join), st.binary(max_size=40)
)


def left_of(value: bytes) -> bytes | None:
    """Return what is left of *value*; a harmless cookie before it must be kept.

    Otherwise the properties below would hold for code that removes everything.
    """
    assert (without_session_cookies(b"m=1; " + value) or b"").startswith(b"m=1")
    return without_session_cookies(value)


@many
@given(value=cookie_fields)
@example(value=b'a="b; sAccessToken=x"; c="d; e"')
@example(value=b"a; sAccessToken=x sRefreshToken=y")
def test_property_no_reader_finds_a_session_cookie(value: bytes) -> None:
    """F2: SimpleCookie, tough-cookie, werkzeug and the gateway find no session cookie.

    The rest is read as Latin-1, as UTF-8, and with all non-ASCII bytes deleted.
    """
    left = left_of(value)
    if left is None:
        return
    texts = (
        left.decode("latin-1"),
        left.decode("utf-8", "replace"),
        left.decode("ascii", "ignore"),
    )
    for text in texts:
        for read in READERS:
            assert not read(text) & NAMES, (read.__name__, text)
    ours = CREDENTIAL_FIELDS[b"cookie"](left)
    assert (ours.access_cookies, ours.legacy) == ((), False)


@many
@given(first=cookie_fields, second=cookie_fields)
def test_property_two_fields_joined_are_clean(first: bytes, second: bytes) -> None:
    """F2: Cookie fields joined by `; ` (servers) or a comma (CGI) are clean, too."""
    left = [kept for value in (first, second) if (kept := left_of(value)) is not None]
    for glue in (b"; ", b", ", b","):
        joined = glue.join(left).decode("latin-1")
        for read in READERS:
            assert not read(joined) & NAMES, (read.__name__, joined)


@many
@given(value=cookie_fields)
def test_property_the_rest_is_kept_in_order(value: bytes) -> None:
    """F1: the rest is whole pieces in order, and a second pass changes nothing."""
    left = left_of(value)
    if left is None:
        return
    assert without_session_cookies(left) == left
    remaining = iter(piece.strip(b" \t") for piece in value.split(b";"))
    for piece in left.split(b";"):
        assert piece.strip(b" \t") in remaining


@many
@given(
    value=st.lists(
        st.from_regex(rb"[a-m]{1,5}=[ -~]{0,8}", fullmatch=True).filter(
            lambda pair: b";" not in pair
        )
    ).map(b"; ".join)
)
def test_property_harmless_cookies_never_change(value: bytes) -> None:
    """Cookies without an `s` in their names, unlike SuperTokens', never change."""
    assert without_session_cookies(value) == value
