"""Sessions with fake keys and a fake core; `test_core_session` uses real ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from minting import NOW, Mint, private_key
from sessions_under_test import (
    ADMINS,
    ALWAYS,
    FRESH,
    GONE,
    GOOD,
    JSON,
    MINT,
    NEW_TOKENS,
    OPTIONAL,
    OTHER,
    REQUIRED,
    RULES,
    World,
    allows,
    failed,
    identity,
    reason,
    refused,
    role_claim,
    says,
    session,
    who,
    world,
)

from gateway.identity import (
    Allowed,
    CheckDatabase,
    ClaimRule,
    Denied,
    Protection,
    Requirements,
    SessionPolicy,
    Undecided,
)
from gateway.session import authenticator
from gateway.session.keys import KeySet, Missing
from gateway.session.rules import AntiCsrf, GlobalClaims, SessionRules


async def test_a_good_token_is_let_in_without_the_core(here: World) -> None:
    """A good token is verified locally the first time, then found in the cache."""
    first, second = await here.ask(), await here.ask()
    assert (who(first), reason(first)) == ("user-1", "local")
    assert (who(second), reason(second)) == ("user-1", "cached")
    assert not here.core.asked


@pytest.mark.parametrize(
    "token", [None, "", "junk", "a.b.c", MINT.token(stt=1), MINT.token(sub=...)]
)
async def test_no_token_and_no_session_token_are_the_same(
    here: World, token: str | None
) -> None:
    """A request without a token, or with no session token, is 401 `unauthorised`.

    Where the session is optional, it is anonymous.
    """
    assert refused(await here.ask(token)) == "unauthorised"
    anonymous = await here.ask(token, OPTIONAL)
    assert (who(anonymous), reason(anonymous)) == (None, "anonymous")


FLAWED = {
    "expired": (MINT.token(exp=int(NOW)), "token_expired"),
    "other key": (Mint(key=private_key("other")).token(), "token_signature"),
    "none": (MINT.token({"alg": "none"}), "token_algorithm"),
    "iss": (MINT.token(iss="http://other/auth"), "token_issuer"),
    "unknown key": (MINT.token({"kid": "d-unknown"}), "token_key_unknown"),
    "static key": (MINT.token({"kid": "s-static"}), "token_key_kind"),
    "cut": (GOOD[:-8], "token_signature"),
}


@pytest.mark.parametrize(("token", "why"), FLAWED.values(), ids=FLAWED)
@pytest.mark.parametrize("policy", [REQUIRED, OPTIONAL], ids=["required", "optional"])
async def test_a_flawed_token_must_be_refreshed(
    here: World, token: str, why: str, policy: SessionPolicy
) -> None:
    """A flawed token requires a refresh each time, also where sessions are optional."""
    for _ in range(2):
        assert refused(await here.ask(token, policy)) == why
    assert not here.core.asked


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_damaged_token_is_ever_let_in(data: st.DataObject) -> None:
    """A token with any change in its text is refused, cached original or not."""
    place = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(0, 3))
    new = data.draw(st.text(st.sampled_from("AZaz09-_=.,;!é"), max_size=3))
    damaged = GOOD[:place] + new + GOOD[place + cut :]
    here = world()
    asyncio.run(here.ask())  # the unchanged token is now cached
    verdict = asyncio.run(here.ask(damaged))
    assert isinstance(verdict, Allowed) is (damaged == GOOD)


SEALED = MINT.token(antiCsrfToken="seal")


COOKIE = [f"sAccessToken={SEALED}"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "get"])
@pytest.mark.parametrize(
    ("mode", "fields", "passes"),
    [
        (AntiCsrf.NONE, {}, True),
        (AntiCsrf.VIA_CUSTOM_HEADER, {}, False),
        (AntiCsrf.VIA_CUSTOM_HEADER, {"rid": "anything"}, True),
        (AntiCsrf.VIA_TOKEN, {}, False),
        (AntiCsrf.VIA_TOKEN, {"rid": "session"}, False),
        (AntiCsrf.VIA_TOKEN, {"anti_csrf": "wrong"}, False),
        (AntiCsrf.VIA_TOKEN, {"anti_csrf": "seal"}, True),
    ],
    ids=["none", "no rid", "rid", "no token", "rid, no token", "wrong", "token"],
)
async def test_anti_csrf(
    method: str, mode: AntiCsrf, fields: dict[str, Any], passes: bool
) -> None:
    """Every method but GET needs the anti-CSRF proof each time, unless in a header.

    A token in the Authorization field needs none.
    """
    here = world(replace(RULES, anti_csrf=mode))
    assert who(await here.ask(SEALED, method=method)) == "user-1"
    for _ in range(2):
        verdict = await here.ask(None, method=method, cookies=COOKIE, **fields)
        if passes or method == "GET":
            assert who(verdict) == "user-1"
        else:
            assert refused(verdict) == "anti_csrf"


@pytest.mark.parametrize(
    "fields",
    [{}, {"anti_csrf": ""}, {"anti_csrf": "None"}, {"anti_csrf": "null"}],
    ids=["nothing", "empty", "None", "null"],
)
async def test_a_token_without_a_seal_passes_no_seal(fields: dict[str, Any]) -> None:
    """VIA_TOKEN refuses a session without an anti-CSRF claim, whatever is sent."""
    here = world(replace(RULES, anti_csrf=AntiCsrf.VIA_TOKEN))
    jar = [f"sAccessToken={GOOD}"]
    assert who(await here.ask(None, cookies=jar)) == "user-1"
    verdict = await here.ask(None, method="POST", cookies=jar, **fields)
    assert refused(verdict) == "anti_csrf"


async def test_a_new_key_is_sought_once(here: World) -> None:
    """K6: a token with an unknown key waits for one fetch and is let in."""
    here.keys.more = {"d-2": OTHER.key.public_key()}
    assert who(await here.ask(OTHER.token())) == "user-1"
    assert here.keys.sought == ["d-2"]


async def test_keys_that_cannot_be_had_are_no_refusal(here: World) -> None:
    """K1: missing keys are 503, so that an outage logs no client out."""
    here.keys.missing = Missing.UNAVAILABLE
    verdict = await here.ask(OTHER.token())
    assert verdict == Undecided(reason="keys_unavailable")


async def test_an_expired_token_with_an_unknown_key_costs_no_fetch(
    here: World,
) -> None:
    """An expired or ill-formed token is refused before its unknown key is fetched."""
    assert refused(await here.ask(OTHER.token(exp=1))) == "token_expired"
    assert refused(await here.ask(OTHER.token({"kid": "x"}))) == "token_key_kind"
    assert not here.keys.sought


async def test_a_key_that_goes_while_it_is_sought(here: World) -> None:
    async def seek(kid: str) -> RSAPublicKey | Missing:
        return OTHER.key.public_key()

    here.keys.seek = seek  # type: ignore[method-assign]
    assert await here.ask(OTHER.token()) == Undecided(reason="keys_unavailable")


async def test_a_verdict_ends_with_its_token(here: World) -> None:
    """A verdict ends when its token expires, cached or not."""
    token = MINT.token(exp=int(NOW) + 30)
    assert who(await here.ask(token)) == "user-1"
    here.clock.now += 29.9
    assert reason(await here.ask(token)) == "cached"
    here.clock.now = int(NOW) + 30
    assert refused(await here.ask(token)) == "token_expired"


async def test_a_verdict_ends_at_its_age(here: World) -> None:
    """After `cache.max_age` the token is verified again."""
    await here.ask()
    here.clock.now += 60
    assert reason(await here.ask()) == "local"


async def test_a_verdict_ends_with_the_keys(here: World) -> None:
    """Cached verdicts end when the core has been unreachable for `max_stale`."""
    here.keys.usable_s = 5
    await here.ask()
    here.clock.now += 5
    here.keys.keys.clear()
    here.keys.missing = Missing.UNAVAILABLE
    assert reason(await here.ask()) == "keys_unavailable"


async def test_a_verdict_ends_when_its_key_leaves(here: World) -> None:
    """A withdrawn key ends the verdicts made with it; a new key ends none."""
    await here.ask()
    here.sessions.keys_changed(KeySet(), False)
    assert reason(await here.ask()) == "cached"
    here.keys.keys.clear()
    here.sessions.keys_changed(KeySet(), True)
    assert refused(await here.ask()) == "token_key_unknown"


async def test_a_verdict_ends_at_reload(here: World) -> None:
    await here.ask()
    here.sessions.clear()
    assert reason(await here.ask()) == "local"


async def test_a_denied_session_ends_at_once(here: World) -> None:
    """A denied session ends at once: cached or not, with each of its tokens."""
    other = MINT.token(sessionHandle="handle-2")
    await here.ask()
    assert not here.engine.has_ended(session("handle-1"))
    here.sessions.deny("handle-1")
    assert here.engine.has_ended(session("handle-1"))
    assert not here.engine.has_ended(session("handle-2"))
    for token in (GOOD, MINT.token(x=1)):
        assert refused(await here.ask(token)) == "session_ended"
    assert refused(await here.ask(GOOD, OPTIONAL)) == "session_ended"
    assert who(await here.ask(other)) == "user-1"
    here.sessions.clear()
    assert refused(await here.ask()) == "session_ended"


async def test_a_denial_ends_when_it_says(here: World) -> None:
    here.sessions.deny("handle-1", until=NOW + 10)
    here.clock.now += 9
    assert refused(await here.ask()) == "session_ended"
    here.clock.now += 1
    assert who(await here.ask()) == "user-1"


async def test_a_denial_outlives_the_longest_token(here: World) -> None:
    """Where a token lives longer than usual, so does the denial of its session."""
    days_s = 3 * 86_400
    token = MINT.token(exp=int(NOW) + days_s, sessionHandle="handle-2")
    await here.ask(token)
    here.sessions.deny("handle-2")
    here.clock.now += days_s - 1
    assert refused(await here.ask(token)) == "session_ended"


async def test_a_session_that_is_gone_is_gone_everywhere(here: World) -> None:
    """E12: once the core reports a session as gone, every route refuses it."""
    here.core.answer = says(GONE)
    await here.ask()
    assert await here.ask(GOOD, ALWAYS) == GONE  # with the SDK's own fields
    assert refused(await here.ask()) == "session_ended"


async def test_a_session_denied_while_the_core_is_asked(here: World) -> None:
    """A sign-out during a call to the core overrides the core's answer."""

    async def answer() -> Allowed | Denied:
        here.sessions.deny("handle-1")
        return Allowed(principal=identity(), reason="core", new_tokens=NEW_TOKENS)

    here.core.answer = answer
    assert refused(await here.ask(GOOD, ALWAYS)) == "session_ended"


@pytest.mark.parametrize("sdk_only", [False, True])
async def test_a_required_session_is_never_nobody_s(sdk_only: bool) -> None:
    """A required session is never anonymous, whatever the SDK or an override answers.

    This holds also when the answer is shared with a request whose session is optional.
    """
    here = world(replace(RULES, is_sdk_only=sdk_only))
    here.core.answer = says(Allowed(principal=None, reason="anonymous"))
    optional, required = await asyncio.gather(
        here.ask(FRESH, OPTIONAL), here.ask(FRESH, REQUIRED)
    )
    assert who(optional) is None
    assert refused(required) == "unauthorised"
    assert refused(await here.ask(FRESH)) == "unauthorised"
    assert not here.engine.has_ended(session("handle-1"))
    await here.sessions.close()


async def test_requirements_are_judged_on_every_request(here: World) -> None:
    """Requirements are checked on every request, also for a cached token."""
    token = MINT.token(**{"st-role": role_claim("user")})
    everyone = SessionPolicy(requirements=Requirements(roles_any=("user", "admin")))
    for _ in range(2):
        assert who(await here.ask(token, everyone)) == "user-1"
        verdict = await here.ask(token, ADMINS)
        assert verdict == Denied(
            status=403,
            body=b'{"message":"invalid claim","claimValidationErrors":[{"id":"st-role",'
            b'"reason":{"message":"wrong value",'
            b'"expectedToIncludeAtLeastOneOf":["admin"],"actualValue":["user"]}}]}',
            fields=JSON,
            reason="invalid_claim",
        )
    assert not here.core.asked


async def test_a_claim_that_is_missing_or_old_is_fetched(here: World) -> None:
    """A missing or old claim is fetched through the SDK.

    The client gets the new token.
    """
    old = MINT.token(**{"st-role": role_claim("admin", age_s=100)})
    soon = SessionPolicy(
        requirements=Requirements(roles_any=("admin",), max_age_s=60.0)
    )
    new = {"st-role": role_claim("admin")}
    here.core.answer = allows(new_tokens=NEW_TOKENS, claims=new)
    for token, policy in ((GOOD, ADMINS), (old, soon)):
        verdict = await here.ask(token, policy)
        assert isinstance(verdict, Allowed)
        assert verdict.new_tokens == NEW_TOKENS
    assert who(await here.ask(old, ADMINS)) == "user-1"  # any age will do
    assert len(here.core.asked) == 2


async def test_what_the_sdk_lets_in_is_judged_once_more(here: World) -> None:
    """A session that the SDK allows is still checked against the requirements."""
    here.core.answer = allows(claims={"st-role": role_claim("user")})
    assert failed(await here.ask(GOOD, ADMINS)) == ["st-role"]


async def test_an_optional_session_must_meet_them_too(here: World) -> None:
    """An optional session must meet them, too; a request without one passes."""
    rule = ClaimRule(path=("plan",), equals="pro", has_equals=True)
    policy = SessionPolicy(
        protection=Protection.OPTIONAL, requirements=Requirements(claims=(rule,))
    )
    assert who(await here.ask(None, policy)) is None
    assert failed(await here.ask(GOOD, policy)) == ["plan"]
    assert who(await here.ask(MINT.token(plan="pro"), policy)) == "user-1"


async def test_what_the_recipes_demand_of_every_session() -> None:
    """E-mail verification in mode REQUIRED is checked on every route."""
    here = world(replace(RULES, global_claims=GlobalClaims.EMAIL_VERIFIED))
    yes, no = {"v": True, "t": 0}, {"v": False, "t": NOW * 1000}
    assert who(await here.ask(MINT.token(**{"st-ev": yes}))) == "user-1"
    assert failed(await here.ask(MINT.token(**{"st-ev": no}))) == ["st-ev"]
    assert not here.core.asked
    here.core.answer = allows(claims={"st-ev": yes})
    assert who(await here.ask(MINT.token(**{"st-ev": no | {"t": 0}}))) == "user-1"
    assert len(here.core.asked) == 1


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        (replace(RULES, global_claims=GlobalClaims.OTHER), REQUIRED),
        (RULES, SessionPolicy(requirements=Requirements(validators=("a.b",)))),
    ],
    ids=["of a recipe", "of the route"],
)
async def test_validators_that_only_the_sdk_knows(
    rules: SessionRules, policy: SessionPolicy
) -> None:
    """Custom SDK validators run on every request, after the gateway's own checks."""
    here = world(rules)
    for _ in range(2):
        assert reason(await here.ask(GOOD, policy)) == "core"
    assert refused(await here.ask(MINT.token(exp=1), policy)) == "token_expired"
    assert [asked["validators"] for asked in here.core.asked] == (
        [list(policy.requirements.validators)] * 2
    )


async def test_an_overridden_sdk_judges_everything() -> None:
    """With an overridden SDK, nothing is cached, shared or parsed by the gateway."""
    here = world(replace(RULES, is_sdk_only=True))
    verdicts = await asyncio.gather(here.ask("whatever"), here.ask("whatever"))
    assert [who(verdict) for verdict in verdicts] == ["user-1"] * 2
    assert [asked["check_database"] for asked in here.core.asked] == [False] * 2
    for when in (CheckDatabase.CACHED, CheckDatabase.ALWAYS):
        await here.ask(GOOD, SessionPolicy(check_database=when))
    assert [asked["check_database"] for asked in here.core.asked[2:]] == [True] * 2
    here.core.answer = says(GONE)
    assert await here.ask() == GONE
    here.core.answer = says(Allowed(principal=None, reason="anonymous"))
    assert who(await here.ask(None, OPTIONAL)) is None
    here.core.answer = allows()
    here.sessions.deny("handle-1")
    assert refused(await here.ask()) == "session_ended"


async def test_a_denial_is_published_once(here: World) -> None:
    """A denial is published once, to close sockets and inform other processes.

    Receiving it again publishes nothing.
    """
    heard: list[tuple[str, float]] = []
    here.sessions.deny("before", until=NOW + 5)
    here.sessions.subscribe(lambda handle, until: heard.append((handle, until)))
    here.sessions.deny("handle")
    here.sessions.deny("other", until=NOW + 10)
    here.sessions.deny("other", until=NOW + 10)
    here.sessions.deny("other", until=NOW + 9)
    here.sessions.deny("over", until=NOW)
    assert heard == [
        ("before", NOW + 5),
        ("handle", NOW + authenticator.DENY_S),
        ("other", NOW + 10),
    ]


async def test_every_subscriber_is_called(here: World) -> None:
    """A second subscriber doesn't replace the first."""
    heard: list[str] = []
    for name in ("sockets", "processes"):
        here.sessions.subscribe(lambda *_, name=name: heard.append(name))
    here.sessions.deny("handle")
    assert heard == ["sockets", "processes"]


async def test_a_full_deny_list_is_logged_once(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full deny-list is logged once, not for every lost denial."""
    monkeypatch.setattr(here.sessions._denied, "_max_sessions", 3)
    for number in range(6):
        here.sessions.deny(f"handle-{number}")
    assert caplog.messages == [
        "the deny-list is full: the oldest entries are forgotten"
    ]
    assert here.engine.has_ended(session("handle-5"))
    assert not here.engine.has_ended(session("handle-2"))
