"""Targets are understood once, and what two resolvers could read differently isn't."""

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
    """The authority is what the Host field says; a default port isn't named."""
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
    """No path, query, user or template; no number that may become an address."""
    with pytest.raises(ValueError, match=r"."):
        UpstreamTarget.parse(url)


def test_a_target_is_its_url_and_its_tls() -> None:
    """Equal ones share a pool; another trust anchor makes another target."""
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
def test_property_what_the_schema_takes_the_dialer_takes(url: str) -> None:
    """Its host is an address, or a name that can be looked up; its port can be dialled;
    and the authority that the service is told is a Host field that is sound."""
    try:
        (taken,) = config.ServiceConfig(targets=({"url": url},)).targets  # type: ignore[arg-type]
    except ValidationError:
        with pytest.raises(ValueError, match=r"."):
            UpstreamTarget.parse(url)
        return
    made = UpstreamTarget.of(config.address(taken.url))
    assert made == UpstreamTarget.parse(url)
    assert UpstreamTarget.parse(str(made)) == made
    if made.scheme == "unix":
        assert made.path.startswith("/")
        assert len(os.fsencode(made.path)) <= 103
        return
    assert 1 <= made.port <= 65535
    told = target.host(made.authority)
    assert told.name.strip("[]") == made.host
    assert (told.port or target.DEFAULT_PORT[made.scheme]) == made.port
    if made.is_address:
        assert str(ip_address(made.host)) == made.host
    else:
        # What socket.getaddrinfo does first with a name.
        assert made.host.encode("idna") == made.host.encode()
        assert not made.host.endswith("-")
