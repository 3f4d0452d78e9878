"""The attempts of the floods of sign-ins, and the options that set their number."""

from __future__ import annotations

import argparse

import pytest

from bench.scripts import sign_in_flood
from bench.scripts.sign_in_flood import floods


def test_each_flood_has_as_many_attempts_as_it_says() -> None:
    """One address with accounts that all differ; then the reverse."""
    (one, many) = floods(300, 600)
    title, attempts, count, _ = one
    tried = [*attempts]
    assert title == "one address against 300 accounts"
    assert len(tried) == count == len({email for _, email, _ in tried}) == 300
    assert len({address for address, _, _ in tried}) == 1
    title, attempts, count, _ = many
    tried = [*attempts]
    assert title == "600 addresses against one account"
    assert len(tried) == count == len({address for address, _, _ in tried}) == 600
    assert {email for _, email, _ in tried} == {"victim@example.com"}


@pytest.mark.parametrize("text", ["0", "-1", str(2**24 + 1)])
def test_a_flood_has_a_size(text: str) -> None:
    """There are no more addresses that begin with 10."""
    with pytest.raises(argparse.ArgumentTypeError):
        sign_in_flood.count_of(text)
    assert sign_in_flood.count_of("50") == 50
