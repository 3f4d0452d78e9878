"""`gateway.shared`: what is accepted, and the message for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import InvalidConfig, SharedConfig, parse
from gateway.config.secret import REDACTED, shown

URL = "redis://user:hunter2@r:6379/1"


def shared(**keys: Any) -> SharedConfig | None:
    return parse(
        {"version": 1, "routes": [], "gateway": {"shared": {"redis": URL, **keys}}}
    ).gateway.shared


def test_the_defaults() -> None:
    """Without the section nothing is shared."""
    assert parse({"version": 1, "routes": []}).gateway.shared is None
    found = shared()
    assert found is not None
    assert (found.on_failure, found.grace, found.key) == ("local", 5.0, None)
    assert found.address.password == "hunter2"


def test_the_address_is_secret() -> None:
    """It may have a password: it isn't shown."""
    found = shared()
    assert shown(found)["redis"] == REDACTED
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("keys", "loc", "message"),
    [
        ({"redis": "http://r"}, "redis", "expected redis://"),
        ({"redis": None}, "redis", ""),
        ({"on_failure": "ignore"}, "on_failure", "local"),
        ({"grace": "1s"}, "grace", "less than 3 s"),
        ({"key": "a b"}, "key", "letters, digits"),
        ({"ca_file": "/ca.pem"}, "ca_file", "has no TLS"),
        ({"ca_file": "ca.pem", "redis": "rediss://r"}, "ca_file", ""),
        ({"tls": True}, "tls", "unknown key"),
    ],
)
def test_a_mistake(keys: dict[str, Any], loc: str, message: str) -> None:
    """It is reported where it is, without the value."""
    with pytest.raises(InvalidConfig) as refused:
        shared(**keys)
    (finding,) = refused.value.findings
    assert finding.loc == ("gateway", "shared", loc)
    assert message in finding.message
    assert "hunter2" not in str(refused.value)
