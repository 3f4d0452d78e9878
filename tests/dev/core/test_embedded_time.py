"""Expiry of sessions, keys and one-time tokens, with a clock that the test moves."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from dev.core.core_client import (
    Clock,
    CoreClient,
    access,
    claims,
    decode,
    refresh,
    unique_email,
)

from gateway.dev.core import Core, CoreSettings, RunningCore, serve
from gateway.dev.core.jws import base64url

_HOUR = 3600
_SETTINGS = CoreSettings(access_token_jitter=0.0)


@asynccontextmanager
async def _served(core: Core) -> AsyncIterator[RunningCore]:
    """Serve a core for the block, and close it at the end."""
    with closing(core):
        async with serve(core) as running:
            yield running


@pytest.fixture
async def running(clock: Clock) -> AsyncIterator[RunningCore]:
    """Return a new core whose clock only the test moves."""
    async with _served(Core(_SETTINGS, clock=clock)) as running:
        yield running


@pytest.fixture
def core(running: RunningCore, http: aiohttp.ClientSession) -> CoreClient:
    """Return a client of the new core."""
    return CoreClient(http, running.url)


class _Fixed(random.Random):
    """A random source whose `random()`, the share of the jitter, is fixed."""

    def __init__(self, share: float) -> None:
        super().__init__(1)
        self.share = share

    def random(self) -> float:
        return self.share


@pytest.mark.parametrize(
    ("share", "life_s"), [(0.0, 3600), (0.5, 3510), (0.999_999, 3420)]
)
async def test_jitter_applies_to_create_and_refresh_only(
    http: aiohttp.ClientSession, share: float, life_s: int
) -> None:
    """Jitter takes up to 5 %; promotion gives the full time, regenerate keeps `exp`."""
    core = Core(CoreSettings(), clock=Clock(1_800_000_000.0), rng=_Fixed(share))
    async with _served(core) as running:
        client = CoreClient(http, running.url)
        created = await client.create()
        child = await client.refresh(refresh(created))
        renewed = await client.verify(access(child))
        regenerated = await client.post(
            "/recipe/session/regenerate", {"accessToken": access(created)}
        )

    def life(response: dict[str, object]) -> int:
        body = claims(access(response))
        return int(body["exp"] - body["iat"])

    assert (life(created), life(child)) == (life_s, life_s)
    assert life(renewed) == 3600
    assert life(regenerated) == life_s


async def test_token_times_are_rounded_down(core: CoreClient, clock: Clock) -> None:
    """`iat` is never in the future: the SDK allows no leeway."""
    clock.now = 1_800_000_000.999
    created = await core.create()
    body = claims(access(created))
    assert (body["iat"], body["exp"]) == (1_800_000_000, 1_800_003_600)
    assert created["refreshToken"]["createdTime"] == 1_800_000_000_999


async def test_access_token_expires(core: CoreClient, clock: Clock) -> None:
    """Valid up to `exp`, then TRY_REFRESH_TOKEN; the session can be refreshed."""
    clock.now = 1_800_000_000.0
    created = await core.create()
    clock.advance(3600)
    assert (await core.verify(access(created)))["status"] == "OK"
    clock.advance(0.001)
    assert (await core.verify(access(created)))["status"] == "TRY_REFRESH_TOKEN"
    assert (await core.refresh(refresh(created)))["status"] == "OK"


async def test_regenerate_of_an_expired_token_returns_no_token(
    core: CoreClient, clock: Clock
) -> None:
    """The payload is stored; the next refresh puts it in the token."""
    created = await core.create()
    clock.advance(_HOUR + 1)
    response = await core.post(
        "/recipe/session/regenerate",
        {"accessToken": access(created), "userDataInJWT": {"x": 2}},
    )
    assert response.keys() == {"status", "session"}
    child = await core.refresh(refresh(created))
    assert claims(access(child))["x"] == 2


async def test_session_expires_without_promotion(
    core: CoreClient, clock: Clock
) -> None:
    """A session expires 100 days after its last promotion."""
    days = 86_400
    idle, used = await core.create("idle"), await core.create("used")
    clock.advance(99 * days)
    child = await core.refresh(refresh(used))
    assert (await core.verify(access(child)))["status"] == "OK"
    # This refresh doesn't extend the session: its child is never used.
    assert (await core.refresh(refresh(idle)))["status"] == "OK"
    clock.advance(2 * days)
    expired = await core.refresh(refresh(idle))
    assert expired["status"] == "UNAUTHORISED"
    assert (await core.refresh(refresh(child)))["status"] == "OK"
    listed = await core.get("/recipe/session/user", userId="idle")
    assert listed["sessionHandles"] == []
    handle = idle["session"]["handle"]
    response = await core.get("/recipe/session", sessionHandle=handle)
    assert response["status"] == "UNAUTHORISED"
    response = await core.put(
        "/recipe/session/data", {"sessionHandle": handle, "userDataInDatabase": {}}
    )
    assert response["status"] == "UNAUTHORISED"


async def test_check_database_ignores_the_expiry_of_the_session(
    http: aiohttp.ClientSession, clock: Clock
) -> None:
    """A token that outlives its session is accepted until the row is swept."""
    settings = CoreSettings(
        access_token_validity_s=48 * _HOUR, refresh_token_validity_s=60
    )
    async with _served(Core(settings, clock=clock)) as running:
        client = CoreClient(http, running.url)
        created = await client.create()
        clock.advance(11 * _HOUR)
        await client.create()
        verified = await client.verify(access(created), check_database=True)
        assert verified["status"] == "OK"
        clock.advance(2 * _HOUR)
        await client.create()
        verified = await client.verify(access(created), check_database=True)
        assert verified["status"] == "UNAUTHORISED"


async def _kids(core: CoreClient) -> list[str]:
    response = await core.call("GET", "/.well-known/jwks.json")
    return [key["kid"] for key in response.json["keys"]]


async def _max_age(core: CoreClient) -> int:
    response = await core.call("GET", "/.well-known/jwks.json")
    return int(response.headers["cache-control"].split(",")[0].split("=")[1])


async def test_dynamic_keys_overlap(core: CoreClient, clock: Clock) -> None:
    """A new key is published 60 s before it signs; the old key stays published."""
    interval = 168 * _HOUR
    (first, static) = await _kids(core)
    assert first == "d-1800000000250"
    assert await _max_age(core) == interval - 60
    old = await core.create()

    clock.advance(interval - 60)
    assert await _kids(core) == [first, static]
    assert await _max_age(core) == 1

    clock.advance(1)
    second, *rest = await _kids(core)
    assert rest == [first, static]
    assert await _max_age(core) == interval - 60
    assert decode(access(await core.create()))[0]["kid"] == first

    clock.advance(59)
    assert decode(access(await core.create()))[0]["kid"] == second

    # A key is removed at its creation plus the interval plus two token validities.
    clock.advance(2 * _HOUR)
    assert await _kids(core) == [second, first, static]
    clock.advance(1)
    assert await _kids(core) == [second, static]
    child = await core.refresh(refresh(old))
    assert decode(access(child))[0]["kid"] == second


async def test_new_key_signs_at_once_if_the_old_one_is_overdue(
    core: CoreClient, clock: Clock
) -> None:
    """Without a key that may sign, a new key signs as soon as it is published."""
    (first, static) = await _kids(core)
    clock.advance(168 * _HOUR + 1)
    created = await core.create()
    kid = decode(access(created))[0]["kid"]
    assert kid != first
    assert await _kids(core) == [kid, first, static]


async def test_rotate_keys(core: CoreClient, running: RunningCore) -> None:
    """The new key signs at once; old tokens stay valid unless `drop_old` is set."""
    old = await core.create()
    second = await running.core.rotate_keys()
    assert decode(access(await core.create()))[0]["kid"] == second
    assert (await core.verify(access(old)))["status"] == "OK"
    # Two keys made in the same millisecond have different ids.
    third = await running.core.rotate_keys(drop_old=True)
    assert third != second
    assert (await core.verify(access(old)))["status"] == "TRY_REFRESH_TOKEN"
    kids = await _kids(core)
    assert kids[0] == third
    assert [kid[:2] for kid in kids] == ["d-", "s-"]
    child = await core.refresh(refresh(old))
    assert decode(access(child))[0]["kid"] == third


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
async def test_other_algorithms_with_the_right_key_are_refused(
    core: CoreClient, running: RunningCore, algorithm: str
) -> None:
    """A valid signature by the right key is refused unless it is RS256."""
    token = access(await core.create())
    header, body = decode(token)
    # PyJWT would sign with the algorithm of the header.
    del header["alg"]
    row = running.core._apps["public"].store.one(
        "SELECT pem FROM keys WHERE kid = ?", header["kid"]
    )
    assert row is not None
    for name, status in (("RS256", "OK"), (algorithm, "TRY_REFRESH_TOKEN")):
        signed = jwt.encode(body, row["pem"], algorithm=name, headers=header)
        assert (await core.verify(signed))["status"] == status


async def test_header_must_name_the_algorithm(
    core: CoreClient, running: RunningCore
) -> None:
    """A valid RS256 signature is refused if the header names another algorithm."""
    token = access(await core.create())
    header, body = decode(token)
    signing_key = running.core._apps["public"].keys.find(header["kid"])
    assert signing_key is not None
    for algorithm, status in (("RS256", "OK"), ("RS512", "TRY_REFRESH_TOKEN")):
        parts = ({**header, "alg": algorithm}, body)
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        signature = signing_key.private.sign(
            signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        forged = f"{signed}.{base64url(signature)}"
        assert (await core.verify(forged))["status"] == status


@pytest.mark.parametrize("claim", ["sub", "rsub", "tId", "exp", "antiCsrfToken"])
async def test_token_without_a_claim_is_refused(
    core: CoreClient, running: RunningCore, claim: str
) -> None:
    """A missing claim or one of the wrong type is TRY_REFRESH_TOKEN."""
    header, body = decode(access(await core.create()))
    row = running.core._apps["public"].store.one(
        "SELECT pem FROM keys WHERE kid = ?", header["kid"]
    )
    assert row is not None
    without = {name: value for name, value in body.items() if name != claim}
    for changed in (without, {**body, claim: [1]}):
        if claim == "sub" and "sub" in changed:
            continue  # PyJWT won't sign a subject that isn't text
        signed = jwt.encode(changed, row["pem"], algorithm="RS256", headers=header)
        assert (await core.verify(signed))["status"] == "TRY_REFRESH_TOKEN"


async def test_one_time_tokens_expire(core: CoreClient, clock: Clock) -> None:
    """A reset token is valid for 1 h, a verification token 24 h, a code 15 min."""
    email = unique_email()
    body = {"userId": await core.sign_up(email), "email": email}
    reset = "/public/recipe/user/password/reset/token"
    verify = "/public/recipe/user/email/verify"
    late_reset = (await core.post(reset, body))["token"]
    late_verify = (await core.post(f"{verify}/token", body))["token"]
    attempt = await core.post("/public/recipe/signinup/code", {"email": email})
    user_input = {
        "preAuthSessionId": attempt["preAuthSessionId"],
        "deviceId": attempt["deviceId"],
        "userInputCode": attempt["userInputCode"],
    }
    clock.advance(901)
    code = "/public/recipe/signinup/code/check"
    assert (await core.post(code, user_input))[
        "status"
    ] == "EXPIRED_USER_INPUT_CODE_ERROR"
    link = {
        "preAuthSessionId": attempt["preAuthSessionId"],
        "linkCode": attempt["linkCode"],
    }
    assert (await core.post(code, link))["status"] == "RESTART_FLOW_ERROR"
    clock.advance(2700)
    response = await core.post(f"{reset}/consume", {"token": late_reset})
    assert response["status"] == "RESET_PASSWORD_INVALID_TOKEN_ERROR"
    good = (await core.post(reset, body))["token"]
    clock.advance(3600)
    assert (await core.post(f"{reset}/consume", {"token": good}))["status"] == "OK"
    clock.advance(23 * _HOUR)
    response = await core.post(verify, {"method": "token", "token": late_verify})
    assert response["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"


async def test_expired_codes_are_failed_attempts(
    core: CoreClient, clock: Clock
) -> None:
    """An expired code counts like a wrong one, and the fifth ends the attempt."""
    attempt = await core.post("/recipe/signinup/code", {"email": unique_email()})
    body = {
        name: attempt[name]
        for name in ("preAuthSessionId", "deviceId", "userInputCode")
    }
    clock.advance(901)
    answers = [await core.post("/recipe/signinup/code/consume", body) for _ in range(5)]
    assert [a.get("failedCodeInputAttemptCount") for a in answers] == [1, 2, 3, 4, None]
    assert answers[0]["status"] == "EXPIRED_USER_INPUT_CODE_ERROR"
    assert answers[-1] == {"status": "RESTART_FLOW_ERROR"}


async def test_dashboard_sessions_last_30_days(core: CoreClient, clock: Clock) -> None:
    """A session of the dashboard ends after 30 days."""
    account = {"email": "ann@example.com", "password": "correct-horse-1"}
    await core.post("/recipe/dashboard/user", account)
    session = (await core.post("/recipe/dashboard/signin", account))["sessionId"]
    for seconds, status in ((30 * 86_400 - 1, "OK"), (1, "INVALID_SESSION_ERROR")):
        clock.advance(seconds)
        response = await core.post(
            "/recipe/dashboard/session/verify", {"sessionId": session}
        )
        assert response["status"] == status


async def test_active_users_since(core: CoreClient, clock: Clock) -> None:
    """Only activity after `since` is counted, and a refresh is activity."""
    created = await core.create("a")
    await core.create("b")
    clock.advance(60)
    since = str(int(clock.now * 1000))
    assert (await core.get("/users/count/active", since=since))["count"] == 0
    await core.refresh(refresh(created))
    assert (await core.get("/users/count/active", since=since))["count"] == 1
