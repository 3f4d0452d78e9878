"""Targets of redirects: what a file may say, and what a request can't change."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadTarget
from gateway.http import target
from gateway.http.redirect_template import RedirectTemplate


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("https://x.example{path}", "https://x.example/a/b"),
        ("https://x.example{path}{query}", "https://x.example/a/b?c=d&e=%2F"),
        ("https://x.example:8443/new{path}", "https://x.example:8443/new/a/b"),
        ("https://[::1]{path}", "https://[::1]/a/b"),
        ("http://x.example", "http://x.example"),
        ("/new{path}{query}", "/new/a/b?c=d&e=%2F"),
        ("{path}/", "/a/b/"),
        ("/login", "/login"),
        ("/login?next={url}", "/login?next=%2Fa%2Fb%3Fc%3Dd%26e%3D%252F"),
        ("/login?at={path}&x=1", "/login?at=%2Fa%2Fb&x=1"),
        ("/#/login?next={url}", "/#/login?next=%2Fa%2Fb%3Fc%3Dd%26e%3D%252F"),
    ],
)
def test_templates(template: str, url: str) -> None:
    """Behind a `?` or `#`, what a request brings is one encoded value."""
    assert RedirectTemplate(template)("/a/b", b"?c=d&e=%2F").decode() == url


@pytest.mark.parametrize(
    "template",
    [
        "",
        "login",
        "//evil.example{path}",
        "/\\evil.example",
        "/{path}",
        "/new/{path}",
        "https://{path}",
        "https://{url}",
        "https://x.example{query}",
        "https://x.example.{path}{path}x/{path}",
        "https://user@x.example{path}",
        "https://x y{path}",
        "https://x.example{host}",
        "https:/x.example",
        "ftp://x.example/",
        "javascript:alert(1)",
        "{query}",
        "{url}",
        "/new{query}/x",
        "/new?a{query}",
        "/new{url}",
        "/new?{",
        "/new}",
        "/new\r\nX-A: b",
        "/ne w",
        '/"new"',
        "/né",
        "/{Path}",
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    """No part of the scheme or host comes from a request."""
    with pytest.raises(ValueError, match=r"\w"):
        RedirectTemplate(template)


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("/new{path}", "/outer/new/a"),
        ("{path}", "/outer/a"),
        ("https://x.example{path}", "https://x.example/a"),
        ("/login?next={url}", "/outer/login?next=%2Fouter%2Fa"),
    ],
)
def test_what_proxies_have_removed(template: str, url: str) -> None:
    """A target on the same host is behind the same proxies."""
    assert RedirectTemplate(template)("/a", b"", b"/outer").decode() == url


@given(st.binary(max_size=24), st.sampled_from(["https://x.example", "", "/new"]))
def test_no_request_chooses_the_host(raw: bytes, before: str) -> None:
    """Whatever path and query the gateway accepts, the redirect stays in its place."""
    try:
        asked = target.parse(b"/" + raw, "GET", b"gw")
    except BadTarget:
        return
    url = RedirectTemplate(before + "{path}{query}")(asked.path, asked.query).decode()
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    assert "\\" not in url
    assert not url.startswith("//")
    parts = urlsplit(url)
    assert parts.netloc == ("x.example" if before.startswith("http") else "")
    encoded = RedirectTemplate("/login?next={url}")(asked.path, asked.query).decode()
    assert encoded.count("?") == 1
    assert list(parse_qs(urlsplit(encoded).query, encoding="latin-1")) == ["next"]
