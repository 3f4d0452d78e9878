"""A request is judged by all its limits, each under the request's own key."""

from __future__ import annotations

import pytest

from gateway.config import RateLimitConfig
from gateway.identity import SessionIdentity
from gateway.rate_limits import (
    Asking,
    Caller,
    Draw,
    Gcra,
    Limited,
    Limiter,
    LocalStore,
    RatePolicy,
    RateUse,
)

S = 1_000_000_000
ANN = SessionIdentity(
    user_id="ann",
    recipe_user_id="ann",
    session_handle="handle",
    tenant_id="public",
    claims={},
    expires_at=0.0,
)


def policy(name: str = "p", **keys: object) -> RatePolicy:
    return RatePolicy.of(name, RateLimitConfig.model_validate({"rate": "1/m"} | keys))


def caller(client: str = "192.0.2.1", **known: object) -> Caller:
    given = {"fields": (), "route": "r"} | known
    return Caller(client=client, **given)  # type: ignore[arg-type]


def keys(limit: RatePolicy, who: Caller) -> list[str]:
    return list(limit.keys(who))


@pytest.mark.parametrize(
    ("key", "one", "other", "same"),
    [
        ("client", caller("192.0.2.1"), caller("192.0.2.2"), False),
        ("client", caller("2001:db8::1"), caller("2001:db8::ffff:2"), True),
        ("client", caller("2001:db8::1"), caller("2001:db8:0:1::1"), False),
        ("client", caller("::ffff:192.0.2.1"), caller("192.0.2.1"), True),
        ("client", caller(""), caller(""), True),
        ("route", caller(route="a"), caller("192.0.2.2", route="a"), True),
        ("route", caller(route="a"), caller(route="b"), False),
        ("user", caller(principal=ANN), caller("192.0.2.2", principal=ANN), True),
        ("user", caller(principal=ANN), caller(), False),
        ("user", caller(), caller("192.0.2.2"), False),
        ("session", caller(principal=ANN), caller("::1", principal=ANN), True),
        ("tenant", caller(principal=ANN), caller("::1", principal=ANN), True),
        (
            "header:x-key",
            caller(fields=((b"X-Key", b"1"),)),
            caller("192.0.2.2", fields=((b"x-key", b"1"),)),
            True,
        ),
        (
            "header:x-key",
            caller(fields=((b"X-Key", b"1"),)),
            caller(fields=((b"X-Key", b"2"),)),
            False,
        ),
        ("header:x-key", caller(), caller("192.0.2.2"), False),
        ("email", caller(accounts=("a",)), caller("::1", accounts=("a",)), True),
        ("email", caller(accounts=("a",)), caller(accounts=("b",)), False),
    ],
)
def test_requests_count_by_the_key(
    key: str, one: Caller, other: Caller, same: bool
) -> None:
    """Two requests share a bucket, or don't; without the key, clients count."""
    limit = policy(key=key)
    assert (keys(limit, one) == keys(limit, other)) == same


def test_a_user_isnt_taken_for_a_client() -> None:
    """A user id that looks like an address has a bucket of its own, as has a policy."""
    ann = caller(principal=ANN)
    assert keys(policy("a", key="user"), ann) != keys(policy("b", key="user"), ann)
    assert keys(policy(key="user"), ann) != keys(policy(key="tenant"), ann)
    assert keys(policy(key="user"), caller()) == keys(policy(), caller())


def test_keys_are_short_and_dont_show_the_value() -> None:
    """A credential in a field doesn't go on to other processes."""
    (key,) = keys(policy(key="header:x"), caller(fields=((b"x", b"secret" * 999),)))
    assert len(key) == 32
    assert "secret" not in key


def test_many_addresses_in_a_form_count_each() -> None:
    """So a second address hides none; but a form can't take all keys."""
    limit = policy(key="email")
    assert len(keys(limit, caller(accounts=("a", "b")))) == 2
    assert len(keys(limit, caller(accounts=tuple(map(str, range(99)))))) == 4


def test_the_first_limit_that_refuses_is_the_answer() -> None:
    """Every limit must admit a request; refusals are counted by their policy."""
    now = 0
    limiter = Limiter(LocalStore(lambda: now))
    wide, narrow = policy("wide", burst=3), policy("narrow", key="route")
    uses = (RateUse(wide), RateUse(narrow))
    assert limiter.judge(uses, caller()) is None
    assert limiter.judge(uses, caller()) == Limited(narrow, 60 * S)
    assert limiter.judge(uses, caller()) == Limited(narrow, 60 * S)
    assert limiter.judge(uses, caller()) == Limited(wide, 60 * S)
    now = 60 * S
    assert limiter.judge(uses, caller()) is None
    assert limiter.refused == {"narrow": 2, "wide": 1}


def test_a_cost_takes_as_many_units() -> None:
    """A request of cost 3 takes three units, or none."""
    limiter = Limiter(LocalStore(lambda: 0))
    limit = policy(burst=4)
    assert limiter.judge((RateUse(limit, 3),), caller()) is None
    assert limiter.judge((RateUse(limit, 3),), caller()) is not None
    assert limiter.judge((RateUse(limit, 1),), caller()) is None


class AskedStore:
    """Answers only when it is asked."""

    def __init__(self, wait_ns: int) -> None:
        self.wait_ns = wait_ns
        self.asked: list[Draw] = []

    def take(self, draw: Draw) -> None:
        return None

    async def ask(self, draw: Draw) -> int:
        self.asked.append(draw)
        return self.wait_ns


async def test_a_store_may_have_to_be_asked() -> None:
    """Then the judgment is `Asking`, which asks for each limit until one refuses."""
    uses = (RateUse(policy("a")), RateUse(policy("b", rate="3/s"), 2))
    store = AskedStore(0)
    asking = Limiter(store).judge(uses, caller())
    assert isinstance(asking, Asking)
    assert await asking.answer() is None
    assert [draw[1:3] for draw in store.asked] == [
        (Gcra(60 * S, 1), 1),
        (Gcra(333_333_334, 3), 2),
    ]
    store = AskedStore(S)
    asking = Limiter(store).judge(uses, caller())
    assert isinstance(asking, Asking)
    assert await asking.answer() == Limited(uses[0].policy, S)
    assert len(store.asked) == 1


def test_fields_of_a_refusal() -> None:
    """Retry-After in whole seconds, upwards; the RateLimit fields by option."""
    assert Limited(policy(), 1).fields == ((b"Retry-After", b"1"),)
    limit = policy("api", rate="10/m", burst=5, fields=True)
    assert Limited(limit, 5 * S + 1).fields == (
        (b"Retry-After", b"6"),
        (b"RateLimit-Policy", b'"api";q=5;w=30'),
        (b"RateLimit", b'"api";r=0;t=6'),
    )
