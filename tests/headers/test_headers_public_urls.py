"""Redirects and cookies of a service behind another origin, and another path."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import MapPolicy, Public
from gateway.headers.public_urls import public_cookie, public_refresh, public_url

STRIPPED = MapPolicy(
    schemes=frozenset({"http"}),
    authorities=frozenset({("svc.internal", 8080), ("10.0.0.7", None)}),
    is_host_kept=False,
    replacement=b"",
    redirects=True,
    cookie_paths=True,
    cookie_domain="",
)
"""Two targets, `http://svc.internal:8080` and `http://10.0.0.7`, behind `/app`."""
UNCHANGED = replace(STRIPPED, replacement=None)
REPLACED = replace(STRIPPED, replacement=b"/v2")
PUBLIC = Public("https", "api.example.com", "api.example.com", b"/app")
AT_ROOT = PUBLIC._replace(prefix=b"")

ORIGINS = [
    (b"http://svc.internal:8080/x", b"https://api.example.com/x"),
    (b"HTTP://SVC.internal:8080/x?a=b#c", b"https://api.example.com/x?a=b#c"),
    (b"https://svc.internal:8080/x", b"https://api.example.com/x"),
    (b"http://10.0.0.7/x", b"https://api.example.com/x"),
    (b"http://10.0.0.7:80/x", b"https://api.example.com/x"),
    (b"https://10.0.0.7/x", b"https://api.example.com/x"),
    (b"//svc.internal:8080/x", b"//api.example.com/x"),
    (b"http://svc.internal:8080", b"https://api.example.com"),
    (b"http://svc.internal:8080?q", b"https://api.example.com?q"),
    (b"http://svc.internal:8080//evil", b"https://api.example.com//evil"),
]
OTHER_PLACES = [
    b"https://login.example.com/x",
    b"http://svc.internal/x",
    b"http://svc.internal:9090/x",
    b"http://svc.internal.evil.com:8080/x",
    b"http://user@svc.internal:8080/x",
    b"http://api.example.com/x",
    b"ftp://svc.internal:8080/x",
    b"http:\\\\svc.internal:8080/x",
    b"http://svc.internal:8080\\@evil.com/",
    b"http:/svc.internal:8080/x",
    b"//evil.com/svc.internal:8080",
    b"mailto:a@example.com",
    b"relative/x",
    b"../x",
    b"?q",
    b"#f",
    b"",
    b"http://svc.internal:8080x/",
    b"http://\xff/",
]
PATHS = [
    (b"/items/", b"/app/items/"),
    (b"/", b"/app/"),
    (b"/items?next=/x", b"/app/items?next=/x"),
    (b"/app/items/", b"/app/items/"),
    (b"/app", b"/app"),
    (b"/app?x", b"/app?x"),
    (b"/apple", b"/app/apple"),
    (b"/\xc3\xa9", b"/app/\xc3\xa9"),
    (b"//evil.com/", b"//evil.com/"),
    (b"/\\evil.com", b"/\\evil.com"),
    (b"items", b"items"),
    (b"http://svc.internal:8080/items/", b"https://api.example.com/app/items/"),
    (b"http://svc.internal:8080/app/items/", b"https://api.example.com/app/items/"),
    (b"http://svc.internal:8080", b"https://api.example.com/app/"),
    (b"http://svc.internal:8080?q", b"https://api.example.com/app/?q"),
    (b"//svc.internal:8080/items", b"//api.example.com/app/items"),
    (b"https://other.example.com/items", b"https://other.example.com/items"),
]


@pytest.mark.parametrize(("url", "public"), ORIGINS, ids=repr)
def test_own_origin_becomes_the_public_one(url: bytes, public: bytes) -> None:
    """A target's authority counts with its scheme, the public one, or none."""
    assert public_url(url, UNCHANGED, AT_ROOT) == public


@pytest.mark.parametrize("url", OTHER_PLACES, ids=repr)
def test_other_places_stay(url: bytes) -> None:
    """Another origin, a relative reference or what is no URL stays as it is."""
    assert public_url(url, UNCHANGED, AT_ROOT) == url
    assert public_url(url, STRIPPED, PUBLIC) == url


@pytest.mark.parametrize(("url", "public"), PATHS, ids=repr)
def test_stripped_prefix_is_put_back(url: bytes, public: bytes) -> None:
    """A path gets the prefix unless it has it, and never begins an authority."""
    assert public_url(url, STRIPPED, PUBLIC) == public


def test_a_path_stays_without_a_rewrite() -> None:
    """Only the origin is mapped where the path is the same on both sides."""
    assert public_url(b"/items/", UNCHANGED, AT_ROOT) == b"/items/"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (b"/v2/items", b"/app/items"),
        (b"/v2", b"/app"),
        (b"/v2?x", b"/app?x"),
        (b"/v20", b"/v20"),
        (b"/login", b"/login"),
        (b"http://svc.internal:8080/v2/x", b"https://api.example.com/app/x"),
        (b"http://svc.internal:8080/login", b"https://api.example.com/login"),
    ],
    ids=repr,
)
def test_replaced_prefix_is_mapped_back(url: bytes, public: bytes) -> None:
    """Paths outside of the replacement have no public form: only origins change."""
    assert public_url(url, REPLACED, PUBLIC) == public


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (b"/v2/x", b"/x"),
        (b"/v2", b"/"),
        (b"/v2?x", b"/?x"),
        (b"/v2//evil.com", b"/v2//evil.com"),
        (b"/v2/\\evil.com", b"/v2/\\evil.com"),
    ],
    ids=repr,
)
def test_a_removed_prefix_opens_no_redirect(url: bytes, public: bytes) -> None:
    """What is left after `/v2` isn't sent if browsers read an authority in it."""
    assert public_url(url, REPLACED, AT_ROOT) == public


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (b"http://api.example.com/items", b"https://api.example.com/app/items"),
        (b"https://api.example.com/items", b"https://api.example.com/app/items"),
        (b"http://svc.internal:8080/items", b"https://api.example.com/app/items"),
        (b"http://www.example.com/items", b"http://www.example.com/items"),
        (b"http://api.example.com:81/items", b"http://api.example.com:81/items"),
    ],
    ids=repr,
)
def test_a_preserved_host_is_the_services_own(url: bytes, public: bytes) -> None:
    """With `host_header: preserve` a service builds URLs from the client's Host."""
    assert public_url(url, replace(STRIPPED, is_host_kept=True), PUBLIC) == public


def test_a_preserved_host_may_have_a_port() -> None:
    """The port of the public authority is kept, and compared."""
    policy = replace(UNCHANGED, is_host_kept=True)
    public = Public("http", "localhost:8000", "localhost:8000", b"")
    url = b"http://localhost:8000/x"
    assert public_url(url, policy, public) == url
    assert public_url(url, policy, public._replace(scheme="https")) == (
        b"https://localhost:8000/x"
    )


def test_without_an_authority_the_path_is_left() -> None:
    """HTTP/1.0 without Host: the internal address isn't given away, either."""
    unknown = PUBLIC._replace(authority="", host="")
    assert public_url(b"http://svc.internal:8080/x", STRIPPED, unknown) == b"/app/x"
    assert public_url(b"http://svc.internal:8080", UNCHANGED, unknown) == b"/app/"


@pytest.mark.parametrize(
    ("value", "mapped"),
    [
        (b"5; url=/items", b"5; url=/app/items"),
        (
            b"0;URL='http://svc.internal:8080/x'",
            b"0;URL='https://api.example.com/app/x'",
        ),
        (b'5, "/items"', b'5, "/app/items"'),
        (b"5;/items", b"5;/app/items"),
        (b"5; url=https://other.example.com/", b"5; url=https://other.example.com/"),
        (b"5", b"5"),
        (b"/items", b"/items"),
        (b"", b""),
    ],
    ids=repr,
)
def test_refresh(value: bytes, mapped: bytes) -> None:
    """The URL in a Refresh field is mapped; its time and its quotes stay."""
    assert public_refresh(value, STRIPPED, PUBLIC) == mapped


@pytest.mark.parametrize(
    ("cookie", "mapped"),
    [
        (b"a=b; Path=/; HttpOnly", b"a=b; Path=/app; HttpOnly"),
        (b"a=b; path=/items", b"a=b; path=/app/items"),
        (b"a=b; Path=/app/items", b"a=b; Path=/app/items"),
        (b"a=b; Path=items", b"a=b; Path=items"),
        (b"a=b", b"a=b"),
        (b"__Host-a=b; Path=/; Secure", b"__Host-a=b; Path=/; Secure"),
        (b"path=/; Secure", b"path=/; Secure"),
        (b"a=b; Domain=svc.internal; Secure", b"a=b; Secure"),
        (b"a=b; Domain=.internal", b"a=b"),
        (b"a=b; Domain=example.com", b"a=b; Domain=example.com"),
        (b"a=b; Domain=elsewhere.com", b"a=b; Domain=elsewhere.com"),
        (b"a=b; Domain=", b"a=b; Domain="),
    ],
    ids=repr,
)
def test_cookies(cookie: bytes, mapped: bytes) -> None:
    """Path gets the public prefix; a Domain that only the service has is removed."""
    assert public_cookie(cookie, STRIPPED, PUBLIC) == mapped


def test_a_cookies_domain_is_replaced() -> None:
    """`cookies.domain` names the domain to write."""
    policy = replace(STRIPPED, cookie_domain="example.com")
    assert public_cookie(b"a=b; Domain=svc.internal", policy, PUBLIC) == (
        b"a=b; Domain=example.com"
    )


def test_the_clients_path_adds_no_attribute() -> None:
    """A service may read `/app;x` as `/app`: what follows isn't the cookie's."""
    public = PUBLIC._replace(prefix=b"/app;Domain=example.com")
    assert public_cookie(b"a=b; Path=/", STRIPPED, public) == b"a=b; Path=/"


@given(st.binary(max_size=60))
def test_no_value_fails(value: bytes) -> None:
    """Whatever a service sends is mapped or kept; what was one line stays one."""
    for policy in (STRIPPED, REPLACED, UNCHANGED):
        for change in (public_url, public_refresh, public_cookie):
            mapped = change(value, policy, PUBLIC)
            assert mapped.count(b"\n") <= value.count(b"\n")
            assert mapped.count(b"\r") <= value.count(b"\r")
