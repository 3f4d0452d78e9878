"""Addresses to listen on, and the items of `gateway.listen`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config
from gateway.config import InvalidConfig, ListenAddress, listen_address


def parse(listen: object, **gateway: object) -> config.GatewayConfig:
    return config.parse(
        {"version": 1, "gateway": {"listen": listen, **gateway}}
    ).gateway


def refusal(listen: object, **gateway: object) -> str:
    with pytest.raises(InvalidConfig) as caught:
        parse(listen, **gateway)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    {
        "127.0.0.1:8000": ListenAddress(host="127.0.0.1", port=8000),
        "[::1]:0": ListenAddress(host="[::1]", port=0),
        "LocalHost:80": ListenAddress(host="localhost", port=80),
        "unix:/run/gateway.sock": ListenAddress(socket_path="/run/gateway.sock"),
    }.items(),
)
def test_an_address_is_host_and_port_or_a_path(
    text: str, parsed: ListenAddress
) -> None:
    """Both forms have one parser; its text is the canonical form."""
    assert listen_address(text) == parsed
    assert str(parsed) == text.lower()


@pytest.mark.parametrize(
    "text", ["unix:run/x", "unix:", "unix:/a\0b", "unix:/" + "a" * 103]
)
def test_a_socket_has_an_absolute_path(text: str) -> None:
    """A path is absolute, has no NUL, and is as short as every system demands."""
    with pytest.raises(ValueError, match=r"socket|unix:"):
        listen_address(text)


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:80", False),
    ],
)
def test_overlaps(one: str, other: str, is_shared: bool) -> None:
    """An address can be listened on once; every address of the machine has each."""
    first, second = listen_address(one), listen_address(other)
    assert first.overlaps(second) is second.overlaps(first) is is_shared


@pytest.mark.parametrize(
    ("listen", "addresses"),
    [
        ("127.0.0.1:1", ["127.0.0.1:1"]),
        (["127.0.0.1:1", "unix:/a"], ["127.0.0.1:1", "unix:/a"]),
        ([{"address": "unix:/a", "mode": "600", "owner": "www:80"}], ["unix:/a"]),
    ],
)
def test_listen_is_an_address_or_a_list(listen: object, addresses: list[str]) -> None:
    """A bare address is short for a mapping, and a single one for a list."""
    assert [each.address for each in parse(listen).listen] == addresses


def test_a_socket_is_closed_to_other_users() -> None:
    """The permissions of a Unix socket are 0660 by default."""
    (listen,) = parse("unix:/a").listen
    assert (listen.mode, listen.owner) == ("0660", None)


BAD: dict[str, tuple[Any, str]] = {
    "equal": (
        ["127.0.0.1:1", {"address": "127.0.0.1:1"}],
        "gateway.listen[1].address: another item of gateway.listen has this address",
    ),
    "contained": (
        ["127.0.0.1:1", "0.0.0.0:1"],
        "gateway.listen[1]: another item of gateway.listen has this address",
    ),
    "nothing": ([], "gateway.listen: expected at least one item"),
    "mode of a port": (
        [{"address": "127.0.0.1:1", "mode": "0600"}],
        "gateway.listen[0].mode: only the file of a Unix socket has this",
    ),
    "owner of a port": (
        [{"address": "127.0.0.1:1", "owner": "www"}],
        "gateway.listen[0].owner: only the file of a Unix socket has this",
    ),
    "mode that YAML reads as 432": (
        [{"address": "unix:/a", "mode": 0o660}],
        "gateway.listen[0].mode: expected permissions in octal digits and in quotes",
    ),
    "no owner": (
        [{"address": "unix:/a", "owner": ""}],
        "gateway.listen[0].owner: expected user:group, user or :group",
    ),
    "typing error": (
        [{"adress": "unix:/a"}],
        "gateway.listen[0].adress: unknown key 'adress'. Did you mean 'address'?",
    ),
    "mapping": (
        {"address": "unix:/a"},
        "gateway.listen: expected a list. Put it in brackets: listen: […]",
    ),
}


@pytest.mark.parametrize(("listen", "message"), BAD.values(), ids=BAD)
def test_bad_items(listen: object, message: str) -> None:
    """Each mistake has its place, and a remedy."""
    assert message in refusal(listen)


def test_probes_share_no_address() -> None:
    """Each item is compared with the address of the probes."""
    assert "gateway.probes.listen: gateway.listen has this address" in refusal(
        ["unix:/a", "0.0.0.0:9902"], probes={"listen": "127.0.0.1:9902"}
    )
    assert "gateway.probes.listen: a Unix socket isn't supported here" in refusal(
        "unix:/a", probes={"listen": "unix:/a"}
    )


def test_the_peers_of_unix_sockets_can_be_trusted() -> None:
    """`unix` in trusted_proxies is all that connect to a Unix socket."""
    assert parse("unix:/a", trusted_proxies=["unix"]).trusted_proxies == ("unix",)
