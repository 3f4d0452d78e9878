"""The keys below `aws`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config


def parsed(aws: dict[str, Any]) -> config.Config:
    return config.parse({"version": 1, "aws": aws})


@pytest.mark.parametrize(
    ("value", "read"),
    [("/shop", "/shop"), ("/shop/", "/shop"), ("/a/b", "/a/b"), (None, None)],
)
def test_a_base_path(value: str | None, read: str | None) -> None:
    """It has no final slash."""
    assert parsed({} if value is None else {"base_path": value}).aws.base_path == read


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/", "the root isn't a base path"),
        ("shop", "a path begins with /"),
        ("/a/../b", "canonical form"),
        ("/{stage}", "names in braces"),
    ],
)
def test_what_is_no_base_path(value: str, message: str) -> None:
    """No request could have it."""
    with pytest.raises(config.InvalidConfig) as raised:
        parsed({"base_path": value})
    (finding,) = raised.value.findings
    assert finding.path == "aws.base_path"
    assert message in finding.message
