"""Session credentials in a request, read byte for byte as the SDK reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from minting import NOW
from sessions_under_test import (
    GOOD,
    MINT,
    OPTIONAL,
    RULES,
    World,
    refused,
    request,
    who,
    world,
)
from starlette.requests import Request
from supertokens_python.framework.fastapi.fastapi_request import FastApiRequest
from supertokens_python.recipe.session.cookie_and_header import (
    get_anti_csrf_header,
    get_token,
    has_multiple_cookies_for_token_type,
)
from supertokens_python.recipe.session.utils import get_auth_mode_from_header
from supertokens_python.utils import get_rid_from_header

from gateway.http.fields import Field, Fields, block
from gateway.http.request_head import HeadLimits, RequestReader
from gateway.session.credentials import (
    CREDENTIAL_FIELDS,
    Credentials,
    Refresh,
    choose,
    credentials,
)
from gateway.session.rules import Transfer
from gateway.session.tokens import Token, parse
from gateway.session.verified_tokens import VerifiedToken, VerifiedTokens

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine

READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    credentials=CREDENTIAL_FIELDS,
)
"""The reader of all tests. One request's cached lines must not change another's."""


def shown(*fields: Field) -> Credentials:
    """Return the credentials of a request with *fields*, read twice.

    The first head is kept alive, so that the second finds its lines in the cache.
    """
    data = b"GET / HTTP/1.1\r\nHost: gw\r\n" + block(fields) + b"\r\n"
    first, second = READER.read(data), READER.read(data)
    found = credentials(first.credential_lines)
    assert credentials(second.credential_lines) == found
    return found


def test_no_field_no_credentials() -> None:
    """A request without such fields is anonymous."""
    fields = ((b"Accept", b"*/*"), (b"Origin", b"http://gw"), (b"X-Rid", b"x"))
    assert shown(*fields) == shown() == Credentials()
    assert credentials(()) == Credentials()


@pytest.mark.parametrize(
    ("value", "bearer"),
    [
        (b"Bearer abc", "abc"),
        (b"Bearer   abc \t", "abc"),
        (b"Bearer a, Bearer b", "a, Bearer b"),
        (b"Bearer a\xffb", "a\xffb"),
        (b"bearer abc", None),
        (b"Bearer\tabc", None),
        (b"Basic abc", None),
        (b"Bearer", None),
        (b"", None),
    ],
    ids=ascii,
)
def test_bearer_is_read_as_the_sdk_reads_it(value: bytes, bearer: str | None) -> None:
    """E17: `Bearer` is case-sensitive, with one space; the token keeps every byte."""
    assert shown((b"Authorization", value)) == Credentials(
        bearer=bearer, is_authorized=True
    )


def test_first_field_of_a_name_counts() -> None:
    """E17: the first Authorization, anti-csrf and st-auth-mode field counts."""
    fields = (
        (b"AUTHORIZATION", b"Basic x"),
        (b"authorization", b"Bearer abc"),
        (b"Anti-Csrf", b"one"),
        (b"anti-csrf", b"two"),
        (b"st-auth-mode", b"Header"),
        (b"St-Auth-Mode", b"cookie"),
        (b"RID", b""),
    )
    assert shown(*fields) == Credentials(
        bearer=None,
        anti_csrf="one",
        auth_mode="header",
        has_rid=True,
        is_authorized=True,
    )
    assert shown(*reversed(fields)) == Credentials(
        bearer="abc",
        anti_csrf="two",
        auth_mode="cookie",
        has_rid=True,
        is_authorized=True,
    )


def test_first_field_of_a_name_counts_though_it_is_empty() -> None:
    """E17: an empty first field counts as well: a later one does not replace it."""
    fields = [
        (name, value)
        for name in (b"Authorization", b"anti-csrf", b"st-auth-mode")
        for value in (b"", b"Bearer x")
    ]
    assert shown(*fields) == Credentials(
        bearer=None, anti_csrf="", auth_mode="", is_authorized=True
    )


@pytest.mark.parametrize(
    ("cookies", "tokens"),
    [
        pytest.param([b"a=b; sAccessToken=x; c=d"], ("x",), id="among others"),
        pytest.param([b"sAccessToken=x;sAccessToken=y"], ("x", "y"), id="E14 twice"),
        pytest.param(
            [b"sAccessToken=x", b"sAccessToken=y"], ("x", "y"), id="F2 two fields"
        ),
        pytest.param([b" sAccessToken = x "], ("x",), id="F2 spaces"),
        pytest.param([b"sAccessToken=a%2Fb%3D"], ("a/b=",), id="percent-encoded"),
        pytest.param([b'sAccessToken="a\\"b\\145"'], ('a"be',), id="quoted"),
        pytest.param([b'sAccessToken="'], ('"',), id="one quote"),
        pytest.param([b'sAccessToken="abc'], ('"abc',), id="a quote before"),
        pytest.param([b'sAccessToken=abc"'], ('abc"',), id="a quote after"),
        pytest.param(
            [b'sAccessToken="abc; a=b"'], ('"abc',), id="a semicolon in quotes"
        ),
        pytest.param([b"sAccessToken="], ("",), id="empty"),
        pytest.param([b"sAccessToken=a=b"], ("a=b",), id="a second ="),
        pytest.param(
            [b"sAccessToken=x; s%41ccessToken=y"],
            ("y", "x"),
            id="an escaped name counts, but isn't read",
        ),
        pytest.param([b"s%41ccessToken=y"], (), id="an escaped name alone"),
        pytest.param([b"sAccessToken"], (), id="no value"),
        pytest.param([b"xsAccessToken=x"], (), id="another name"),
        pytest.param([b"SACCESSTOKEN=x"], (), id="another case"),
        pytest.param([b"sAccess\xffToken=x"], (), id="A10 a byte within the name"),
        pytest.param([b'"sAccessToken"=x'], (), id="F2 quoted name"),
        pytest.param([b"x=sAccessToken=y"], (), id="within a value"),
    ],
)
def test_access_cookies(cookies: list[bytes], tokens: tuple[str, ...]) -> None:
    """Every access token cookie is reported; the SDK uses the last one."""
    assert shown(*((b"Cookie", c) for c in cookies)).access_cookies == tokens


def test_legacy_session_is_seen() -> None:
    """A legacy `sIdRefreshToken` cookie, even an empty one, requires a refresh."""
    assert shown((b"cookie", b"a=b; sIdRefreshToken=")).legacy
    assert shown((b"cookie", b"sIdRefreshToken=x"), (b"cookie", b"a=b")).legacy
    assert not shown((b"cookie", b"sIdRefreshToken")).legacy
    assert not shown((b"cookie", b"a=sIdRefreshToken")).legacy


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (b"authorization", b"Bearer ", Credentials(bearer="", is_authorized=True)),
        (b"authorization", b"\xa0Bearer x", Credentials(is_authorized=True)),
        (b"cookie", b" sAccessToken = x ", Credentials(access_cookies=("x",))),
        (b"cookie", b"a=b", Credentials()),
        (b"anti-csrf", b"", Credentials(anti_csrf="")),
        (b"rid", b"", Credentials(has_rid=True)),
        (b"st-auth-mode", b"HEADER\xff", Credentials(auth_mode="header\xff")),
    ],
)
def test_one_value_is_read(name: bytes, value: bytes, found: Credentials) -> None:
    """A single value can be read without a head, with blanks around it."""
    assert CREDENTIAL_FIELDS[name](value) == found


# --- the SDK, on the same bytes ---------------------------------------------

names = st.sampled_from(
    [
        b"Authorization",
        b"authorization",
        b"Cookie",
        b"cookie",
        b"anti-csrf",
        b"Rid",
        b"st-auth-mode",
        b"X-Other",
    ]
)
pieces = st.sampled_from(
    [
        b"Bearer ",
        b"bearer ",
        b"Basic ",
        b"sAccessToken",
        b"s%41ccessToken",
        b"sIdRefreshToken",
        b"SAccessToken",
        b"=",
        b"=",
        b";",
        b"; ",
        b'"',
        b"\\",
        b"\\145",
        b"%",
        b"%41",
        b"%c3%a9",
        b" ",
        b"\t",
        b"\xa0",
        b"\xff",
        b"x",
        b"header",
        b"Cookie",
    ]
)
requests = st.lists(
    st.tuples(names, st.lists(pieces, max_size=10).map(b"".join)), max_size=4
).map(tuple)


@many
@given(fields=requests)
@example(fields=((b"Cookie", b'sAccessToken="\xa0a"; sIdRefreshToken="'),))
@example(fields=((b"Cookie", b"sAccessToken=x"), (b"Cookie", b"sAccessToken=y")))
@example(fields=((b"Cookie", b"sAccessToken=x; sAccessToken=y"),))
def test_property_the_sdk_reads_the_same(fields: Fields) -> None:
    """For any bytes, the gateway and the SDK read the same token and anti-CSRF data.

    Where the SDK sees two access cookies, so does the gateway, but not the reverse.
    """
    sdk = FastApiRequest(
        Request(
            {
                "type": "http",
                "headers": [(n.lower(), v.strip(b" \t")) for n, v in fields],
            }
        )
    )
    got = shown(*fields)
    assert got.is_authorized == any(n.lower() == b"authorization" for n, _ in fields)
    last = got.access_cookies[-1] if got.access_cookies else None
    assert got.bearer == get_token(sdk, "access", "header")
    assert last == get_token(sdk, "access", "cookie")
    assert got.legacy == (sdk.get_cookie("sIdRefreshToken") is not None)
    assert got.anti_csrf == get_anti_csrf_header(sdk)
    assert got.has_rid == (get_rid_from_header(sdk) is not None)
    assert got.auth_mode == get_auth_mode_from_header(sdk)
    if last is not None and has_multiple_cookies_for_token_type(sdk, "access"):
        assert len(got.access_cookies) > 1


# --- which token counts (rows E14 to E17) -------------------------------------

USER_2 = MINT.token(sub="user-2")


@pytest.mark.parametrize(
    ("transfer", "bearer", "cookies", "expected"),
    [
        (Transfer.ANY, GOOD, [USER_2], "user-1"),
        (Transfer.ANY, "junk", [USER_2], "user-2"),
        (Transfer.ANY, None, [USER_2], "user-2"),
        (Transfer.HEADER, GOOD, [USER_2], "user-1"),
        (Transfer.HEADER, None, [USER_2], None),
        (Transfer.COOKIE, GOOD, [USER_2], "user-2"),
        (Transfer.COOKIE, GOOD, [], None),
        (Transfer.ANY, "junk", ["junk"], None),
    ],
    ids=[
        "header first",
        "junk header, good cookie",
        "cookie",
        "header only, both",
        "header only, cookie",
        "cookie only, both",
        "cookie only, header",
        "junk and junk",
    ],
)
async def test_which_token_counts(
    transfer: Transfer, bearer: str | None, cookies: list[str], expected: str | None
) -> None:
    """As `transfer` allows: the header's token, if it parses; then the cookie's."""
    here = world(replace(RULES, transfer=transfer))
    jar = [f"sAccessToken={cookie}" for cookie in cookies]
    for _ in range(2):  # verified, then cached
        assert who(await here.ask(bearer, OPTIONAL, cookies=jar)) == expected


async def test_two_access_cookies_ask_for_a_refresh(here: World) -> None:
    """With two access cookies a refresh is required, as the newer one is unknown.

    A token in the header needs neither.
    """
    jar = [f"sAccessToken={GOOD}", f"sAccessToken={USER_2}"]
    for cookies in (jar, jar[::-1], jar):
        assert (
            refused(await here.ask(None, cookies=cookies)) == "several_access_cookies"
        )
    assert who(await here.ask(GOOD, cookies=jar)) == "user-1"


async def test_two_cookies_of_which_the_read_one_is_junk(here: World) -> None:
    """The SDK looks for a second cookie only if the one that it reads parses."""
    jar = [f"sAccessToken={GOOD}", "sAccessToken=junk"]
    assert refused(await here.ask(None, cookies=jar)) == "unauthorised"


async def test_a_legacy_session_must_be_refreshed(here: World) -> None:
    """A legacy session cookie requires a refresh, even where a session is optional."""
    jar = ["sIdRefreshToken=x"]
    assert refused(await here.ask(GOOD, cookies=jar)) == "legacy_session"
    assert refused(await here.ask(None, OPTIONAL, cookies=jar)) == "legacy_session"


@pytest.mark.parametrize("is_known", [True, False], ids=["verified", "parsed"])
def test_only_a_token_from_a_cookie_needs_a_proof(is_known: bool) -> None:
    """Only a token from a cookie needs an anti-CSRF proof: browsers attach cookies.

    A verified token is looked up by its last characters, compared whole and not parsed
    again.
    """
    known = VerifiedTokens(10)
    parsed = parse(GOOD)
    assert parsed is not None
    remembered = VerifiedToken(GOOD, parsed, NOW + 60)
    if is_known:
        known.add(remembered, NOW)

    def chosen(**fields: str) -> tuple[str, VerifiedToken | Token, Credentials | None]:
        found = choose(request(**fields).credential_lines, known.by_end, True, True)
        assert isinstance(found, tuple)
        return found

    text, token, shown_with = chosen(authorization=f"Bearer {GOOD}")
    assert (text, token, shown_with) == (GOOD, remembered if is_known else parsed, None)
    text, token, shown_with = chosen(
        cookie=f"sAccessToken={GOOD}", anti_csrf="seal", rid="x"
    )
    assert (text, token) == (GOOD, remembered if is_known else parsed)
    assert shown_with is not None
    assert (shown_with.anti_csrf, shown_with.has_rid) == ("seal", True)


def test_another_token_with_the_same_end_isnt_taken_for_a_known_one() -> None:
    """A token is not mistaken for a cached one that shares its look-up characters."""
    known = VerifiedTokens(10)
    parsed = parse(GOOD)
    assert parsed is not None
    known.add(VerifiedToken(GOOD, parsed, NOW + 60), NOW)
    other = MINT.token(sub="user-2")
    forged = other[: other.rindex(".")] + GOOD[GOOD.rindex(".") :]
    for fields in (
        {"authorization": f"Bearer {forged}"},
        {"cookie": f"sAccessToken={forged}"},
    ):
        found = choose(request(**fields).credential_lines, known.by_end, True, True)
        assert isinstance(found, tuple)
        assert (found[0], found[1]) == (forged, parse(forged))


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (None, None),
        ("theme=dark", None),
        ("sAccessToken=junk", None),
        (f"sAccessToken={GOOD}; sAccessToken={GOOD}", Refresh.SEVERAL),
        (f"sAccessToken={GOOD}; sIdRefreshToken=x", Refresh.LEGACY),
    ],
    ids=["nothing", "other cookies", "junk", "several", "legacy"],
)
def test_there_may_be_no_token_to_judge(
    cookie: str | None, expected: Refresh | None
) -> None:
    """No token is chosen if none is sent or if a refresh is required first."""
    fields = {} if cookie is None else {"cookie": cookie}
    assert choose(request(**fields).credential_lines, {}, True, True) is expected
