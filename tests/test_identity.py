"""What a request shows to prove its session, read byte for byte as the SDK reads it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from supertokens_python.framework.fastapi.fastapi_request import FastApiRequest
from supertokens_python.recipe.session.cookie_and_header import (
    get_anti_csrf_header,
    get_token,
    has_multiple_cookies_for_token_type,
)
from supertokens_python.recipe.session.utils import get_auth_mode_from_header
from supertokens_python.utils import get_rid_from_header

from gateway.fields import Field, Fields, block
from gateway.http.request_head import Bounds, RequestReader
from gateway.identity import (
    CREDENTIAL_FIELDS,
    ClaimRule,
    Credentials,
    Identity,
    Requirements,
    credentials,
)

many = settings(max_examples=300, deadline=None)  # a busy machine is no failure

READER = RequestReader(
    Bounds(target=8192, field=16384, head=65536, fields=100),
    credentials=CREDENTIAL_FIELDS,
)
"""One for all tests: what it remembers of one request must not change another."""


def shown(*fields: Field) -> Credentials:
    """Return the credentials of a request with *fields*, read twice.

    The first head is held meanwhile, so that the second one finds its lines.
    """
    data = b"GET / HTTP/1.1\r\nHost: gw\r\n" + block(fields) + b"\r\n"
    first, second = READER.read(data), READER.read(data)
    found = credentials(first.shown)
    assert credentials(second.shown) == found
    return found


def test_no_field_no_credentials() -> None:
    """A request that shows nothing is a request of nobody."""
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
    """E17: case-sensitive, one space, and no byte is ever lost."""
    assert shown((b"Authorization", value)) == Credentials(
        bearer=bearer, is_authorized=True
    )


def test_first_field_of_a_name_counts() -> None:
    """E17: a second Authorization, anti-csrf or st-auth-mode changes nothing."""
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
    """E17: one without a value is there, and a later one doesn't stand in for it."""
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
    """Every access token cookie is seen; the last one is the SDK's."""
    assert shown(*((b"Cookie", c) for c in cookies)).access_cookies == tokens


def test_legacy_session_is_seen() -> None:
    """A `sIdRefreshToken` cookie makes the SDK ask for a refresh, even empty."""
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
    """By itself, for whoever has no head: also with blanks that a head cuts off."""
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
def test_property_the_sdk_reads_the_same(fields: Fields) -> None:
    """For any bytes: the same token from each place, the same anti-CSRF facts.

    Where the SDK sees two access cookies, so do we; not the other way round.
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


# --- the shared types -------------------------------------------------------


def test_requirements_are_true_when_they_demand_something() -> None:
    """`if requirements:` is how a route without any is passed by."""
    assert not Requirements()
    assert Requirements(email_verified=True)
    assert Requirements(claims=(ClaimRule(path=("plan",), any_of=("pro",)),))


def test_identity_is_compared_by_identity() -> None:
    """Two sessions are never taken for one because their facts look alike."""

    def make() -> Identity:
        return Identity(
            user_id="u",
            recipe_user_id="u",
            session_handle="h",
            tenant_id="public",
            claims={},
            expires_at=0.0,
        )

    one, other = make(), make()
    assert one != other
    assert one.written is not other.written
