"""Which store a configuration names, and which gateways share one."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import StoreAddress, parse
from gateway.shared.place import StorePlace, place_of

CORE = "http://core:3567"


def place(core: str = CORE, **shared: Any) -> StorePlace | None:
    keys = {"redis": "redis://r", **shared}
    return place_of(
        parse(
            {
                "version": 1,
                "routes": [],
                "gateway": {"shared": keys},
                "supertokens": {"connection_uri": core},
            }
        )
    )


def key(core: str) -> str:
    found = place(core)
    assert found is not None
    return found.key


def test_without_the_key_nothing_is_shared() -> None:
    assert place_of(parse({"version": 1, "routes": []})) is None


def test_grace_counts_with_refuse_only() -> None:
    assert place() == StorePlace(
        address=StoreAddress(host="r", port=6379),
        key=key(CORE),
        ca_file=None,
        grace_s=None,
    )
    refusing = place(on_failure="refuse", grace="7s", key="shop:denials")
    assert refusing is not None
    assert (refusing.grace_s, refusing.key) == (7.0, "shop:denials")


def test_rate_limits_have_keys_beside_the_stream() -> None:
    one, other = place(key="shop:denials"), place(key="shop")
    assert one is not None
    assert other is not None
    assert one.rate_prefix == other.rate_prefix == "shop:rates:"


@pytest.mark.parametrize(
    ("core", "is_same"),
    [
        ("http://CORE:3567/", True),
        ("http://core:3568", False),
        ("https://core:3567", False),
        ("http://core:3567/appid-shop", False),
        ("http://core:3567;http://core-2:3567", False),
    ],
)
def test_gateways_of_different_cores_do_not_mix(core: str, is_same: bool) -> None:
    """An application of a core has its path, and its own stream."""
    assert (key(core) == key(CORE)) is is_same


def test_the_order_of_a_cores_addresses_makes_no_difference() -> None:
    one, other = "http://core:3567", "http://core-2:3567/x"
    assert key(f"{one};{other}") == key(f"{other}/;{one}")
