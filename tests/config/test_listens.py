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
        ("unix:/a/b", "unix:/a//./b", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("localhost:80", "[::1]:80", True),
        ("localhost:80", "10.0.0.1:80", False),
        ("localhost:80", "127.0.0.1:81", False),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", True),
        ("[::ffff:127.0.0.1]:80", "[::1]:80", False),
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


TLS = {"certificates": [{"cert": "a.pem", "key": "a.key"}]}

BAD_KEYS: dict[str, tuple[Any, str]] = {
    "no certificate": (
        {"tls": {"certificates": []}},
        "gateway.listen[0].tls.certificates: expected at least one item",
    ),
    "no key": (
        {"tls": {"certificates": [{"cert": "a.pem"}]}},
        "gateway.listen[0].tls.certificates[0]: the key 'key' is missing",
    ),
    "old version": (
        {"tls": {**TLS, "min_version": "1.1"}},
        "gateway.listen[0].tls.min_version: expected '1.2' or '1.3'",
    ),
    "no mode": (
        {"tls": {**TLS, "client_auth": {"ca_file": "a.pem"}}},
        "the key 'mode' is missing. Write mode: request or require",
    ),
    "no age": ({"tls": {**TLS, "hsts": {}}}, "the key 'max_age' is missing"),
    "redirect to itself": (
        {"tls": TLS, "redirect_to_https": True},
        "gateway.listen[0].redirect_to_https: clients of this address use https",
    ),
    "redirect to nowhere": (
        {"redirect_to_https": True},
        "no address with TLS has a port to redirect to. Write the port",
    ),
    "redirect to a word": (
        {"redirect_to_https": "yes"},
        "gateway.listen[0].redirect_to_https: expected true, false or a port",
    ),
    "redirect to port 0": (
        {"redirect_to_https": 0},
        "gateway.listen[0].redirect_to_https: expected true, false or a port",
    ),
    "everybody states addresses": (
        {"proxy_protocol": ["0.0.0.0/0"]},
        "gateway.listen[0].proxy_protocol[0]: this trusts all clients",
    ),
    "a version in place of peers": (
        {"proxy_protocol": "v2"},
        "gateway.listen[0].proxy_protocol: expected a list",
    ),
}


@pytest.mark.parametrize(("keys", "message"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_keys(keys: dict[str, Any], message: str) -> None:
    """What contradicts itself, or trusts everybody, is refused."""
    assert message in refusal([{"address": "127.0.0.1:80", **keys}])


def test_yaml_reads_versions_as_numbers() -> None:
    """`min_version: 1.3` needs no quotes."""
    (listen,) = parse(
        [{"address": "unix:/a", "tls": {**TLS, "min_version": 1.3}}]
    ).listen
    assert listen.tls is not None
    assert listen.tls.min_version == "1.3"


@pytest.mark.parametrize(
    ("to", "port"), [(True, 8443), (443, 443), (1, 1), (False, None)]
)
def test_where_a_redirect_leads(to: object, port: int | None) -> None:
    """To the first address with TLS and a port, or to the port that is written."""
    gateway = parse(
        [
            {"address": "127.0.0.1:80", "redirect_to_https": to},
            {"address": "unix:/a", "tls": TLS},
            {"address": "127.0.0.1:8443", "tls": TLS},
            {"address": "127.0.0.1:8444", "tls": TLS},
        ]
    )
    assert gateway.https_port(gateway.listen[0]) == port
