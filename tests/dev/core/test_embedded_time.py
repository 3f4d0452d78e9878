"""What time does to sessions, keys and one-time tokens; the clock is pushed."""

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
    """Return a new core whose clock stands."""
    async with _served(Core(_SETTINGS, clock=clock)) as running:
        yield running


@pytest.fixture
def core(running: RunningCore, http: aiohttp.ClientSession) -> CoreClient:
    """Return its client."""
    return CoreClient(http, running.url)


class _Fixed(random.Random):
    """Random bytes as ever, and one fixed share of the jitter."""

    def __init__(self, share: float) -> None:
        super().__init__(1)
        self.share = share

    def random(self) -> float:
        return self.share


@pytest.mark.parametrize(
    ("share", "life_s"), [(0.0, 3600), (0.5, 3510), (0.999_999, 3420)]
)
async def test_jitter_shortens_create_and_refresh_only(
    http: aiohttp.ClientSession, share: float, life_s: int
) -> None:
    """Up to 5 % go off; promotion has the full life, regenerate the old end."""
    core = Core(CoreSettings(), clock=Clock(1_800_000_000.0), rng=_Fixed(share))
    async with _served(core) as running:
        client = CoreClient(http, running.url)
        created = await client.create()
        child = await client.refresh(refresh(created))
        renewed = await client.verify(access(child))
        regenerated = await client.post(
            "/recipe/session/regenerate", {"accessToken": access(created)}
        )

    def life(answer: dict[str, object]) -> int:
        body = claims(access(answer))
        return int(body["exp"] - body["iat"])

    assert (life(created), life(child)) == (life_s, life_s)
    assert life(renewed) == 3600
    assert life(regenerated) == life_s


async def test_token_times_are_rounded_down(core: CoreClient, clock: Clock) -> None:
    """`iat` must not lie ahead: the SDK allows no leeway."""
    clock.now = 1_800_000_000.999
    created = await core.create()
    body = claims(access(created))
    assert (body["iat"], body["exp"]) == (1_800_000_000, 1_800_003_600)
    assert created["refreshToken"]["createdTime"] == 1_800_000_000_999


async def test_access_token_ends(core: CoreClient, clock: Clock) -> None:
    """Good to the last second, then TRY_REFRESH, and refresh still works."""
    clock.now = 1_800_000_000.0
    created = await core.create()
    clock.push(3600)
    assert (await core.verify(access(created)))["status"] == "OK"
    clock.push(0.001)
    assert (await core.verify(access(created)))["status"] == "TRY_REFRESH_TOKEN"
    assert (await core.refresh(refresh(created)))["status"] == "OK"


async def test_regenerate_of_an_expired_token_brings_none(
    core: CoreClient, clock: Clock
) -> None:
    """The payload is stored; the next refresh brings it."""
    created = await core.create()
    clock.push(_HOUR + 1)
    answer = await core.post(
        "/recipe/session/regenerate",
        {"accessToken": access(created), "userDataInJWT": {"x": 2}},
    )
    assert answer.keys() == {"status", "session"}
    child = await core.refresh(refresh(created))
    assert claims(access(child))["x"] == 2


async def test_session_ends_unless_it_is_refreshed(
    core: CoreClient, clock: Clock
) -> None:
    """100 days without promotion end it; each promotion starts them anew."""
    days = 86_400
    idle, used = await core.create("idle"), await core.create("used")
    clock.push(99 * days)
    child = await core.refresh(refresh(used))
    assert (await core.verify(access(child)))["status"] == "OK"
    # A refresh alone extends nothing: the child was never used.
    assert (await core.refresh(refresh(idle)))["status"] == "OK"
    clock.push(2 * days)
    gone = await core.refresh(refresh(idle))
    assert gone["status"] == "UNAUTHORISED"
    assert (await core.refresh(refresh(child)))["status"] == "OK"
    listed = await core.get("/recipe/session/user", userId="idle")
    assert listed["sessionHandles"] == []
    handle = idle["session"]["handle"]
    got = await core.get("/recipe/session", sessionHandle=handle)
    assert got["status"] == "UNAUTHORISED"
    answer = await core.put(
        "/recipe/session/data", {"sessionHandle": handle, "userDataInDatabase": {}}
    )
    assert answer["status"] == "UNAUTHORISED"


async def test_check_database_looks_at_the_row_not_its_end(
    http: aiohttp.ClientSession, clock: Clock
) -> None:
    """A token that outlives its session is good until the row is swept, 12 h later."""
    settings = CoreSettings(
        access_token_validity_s=48 * _HOUR, refresh_token_validity_s=60
    )
    async with _served(Core(settings, clock=clock)) as running:
        client = CoreClient(http, running.url)
        created = await client.create()
        clock.push(11 * _HOUR)
        await client.create()
        verified = await client.verify(access(created), check_database=True)
        assert verified["status"] == "OK"
        clock.push(2 * _HOUR)
        await client.create()
        verified = await client.verify(access(created), check_database=True)
        assert verified["status"] == "UNAUTHORISED"


async def _kids(core: CoreClient) -> list[str]:
    answer = await core.call("GET", "/.well-known/jwks.json")
    return [key["kid"] for key in answer.json["keys"]]


async def _max_age(core: CoreClient) -> int:
    answer = await core.call("GET", "/.well-known/jwks.json")
    return int(answer.headers["cache-control"].split(",")[0].split("=")[1])


async def test_dynamic_key_is_succeeded_without_a_gap(
    core: CoreClient, clock: Clock
) -> None:
    """The successor is published 60 s before it signs; the old one stays for tokens."""
    interval = 168 * _HOUR
    (first, static) = await _kids(core)
    assert first == "d-1800000000250"
    assert await _max_age(core) == interval - 60
    old = await core.create()

    clock.push(interval - 60)
    assert await _kids(core) == [first, static]
    assert await _max_age(core) == 1

    clock.push(1)
    second, *rest = await _kids(core)
    assert rest == [first, static]
    assert await _max_age(core) == interval - 60
    assert decode(access(await core.create()))[0]["kid"] == first

    clock.push(59)
    assert decode(access(await core.create()))[0]["kid"] == second

    # Interval plus two access validities after its birth the first one is gone.
    clock.push(2 * _HOUR)
    assert await _kids(core) == [second, first, static]
    clock.push(1)
    assert await _kids(core) == [second, static]
    child = await core.refresh(refresh(old))
    assert decode(access(child))[0]["kid"] == second


async def test_sleeping_core_makes_a_key_that_signs_at_once(
    core: CoreClient, clock: Clock
) -> None:
    """After a long sleep nothing old can sign, so the new key doesn't wait."""
    (first, static) = await _kids(core)
    clock.push(168 * _HOUR + 1)
    created = await core.create()
    kid = decode(access(created))[0]["kid"]
    assert kid != first
    assert await _kids(core) == [kid, first, static]


async def test_rotation_by_hand(core: CoreClient, running: RunningCore) -> None:
    """The new key signs at once; the old tokens stay good, unless they're dropped."""
    old = await core.create()
    second = await running.core.rotate_keys()
    assert decode(access(await core.create()))[0]["kid"] == second
    assert (await core.verify(access(old)))["status"] == "OK"
    # Twice in a millisecond of a standing clock: still two names.
    third = await running.core.rotate_keys(drop_old=True)
    assert third != second
    assert (await core.verify(access(old)))["status"] == "TRY_REFRESH_TOKEN"
    kids = await _kids(core)
    assert kids[0] == third
    assert [kid[:2] for kid in kids] == ["d-", "s-"]
    child = await core.refresh(refresh(old))
    assert decode(access(child))[0]["kid"] == third


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
async def test_other_algorithms_of_our_own_key_are_refused(
    core: CoreClient, running: RunningCore, algorithm: str
) -> None:
    """Even a good signature by the right key doesn't count if it isn't RS256."""
    token = access(await core.create())
    header, body = decode(token)
    # PyJWT signs with the header's algorithm, if there's one.
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
    """A good RS256 signature under a header that says otherwise doesn't count."""
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
async def test_well_signed_token_needs_every_claim(
    core: CoreClient, running: RunningCore, claim: str
) -> None:
    """A missing claim is TRY_REFRESH, and so is one of another type."""
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


async def test_one_time_tokens_end(core: CoreClient, clock: Clock) -> None:
    """An hour for a reset, a day for a verification, 15 minutes for a code."""
    email = unique_email()
    body = {"userId": await core.sign_up(email), "email": email}
    reset = "/public/recipe/user/password/reset/token"
    verify = "/public/recipe/user/email/verify"
    late_reset = (await core.post(reset, body))["token"]
    late_verify = (await core.post(f"{verify}/token", body))["token"]
    begun = await core.post("/public/recipe/signinup/code", {"email": email})
    typed = {
        "preAuthSessionId": begun["preAuthSessionId"],
        "deviceId": begun["deviceId"],
        "userInputCode": begun["userInputCode"],
    }
    clock.push(901)
    code = "/public/recipe/signinup/code/check"
    assert (await core.post(code, typed))["status"] == "EXPIRED_USER_INPUT_CODE_ERROR"
    link = {
        "preAuthSessionId": begun["preAuthSessionId"],
        "linkCode": begun["linkCode"],
    }
    assert (await core.post(code, link))["status"] == "RESTART_FLOW_ERROR"
    clock.push(2700)
    answer = await core.post(f"{reset}/consume", {"token": late_reset})
    assert answer["status"] == "RESET_PASSWORD_INVALID_TOKEN_ERROR"
    good = (await core.post(reset, body))["token"]
    clock.push(3600)
    assert (await core.post(f"{reset}/consume", {"token": good}))["status"] == "OK"
    clock.push(23 * _HOUR)
    answer = await core.post(verify, {"method": "token", "token": late_verify})
    assert answer["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"


async def test_active_users_since(core: CoreClient, clock: Clock) -> None:
    """Only later activity counts, and a refresh is activity."""
    created = await core.create("a")
    await core.create("b")
    clock.push(60)
    since = str(int(clock.now * 1000))
    assert (await core.get("/users/count/active", since=since))["count"] == 0
    await core.refresh(refresh(created))
    assert (await core.get("/users/count/active", since=since))["count"] == 1
