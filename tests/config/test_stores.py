"""The address of a Redis server, and the name of a key in it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.stores import StoreAddress, store_address, store_key


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://r", StoreAddress(host="r", port=6379)),
        ("redis://R.Internal:7000/", StoreAddress(host="r.internal", port=7000)),
        ("rediss://r/3", StoreAddress(host="r", port=6379, is_tls=True, database=3)),
        ("redis://[::1]:1", StoreAddress(host="::1", port=1)),
        ("redis://:pw@r", StoreAddress(host="r", port=6379, password="pw")),
        (
            "redis://me:p@:w@r",
            StoreAddress(host="r", port=6379, username="me", password="p@:w"),
        ),
        (
            "redis://me:p%40:w@r",
            StoreAddress(host="r", port=6379, username="me", password="p@:w"),
        ),
    ],
)
def test_an_address(url: str, expected: StoreAddress) -> None:
    assert store_address(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "expected redis://"),
        ("r:6379", "expected redis://"),
        ("http://r", "expected redis://"),
        ("redis+unix://r", "expected redis://"),
        ("redis://", "isn't a host"),
        ("redis://r:", "isn't a host"),
        ("redis://r:99999", "isn't a host"),
        ("redis://r:0", "port 0"),
        ("redis://r/db", "after the host"),
        ("redis://r/0?ssl_cert_reqs=none", "after the host"),
        ("redis://r?db=1", "after the host"),
        ("redis://me@r", "password is missing"),
        ("redis://me:@r", "password is missing"),
    ],
)
def test_anything_else(url: str, message: str) -> None:
    """The message says what is wrong, and repeats nothing: there may be a password."""
    with pytest.raises(ValueError, match=message) as refused:
        store_address(url)
    assert url not in str(refused.value) or not url


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_password_can_be_written(username: str, password: str) -> None:
    """Percent-encoded. It isn't in the address's text."""
    if not all(map(_is_text, (username, password))):
        return
    url = f"redis://{quote(username, safe='')}:{quote(password, safe='')}@r:1"
    found = store_address(url)
    assert (found.username, found.password) == (username, password)
    assert str(found) == "r:1"
    assert f"password={password!r}" not in repr(found)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_an_ipv6_address_has_brackets_in_messages() -> None:
    assert str(store_address("redis://[::1]:7")) == "[::1]:7"


@pytest.mark.parametrize("name", ["a", "shop:denials", "{shop}.x_y-1", "a" * 200])
def test_a_key(name: str) -> None:
    assert store_key(name) == name


@pytest.mark.parametrize("name", ["", "a b", "é", "a\n", "a" * 201, 'a"b'])
def test_no_key(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        store_key(name)
