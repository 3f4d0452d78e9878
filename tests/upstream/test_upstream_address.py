"""Target URLs: the canonical form, and the URLs that are refused."""

import os
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import config
from gateway.config import TlsConfig
from gateway.http import target
from gateway.upstream import UpstreamTarget


@pytest.mark.parametrize(
    ("url", "authority", "text", "is_address"),
    [
        ("http://api", b"api", "http://api:80", False),
        ("http://api:80/", b"api", "http://api:80", False),
        ("https://API.example.com", b"api.example.com", None, False),
        ("https://api:8443", b"api:8443", "https://api:8443", False),
        ("http://api_1.local.:81", b"api_1.local:81", None, False),
        ("http://10.0.0.7:8080", b"10.0.0.7:8080", None, True),
        ("http://[::1]:8080", b"[::1]:8080", "http://[::1]:8080", True),
        ("https://[2001:DB8::0:1]", b"[2001:db8::1]", None, True),
        ("unix:/run/app.sock", b"localhost", "unix:/run/app.sock", False),
    ],
)
def test_targets(
    url: str, authority: bytes, text: str | None, is_address: bool
) -> None:
    """A target's authority, for the Host field, omits the scheme's default port."""
    target = UpstreamTarget.parse(url)
    assert target.authority == authority
    assert target.is_address is is_address
    if text is not None:
        assert str(target) == text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api:8080",
        "ftp://api",
        "file:///etc/passwd",
        "http://",
        "http://api/path",
        "http://api?x=1",
        "http://api#f",
        "http://user@api",
        "http://user:pass@api",
        "http://api:0",
        "http://api:65536",
        "http://api:8o",
        "http://a..b",
        "http://-a",
        "http://a-",
        "http://a-.b",
        "http://a b",
        "http://{tenant}.local",
        "http://2130706433",
        "http://127.1",
        "http://0x7f000001",
        "http://0x7f.1",
        "http://256.0.0.1",
        "http://010.0.0.1",
        "http://[::1",
        "http://[:::1]",
        "http://" + "a" * 64,
        "http://" + "a." * 130 + "b",
        "unix:run/app.sock",
        "unix:/run/\0",
    ],
)
def test_refused(url: str) -> None:
    """A target has no path, query, user or template, and no ambiguous address."""
    with pytest.raises(ValueError, match=r"."):
        UpstreamTarget.parse(url)


def test_a_target_is_its_url_and_its_tls() -> None:
    """Targets are equal if their canonical URL and their `tls` are."""
    tls = TlsConfig(server_name="api")
    one = UpstreamTarget.parse("https://10.0.0.7", tls)
    assert one == UpstreamTarget.parse("https://10.0.0.7:443/", tls)
    assert len({one, UpstreamTarget.parse("https://10.0.0.7")}) == 2


PORTS = st.sampled_from(["", ":1", ":80", ":443", ":65535", ":0", ":70000", ":"])
labels = st.text(alphabet="ab1-_.0x[]:", max_size=8)
urls = st.one_of(
    st.builds("{}://{}{}".format, st.sampled_from(["http", "https"]), labels, PORTS),
    st.builds("http://{}.{}.{}".format, labels, labels, labels),
    st.builds("http://{}{}".format, st.ip_addresses(v=4), PORTS),
    st.builds("https://[{}]{}/".format, st.ip_addresses(v=6), PORTS),
    st.builds("unix:/{}".format, st.text(max_size=110)),
)


@settings(max_examples=500, deadline=None)
@given(url=urls)
@example(url="http://web-:8080")
@example(url="http://" + "a" * 63 + "/")
def test_property_the_schema_and_the_dialer_accept_the_same(url: str) -> None:
    """A URL is a valid target for the schema if and only if it is for the dialer.

    Its host is then an address or a name that can be looked up, its port can be
    dialled, and its authority is a valid Host field.
    """
    try:
        (accepted,) = config.ServiceConfig(targets=({"url": url},)).targets  # type: ignore[arg-type]
    except ValidationError:
        with pytest.raises(ValueError, match=r"."):
            UpstreamTarget.parse(url)
        return
    dialled = UpstreamTarget.of(config.address(accepted.url))
    assert dialled == UpstreamTarget.parse(url)
    assert UpstreamTarget.parse(str(dialled)) == dialled
    if dialled.scheme == "unix":
        assert dialled.path.startswith("/")
        assert len(os.fsencode(dialled.path)) <= 103
        return
    assert 1 <= dialled.port <= target.MAX_PORT
    host_field = target.host(dialled.authority)
    assert host_field.name.strip("[]") == dialled.host
    assert (host_field.port or target.DEFAULT_PORT[dialled.scheme]) == dialled.port
    if dialled.is_address:
        assert str(ip_address(dialled.host)) == dialled.host
    else:
        # socket.getaddrinfo encodes a name so before it looks it up.
        assert dialled.host.encode("idna") == dialled.host.encode()
        assert not dialled.host.endswith("-")
