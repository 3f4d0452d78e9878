"""The engine against fake keys and a fake core; `test_core_session` has the real."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from minting import ISSUER, NOW, Mint, private_key
from session_request import session_request

from gateway import config, tokens, verify
from gateway.errors import CoreUnavailable
from gateway.fields import Fields
from gateway.identity import (
    Allowed,
    CheckDatabase,
    ClaimRule,
    Denied,
    Identity,
    Protection,
    Requirements,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.keys import KeySet, Missing
from gateway.requirements import Check
from gateway.verify import AntiCsrf, Engine, GlobalClaims, Rules, Transfer

MINT = Mint()
OTHER = Mint(kid="d-2", key=private_key("other"))
GOOD = MINT.token()
JSON = ((b"Content-Type", b"application/json; charset=utf-8"),)

REQUIRED = SessionPolicy()
OPTIONAL = SessionPolicy(protection=Protection.OPTIONAL)
PUBLIC = SessionPolicy(protection=Protection.PUBLIC)
ALWAYS = SessionPolicy(check_database=CheckDatabase.ALWAYS)
ADMINS = SessionPolicy(requirements=Requirements(roles_any=("admin",)))


# --- the fakes ---


@dataclass
class FakeKeys:
    """A key store whose fetch brings *more*, or says *missing*."""

    keys: dict[str, RSAPublicKey] = field(
        default_factory=lambda: {"d-1": MINT.key.public_key()}
    )
    more: dict[str, RSAPublicKey] = field(default_factory=dict)
    missing: Missing = Missing.UNKNOWN
    usable_s: float = 1000.0
    sought: list[str] = field(default_factory=list)

    def get(self, kid: str) -> RSAPublicKey | None:
        return self.keys.get(kid)

    async def seek(self, kid: str) -> RSAPublicKey | Missing:
        self.sought.append(kid)
        self.keys |= self.more
        return self.keys.get(kid, self.missing)

    def usable_for_s(self) -> float:
        return self.usable_s


Answer = Callable[[], Awaitable[Allowed | Denied]]


@dataclass
class FakeCore:
    """A core that says *answer*, and remembers what it was asked."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(
        self,
        request: SessionRequest,
        *,
        is_required: bool,
        check_database: bool,
        checks: Sequence[Check],
        validators: Sequence[str],
    ) -> Allowed | Denied:
        self.asked.append(
            {
                "method": request.method,
                "is_required": is_required,
                "check_database": check_database,
                "checks": [check.id for check in checks],
                "validators": list(validators),
            }
        )
        self.was_asked.set()
        return await self.answer()


def identity(**claims: Any) -> Identity:
    token = tokens.parse(MINT.token(**claims))
    assert token is not None
    return tokens.identity(token)


NEW_TOKENS: Fields = ((b"st-access-token", b"new"), (b"front-token", b"x"))


def says(verdict: Allowed | Denied) -> Answer:
    async def answer() -> Allowed | Denied:
        return verdict

    return answer


def allows(*, new_tokens: Fields = (), **claims: Any) -> Answer:
    allowed = Allowed(identity=identity(**claims), reason="core", new_tokens=new_tokens)
    return says(allowed)


def raises(error: BaseException) -> Answer:
    async def answer() -> Allowed | Denied:
        raise error

    return answer


CLEARS: Fields = (*JSON, (b"front-token", b"remove"))
GONE = Denied(status=401, body=b'{"message":"unauthorised"}', fields=CLEARS)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """One engine and all that it sees."""

    keys: FakeKeys
    core: FakeCore
    clock: Clock
    engine: Engine

    async def ask(
        self,
        token: str | None = GOOD,
        policy: SessionPolicy = REQUIRED,
        *,
        method: str = "GET",
        cookies: Sequence[str] = (),
        **fields: str,
    ) -> Verdict:
        return await self.engine.verify(
            request(token, method=method, cookies=cookies, **fields), policy
        )


def request(
    token: str | None = None,
    *,
    method: str = "GET",
    cookies: Sequence[str] = (),
    **fields: str,
) -> SessionRequest:
    """Make a request; in a field's name `_` stands for `-`."""
    pairs = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in fields.items()
    ]
    if token is not None:
        pairs.append((b"Authorization", b"Bearer " + token.encode("latin-1")))
    if cookies:
        pairs.append((b"Cookie", "; ".join(cookies).encode("latin-1")))
    return session_request(method, fields=tuple(pairs))


RULES = Rules(tokens=tokens.Rules(issuers=frozenset({ISSUER})))


def world(
    rules: Rules = RULES,
    *,
    cache: config.Cache | None = None,
    client: config.CoreClient | None = None,
) -> World:
    keys, core, clock = FakeKeys(), FakeCore(allows()), Clock()
    engine = Engine(
        keys=keys,
        core=core,
        rules=rules,
        cache=cache or config.Cache(),
        client=client or config.CoreClient(),
        clock=clock,
    )
    return World(keys, core, clock, engine)


@pytest.fixture
async def here() -> AsyncIterator[World]:
    found = world()
    yield found
    await found.engine.close()


def refused(verdict: Verdict) -> str:
    """Return why, of a refusal that is to the byte what the SDK sends."""
    assert isinstance(verdict, Denied)
    assert verdict.status == 401
    assert verdict.fields == JSON
    is_nobody = verdict.reason in {"unauthorised", "session_ended"}
    message = b"unauthorised" if is_nobody else b"try refresh token"
    assert verdict.body == b'{"message":"%b"}' % message
    return verdict.reason


def failed(verdict: Verdict) -> list[str]:
    """Return the claims that a 403 names."""
    assert isinstance(verdict, Denied)
    assert (verdict.status, verdict.reason) == (403, "invalid_claim")
    return [error["id"] for error in json.loads(verdict.body)["claimValidationErrors"]]


def who(verdict: Verdict) -> str | None:
    assert isinstance(verdict, Allowed)
    return None if verdict.identity is None else verdict.identity.user_id


def reason(verdict: Verdict) -> str:
    return verdict.reason


# --- who is let in ---


async def test_public_routes_read_no_session(here: World) -> None:
    """Whatever the request carries, it is anonymous; nothing is even parsed."""
    assert who(await here.ask("junk", PUBLIC, cookies=["sIdRefreshToken=x"])) is None
    assert reason(await here.ask(GOOD, PUBLIC)) == "public"


async def test_a_good_token_is_let_in_without_the_core(here: World) -> None:
    """The first time it is judged here, then remembered."""
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
    """Absent: 401 `unauthorised`, or anonymous where the session is optional."""
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
    """Also where a session is optional, and each time that it is sent."""
    for _ in range(2):
        assert refused(await here.ask(token, policy)) == why
    assert not here.core.asked


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_damaged_token_is_ever_let_in(data: st.DataObject) -> None:
    """Whatever is done to its text, only the token itself is a session."""
    place = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(0, 3))
    new = data.draw(st.text(st.sampled_from("AZaz09-_=.,;!é"), max_size=3))
    damaged = GOOD[:place] + new + GOOD[place + cut :]
    here = world()
    asyncio.run(here.ask())  # the good one is remembered
    verdict = asyncio.run(here.ask(damaged))
    assert isinstance(verdict, Allowed) is (damaged == GOOD)


# --- which credentials count (rows E14 to E17) ---

USER_2 = MINT.token(sub="user-2")


@pytest.mark.parametrize(
    ("transfer", "bearer", "cookies", "expected"),
    [
        (Transfer.ANY, GOOD, [USER_2], "user-1"),
        (Transfer.ANY, "junk", [USER_2], "user-2"),
        (Transfer.ANY, None, [USER_2], "user-2"),
        (Transfer.HEADER, GOOD, [USER_2], "user-1"),
        (Transfer.HEADER, None, [USER_2], None),
        (Transfer.COOKIE, GOOD, [USER_2], "user-2"),
        (Transfer.COOKIE, GOOD, [], None),
        (Transfer.ANY, "junk", ["junk"], None),
    ],
    ids=[
        "header first",
        "junk header, good cookie",
        "cookie",
        "header only, both",
        "header only, cookie",
        "cookie only, both",
        "cookie only, header",
        "junk and junk",
    ],
)
async def test_which_token_counts(
    transfer: Transfer, bearer: str | None, cookies: list[str], expected: str | None
) -> None:
    """The header's token, if it parses; then the cookie's; as `transfer` allows."""
    here = world(replace(RULES, transfer=transfer))
    jar = [f"sAccessToken={cookie}" for cookie in cookies]
    for _ in range(2):  # judged, then remembered
        assert who(await here.ask(bearer, OPTIONAL, cookies=jar)) == expected


async def test_two_access_cookies_ask_for_a_refresh(here: World) -> None:
    """Nobody can tell which is the newer; a header's token needs neither."""
    jar = [f"sAccessToken={GOOD}", f"sAccessToken={USER_2}"]
    for cookies in (jar, jar[::-1], jar):
        assert (
            refused(await here.ask(None, cookies=cookies)) == "several_access_cookies"
        )
    assert who(await here.ask(GOOD, cookies=jar)) == "user-1"


async def test_two_cookies_of_which_the_read_one_is_junk(here: World) -> None:
    """The SDK looks for a second cookie only when the one that it reads parses."""
    jar = [f"sAccessToken={GOOD}", "sAccessToken=junk"]
    assert refused(await here.ask(None, cookies=jar)) == "unauthorised"


async def test_a_legacy_session_must_be_refreshed(here: World) -> None:
    """Whatever else the request carries, and where a session is optional too."""
    jar = ["sIdRefreshToken=x"]
    assert refused(await here.ask(GOOD, cookies=jar)) == "legacy_session"
    assert refused(await here.ask(None, OPTIONAL, cookies=jar)) == "legacy_session"


# --- anti-CSRF (rows F6 to F8) ---

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
    method: str, mode: AntiCsrf, fields: dict[str, str], passes: bool
) -> None:
    """Every method but GET needs the proof, judged on each request; headers never."""
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
async def test_a_token_without_a_seal_passes_no_seal(fields: dict[str, str]) -> None:
    """VIA_TOKEN refuses a session that was made without it, whatever is sent for it."""
    here = world(replace(RULES, anti_csrf=AntiCsrf.VIA_TOKEN))
    jar = [f"sAccessToken={GOOD}"]
    assert who(await here.ask(None, cookies=jar)) == "user-1"
    verdict = await here.ask(None, method="POST", cookies=jar, **fields)
    assert refused(verdict) == "anti_csrf"


# --- keys (rows E4, E21, K1) ---


async def test_a_new_key_is_sought_once(here: World) -> None:
    """K6: a token with a new key waits for the fetch and is let in."""
    here.keys.more = {"d-2": OTHER.key.public_key()}
    assert who(await here.ask(OTHER.token())) == "user-1"
    assert here.keys.sought == ["d-2"]


async def test_keys_that_cannot_be_had_are_no_refusal(here: World) -> None:
    """K1: 503, so that no client is logged out by an outage."""
    here.keys.missing = Missing.UNAVAILABLE
    verdict = await here.ask(OTHER.token())
    assert verdict == Undecided(reason="keys_unavailable")


async def test_an_expired_token_with_an_unknown_key_costs_no_fetch(
    here: World,
) -> None:
    """Whoever signed it, it isn't valid: no request to the core is to be had by it."""
    assert refused(await here.ask(OTHER.token(exp=1))) == "token_expired"
    assert refused(await here.ask(OTHER.token({"kid": "x"}))) == "token_key_kind"
    assert not here.keys.sought


async def test_a_key_that_goes_while_it_is_sought(here: World) -> None:
    async def seek(kid: str) -> RSAPublicKey | Missing:
        return OTHER.key.public_key()

    here.keys.seek = seek  # type: ignore[method-assign]
    assert await here.ask(OTHER.token()) == Undecided(reason="keys_unavailable")


# --- what is remembered, and for how long ---


async def test_a_verdict_ends_with_its_token(here: World) -> None:
    """Not a moment longer, remembered or not."""
    token = MINT.token(exp=int(NOW) + 30)
    assert who(await here.ask(token)) == "user-1"
    here.clock.now += 29.9
    assert reason(await here.ask(token)) == "cached"
    here.clock.now = int(NOW) + 30
    assert refused(await here.ask(token)) == "token_expired"


async def test_a_verdict_ends_at_its_age(here: World) -> None:
    """After `cache.max_age` the token is judged again."""
    await here.ask()
    here.clock.now += 60
    assert reason(await here.ask()) == "local"


async def test_a_verdict_ends_with_the_keys(here: World) -> None:
    """When the core was away for `max_stale`, no memory helps."""
    here.keys.usable_s = 5
    await here.ask()
    here.clock.now += 5
    here.keys.keys.clear()
    here.keys.missing = Missing.UNAVAILABLE
    assert reason(await here.ask()) == "keys_unavailable"


async def test_a_verdict_ends_when_its_key_leaves(here: World) -> None:
    """A key that was withdrawn vouches for nobody; a new key changes nothing."""
    await here.ask()
    here.engine.keys_changed(KeySet(), False)
    assert reason(await here.ask()) == "cached"
    here.keys.keys.clear()
    here.engine.keys_changed(KeySet(), True)
    assert refused(await here.ask()) == "token_key_unknown"


async def test_a_verdict_ends_at_reload(here: World) -> None:
    await here.ask()
    here.engine.clear()
    assert reason(await here.ask()) == "local"


async def test_memory_is_bounded() -> None:
    """The oldest verdicts go; a cache of size 0 remembers nothing."""
    here = world(cache=config.Cache(size=3))
    users = [MINT.token(sub=f"user-{n}") for n in range(5)]
    for token in users:
        await here.ask(token)
    assert [reason(await here.ask(token)) for token in users[::-1]] == (
        ["cached"] * 3 + ["local"] * 2
    )
    assert len(here.engine._entries) == 3
    nothing = world(cache=config.Cache(size=0))
    assert [reason(await nothing.ask()) for _ in range(2)] == ["local", "local"]


async def test_what_is_over_is_forgotten(here: World) -> None:
    """Memory shrinks with the traffic: new verdicts push old ones out."""
    for n in range(10):
        await here.ask(MINT.token(sub=f"user-{n}"))
    here.clock.now += 60
    for n in range(10, 16):
        await here.ask(MINT.token(sub=f"user-{n}"))
    assert len(here.engine._entries) == 6


# --- sessions that ended (row E12) ---


async def test_a_denied_session_ends_at_once(here: World) -> None:
    """Remembered or not, with every token that it has; others aren't touched."""
    other = MINT.token(sessionHandle="handle-2")
    await here.ask()
    assert not here.engine.has_ended("handle-1")
    here.engine.deny("handle-1")
    assert here.engine.has_ended("handle-1")
    assert not here.engine.has_ended("handle-2")
    for token in (GOOD, MINT.token(x=1)):
        assert refused(await here.ask(token)) == "session_ended"
    assert refused(await here.ask(GOOD, OPTIONAL)) == "session_ended"
    assert who(await here.ask(other)) == "user-1"
    here.engine.clear()
    assert refused(await here.ask()) == "session_ended"


async def test_whoever_wants_to_hear_of_a_denial_does(here: World) -> None:
    """That is how a session's sockets are closed, and other processes are told."""
    heard: list[tuple[str, float]] = []
    here.engine.on_denied = lambda handle, until: heard.append((handle, until))
    here.engine.deny("handle")
    here.engine.deny("other", until=NOW + 10)
    assert heard == [("handle", NOW + verify.DENY_S), ("other", NOW + 10)]


async def test_a_denial_ends_when_it_says(here: World) -> None:
    here.engine.deny("handle-1", until=NOW + 10)
    here.clock.now += 9
    assert refused(await here.ask()) == "session_ended"
    here.clock.now += 1
    assert who(await here.ask()) == "user-1"


async def test_a_denial_is_never_shortened(here: World) -> None:
    """Nor does one that is over take a place."""
    here.engine.deny("handle-1", until=NOW + 10)
    here.engine.deny("handle-1", until=NOW + 5)
    here.engine.deny("handle-2", until=NOW)
    assert here.engine._denied == {"handle-1": NOW + 10}


async def test_a_denial_outlives_the_longest_token(here: World) -> None:
    """Where tokens live longer than usual, so do denials."""
    days_s = 3 * 86_400
    token = MINT.token(exp=int(NOW) + days_s, sessionHandle="handle-2")
    await here.ask(token)
    here.engine.deny("handle-2")
    here.clock.now += days_s - 1
    assert refused(await here.ask(token)) == "session_ended"


async def test_denials_are_bounded(
    here: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest are forgotten when there are too many, which the log hears once."""
    monkeypatch.setattr(verify, "_MAX_DENIED", 3)
    for n in range(6):
        here.engine.deny(f"handle-{n}")
    assert list(here.engine._denied) == ["handle-3", "handle-4", "handle-5"]
    assert len(caplog.records) == 1


async def test_denials_that_are_over_are_forgotten(here: World) -> None:
    for n in range(10):
        here.engine.deny(f"handle-{n}", until=NOW + 1)
    here.clock.now += 2
    for n in range(10, 16):
        here.engine.deny(f"handle-{n}")
    assert len(here.engine._denied) == 6


# --- the core ---

FRESH = MINT.token(parentRefreshTokenHash1="b" * 64)


async def test_a_token_from_a_refresh_goes_to_the_core(here: World) -> None:
    """Its first use makes the refresh final, and brings a new token."""
    here.core.answer = allows(new_tokens=NEW_TOKENS)
    for _ in range(2):  # as long as the client sends it
        verdict = await here.ask(FRESH)
        assert isinstance(verdict, Allowed)
        assert verdict.new_tokens == NEW_TOKENS
    assert [asked["check_database"] for asked in here.core.asked] == [False, False]


async def test_a_flawed_token_never_reaches_the_core(here: World) -> None:
    """What can be refused here costs the core nothing."""
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
    """`check_database` by method."""
    policy = SessionPolicy(check_database=when)
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PURGE"):
        assert who(await here.ask(GOOD, policy, method=method)) == "user-1"
    assert {asked["method"] for asked in here.core.asked} == asking
    assert all(asked["check_database"] for asked in here.core.asked)


async def test_the_cores_answer_is_kept_for_its_age(here: World) -> None:
    """`check_database: cached` asks once in `max_age`, for every route with it."""
    policy = SessionPolicy(check_database=CheckDatabase.CACHED, max_age_s=5.0)
    for seconds in (0, 4, 1, 1):
        here.clock.now += seconds
        await here.ask(GOOD, policy)
    assert len(here.core.asked) == 2
    await here.ask(GOOD, ALWAYS)
    assert len(here.core.asked) == 3


async def test_a_refusal_is_not_kept_as_an_answer(here: World) -> None:
    """A core that couldn't be asked has not said that the session exists."""
    policy = SessionPolicy(check_database=CheckDatabase.CACHED)
    here.core.answer = raises(CoreUnavailable())
    assert reason(await here.ask(GOOD, policy)) == "core_unavailable"
    assert reason(await here.ask(GOOD, policy)) == "core_unavailable"
    assert len(here.core.asked) == 2


async def test_a_session_that_is_gone_is_gone_everywhere(here: World) -> None:
    """E12: one route learns it from the core, and all others refuse it from then."""
    here.core.answer = says(GONE)
    await here.ask()
    assert await here.ask(GOOD, ALWAYS) == GONE  # with the SDK's own fields
    assert refused(await here.ask()) == "session_ended"


async def test_a_session_denied_while_the_core_is_asked(here: World) -> None:
    """The answer may be older than the sign-out; the sign-out counts."""

    async def answer() -> Allowed | Denied:
        here.engine.deny("handle-1")
        return Allowed(identity=identity(), reason="core", new_tokens=NEW_TOKENS)

    here.core.answer = answer
    assert refused(await here.ask(GOOD, ALWAYS)) == "session_ended"


async def test_requests_with_one_token_share_one_call(here: World) -> None:
    """All get the new token, because the client may keep any one's answer."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(identity=identity(), reason="core", new_tokens=NEW_TOKENS)

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
    await here.ask(FRESH)  # that one is over
    assert len(here.core.asked) == 2


@pytest.mark.parametrize("sdk_only", [False, True])
async def test_a_required_session_is_never_nobody_s(sdk_only: bool) -> None:
    """Whatever the SDK (or an override of it) answers, and to whomever it was told."""
    here = world(replace(RULES, is_sdk_only=sdk_only))
    here.core.answer = says(Allowed(identity=None, reason="anonymous"))
    optional, required = await asyncio.gather(
        here.ask(FRESH, OPTIONAL), here.ask(FRESH, REQUIRED)
    )
    assert who(optional) is None
    assert refused(required) == "unauthorised"
    assert refused(await here.ask(FRESH)) == "unauthorised"
    assert not here.engine.has_ended("handle-1")
    await here.engine.close()


async def test_what_is_not_the_same_question_is_not_shared(here: World) -> None:
    """Another token, another way to carry it, another route's claims or check."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(identity=identity(), reason="core")

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
    """A core that answers each question when it is let, with what was true before."""

    def __init__(self, core: FakeCore) -> None:
        self.truth: Allowed | Denied = Allowed(identity=identity(), reason="core")
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
    """Revoked elsewhere while a question is under way: who comes later isn't let in.

    The latecomers share one question of their own, asked when the first is answered.
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
    """A claim is fetched without a look at the session, so it says nothing of that.

    A session revoked at the core in between is refused by a `cached` route.
    """
    token = MINT.token(**{"st-role": role_claim("admin", age_s=100)})
    fetches = SessionPolicy(
        requirements=Requirements(roles_any=("admin",), max_age_s=60.0)
    )
    here.core.answer = allows(**{"st-role": role_claim("admin")})
    assert who(await here.ask(token, fetches)) == "user-1"
    here.core.answer = says(GONE)
    cached = SessionPolicy(check_database=CheckDatabase.CACHED)
    assert await here.ask(token, cached) == GONE
    assert [asked["check_database"] for asked in here.core.asked] == [False, True]


async def test_of_one_kind_of_question_one_is_asked_at_a_time(here: World) -> None:
    """Those who come meanwhile share the next one; other questions wait for none."""
    slow = Slow(here.core)

    def ask(policy: SessionPolicy = ALWAYS) -> asyncio.Task[Verdict]:
        return asyncio.create_task(here.ask(GOOD, policy))

    def asked() -> list[list[str]]:
        return [question["checks"] for question in here.core.asked]

    first = ask()
    await slow.asked(1)
    second = [ask() for _ in range(3)]
    other = ask(ADMINS)  # of another kind, and the last to come
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
    """`cached` shares a question that was asked within `max_age`, and no older one."""
    slow = Slow(here.core)
    policy = SessionPolicy(check_database=CheckDatabase.CACHED, max_age_s=5.0)
    waiting = []
    for seconds in (0, 5, 1):
        here.clock.now += seconds
        waiting.append(asyncio.create_task(here.ask(GOOD, policy)))
        await asyncio.sleep(0)  # it has come
        await slow.asked(1)
    slow.answers[0].set()
    assert who(await waiting[0]) == who(await waiting[1]) == "user-1"
    await slow.asked(2)
    slow.answers[1].set()
    assert who(await waiting[2]) == "user-1"
    assert len(here.core.asked) == 2


async def test_a_question_that_waits_for_its_turn_is_shared() -> None:
    """It will be asked after whoever joins it came; one deadline holds for all of it.

    A question that hangs takes the next one's time, too: nobody waits any longer.
    """
    here = world(client=config.CoreClient(timeout=0.2, max_concurrent=1))
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
    assert [reason(verdict) for verdict in verdicts] == ["core_timeout"] * 4
    assert len(here.core.asked) == 2
    await here.engine.close()


async def test_closing_ends_every_question(here: World) -> None:
    """The one under way, and the one that waits for it."""
    slow = Slow(here.core)
    first = asyncio.create_task(here.ask(GOOD, ALWAYS))
    await slow.asked(1)
    late = asyncio.create_task(here.ask(GOOD, ALWAYS))
    await asyncio.sleep(0)  # it has its question
    await here.engine.close()
    for task in (first, late):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(here.core.asked) == 1


async def test_a_client_that_leaves_ends_only_its_own_wait(here: World) -> None:
    """The one who asked first goes; the others still get the answer."""
    go = asyncio.Event()

    async def answer() -> Allowed | Denied:
        await go.wait()
        return Allowed(identity=identity(), reason="core")

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
    """K4: the deadline covers the wait for a free place, too."""
    here = world(client=config.CoreClient(timeout=0.05, max_concurrent=1))

    async def hangs() -> Allowed | Denied:
        await asyncio.Event().wait()
        raise AssertionError

    here.core.answer = hangs
    waiting = (here.ask(FRESH), here.ask(GOOD, ALWAYS))
    verdicts = await asyncio.gather(*waiting)
    assert [reason(verdict) for verdict in verdicts] == ["core_timeout"] * 2
    assert len(here.core.asked) == 1  # the other never got a place
    assert who(await here.ask()) == "user-1"  # what needs no core goes on
    assert not here.engine._questions


async def test_questions_to_the_core_are_bounded(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung core can't make the gateway grow without end."""
    monkeypatch.setattr(verify, "_MAX_QUESTIONS", 1)

    async def hangs() -> Allowed | Denied:
        await asyncio.Event().wait()
        raise AssertionError

    here.core.answer = hangs
    first = asyncio.create_task(here.ask(FRESH))
    await here.core.was_asked.wait()
    assert await here.ask(GOOD, ALWAYS) == Undecided(reason="core_busy")
    first.cancel()
    await here.engine.close()


# --- requirements ---


def role_claim(*roles: str, age_s: float = 0.0) -> dict[str, Any]:
    return {"v": list(roles), "t": (NOW - age_s) * 1000}


async def test_requirements_are_judged_on_every_request(here: World) -> None:
    """One token, remembered once, and two routes."""
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
    """Through the SDK, whose new token goes to the client."""
    old = MINT.token(**{"st-role": role_claim("admin", age_s=100)})
    soon = SessionPolicy(
        requirements=Requirements(roles_any=("admin",), max_age_s=60.0)
    )
    new = {"st-role": role_claim("admin")}
    here.core.answer = allows(new_tokens=NEW_TOKENS, **new)
    for token, policy in ((GOOD, ADMINS), (old, soon)):
        verdict = await here.ask(token, policy)
        assert isinstance(verdict, Allowed)
        assert verdict.new_tokens == NEW_TOKENS
    assert who(await here.ask(old, ADMINS)) == "user-1"  # no age asked: not fetched
    assert len(here.core.asked) == 2


async def test_what_the_sdk_lets_in_is_judged_once_more(here: World) -> None:
    """A gap in the SDK's validators is no way in."""
    here.core.answer = allows(**{"st-role": role_claim("user")})
    assert failed(await here.ask(GOOD, ADMINS)) == ["st-role"]


async def test_an_optional_session_must_meet_them_too(here: World) -> None:
    """No session passes; a session without the claim doesn't."""
    rule = ClaimRule(path=("plan",), equals="pro", has_equals=True)
    policy = SessionPolicy(
        protection=Protection.OPTIONAL, requirements=Requirements(claims=(rule,))
    )
    assert who(await here.ask(None, policy)) is None
    assert failed(await here.ask(GOOD, policy)) == ["plan"]
    assert who(await here.ask(MINT.token(plan="pro"), policy)) == "user-1"


async def test_what_the_recipes_demand_of_every_session() -> None:
    """E-mail verification in mode REQUIRED is judged here, on every route."""
    here = world(replace(RULES, global_claims=GlobalClaims.EMAIL_VERIFIED))
    yes, no = {"v": True, "t": 0}, {"v": False, "t": NOW * 1000}
    assert who(await here.ask(MINT.token(**{"st-ev": yes}))) == "user-1"
    assert failed(await here.ask(MINT.token(**{"st-ev": no}))) == ["st-ev"]
    assert not here.core.asked
    here.core.answer = allows(**{"st-ev": yes})
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
    rules: Rules, policy: SessionPolicy
) -> None:
    """They run on every request, after all that we judge ourselves."""
    here = world(rules)
    for _ in range(2):
        assert reason(await here.ask(GOOD, policy)) == "core"
    assert refused(await here.ask(MINT.token(exp=1), policy)) == "token_expired"
    assert [asked["validators"] for asked in here.core.asked] == (
        [list(policy.requirements.validators)] * 2
    )


# --- what only the SDK can judge ---


async def test_an_overridden_sdk_judges_everything() -> None:
    """Then nothing is remembered, shared or parsed here."""
    here = world(replace(RULES, is_sdk_only=True))
    verdicts = await asyncio.gather(here.ask("whatever"), here.ask("whatever"))
    assert [who(verdict) for verdict in verdicts] == ["user-1"] * 2
    assert [asked["check_database"] for asked in here.core.asked] == [False] * 2
    for when in (CheckDatabase.CACHED, CheckDatabase.ALWAYS):
        await here.ask(GOOD, SessionPolicy(check_database=when))
    assert [asked["check_database"] for asked in here.core.asked[2:]] == [True] * 2
    here.core.answer = says(GONE)
    assert await here.ask() == GONE
    here.core.answer = says(Allowed(identity=None, reason="anonymous"))
    assert who(await here.ask(None, OPTIONAL)) is None
    here.core.answer = allows()
    here.engine.deny("handle-1")
    assert refused(await here.ask()) == "session_ended"


# --- nothing is let through when something breaks (row E25) ---


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CoreUnavailable("secret"), "core_unavailable"),
        (TimeoutError("secret"), "core_timeout"),
        (RuntimeError("secret"), "internal_error"),
        (KeyError("secret"), "internal_error"),
        (RecursionError("secret"), "internal_error"),
        (MemoryError("secret"), "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
@pytest.mark.parametrize("place", ["core", "sdk only", "seek", "get", "credentials"])
async def test_every_failure_is_undecided(
    error: Exception,
    expected: str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Wherever it breaks, it is 503; the log hears of the unexpected, once each."""

    def fails(*_: object) -> Any:
        raise error

    async def fails_later(_: object) -> Any:
        raise error

    here = world(replace(RULES, is_sdk_only=place == "sdk only"))
    here.core.answer = raises(error)
    token, policy = GOOD, REQUIRED
    match place:
        case "core":
            policy = ALWAYS
        case "seek":
            token = OTHER.token()
            monkeypatch.setattr(here.keys, "seek", fails_later)
        case "get":
            monkeypatch.setattr(here.keys, "get", fails)
        case "credentials":
            monkeypatch.setattr(verify, "credentials", fails)
        case _:
            pass
    for protection in (Protection.REQUIRED, Protection.OPTIONAL):
        verdict = await here.ask(token, replace(policy, protection=protection))
        assert verdict == Undecided(reason=expected)
    assert len(caplog.records) == (1 if expected == "internal_error" else 0)
    assert "secret" not in caplog.text
    assert token not in caplog.text
    assert who(await here.ask(None, PUBLIC)) is None


async def test_cancellation_is_not_swallowed(here: World) -> None:
    """It is the client's own, and no verdict."""

    async def seek(_: str) -> Any:
        raise asyncio.CancelledError

    here.keys.seek = seek  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await here.ask(OTHER.token())


async def test_a_refusal_that_cannot_be_written_is_undecided(here: World) -> None:
    """A claim of NaN: no JSON, so no answer that a frontend could read."""
    caplog_off = logging.getLogger("gateway.verify")
    caplog_off.disabled = True
    rule = ClaimRule(path=("x",), equals=1, has_equals=True)
    policy = SessionPolicy(requirements=Requirements(claims=(rule,)))
    try:
        verdict = await here.ask(MINT.token(x=float("nan")), policy)
    finally:
        caplog_off.disabled = False
    assert verdict == Undecided(reason="internal_error")


async def test_the_configured_statuses_are_used() -> None:
    """The SDK's `session_expired_status_code` and `invalid_claim_status_code`."""
    rules = replace(RULES, session_expired_status=440, invalid_claim_status=499)
    here = world(rules)
    rule = ClaimRule(path=("x",), equals=1, has_equals=True)
    policy = SessionPolicy(requirements=Requirements(claims=(rule,)))
    statuses = [
        getattr(await here.ask(token, policy), "status", None)
        for token in (None, MINT.token(exp=1), GOOD)
    ]
    assert statuses == [440, 440, 499]
