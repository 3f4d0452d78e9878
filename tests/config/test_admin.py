"""`gateway.admin`: where it may listen, and what else has its address."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import GatewayConfig, InvalidConfig, parse


def admin(**keys: Any) -> GatewayConfig:
    """Return the gateway's keys with these below `admin`, and others by name."""
    gateway = {"listen": "127.0.0.1:80", "probes": {"listen": "127.0.0.1:81"}}
    return parse(
        {"version": 1, "routes": [], "gateway": {**gateway, "admin": keys}}
    ).gateway


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:9901", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/a.sock"],
)
def test_an_address_for_this_machine_needs_no_token(listen: str) -> None:
    """A loopback address, or a Unix socket."""
    assert admin(listen=listen).admin.listen == listen
    assert admin().admin.listen is None


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9901", "[::]:9901", "10.0.0.1:9901", "gw.internal:9901"]
)
def test_another_address_needs_a_token(listen: str) -> None:
    """The message says what to do."""
    with pytest.raises(InvalidConfig) as refused:
        admin(listen=listen)
    (finding,) = refused.value.findings
    assert finding.loc == ("gateway", "admin", "listen")
    assert "only a loopback address or a Unix socket" in finding.message
    assert "Set token_file" in finding.hint
    assert admin(listen=listen, token_file="/run/t").admin.listen == listen


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("127.0.0.1:80", "gateway.listen has this address"),
        ("127.0.0.1:81", "gateway.probes.listen has this address"),
        ("0.0.0.0:81", "gateway.probes.listen has this address"),
        ("127.0.0.1", "the port is missing"),
        ("unix:run/a.sock", "path"),
        ("unix:/" + "a" * 103, "103 bytes"),
    ],
)
def test_a_bad_address(listen: str, message: str) -> None:
    """One that something else has, or that is none."""
    with pytest.raises(InvalidConfig) as refused:
        admin(listen=listen, token_file="/run/t")
    assert [message in finding.message for finding in refused.value.findings] == [True]
    assert refused.value.findings[0].loc == ("gateway", "admin", "listen")
