"""Addresses that only redirect to https."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream
from gateway_under_test import gateway
from wire import connect, request

from gateway.downstream.https_redirect import https_url, read_target
from gateway.errors import BadTarget

URLS = {
    "path": (b"/a/b", b"a.test", 443, b"https://a.test/a/b"),
    "query": (b"/a?x=1&y=/", b"a.test", 443, b"https://a.test/a?x=1&y=/"),
    "port of http": (b"/", b"a.test:80", 443, b"https://a.test/"),
    "other port": (b"/", b"a.test:8080", 8443, b"https://a.test:8443/"),
    "capitals": (b"/A", b"A.Test", 443, b"https://a.test/A"),
    "address": (b"/", b"192.0.2.1", 443, b"https://192.0.2.1/"),
    "IPv6": (b"/", b"[2001:db8::1]:80", 8443, b"https://[2001:db8::1]:8443/"),
    "absolute form": (b"http://a.test/x", b"a.test", 443, b"https://a.test/x"),
    "many slashes": (b"//evil.test/x", b"a.test", 443, b"https://a.test/evil.test/x"),
    "dots": (b"/x/../y", b"a.test", 443, b"https://a.test/y"),
    "escaped slash": (b"/x%2Fy", b"a.test", 443, b"https://a.test/x%2Fy"),
    "raw query": (b"/?\xc3\xa9", b"a.test", 443, b"https://a.test/?%C3%A9"),
}


@pytest.mark.parametrize(("raw", "host", "port", "url"), URLS.values(), ids=URLS)
def test_the_url_is_of_the_same_resource(
    raw: bytes, host: bytes, port: int, url: bytes
) -> None:
    """Host and resource stay; only scheme and port change."""
    assert https_url(read_target(raw, "GET", host), port) == url


@pytest.mark.parametrize(
    ("raw", "method", "host"),
    [
        (b"/", "GET", None),
        (b"/", "GET", b"a.test/evil"),
        (b"/", "GET", b"user@a.test"),
        (b"/", "GET", b"a.test\\evil.test"),
        (b"/\\evil.test", "GET", b"a.test"),
        (b"/a\x0d\x0aX: y", "GET", b"a.test"),
        (b"http://evil.test/", "GET", b"a.test"),
        (b"*", "OPTIONS", b"a.test"),
    ],
)
def test_what_has_no_url(raw: bytes, method: str, host: bytes | None) -> None:
    """A doubtful host or target is refused: it could lead a client elsewhere."""
    with pytest.raises(BadTarget):
        https_url(read_target(raw, method, host), 443)


def listening(to: Any = 8443) -> dict[str, Any]:
    return {"listen": [{"address": "127.0.0.1:0", "redirect_to_https": to}]}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_every_request_is_redirected(
    upstream: FaultUpstream, method: str
) -> None:
    """Whatever the method is: nothing reaches a service, and the log has a line."""
    async with gateway(upstream.url, settings=listening()) as gw:
        body = b"secret" if method == "POST" else None
        reply = await gw.ask(
            method, "/a?b", ("Authorization", "Bearer ann"), body=body, host="a.test"
        )
        record = await gw.record()
    assert reply.status == 308
    assert reply.one("Location") == "https://a.test:8443/a?b"
    assert reply.one("Cache-Control") == "no-store"
    assert reply.one("Strict-Transport-Security") is None
    assert (record.status, record.reason) == (308, "to_https")
    assert record.path == "/a"
    assert record.request_id == reply.one("X-Request-Id")
    assert not upstream.connections


async def test_connections_are_kept(upstream: FaultUpstream) -> None:
    """The redirect of a request with a small body doesn't end its connection."""
    async with gateway(upstream.url, settings=listening()) as gw, gw.connect() as wire:
        for _ in range(3):
            await wire.send(request("POST", "/a", body=b"x" * 100, host="a.test"))
            assert (await wire.reply()).status == 308


@pytest.mark.parametrize("host", ["a.test/evil", "b@a.test"])
async def test_a_bad_host_is_400(upstream: FaultUpstream, host: str) -> None:
    """As in every other request."""
    async with gateway(upstream.url, settings=listening()) as gw:
        reply = await gw.ask("GET", "/a", host=host)
        assert (reply.status, reply.one("Location")) == (400, None)
        assert (await gw.record()).status == 400
    assert not upstream.connections


async def test_other_addresses_serve(upstream: FaultUpstream) -> None:
    """Only the address with the key redirects."""
    settings = {"listen": ["127.0.0.1:0", *listening()["listen"]]}
    settings["listen"][0] = {"address": "127.0.0.1:0"}
    async with gateway(upstream.url, settings=settings) as gw:
        statuses = []
        for port in gw.ports:
            async with connect(port) as wire:
                await wire.send(request("GET", "/a"))
                statuses.append((await wire.reply()).status)
    assert statuses == [200, 308]
