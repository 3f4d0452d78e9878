"""When the core is called, how often, and which requests share the answer."""

from __future__ import annotations

import asyncio

import pytest
from sessions_under_test import (
    ADMINS,
    ALWAYS,
    FRESH,
    GONE,
    GOOD,
    MINT,
    NEW_TOKENS,
    OPTIONAL,
    FakeCore,
    World,
    allows,
    identity,
    raises,
    reason,
    refused,
    role_claim,
    says,
    who,
    world,
)

from gateway import config
from gateway.errors import CoreUnavailable
from gateway.identity import (
    Allowed,
    CheckDatabase,
    Denied,
    Requirements,
    SessionPolicy,
    Undecided,
    Verdict,
)
from gateway.session import core_calls


async def test_a_token_from_a_refresh_goes_to_the_core(here: World) -> None:
    """The first use of a refreshed token confirms the refresh; a new token comes."""
    here.core.answer = allows(new_tokens=NEW_TOKENS)
    for _ in range(2):  # again for as long as the client sends it
        verdict = await here.ask(FRESH)
        assert isinstance(verdict, Allowed)
        assert verdict.new_tokens == NEW_TOKENS
    assert [asked["check_database"] for asked in here.core.asked] == [False, False]


WITHHELD = SessionPolicy(withholds=True)


async def test_where_new_tokens_are_withheld_the_core_is_asked_once(
    here: World,
) -> None:
    """Its yes counts for as long as a verified token is remembered.

    A client that can be given the new token still is.
    """
    here.core.answer = allows(new_tokens=NEW_TOKENS)
    for _ in range(3):
        verdict = await here.ask(FRESH, WITHHELD)
        assert isinstance(verdict, Allowed)
        assert (who(verdict), verdict.new_tokens) == ("user-1", ())
    assert len(here.core.asked) == 1
    verdict = await here.ask(FRESH)
    assert isinstance(verdict, Allowed)
    assert verdict.new_tokens == NEW_TOKENS
    assert len(here.core.asked) == 2
    here.clock.now += config.CacheConfig().max_age
    await here.ask(FRESH, WITHHELD)
    assert len(here.core.asked) == 3


async def test_a_withheld_token_is_forgotten_as_others_are(here: World) -> None:
    """A refusal isn't remembered as a yes, and a session that has ended is refused."""
    here.core.answer = raises(CoreUnavailable())
    assert reason(await here.ask(FRESH, WITHHELD)) == "core_unavailable"
    here.core.answer = allows(new_tokens=NEW_TOKENS)
    await here.ask(FRESH, WITHHELD)
    here.sessions.clear()
    await here.ask(FRESH, WITHHELD)
    assert len(here.core.asked) == 3
    here.sessions.deny(identity().session_handle)
    assert refused(await here.ask(FRESH, WITHHELD)) == "session_ended"


async def test_a_core_that_answers_after_a_change_of_keys(here: World) -> None:
    """Its yes is of no use then: the token is verified anew."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(principal=identity(), reason="core", new_tokens=NEW_TOKENS)

    here.core.answer = answer
    waiting = asyncio.create_task(here.ask(FRESH, WITHHELD))
    await here.core.was_asked.wait()
    here.sessions.clear()
    go.set()
    assert who(await waiting) == "user-1"
    await here.ask(FRESH, WITHHELD)
    assert len(here.core.asked) == 2


async def test_what_else_asks_the_core_still_does(here: World) -> None:
    """`check_database` and stale claims; their new tokens are withheld as well."""
    here.core.answer = allows(new_tokens=NEW_TOKENS)
    policy = SessionPolicy(withholds=True, check_database=CheckDatabase.ALWAYS)
    for _ in range(2):
        verdict = await here.ask(FRESH, policy)
        assert isinstance(verdict, Allowed)
        assert verdict.new_tokens == ()
    assert [asked["check_database"] for asked in here.core.asked] == [True, True]


async def test_a_flawed_token_never_reaches_the_core(here: World) -> None:
    """A token that can be refused locally causes no call to the core."""
    expired = MINT.token(parentRefreshTokenHash1="b", exp=1)
    assert refused(await here.ask(expired, ALWAYS)) == "token_expired"
    assert refused(await here.ask(None, ALWAYS)) == "unauthorised"
    assert not here.core.asked


@pytest.mark.parametrize(
    ("when", "asking"),
    [
        (CheckDatabase.NEVER, set()),
        (CheckDatabase.ON_WRITE, {"POST", "PUT", "PATCH", "DELETE", "PURGE"}),
        (
            CheckDatabase.ALWAYS,
            {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PURGE"},
        ),
    ],
)
async def test_when_the_core_is_asked(
    here: World, when: CheckDatabase, asking: set[str]
) -> None:
    """`check_database` decides by the method whether the core is called."""
    policy = SessionPolicy(check_database=when)
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PURGE"):
        assert who(await here.ask(GOOD, policy, method=method)) == "user-1"
    assert {asked["method"] for asked in here.core.asked} == asking
    assert all(asked["check_database"] for asked in here.core.asked)


async def test_the_cores_answer_is_kept_for_its_age(here: World) -> None:
    """`check_database: cached` calls once in `max_age`, for all routes that have it."""
    policy = SessionPolicy(check_database=CheckDatabase.CACHED, max_age_s=5.0)
    for seconds in (0, 4, 1, 1):
        here.clock.now += seconds
        await here.ask(GOOD, policy)
    assert len(here.core.asked) == 2
    await here.ask(GOOD, ALWAYS)
    assert len(here.core.asked) == 3


async def test_a_refusal_is_not_kept_as_an_answer(here: World) -> None:
    """A failed call to the core does not count as a confirmation of the session."""
    policy = SessionPolicy(check_database=CheckDatabase.CACHED)
    here.core.answer = raises(CoreUnavailable())
    assert reason(await here.ask(GOOD, policy)) == "core_unavailable"
    assert reason(await here.ask(GOOD, policy)) == "core_unavailable"
    assert len(here.core.asked) == 2


async def test_requests_with_one_token_share_one_call(here: World) -> None:
    """Requests with one token share one call, and all get the new token.

    The client may keep the answer of any one of them.
    """
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(principal=identity(), reason="core", new_tokens=NEW_TOKENS)

    here.core.answer = answer
    waiting = [asyncio.create_task(here.ask(FRESH)) for _ in range(20)]
    waiting.append(asyncio.create_task(here.ask(FRESH, OPTIONAL)))
    await here.core.was_asked.wait()
    go.set()
    verdicts = await asyncio.gather(*waiting)
    assert len(here.core.asked) == 1
    assert {getattr(verdict, "new_tokens", None) for verdict in verdicts} == {
        NEW_TOKENS
    }
    await here.ask(FRESH)  # the first call is over
    assert len(here.core.asked) == 2


async def test_what_is_not_the_same_question_is_not_shared(here: World) -> None:
    """A call is not shared across tokens, transfer methods, claims or checks."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(principal=identity(), reason="core")

    here.core.answer = answer
    jar = [f"sAccessToken={FRESH}"]
    waiting = [
        asyncio.create_task(ask)
        for ask in (
            here.ask(FRESH),
            here.ask(None, cookies=jar),
            here.ask(FRESH, ALWAYS),
            here.ask(FRESH, ADMINS),
            here.ask(MINT.token(parentRefreshTokenHash1="c")),
        )
    ]
    await here.core.was_asked.wait()
    go.set()
    await asyncio.gather(*waiting)
    assert len(here.core.asked) == 5


class Slow:
    """A core that answers when released, with the state before the call."""

    def __init__(self, core: FakeCore) -> None:
        self.truth: Allowed | Denied = Allowed(principal=identity(), reason="core")
        self.answers: list[asyncio.Event] = []
        self._more = asyncio.Event()
        core.answer = self._answer

    async def _answer(self) -> Allowed | Denied:
        now, go = self.truth, asyncio.Event()
        self.answers.append(go)
        self._more.set()
        await go.wait()
        return now

    async def asked(self, times: int) -> None:
        while len(self.answers) < times:
            self._more.clear()
            await self._more.wait()


WRITES = SessionPolicy(check_database=CheckDatabase.ON_WRITE)


@pytest.mark.parametrize("policy", [ALWAYS, WRITES], ids=["always", "on_write"])
async def test_an_answer_is_no_older_than_the_request(
    here: World, policy: SessionPolicy
) -> None:
    """A request never shares a call that began before it: the session may be revoked.

    Later requests share one call of their own, made after the first is answered.
    """
    slow = Slow(here.core)

    def ask() -> asyncio.Task[Verdict]:
        return asyncio.create_task(here.ask(GOOD, policy, method="POST"))

    first = ask()
    await slow.asked(1)
    slow.truth = GONE
    late = [ask() for _ in range(5)]
    slow.answers[0].set()
    assert who(await first) == "user-1"
    await slow.asked(2)
    slow.answers[1].set()
    assert await asyncio.gather(*late) == [GONE] * 5
    assert len(here.core.asked) == 2


async def test_an_answer_about_a_claim_is_no_word_on_the_session(here: World) -> None:
    """A call that fetches a claim doesn't confirm the session.

    A session revoked at the core in between is refused by a `cached` route.
    """
    token = MINT.token(**{"st-role": role_claim("admin", age_s=100)})
    fetches = SessionPolicy(
        requirements=Requirements(roles_any=("admin",), max_age_s=60.0)
    )
    here.core.answer = allows(claims={"st-role": role_claim("admin")})
    assert who(await here.ask(token, fetches)) == "user-1"
    here.core.answer = says(GONE)
    cached = SessionPolicy(check_database=CheckDatabase.CACHED)
    assert await here.ask(token, cached) == GONE
    assert [asked["check_database"] for asked in here.core.asked] == [False, True]


async def test_of_one_kind_of_question_one_is_asked_at_a_time(here: World) -> None:
    """Of one kind of call, one is under way at a time; later requests share the next.

    Calls of other kinds don't wait.
    """
    slow = Slow(here.core)

    def ask(policy: SessionPolicy = ALWAYS) -> asyncio.Task[Verdict]:
        return asyncio.create_task(here.ask(GOOD, policy))

    def asked() -> list[list[str]]:
        return [question["checks"] for question in here.core.asked]

    first = ask()
    await slow.asked(1)
    second = [ask() for _ in range(3)]
    other = ask(ADMINS)  # of another kind, and the last to arrive
    await slow.asked(2)
    assert asked() == [[], ["st-role"]]

    slow.answers[0].set()
    assert who(await first) == "user-1"
    await slow.asked(3)
    third = [ask() for _ in range(3)]
    another = ask(SessionPolicy(requirements=Requirements(permissions_any=("x",))))
    await slow.asked(4)
    assert asked() == [[], ["st-role"], [], ["st-perm"]]

    slow.answers[2].set()
    assert [who(verdict) for verdict in await asyncio.gather(*second)] == ["user-1"] * 3
    await slow.asked(5)
    assert not any(task.done() for task in third)
    for answer in slow.answers:
        answer.set()
    assert [who(verdict) for verdict in await asyncio.gather(*third)] == ["user-1"] * 3
    await asyncio.gather(other, another)
    assert len(here.core.asked) == 5


async def test_an_answer_may_be_as_old_as_the_route_allows(here: World) -> None:
    """`cached` shares a call made within `max_age`, and no older one."""
    slow = Slow(here.core)
    policy = SessionPolicy(check_database=CheckDatabase.CACHED, max_age_s=5.0)
    waiting = []
    for seconds in (0, 5, 1):
        here.clock.now += seconds
        waiting.append(asyncio.create_task(here.ask(GOOD, policy)))
        await asyncio.sleep(0)  # it has arrived
        await slow.asked(1)
    slow.answers[0].set()
    assert who(await waiting[0]) == who(await waiting[1]) == "user-1"
    await slow.asked(2)
    slow.answers[1].set()
    assert who(await waiting[2]) == "user-1"
    assert len(here.core.asked) == 2


async def test_a_question_that_waits_for_its_turn_is_shared() -> None:
    """A queued call is shared by all that join before it starts, under one deadline.

    A call that hangs uses up the next one's time, too, so that the wait stays bounded.
    """
    here = world(client=config.CoreConfig(timeout=0.2, max_concurrent=1))
    another = MINT.token(sub="user-2")
    slow = Slow(here.core)
    first = asyncio.create_task(here.ask(GOOD, ALWAYS))
    await slow.asked(1)
    waiting = [
        asyncio.create_task(here.ask(token, ALWAYS))
        for token in (GOOD, GOOD, another, another)
    ]
    slow.answers[0].set()
    assert who(await first) == "user-1"
    verdicts = await asyncio.gather(*waiting)
    # The one that hangs, and those whose place it holds.
    assert sorted(reason(verdict) or "" for verdict in verdicts) == [
        *("core_busy", "core_busy", "core_timeout", "core_timeout"),
    ]
    assert len(here.core.asked) == 2
    await here.sessions.close()


async def test_closing_ends_every_question(here: World) -> None:
    """Closing ends the call under way and the queued one."""
    slow = Slow(here.core)
    first = asyncio.create_task(here.ask(GOOD, ALWAYS))
    await slow.asked(1)
    late = asyncio.create_task(here.ask(GOOD, ALWAYS))
    await asyncio.sleep(0)  # its call has begun
    await here.sessions.close()
    for task in (first, late):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(here.core.asked) == 1


async def test_a_client_that_leaves_ends_only_its_own_wait(here: World) -> None:
    """When the client that caused a call leaves, the others still get the answer."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(principal=identity(), reason="core")

    here.core.answer = answer
    leaves = asyncio.create_task(here.ask(FRESH))
    await here.core.was_asked.wait()
    stays = asyncio.create_task(here.ask(FRESH))
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    go.set()
    assert who(await stays) == "user-1"
    assert len(here.core.asked) == 1


async def test_a_hung_core_is_waited_for_no_longer_than_its_timeout() -> None:
    """K4: the deadline covers the wait for a free slot, too, which the log names."""
    here = world(client=config.CoreConfig(timeout=0.05, max_concurrent=1))

    async def hangs() -> Allowed | Denied:
        await asyncio.Event().wait()
        raise AssertionError

    here.core.answer = hangs
    async with here.sessions._calls._slots:  # another call has the only one
        assert reason(await here.ask(GOOD, ALWAYS)) == "core_busy"
    assert not here.core.asked
    assert reason(await here.ask(FRESH)) == "core_timeout"
    assert len(here.core.asked) == 1
    assert who(await here.ask()) == "user-1"  # requests that need no core are served
    assert len(here.sessions._calls) == 0


async def test_questions_to_the_core_are_bounded(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of waiting calls is bounded while the core hangs."""
    monkeypatch.setattr(core_calls, "_MAX_CALLS", 1)

    async def hangs() -> Allowed | Denied:
        await asyncio.Event().wait()
        raise AssertionError

    here.core.answer = hangs
    first = asyncio.create_task(here.ask(FRESH))
    await here.core.was_asked.wait()
    assert await here.ask(GOOD, ALWAYS) == Undecided(reason="core_busy")
    first.cancel()
    await here.sessions.close()
