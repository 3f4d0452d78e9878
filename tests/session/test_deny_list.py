"""The deny-list: each session is denied until its end, and the size is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import SessionIdentity
from gateway.session.deny_list import DenyList, UserDenial, UserScope

NOW = 1_700_000_000.0


def test_only_news_are_returned() -> None:
    """Only new denials are returned; a repeated or earlier end is not new."""
    denied = DenyList()
    assert denied.add({"a": NOW + 10, "b": NOW}, NOW) == {"a": NOW + 10}
    assert denied.add({"a": NOW + 10}, NOW) == {}
    assert denied.add({"a": NOW + 5, "b": NOW + 1}, NOW) == {"b": NOW + 1}
    assert denied.add({"a": NOW + 11}, NOW) == {"a": NOW + 11}


def test_a_denial_is_never_shortened() -> None:
    """A denial is never shortened; one that has ended is not stored."""
    denied = DenyList()
    denied.add({"a": NOW + 10}, NOW)
    denied.add({"a": NOW + 5, "b": NOW}, NOW)
    assert denied.ends == {"a": NOW + 10}


def test_a_denial_ends_when_it_says() -> None:
    """A denial ends at its stated time, and then uses no memory."""
    denied = DenyList()
    denied.add({"a": NOW + 10}, NOW)
    assert denied.denies("a", NOW + 9.9)
    assert not denied.denies("b", NOW)
    assert not denied.denies("a", NOW + 10)
    assert len(denied) == 0


def test_what_a_denial_covers() -> None:
    """The same end and earlier ones, of the same session: these aren't sent again."""
    denied = DenyList()
    denied.add({"a": NOW + 10}, NOW)
    assert denied.covers("a", NOW + 9)
    assert denied.covers("a", NOW + 10)
    assert not denied.covers("a", NOW + 11)
    assert not denied.covers("b", NOW)


def test_what_is_over_is_forgotten() -> None:
    """Ended denials are dropped, and not passed to other processes."""
    denied = DenyList()
    denied.add({str(number): NOW + 1 + number for number in range(100)}, NOW)
    assert [*denied.live(NOW + 98.5)] == [("98", NOW + 99), ("99", NOW + 100)]
    for number in range(50):
        denied.add({f"new-{number}": NOW + 1000}, NOW + 200)
    assert len(denied) == 50
    assert denied.overflows == 0


def test_the_list_is_bounded() -> None:
    """The list is bounded: the oldest denial goes first.

    A repeated one counts as new.
    """
    denied = DenyList(max_sessions=3)
    for number in (0, 1, 2):
        denied.add({str(number): NOW + 10}, NOW)
    denied.add({"0": NOW + 20, "3": NOW + 10}, NOW)
    assert [handle for handle, _ in denied.live(NOW)] == ["2", "0", "3"]
    assert denied.overflows == 1


handles = st.sampled_from("abcdefgh")
steps = st.lists(
    st.tuples(
        st.floats(0, 5),
        st.dictionaries(handles, st.floats(-5, 20), max_size=4),
    ),
    max_size=40,
)
"""Steps: seconds that pass, the sessions that are denied, and each one's lifetime."""


@given(steps=steps, limit=st.integers(1, 10))
def test_property_no_live_denial_is_forgotten_below_the_limit(
    steps: list[tuple[float, dict[str, float]]], limit: int
) -> None:
    """No live denial is lost below the limit, compared with an unbounded list.

    The list never exceeds its limit. Until it has overflowed, it denies exactly the
    right sessions. Each denial is new once, and again only with a later end.
    """
    denied = DenyList(max_sessions=limit)
    truth: dict[str, float] = {}
    now = NOW
    for pause_s, more in steps:
        now += pause_s
        ends = {handle: now + life_s for handle, life_s in more.items()}
        expected = {
            handle: until
            for handle, until in ends.items()
            if until > max(now, truth.get(handle, now))
        }
        news = denied.add(ends, now)
        assert len(denied) <= limit
        assert expected.items() <= news.items() <= ends.items()
        assert all(until > now for until in news.values())
        truth |= expected
        live = {handle: until for handle, until in truth.items() if until > now}
        if denied.overflows == 0:
            assert news == expected
            assert dict(denied.live(now)) == live
            assert {h for h in "abcdefgh" if denied.denies(h, now)} == live.keys()
            assert denied.add(ends, now) == {}
        else:
            assert all(until <= live[handle] for handle, until in denied.live(now))
        if len(truth) <= limit:
            assert denied.overflows == 0


# --- users ------------------------------------------------------------------------


def token(handle: str = "h", user: str = "u", at: object = NOW, **more: str) -> Any:
    """Return who a token of *user*, issued *at* a time, stands for."""
    return SessionIdentity(
        user_id=user,
        recipe_user_id=more.get("recipe_user", user),
        session_handle=handle,
        tenant_id=more.get("tenant", "public"),
        claims={} if at is None else {"iat": at},
        expires_at=NOW + 3600,
    )


def user(name: str = "u", tenant: str | None = None, before: float = NOW) -> UserDenial:
    return UserDenial(UserScope(name, tenant), before, NOW + 100)


@pytest.mark.parametrize(
    ("denial", "shown", "is_denied"),
    [
        (user(), token(), True),
        (user(), token(at=NOW - 1), True),
        (user(), token(at=NOW + 1), False),
        (user(), token(at=None), True),
        (user(), token(user="v"), False),
        (user(), token(user="v", recipe_user="u"), True),
        (user(tenant="a"), token(tenant="a"), True),
        (user(tenant="a"), token(tenant="b"), False),
        (user(), token(tenant="b"), True),
    ],
)
def test_a_user_s_older_tokens_are_denied(
    denial: UserDenial, shown: SessionIdentity, is_denied: bool
) -> None:
    """By either id of the user, in the tenant, and if issued at that time or earlier.

    A token without the time of its issue is denied.
    """
    denied = DenyList()
    assert not denied.denies_token(shown, NOW)
    denied.add_user(denial, NOW)
    assert denied.denies_token(shown, NOW) is is_denied
    assert not denied.denies_token(shown, NOW + 100)


def test_a_user_s_denial_is_never_shortened() -> None:
    """A later one denies more, an earlier one nothing less; none is kept for ever."""
    denied = DenyList(max_sessions=2)
    denied.add_user(user(before=NOW + 5), NOW)
    denied.add_user(user(before=NOW), NOW)
    assert denied.denies_token(token(at=NOW + 5), NOW)
    assert [*denied.live_users(NOW)] == [user(before=NOW + 5)]
    assert [*denied.live(NOW)] == []
    denied.add({"a": NOW + 10, "b": NOW + 10}, NOW)
    assert (len(denied), denied.overflows) == (2, 1)
    assert not denied.denies_token(token(), NOW)
    assert [*denied.live_users(NOW)] == []
