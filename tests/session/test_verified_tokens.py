"""The cache of verified tokens: bounded, and no entry outlives its validity."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any, cast

import pytest
from minting import NOW, Mint
from sessions_under_test import request

from gateway.session import tokens
from gateway.session.credentials import credentials
from gateway.session.tokens import Token, parse
from gateway.session.verified_tokens import (
    KEY_CHARS,
    MEAN_MAX_BYTES,
    VerifiedToken,
    VerifiedTokens,
    line_of,
)

MINT = Mint()


def verified(
    user: str = "user-1", until: float = NOW + 60, **claims: Any
) -> VerifiedToken:
    text = MINT.token(sub=user, **claims)
    token = parse(text)
    assert token is not None
    return VerifiedToken(text, token, until)


def users(cache: VerifiedTokens) -> list[str]:
    return [token.identity.user_id for token in cache.by_end.values()]


def test_a_token_is_found_by_its_end() -> None:
    """A token is looked up by the last characters of its signature, until removed."""
    cache, token = VerifiedTokens(10), verified()
    cache.add(token, NOW)
    assert cache.by_end[token.text[-KEY_CHARS:]] is token
    cache.remove(token)
    assert not cache.by_end
    cache.add(token, NOW)
    cache.clear()
    assert not cache.by_end


def test_the_cache_is_bounded() -> None:
    """The oldest entries go first; a cache of size 0 stores nothing."""
    cache = VerifiedTokens(3)
    for number in range(5):
        cache.add(verified(f"user-{number}"), NOW)
    assert users(cache) == ["user-2", "user-3", "user-4"]
    nothing = VerifiedTokens(0)
    nothing.add(verified(), NOW)
    assert not nothing.by_end


def test_large_tokens_are_bounded_in_bytes() -> None:
    """A cache for ten usual tokens holds fewer that are large, the newest ones."""
    cache = VerifiedTokens(10)
    words = [f"permission-{number}" for number in range(400)]
    for number in range(10):
        cache.add(verified(f"user-{number}", words=words), NOW)
    assert 0 < cache.size <= 10 * MEAN_MAX_BYTES
    assert users(cache) == ["user-8", "user-9"]
    for number in range(20, 40):
        cache.add(verified(f"user-{number}"), NOW)
    assert users(cache) == [f"user-{number}" for number in range(30, 40)]
    VerifiedTokens(1).add(verified(words=words), NOW)  # larger than the whole cache


def test_the_size_is_that_of_what_is_held() -> None:
    """It follows replacement, removal and expiry, and is 0 when nothing is left."""
    cache, token = VerifiedTokens(10), verified()
    for _ in range(3):
        cache.add(token, NOW)
    assert cache.size == token.size
    other = verified("user-2", until=NOW + 120)
    cache.add(other, NOW + 60)
    assert cache.size == other.size
    cache.remove(other)
    assert cache.size == 0
    cache.add(token, NOW)
    cache.clear()
    assert cache.size == 0


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"data": [f"permission-{number}" for number in range(600)]},
        {"data": [[] for _ in range(1500)]},
        {"data": json.loads("[" * 300 + "]" * 300)},
        {"data": [{} for _ in range(1500)]},
        {"data": [{str(number): number} for number in range(500)]},
        {"data": {str(number): number + 1000 for number in range(700)}},
        {"data": {str(number): str(number) for number in range(700)}},
        {"data": "\U0001f600" * 900},
        {"data": 10**4000},
    ],
    ids=[
        *("usual", "words", "lists", "nested lists", "objects", "members"),
        *("numbers by name", "words by name", "wide", "number"),
    ],
)
def test_the_size_is_no_less_than_what_is_allocated(claims: dict[str, Any]) -> None:
    """Whatever the claims are, and not much more than it either."""
    text = MINT.token(**claims)
    tokens._last_json.cache_clear()  # what it forgets would be counted as freed
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        entry = VerifiedToken(text[:], cast("Token", parse(text)), NOW)
        taken = tracemalloc.get_traced_memory()[0] - before + len(text)
    finally:
        tracemalloc.stop()
    assert taken <= entry.size <= 4 * taken + 4096


def test_only_a_line_that_was_counted_is_held() -> None:
    """A cookie beside the token may grow later, and isn't held with it then."""
    text = MINT.token()
    token = parse(text)
    assert token is not None
    lines = request(authorization=f"Bearer {text}").credential_lines
    entry = VerifiedToken(text, token, NOW, lines)
    assert len(lines[0].raw) <= entry.line_max < len(lines[0].raw) + 1000
    assert entry.size > VerifiedToken(text, token, NOW).size
    assert VerifiedToken(text, token, NOW).line_max == 0


def test_what_is_over_is_forgotten() -> None:
    """Expired entries are removed as new tokens arrive."""
    cache = VerifiedTokens(100)
    for number in range(10):
        cache.add(verified(f"user-{number}", until=NOW + 60), NOW)
    for number in range(10, 16):
        cache.add(verified(f"user-{number}", until=NOW + 120), NOW + 60)
    assert users(cache) == [f"user-{number}" for number in range(10, 16)]


@pytest.mark.parametrize(
    ("until", "life_s", "expected"),
    [(NOW + 60, 3600, NOW + 60), (NOW + 60, 30, NOW + 30)],
    ids=["as long as it is kept", "as long as it lives"],
)
def test_a_token_is_kept_no_longer_than_it_lives(
    until: float, life_s: int, expected: float
) -> None:
    """An entry ends with the token or with `max_age`, whichever is first."""
    assert verified(until=until, exp=int(NOW) + life_s).until == expected


def test_the_facts_of_a_token_are_read_once() -> None:
    """A token's facts, which no route changes, are computed once."""
    plain = verified()
    assert (plain.anti_csrf, plain.needs_core) == (None, False)
    assert plain.allowed.principal is plain.identity
    assert plain.allowed.reason == "cached"
    fresh = verified(antiCsrfToken="seal", parentRefreshTokenHash1="b")
    assert (fresh.anti_csrf, fresh.needs_core) == ("seal", True)


@pytest.mark.parametrize("place", ["authorization", "cookie"])
def test_the_line_that_shows_a_token_is_found(place: str) -> None:
    """The line with the token is found among others, such as a Cookie field."""
    other, token = MINT.token(sub="user-2"), MINT.token()
    tokens = {"authorization": other, "cookie": other, place: token}
    shown = request(
        authorization=f"Bearer {tokens['authorization']}",
        cookie=f"sAccessToken={tokens['cookie']}",
    ).credential_lines
    read = credentials(shown)
    chosen = read.bearer if place == "authorization" else read.access_cookies[-1]
    assert chosen == token
    found = line_of(chosen, shown)
    assert found.name.lower() == place.encode()
    assert token.encode() in found.raw
